"""A gateway in trouble at night: what its journal tells of it."""

from __future__ import annotations

import json
from typing import Any

from box import Box
from service import BASE, ctl, key, set_env, set_up
from tests.fakes import USER

REFUSED = """\
model_list:
  - model_name: claude-sonnet-5-5
    litellm_params: {model: openai/quick, api_key: none, mock_response: "At once."}
  - model_name: unreachable
    litellm_params: {model: openai/slow, api_base: "http://127.0.0.1:9/v1", api_key: none}
router_settings: {num_retries: 0}
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}
"""


def ask(box: Box, model: str, call: str) -> int:
    answer = box.http(
        "POST",
        f"{BASE}/v1/chat/completions",
        body={"model": model, "messages": [{"role": "user", "content": "hi"}]},
        headers={"Authorization": f"Bearer {key(box)}", "x-litellm-call-id": call},
    )
    assert {name.lower(): value for name, value in answer.headers.items()}["x-litellm-call-id"] == call
    return answer.status


def report(box: Box, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ctl(box, *arguments, "--json", check=False))
    return found


def test_logs(idle_box: Box) -> None:
    """A failure that repeats is one kind with count and meaning, which doctor tells; each request is found by its id,
    whether lines are plain or objects.
    """
    set_up(idle_box, "NUM_WORKERS=2\nACCESS_LOG=true\n", REFUSED)
    for number in range(4):
        if number == 2:
            set_env(idle_box, "NUM_WORKERS=2\nACCESS_LOG=true\nJSON_LOGS=true\n")
        assert ask(idle_box, "unreachable", f"night-failed-{number}") >= 500
    assert ask(idle_box, "claude-sonnet-5-5", "night-went-well") == 200
    listed = report(idle_box, "logs", "--errors")["data"]["groups"]
    groups = {group["kind"]: group for group in listed}
    assert groups["unreachable"]["count"] >= 4
    assert groups["unreachable"]["means"] == "The service can't reach the provider"
    assert [group["sample"] for group in listed if group["kind"] is None] == []
    for name in ("night-failed-1", "night-failed-3"):
        failed, access = report(idle_box, "logs", "--request", name)["data"]["events"]
        assert "Connection error" in failed["text"]
        assert "/v1/chat/completions 500" in access["text"]
    (well,) = report(idle_box, "logs", "--request", "night-went-well", "--boot")["data"]["events"]
    assert "/v1/chat/completions 200" in well["text"]
    assert "serving on" in ctl(idle_box, "logs", "--boot")
    told = {finding["id"]: finding["seen"] for finding in report(idle_box, "doctor")["data"]["findings"]}
    assert told.keys() == {"journal-aws"}
    assert told["journal-aws"].startswith("The service can't reach the provider (")


BEDROCK = """\
model_list:
  - model_name: claude-sonnet-5-5
    litellm_params: {model: bedrock/us.anthropic.claude-sonnet-5-5}
litellm_settings: {drop_params: true}
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}
"""
#: The upstream of the box takes the connection, and no more is asked of it.
ENDPOINT = f"""\
AWS_REGION_NAME=us-east-1
AWS_ACCESS_KEY_ID={USER.access_key}
AWS_SECRET_ACCESS_KEY={USER.secret_key}
AWS_BEDROCK_RUNTIME_ENDPOINT=http://127.0.0.1:9000
AWS_ENDPOINT_URL_STS=http://127.0.0.1:9
"""
DROP_IN = "/etc/systemd/system/litellm.service.d/mine.conf"


def test_from_inside_the_sandbox(idle_box: Box) -> None:
    """The way to Bedrock is gone from inside the service's sandbox; a drop-in that closes it is told as the cause."""
    idle_box.write("/root/mine.yml", BEDROCK)
    set_env(idle_box, ENDPOINT, "-c", "/root/mine.yml", "--offline")
    sound = report(idle_box, "doctor")["data"]
    assert sound["findings"] == []
    outcomes = {each["id"]: (each["outcome"], each["because"]) for each in sound["checks"]}
    assert {outcomes[f"network-{name}"] for name in ("sandbox", "dns", "unreachable", "certificate")} == {("ok", "")}
    idle_box.write(DROP_IN, "[Service]\nRestrictAddressFamilies=\nRestrictAddressFamilies=AF_UNIX\n")
    idle_box.systemctl("daemon-reload")
    first = report(idle_box, "doctor")["data"]["findings"][0]
    assert (first["id"], first["outcome"]) == ("network-sandbox", "failed")
    assert "in the sandbox of litellm.service: Address family not supported" in first["seen"]
