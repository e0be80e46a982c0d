"""What a running service writes."""

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
#: Of the lines of requests.
ACCESS = "litellm_systemd.access"


def ask(service: Service, path: str, key: str, **body: Any) -> int:
    """One request on a connection of its own; its status when all of the answer is there, and its line as well.

    The line comes last, from any of the workers: that of the next request would overtake it.
    """
    before = service.log().count(ACCESS)
    connection = service.connect()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    text = {"model": "demo", "messages": [{"role": "user", "content": PROMPT}], **body}
    connection.request("POST", path, json.dumps(text), headers)
    response = connection.getresponse()
    response.read()
    connection.close()
    wait_for("the request's line", lambda: service.log().count(ACCESS) > before)
    return response.status


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """All that a service wrote with both variables on, over a good chat, a wrong key, a stream and a wrong model."""
    path = "/v1/chat/completions"
    with Service(tmp_path_factory.mktemp("logs"), JSON_LOGS="1", ACCESS_LOG="true") as service:
        service.await_ready()
        assert ask(service, path, KEY) == 200
        assert ask(service, f"{path}?key={KEY}", WRONG) in (400, 401)  # 400 without a database
        assert ask(service, path, KEY, stream=True) == 200
        assert ask(service, path, KEY, model="no-such-model") >= 400
        assert service.stop() == 0, service.log()
        yield service.log().splitlines()


def parse(line: str) -> dict[str, Any]:
    """The event that a line of the journal holds."""
    assert re.match("<[2-7]>{", line), line
    event: dict[str, Any] = json.loads(line[3:])
    assert {"message", "level"} <= event.keys()
    assert datetime.fromisoformat(event["timestamp"])
    return event


def test_every_line_is_an_object(log: list[str]) -> None:
    """Each line is a priority and one JSON object with message, level and time: the service's and LiteLLM's."""
    assert len([parse(line) for line in log]) > 4


def test_one_line_a_request(log: list[str]) -> None:
    """Each request has exactly one line, without its query, and the private probe has none."""
    events = [parse(line) for line in log]
    requests = [event for event in events if event["component"] == ACCESS]
    assert [event["status"] < 400 for event in requests] == [True, False, True, False]
    for event in requests:
        assert (event["method"], event["path"]) == ("POST", "/v1/chat/completions")
        assert (event["client"], event["ms"] >= 0) == ("127.0.0.1", True)


def test_no_secret(log: list[str]) -> None:
    """No key and no prompt is in any line."""
    text = "\n".join(log)
    assert all(secret not in text for secret in (KEY, WRONG, PROMPT))


def test_a_failed_start_is_an_object(tmp_path: Path) -> None:
    """A configuration that LiteLLM refuses leaves objects only: a traceback in one, the reason in the last."""
    broken = CONFIG % "x" + "litellm_settings: {callbacks: no_such_module.handler}\n"
    with Service(tmp_path, broken, JSON_LOGS="true") as service:
        assert service.process.wait(DEADLINE) == 78, service.log()
    events = [parse(line) for line in service.log().splitlines()]
    assert any("Traceback" in str(event) for event in events)
    assert events[-1]["message"].endswith("Could not import handler from no_such_module")


def test_a_wrong_switch(tmp_path: Path) -> None:
    """A switch that is neither true nor false is refused by name, with exit 78."""
    done = run_runtime("--config", str(tmp_path / "config.yaml"), ACCESS_LOG="often")
    assert done.returncode == 78
    assert done.stderr.startswith("ACCESS_LOG=often is neither true nor false. Write true or false")


def test_plain_by_default(tmp_path: Path) -> None:
    """Without the variables lines are plain, and a request that went well leaves none."""
    with Service(tmp_path) as service:
        service.await_ready()
        post_chat(service.connect(), "demo", stream=True).read()
        assert service.stop() == 0, service.log()
        lines = service.log().splitlines()
    assert not [line for line in lines if line[3:].startswith("{") or "/v1/chat" in line]
