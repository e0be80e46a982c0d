"""How it ends: drained, cut at the limit, or with its master gone."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.integration.runtime_service import Service, is_alive, post_chat, wait_for


class Upstream(ThreadingHTTPServer):
    """A model provider whose streams end when the test lets them."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.finish = threading.Event()

    @property
    def config(self) -> str:
        base = f"http://127.0.0.1:{self.server_port}/v1"
        return f"""
model_list:
  - model_name: slow
    litellm_params: {{model: openai/slow, api_key: none, api_base: "{base}"}}
  - model_name: demo
    litellm_params: {{model: openai/demo, api_key: none, mock_response: hello}}
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
"""


class _Handler(BaseHTTPRequestHandler):
    server: Upstream

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self._say({"role": "assistant", "content": "begin "})
        while not self.server.finish.wait(0.1):
            self._say({"content": "."})
        self._say({"content": " end"})
        self._write("[DONE]")

    def _say(self, delta: dict[str, str]) -> None:
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "slow"}
        self._write(json.dumps({**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}))

    def _write(self, data: str) -> None:
        try:
            self.wfile.write(f"data: {data}\n\n".encode())
        except OSError:  # nobody reads any more
            self.server.finish.set()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.finish.set()
        server.shutdown()
        thread.join()


def test_stop_lets_a_stream_finish(tmp_path: Path, upstream: Upstream) -> None:
    """A stop waits for a running stream, and STATUS= says for how many; an idle connection gets one more answer."""
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
        wait_for("the port's end", lambda: not any(each["serving"] for each in service.ask("status")["workers"]))
        last = post_chat(idle, "demo")
        assert (last.status, last.getheader("Connection")) == (200, "close")
        last.read()
        upstream.finish.set()
        rest = stream.read()
        assert b" end" in rest
        assert rest.rstrip().endswith(b"data: [DONE]")
        assert service.process.wait(60) == 0
    assert "<3>" not in service.log()


@pytest.mark.parametrize("seconds", ["1", "0"])
def test_stop_cuts_at_the_limit(tmp_path: Path, upstream: Upstream, seconds: str) -> None:
    """What still runs after DRAIN_TIMEOUT is cut, its client gets an error event, and one warning counts it."""
    with Service(tmp_path, upstream.config, DRAIN_TIMEOUT=seconds, LAME_DUCK_TIMEOUT="0") as service:
        service.await_ready()
        stream = post_chat(service.connect(), "slow", stream=True)
        assert stream.readline().startswith(b"data: ")
        # A reload retires workers as a stop does.
        assert service.ask("reload")["ok"] is True
        last = stream.read().decode().rstrip().rpartition("data: ")[2]
        assert "try again" in json.loads(last)["error"]["message"]
        assert service.await_log(f"force-closed 1 request after {seconds} s").startswith("<4>")
        assert service.chat() == (200, "hello")
        assert service.stop() == 0
    assert "<3>" not in service.log()


def test_unanswered_request_is_refused_at_the_limit(tmp_path: Path, upstream: Upstream) -> None:
    """A request without an answer by DRAIN_TIMEOUT is told so with 503, and not with a closed connection."""
    with Service(tmp_path, upstream.config, DRAIN_TIMEOUT="1", LAME_DUCK_TIMEOUT="0") as service:
        service.await_ready()
        answers: list[tuple[int, str]] = []

        def ask() -> None:
            # The answer as a whole: LiteLLM waits for the provider's, which doesn't end.
            response = post_chat(service.connect(), "slow")
            answers.append((response.status, response.read().decode()))

        thread = threading.Thread(target=ask)
        thread.start()
        wait_for("the request", lambda: any(each["inflight"] for each in service.ask("status")["workers"]))
        assert service.stop() == 0
        thread.join()
    assert [(status, "try again" in text) for status, text in answers] == [(503, True)]


def test_second_signal_hurries(tmp_path: Path, upstream: Upstream) -> None:
    """Who asks twice to stop doesn't wait for streams."""
    with Service(tmp_path, upstream.config) as service:
        service.await_ready()
        stream = post_chat(service.connect(), "slow", stream=True)
        assert stream.readline().startswith(b"data: ")
        service.process.send_signal(signal.SIGINT)
        service.await_notice("STOPPING=1")
        assert service.stop(signal.SIGINT) == 0


def test_no_orphan(tmp_path: Path) -> None:
    """When the main process is killed its workers go too, and nothing holds the port."""
    with Service(tmp_path) as service:
        service.await_ready()
        workers = service.children()
        assert len(workers) == 2
        os.kill(service.process.pid, signal.SIGKILL)
        wait_for("the workers' end", lambda: not any(map(is_alive, workers)))
