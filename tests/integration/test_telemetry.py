"""OpenTelemetry: LiteLLM's callback `otel` in workers, with a collector on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.bundle import REPOSITORY
from tests.fakes.otlp import run_collector
from tests.integration.runtime_service import CONFIG, KEY, Service, wait_for
from tests.ports import free_port
from tests.skipping import refuse

#: The packages of the group `opentelemetry`, as test.sh installs them.
PACKAGES = REPOSITORY / ".cache/additions"
PROMPT, ANSWER, COLLECTOR_KEY = "an-unusual-prompt-8151", "an-unusual-answer-7302", "the-collectors-key-9911"
TEXT = CONFIG % ANSWER + "litellm_settings: {callbacks: [otel]}\n"
#: The span of each request, in this and in LiteLLM's next version of the callback, and its histogram of the calls.
REQUEST, NEXT_REQUEST = "Received Proxy Server Request", "POST /v1/chat/completions"
CALLS = "gen_ai.client.operation.duration"


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages of the group, for the collector."""
    if not (PACKAGES / "opentelemetry/proto").is_dir():
        refuse(f"{PACKAGES} has no opentelemetry-proto. Run first: ./scripts/test.sh --setup")
    monkeypatch.syspath_prepend(str(PACKAGES))


def exporting(port: int, **more: str) -> dict[str, str]:
    """The environment of a service that sends all to that port of this host."""
    return {
        "PYTHONPATH": str(PACKAGES),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-api-key={COLLECTOR_KEY}",
        "LITELLM_OTEL_INTEGRATION_ENABLE_METRICS": "true",
        **more,
    }


def serve(service: Service, number: int) -> None:
    """Send that many requests on as many connections, which all workers share. The query has a key, as Gemini's."""
    body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": PROMPT}]})
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    connections = [service.connect() for _ in range(number)]
    for connection in connections:
        connection.request("POST", f"/v1/chat/completions?key={KEY}", body, headers)
        response = connection.getresponse()
        assert (response.status, ANSWER in response.read().decode()) == (200, True)
    for connection in connections:
        connection.close()


def serve_by_both(service: Service) -> int:
    """Send requests until each of the two workers has served some. Returns their number."""
    number = 0

    def count() -> list[int]:
        return [each["requests"] for each in service.query("status")["workers"] if each["state"] == "serving"]

    def are_shared() -> bool:
        # A busy machine may let one worker accept four connections.
        nonlocal number
        serve(service, 4)
        number += 4
        wait_for("the counts of both", lambda: sum(count()) == number)
        return all(count())

    wait_for("requests for both workers", are_shared)
    return number


@pytest.mark.parametrize(
    ("version", "name"), [("false", REQUEST), ("true", NEXT_REQUEST)], ids=["otel", "next version"]
)
def test_each_worker_sends_everything(tmp_path: Path, version: str, name: str) -> None:
    """Each request is one trace and is counted once, whichever worker served it, up to the moment of a reload or a
    stop. No prompt, answer, key or health check is sent.
    """
    with run_collector() as collector:
        with Service(tmp_path, TEXT, **exporting(collector.port, LITELLM_OTEL_V2=version)) as service:
            service.await_ready()
            number = serve_by_both(service)
            assert service.reload().returncode == 0
            number += serve_by_both(service)
            assert service.stop() == 0, service.log()
        assert len(collector.named(name)) == collector.total(CALLS) == number
        assert len({span.instance for span in collector.named(name)}) == 4  # two workers, before and after
        assert all(headers["x-api-key"] == COLLECTOR_KEY for _, headers in collector.requests)
        everything = repr(collector.spans)
        assert [each for each in (PROMPT, ANSWER, KEY, COLLECTOR_KEY, "/health") if each in everything] == []
        assert not [line for line in service.log().splitlines() if line.startswith(("<3>", "<4>"))]


def test_collector_that_is_down(tmp_path: Path) -> None:
    """Without a collector each request is served, and the cause is one warning with its address. What was not sent
    is sent when the collector is back, with the prompts, which this configuration wants there.
    """
    port = free_port()
    text = f"{TEXT}callback_settings: {{otel: {{message_logging: true}}}}\n"
    with Service(tmp_path, text, **exporting(port, NUM_WORKERS="1")) as service:
        service.await_ready()
        serve(service, 4)
        service.await_log(f"port={port}")
        with run_collector(port) as collector:
            wait_for("the spans", lambda: len(collector.named(REQUEST)) == 4)
            assert PROMPT in repr(collector.spans)
        assert service.stop() == 0, service.log()
    lines = [line for line in service.log().splitlines() if "opentelemetry" in line]
    assert [line for line in lines if " more in " not in line] == lines[:1]
    assert lines[0].startswith("<4>")
    assert "Connection refused" in lines[0]
    assert COLLECTOR_KEY not in service.log()
