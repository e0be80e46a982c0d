"""The log of a running service: JSON, access log, secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

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
