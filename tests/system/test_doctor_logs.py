"""logs, doctor and its archive on a failing gateway: known failures, secrets in the log, and a blocked network."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

from box import Box
from doctor_helpers import INSTALLED, doctor
from service import BASE, CALLBACK, ctl, key, said, set_env, write_callback
from tests.canaries import find_left
from tests.fakes import USER

#: One secret of each kind, by the variable that holds it.
SECRETS = {
    "LITELLM_MASTER_KEY": "sk-night-0123456789abcdef",
    "AWS_ACCESS_KEY_ID": "ASIANIGHT000000EXAMP",
    "AWS_SECRET_ACCESS_KEY": "Ni/ght+wJalrXUtnFEMI/K7MDENGbPxRfiCYEX12",
    "AWS_SESSION_TOKEN": "IQoJb3JpZ2luX2VjEJr//night+Session/Token==",
    "GREETING": 'night "horse" & bättery',
}
#: Secrets outside of the installed files: in a drop-in, and in a file that it names.
MORE_SECRETS = {
    "DEPLOY_TOKEN": "night%Drop-In",
    "ANTHROPIC_API_KEY": "nightAnthropic+/77key==",
}
#: Parts of longer values, as a reader would extract them.
PASSWORDS = ("nightPr@xy:pw", "n1ght:p@ss/word")
PROXY = f"http://me:{quote(PASSWORDS[0], safe='')}@127.0.0.1:3128"
DATABASE = f"postgresql://me:{quote(PASSWORDS[1], safe='')}@db.example/x"
LITERAL, HEADER, HELD = "night-literal-of-mine", "nightHeader.Zm9v-77", "night-set-credential"
LIMITS = f"""\
[Service]
Environment="DEPLOY_TOKEN={MORE_SECRETS["DEPLOY_TOKEN"].replace("%", "%%")}"
EnvironmentFile=/etc/litellm/more.env
SetCredential=mine:{HELD}
"""
#: A careless callback prints all variables in every encoding, and a client's header.
CARELESS = f"""\
async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
    for value in os.environ.values():
        whole = json.dumps(value)
        print("said", value, repr(value), whole, json.dumps(whole), quote(value), quote(value, safe=""), flush=True)
        print("hex", value.encode().hex(), flush=True)
        print("base64", *(b64encode(b"x" * number + value.encode()).decode() for number in range(3)), flush=True)
    for password in {PASSWORDS!r}:
        print("password", password, b64encode(b"me:" + password.encode()).decode(), flush=True)
    print(dict(Authorization="Bearer {HEADER}", api_key=kwargs["litellm_params"]["api_key"]), flush=True)
"""
IMPORTS = "import json\nfrom base64 import b64encode\nfrom urllib.parse import quote\n"

REFUSED = f"""\
model_list:
  - model_name: claude-sonnet-5-5
    litellm_params: {{model: openai/quick, api_key: {LITERAL}, mock_response: "At once."}}
  - model_name: unreachable
    litellm_params: {{model: openai/slow, api_base: "http://127.0.0.1:9/v1", api_key: none}}
router_settings: {{num_retries: 0}}
general_settings: {{master_key: os.environ/LITELLM_MASTER_KEY}}
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


def events_of(box: Box, name: str, number: int) -> list[dict[str, Any]]:
    """The journal's events of a request, once there are `number` of them: the last ones follow the response."""

    def logged() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = report(box, "logs", "--request", name, "--boot")["data"]["events"]
        return found if len(found) >= number else []

    return box.wait_until(logged, 60, f"{number} lines about {name}")


def test_logs_and_bug_report(idle_box: Box) -> None:
    """A repeated failure is one group with count and meaning, which doctor reports; each request is found by its id,
    in plain and JSON logs. A careless callback prints secrets of all kinds; the archive for a bug report has none.
    """
    env = "".join(f"{name}='{value}'\n" for name, value in SECRETS.items())
    env += f"HTTPS_PROXY={PROXY}\nCRM_DATABASE={DATABASE}\nNUM_WORKERS=2\nACCESS_LOG=true\n"
    idle_box.write(DROP_IN, LIMITS)
    idle_box.write("/etc/litellm/more.env", f"ANTHROPIC_API_KEY={MORE_SECRETS['ANTHROPIC_API_KEY']}\n", 0o600)
    idle_box.systemctl("daemon-reload")
    write_callback(idle_box, CARELESS, IMPORTS)
    idle_box.write("/root/mine.yml", REFUSED + CALLBACK)
    set_env(idle_box, env, "-c", "/root/mine.yml", "--offline")
    for number in range(4):
        if number == 2:
            assert ask(idle_box, "claude-sonnet-5-5", "night-in-plain") == 200
            # Stopped first, because a restart would start it twice.
            ctl(idle_box, "stop")
            set_env(idle_box, f"{env}JSON_LOGS=true\n", "--offline")
        assert ask(idle_box, "unreachable", f"night-failed-{number}") >= 500
    assert ask(idle_box, "claude-sonnet-5-5", "night-went-well") == 200
    failures = {number: events_of(idle_box, f"night-failed-{number}", 2) for number in range(4)}
    (well,) = events_of(idle_box, "night-went-well", 1)

    def counted() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = report(idle_box, "logs", "--errors")["data"]["groups"]
        return found if any(each["kind"] == "unreachable" and each["count"] == 4 for each in found) else []

    listed = idle_box.wait_until(counted, 60, "the number of failures, which follows after ten seconds")
    groups = {group["kind"]: group for group in listed}
    assert groups["unreachable"]["means"] == "The service cannot reach the provider"
    assert [group["sample"] for group in listed if group["kind"] is None] == []
    for events in failures.values():
        texts = [event["text"] for event in events]
        assert any("Connection error" in text for text in texts)
        assert any("/v1/chat/completions 500" in text for text in texts)
    assert "/v1/chat/completions 200" in well["text"]
    assert "serving on" in ctl(idle_box, "logs", "--boot")
    found = doctor(idle_box, program=INSTALLED)["data"]["findings"]
    *doubts, upstream = (finding["seen"] for finding in found)
    assert [finding["id"] for finding in found] == [*(["configuration-doubtful"] * len(doubts)), "journal-upstream"]
    assert upstream.startswith("/etc/litellm/configs/mine.yml:")
    assert "api_base: The service cannot reach the provider (" in upstream
    assert any("plain text" in doubt for doubt in doubts)
    assert any("mine.py:10:1: this writes keys of the environment to the journal" in doubt for doubt in doubts)
    nothing = report(idle_box, "logs", "--request", "night-of-another-day")
    assert nothing["title"].endswith(" in the last day: --since searches further back")
    assert "ACCESS_LOG=true" in nothing["notes"][0]
    assert_no_secret_is_printed(idle_box)
    assert_no_secret_is_in_a_bundle(idle_box)


def assert_no_secret_is_printed(box: Box) -> None:
    verbs = (
        "status",
        "doctor",
        "diff",
        "config show",
        "config check",
        "logs --errors",
        "install --dry-run --installed",
    )
    texts = {
        f"{verb} {form}".strip(): ctl(box, *verb.split(), *form.split(), check=False)
        for verb in verbs
        for form in ("", "--json")
    }
    secrets = (*SECRETS.values(), *MORE_SECRETS.values(), *PASSWORDS, LITERAL, HEADER, HELD)
    assert find_left(secrets, texts) == set()
    assert all(texts.values())


def assert_no_secret_is_in_a_bundle(box: Box) -> None:
    secrets = (*SECRETS.values(), *MORE_SECRETS.values(), *PASSWORDS, LITERAL, HEADER, HELD)
    coded = [secret.encode().hex() for secret in (*SECRETS.values(), *MORE_SECRETS.values())]
    wanted = (*coded, LITERAL, HEADER, *PASSWORDS)

    def all_printed() -> bool:
        printed = "\n".join(said(box))
        return all(secret in printed for secret in wanted)

    box.wait_until(all_printed, 60, "the callback, which runs after the answer, has printed all secrets")
    ctl(box, "doctor", "--bundle", "/root/report.tar.gz", check=False)
    box.run(("tar", "-xzf", "/root/report.tar.gz", "-C", "/root"))
    names = box.run(("ls", "/root/litellm-bug-report")).stdout.split()
    assert {"environment.txt", "config.yaml", "units.txt", "findings.json", "journal.txt"} <= set(names)
    texts = {name: box.read(f"/root/litellm-bug-report/{name}") for name in names}
    assert find_left(secrets, texts) == set()
    # Each secret has one placeholder, in all files and all encodings.
    for name, file, line in (
        ("LITELLM_MASTER_KEY", "environment.txt", "LITELLM_MASTER_KEY=(.*)"),
        ("DEPLOY_TOKEN", "units.txt", 'Environment="DEPLOY_TOKEN=(.*)"'),
        ("api_key", "config.yaml", "api_key: (<.*?>)"),
    ):
        found = re.search(line, texts[file])
        assert found is not None
        assert re.fullmatch(f"<secret-[0-9]+ {name}>", found[1])
        assert texts["journal.txt"].count(found[1]) >= 2


BEDROCK = """\
model_list:
  - model_name: claude-sonnet-5-5
    litellm_params: {model: bedrock/us.anthropic.claude-sonnet-5-5}
litellm_settings: {drop_params: true}
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}
"""
#: The upstream of the box accepts the connection; the test needs no more of it.
ENDPOINT = f"""\
AWS_REGION_NAME=us-east-1
AWS_ACCESS_KEY_ID={USER.access_key}
AWS_SECRET_ACCESS_KEY={USER.secret_key}
AWS_BEDROCK_RUNTIME_ENDPOINT=http://127.0.0.1:9000
AWS_ENDPOINT_URL_STS=http://127.0.0.1:9
"""
DROP_IN = "/etc/systemd/system/litellm.service.d/mine.conf"


def test_connections_from_inside_the_sandbox(idle_box: Box) -> None:
    """Connections are tested from inside the service's sandbox; a drop-in that blocks them is the cause."""
    idle_box.write("/root/mine.yml", BEDROCK)
    set_env(idle_box, ENDPOINT, "-c", "/root/mine.yml", "--offline")
    healthy = doctor(idle_box, program=INSTALLED)["data"]
    assert healthy["findings"] == []
    outcomes = {each["id"]: (each["outcome"], each["because"]) for each in healthy["checks"]}
    assert {outcomes[f"network-{name}"] for name in ("sandbox", "dns", "unreachable", "certificate")} == {("ok", "")}
    idle_box.write(DROP_IN, "[Service]\nRestrictAddressFamilies=\nRestrictAddressFamilies=AF_UNIX\n")
    idle_box.systemctl("daemon-reload")
    first = doctor(idle_box, program=INSTALLED)["data"]["findings"][0]
    assert (first["id"], first["outcome"]) == ("network-sandbox", "failed")
    assert "in the sandbox of litellm.service: Address family not supported" in first["seen"]
