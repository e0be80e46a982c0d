"""The log of a running service: JSON, access log, secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.client.gateway import Gateway
from litellm_systemd.report.report import Outcome
from litellm_systemd.verify.run import Scope, verify
from tests.fakes import USER, Script, run_cloud
from tests.integration.runtime_service import CONFIG, DEADLINE, KEY, Service, post_chat, run_runtime, wait_for

PROMPT = "an-unusual-prompt-8151"
WRONG = "sk-wrong-9f8e7d6c5b4a3210"
#: The logger of the access log.
ACCESS = "litellm_systemd.access"


def request(service: Service, path: str, key: str, **body: Any) -> int:
    """Send a request on a new connection. Returns the status code when the request is logged.

    Without waiting for its log line, the next request could be logged first by another worker.
    """
    before = service.log().count(ACCESS)
    connection = service.connect()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    text = {"model": "demo", "messages": [{"role": "user", "content": PROMPT}], **body}
    connection.request("POST", path, json.dumps(text), headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    wait_for("the log line of the request", lambda: service.log().count(ACCESS) > before)
    return response.status


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The log of a service with JSON and access log: a chat, a wrong key, a stream and a wrong model."""
    path = "/v1/chat/completions"
    with Service(tmp_path_factory.mktemp("logs"), JSON_LOGS="1", ACCESS_LOG="true") as service:
        service.await_ready()
        assert request(service, path, KEY) == 200
        assert request(service, f"{path}?key={KEY}", WRONG) == 401
        assert request(service, path, KEY, stream=True) == 200
        assert request(service, path, KEY, model="no-such-model") >= 400
        assert service.stop() == 0, service.log()
        yield service.log().splitlines()


def parse(line: str) -> dict[str, Any]:
    """The event in a log line."""
    assert re.match("<[2-7]>{", line), line
    event: dict[str, Any] = json.loads(line[3:])
    assert {"message", "level"} <= event.keys()
    assert datetime.fromisoformat(event["timestamp"])
    return event


def test_json_lines(log: list[str]) -> None:
    """Each line of the service and of LiteLLM is a priority and a JSON object with message, level and timestamp."""
    assert len([parse(line) for line in log]) > 4


def test_access_log(log: list[str]) -> None:
    """Each request of a client is logged in one line without its query string, and health checks are not logged."""
    events = [parse(line) for line in log]
    requests = [event for event in events if event["component"] == ACCESS]
    assert [event["status"] < 400 for event in requests] == [True, False, True, False]
    for event in requests:
        assert (event["method"], event["path"]) == ("POST", "/v1/chat/completions")
        assert (event["client"], event["ms"] >= 0) == ("127.0.0.1", True)


def test_no_secrets(log: list[str]) -> None:
    """No log line contains a key or a prompt."""
    text = "\n".join(log)
    assert all(secret not in text for secret in (KEY, WRONG, PROMPT))


def test_json_of_a_failed_start(tmp_path: Path) -> None:
    """A failed start logs only JSON objects: the traceback in one of them, the cause in the last."""
    broken = CONFIG % "x" + "litellm_settings: {callbacks: litellm.proxy.proxy_cli.absent}\n"
    with Service(tmp_path, broken, JSON_LOGS="true") as service:
        assert service.process.wait(DEADLINE) == 78, service.log()
    events = [parse(line) for line in service.log().splitlines()]
    assert any("Traceback" in str(event) for event in events)
    assert events[-1]["message"].endswith("has no attribute 'absent'")


def test_invalid_switch(tmp_path: Path) -> None:
    """A switch that is neither true nor false ends the service with 78 and an error that names it."""
    done = run_runtime("--config", str(tmp_path / "config.yaml"), ACCESS_LOG="often")
    assert done.returncode == 78
    assert done.stderr.startswith("ACCESS_LOG=often is neither true nor false. Write true or false")


def test_defaults(tmp_path: Path) -> None:
    """By default log lines are plain text, and a successful request is not logged."""
    with Service(tmp_path) as service:
        service.await_ready()
        post_chat(service.connect(), "demo", stream=True).read()
        assert service.stop() == 0, service.log()
        lines = service.log().splitlines()
    assert not [line for line in lines if line[3:].startswith("{") or "/v1/chat" in line]


#: Models of the fake Bedrock whose calls are refused, by the name of the refusal.
REFUSALS = ("too-many-requests", "not-allowed", "session-expired")


def build_refused() -> str:
    models = [
        {
            "model_name": name,
            "litellm_params": {
                "model": f"bedrock/converse/amazon.{name}",
                "aws_region_name": "us-east-1",
                "aws_access_key_id": USER.access_key,
                "aws_secret_access_key": USER.secret_key,
            },
        }
        for name in (*REFUSALS, "unreachable")
    ]
    unreachable = {"model": "openai/x", "api_key": "none", "api_base": "http://127.0.0.1:9"}
    models[-1]["litellm_params"] = unreachable
    models += [
        {"model_name": "hidden", "litellm_params": {**unreachable, "api_base": "http://127.0.0.1:8"}},
        {"model_name": "busy", "litellm_params": models[0]["litellm_params"]},
        {"model_name": "demo", "litellm_params": {"model": "openai/x", "api_key": "none", "mock_response": "hi"}},
    ]
    fallbacks = [{"hidden": ["demo"]}, {"busy": ["demo"]}]
    settings = {"num_retries": 0, "disable_cooldowns": True, "fallbacks": fallbacks}
    general = {"master_key": "os.environ/LITELLM_MASTER_KEY"}
    return json.dumps({"model_list": models, "router_settings": settings, "general_settings": general})


def test_a_soak_is_few_lines(tmp_path: Path) -> None:
    """However many requests fail in a second, each cause is one line: an error if the operator must act, a warning if
    AWS throttles or a client sends nonsense; each request is found by its id, and verify's refused ones are not. A
    model that fails is a warning if its fallback answers, and no warning if it is only throttled.
    """
    path, call = "/v1/chat/completions", 0
    with run_cloud(role=None) as aws, Service(tmp_path, build_refused(), **aws.environment) as service:
        aws.runtime.scripts.update({f"amazon.{name}": Script(refusal=name) for name in REFUSALS})
        service.await_ready()

        def send(body: str, name: str = "") -> int:
            connection = service.connect()
            headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
            connection.request("POST", path, body, {**headers, **({"x-litellm-call-id": name} if name else {})})
            response = connection.getresponse()
            response.read()
            connection.close()
            return response.status

        for model in (*REFUSALS, "unreachable"):
            text = json.dumps({"model": model, "messages": [{"role": "user", "content": PROMPT}]})
            for _ in range(20):
                call += 1
                assert send(text, f"soak-{call:04}") >= 400
        for model in ("hidden", "busy"):
            text = json.dumps({"model": model, "messages": [{"role": "user", "content": PROMPT}]})
            assert {send(text) for _ in range(10)} == {200}
        for body in ("{", '["a list"]', '{"model": "no-such-model", "messages": []}', '{"model": "unreachable"}'):
            for _ in range(20):
                assert send(body) >= 400
        report = verify(Gateway(f"http://127.0.0.1:{service.port}", KEY), Scope(spend=False))
        assert [check for check in report.checks if check.outcome is Outcome.FAILED] == []
        assert service.stop() == 0, service.log()
        lines = service.log().splitlines()
    errors = [line for line in lines if line.startswith(("<2>", "<3>"))]
    warnings = [line for line in lines if line.startswith("<4>")]
    first = [line for line in errors if " more in " not in line]
    for cause in ("ExpiredTokenException", "AccessDeniedException", "Connection error. (ConnectionRefusedError"):
        assert sum(cause in line for line in first) == 1, first
    assert len(first) == 3
    assert sum("ThrottlingException" in line and " more in " not in line for line in warnings) == 1
    hidden = [line for line in warnings if line.endswith("fallback demo answers; model hidden)")]
    assert sum(" more in " not in line for line in hidden) == 1
    assert all("(ConnectionRefusedError: " in line for line in hidden)
    assert not any("model busy" in line for line in lines if line[1] <= "5")
    # Numbers follow after 10, 30 and 70 s, and at the stop.
    assert len(errors) <= 12
    assert len(warnings) <= 20
    assert not any(PROMPT in line for line in lines)
    for number in range(1, call + 1):
        assert any(f"[request soak-{number:04}]" in line for line in lines)
    assert sum(sum(map(int, re.findall(r"^<3>(\d+) more in ", line))) for line in errors) + len(first) == 60
    assert not any("refused" in line and "request" in line for line in lines if line[1] <= "5")
