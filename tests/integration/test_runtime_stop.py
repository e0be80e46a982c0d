"""The end of a service: by a drain, by a force-close, or by the death of the main process."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.http import Reply, serving
from tests.integration.runtime_service import Service, is_alive, post_chat, wait_for


@dataclass
class Upstream:
    """A model provider whose streams end when the test decides."""

    url: str
    finish: threading.Event

    @property
    def config(self) -> str:
        return f"""
model_list:
  - model_name: slow
    litellm_params: {{model: openai/slow, api_key: none, api_base: "{self.url}/v1"}}
  - model_name: demo
    litellm_params: {{model: openai/demo, api_key: none, mock_response: hello}}
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
"""


def stream_until(finish: threading.Event) -> Iterator[bytes]:
    yield build_event({"role": "assistant", "content": "begin "})
    while not finish.wait(0.1):
        yield build_event({"content": "."})
    yield build_event({"content": " end"})
    yield b"data: [DONE]\n\n"


def build_event(delta: dict[str, str]) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "slow", "choices": [choice]}
    return f"data: {json.dumps(chunk)}\n\n".encode()


@contextmanager
def run_upstream() -> Iterator[Upstream]:
    finish = threading.Event()
    kind = {"Content-Type": "text/event-stream"}
    with serving(lambda _: Reply(headers=kind, chunks=stream_until(finish))) as server:
        yield Upstream(server.url, finish)
        finish.set()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with run_upstream() as server:
        yield server


def test_stop_completes_a_stream(tmp_path: Path, upstream: Upstream) -> None:
    """A stop waits for a stream, the status shows the number of streams, and an idle connection gets one response."""
    with Service(tmp_path, upstream.config, LAME_DUCK_TIMEOUT="30") as service:
        service.await_ready()
        idle = service.connect()
        assert service.chat(idle) == (200, "hello")
        stream = post_chat(service.connect(), "slow", stream=True)
        assert stream.readline().startswith(b"data: ")
        service.process.send_signal(signal.SIGTERM)
        service.await_notice("STOPPING=1")
        service.await_notice("STATUS=draining: 1 request in flight")
        service.await_notice("EXTEND_TIMEOUT_USEC=15000000")
        wait_for("the port's end", lambda: not any(each["serving"] for each in service.query("status")["workers"]))
        last = post_chat(idle, "demo")
        assert (last.status, last.getheader("Connection")) == (200, "close")
        last.read()
        upstream.finish.set()
        rest = stream.read()
        assert b" end" in rest
        assert rest.rstrip().endswith(b"data: [DONE]")
        assert service.process.wait(60) == 0
    assert "<3>" not in service.log()


def test_drain_timeout(tmp_path: Path, upstream: Upstream) -> None:
    """A stream that exceeds DRAIN_TIMEOUT ends with an error event, and a warning counts the cut requests. A request
    that exceeds it gets a response with 503, not a closed connection.
    """
    with Service(tmp_path, upstream.config, DRAIN_TIMEOUT="1", LAME_DUCK_TIMEOUT="0") as service:
        service.await_ready()
        assert_stream_is_cut(service, 1)
        answers: list[tuple[int, str]] = []

        def ask() -> None:
            # Not a stream: LiteLLM waits for the response of the provider, which does not end.
            response = post_chat(service.connect(), "slow")
            answers.append((response.status, response.read().decode()))

        thread = threading.Thread(target=ask)
        thread.start()
        wait_for("the request", lambda: any(each["inflight"] for each in service.query("status")["workers"]))
        assert service.stop() == 0
        thread.join()
    assert [(status, "try again" in text) for status, text in answers] == [(503, True)]


def test_no_drain_timeout(tmp_path: Path, upstream: Upstream) -> None:
    """With DRAIN_TIMEOUT=0 a stream ends at once, as after any other DRAIN_TIMEOUT."""
    with Service(tmp_path, upstream.config, DRAIN_TIMEOUT="0", LAME_DUCK_TIMEOUT="0") as service:
        service.await_ready()
        assert_stream_is_cut(service, 0)
        assert service.stop() == 0
    assert "<3>" not in service.log()


def assert_stream_is_cut(service: Service, seconds: int) -> None:
    """Check what the client of a stream and the log get at a reload, which drains workers as a stop does."""
    stream = post_chat(service.connect(), "slow", stream=True)
    assert stream.readline().startswith(b"data: ")
    assert service.query("reload")["ok"] is True
    last = stream.read().decode().rstrip().rpartition("data: ")[2]
    assert "try again" in json.loads(last)["error"]["message"]
    line = service.await_log("force-closed 1 request after ")
    found = re.match(r"<4>.* force-closed 1 request after (\d+) s", line)
    assert found is not None, line
    assert int(found[1]) >= seconds  # more on a busy machine
    assert service.chat() == (200, "hello")


def test_second_stop_force_closes(tmp_path: Path, upstream: Upstream) -> None:
    """A second stop signal force-closes the streams."""
    with Service(tmp_path, upstream.config) as service:
        service.await_ready()
        stream = post_chat(service.connect(), "slow", stream=True)
        assert stream.readline().startswith(b"data: ")
        service.process.send_signal(signal.SIGINT)
        service.await_notice("STOPPING=1")
        assert service.stop(signal.SIGINT) == 0


def test_killed_main_process(tmp_path: Path) -> None:
    """If the main process is killed, the workers exit, and no process listens on the port."""
    with Service(tmp_path) as service:
        service.await_ready()
        workers = service.children()
        assert len(workers) == 2
        os.kill(service.process.pid, signal.SIGKILL)
        wait_for("the workers' end", lambda: not any(map(is_alive, workers)))
