"""An instance that leaves its load balancer: its readiness, its port, and what is in flight."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.integration.runtime_service import Service, post_chat, read_answer, wait_for
from tests.integration.test_runtime_stop import Upstream, run_upstream


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with run_upstream() as server:
        yield server


class Foreground(Service):
    owns_port = True


def get(service: Service, path: str) -> int:
    """The status of a GET on a new connection."""
    connection = service.connect()
    connection.request("GET", path)
    with connection.getresponse() as response:
        response.read()
        return response.status


def is_refused(service: Service) -> bool:
    connection = HTTPConnection("127.0.0.1", service.port, timeout=60)
    try:
        connection.connect()
    except ConnectionRefusedError:
        return True
    connection.close()
    return False


def test_leave_and_drain_at_once(tmp_path: Path, upstream: Upstream) -> None:
    """After SIGTERM readiness is 503 and all else is served, by reloaded workers too. Another SIGTERM drains at once.

    Then the port is closed while a stream continues to its end.
    """
    variables = {"BEHIND_LOAD_BALANCER": "true", "DEREGISTRATION_DELAY": "3600"}
    with Foreground(tmp_path, upstream.config, **variables) as service:
        service.await_ready()
        assert get(service, "/health/readiness") == 200
        assert service.query("status")["leaving_until"] is None
        stream = post_chat(service.connect(), "slow", stream=True)
        assert stream.readline().startswith(b"data: ")
        service.process.send_signal(signal.SIGTERM)
        wait_for("readiness", lambda: get(service, "/health/readiness") == 503)
        assert service.query("reload")["ok"] is True
        # Both workers.
        assert [get(service, "/health/readiness") for _ in range(8)] == [503] * 8
        assert get(service, "/health/liveliness") == 200
        assert service.chat() == (200, "hello")
        found = wait_for("the stream", lambda: (each := service.query("status"))["inflight"] == 1 and each)
        assert found["state"] == "leaving"
        assert found["leaving_until"] > time.time() + 3000
        assert found["status"].startswith("leaving: 1 request in flight, the port closes at ")
        assert found["status"].endswith("; /health/readiness answers 503")
        service.process.send_signal(signal.SIGTERM)
        wait_for("the port's end", lambda: is_refused(service))
        upstream.finish.set()
        assert stream.read().rstrip().endswith(b"data: [DONE]")
        assert service.process.wait(60) == 0
    assert not [line for line in service.log().splitlines() if line.startswith(("<3>", "<4>"))]


def test_leave_in_time(tmp_path: Path, upstream: Upstream) -> None:
    """The drain begins by itself when DEREGISTRATION_DELAY is over. A third stop signal force-closes the streams."""
    with Foreground(tmp_path, upstream.config, DEREGISTRATION_DELAY="2") as service:
        service.await_ready()
        stream = post_chat(service.connect(), "slow", stream=True)
        assert stream.readline().startswith(b"data: ")
        before = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        service.await_notice("STATUS=draining: 1 request in flight")
        assert time.monotonic() - before > 2
        wait_for("the port's end", lambda: is_refused(service))
        assert service.stop() == 0
        assert "try again" in stream.read().decode()
    lines = service.log()
    assert "leaving: /health/readiness answers 503 for 2 s, then the port closes" in lines
    assert "stop requested again" in lines


def test_leave_by_systemd(tmp_path: Path) -> None:
    """With systemd's socket the service answers `drain` after the delay and serves on, and SIGTERM drains at once."""
    with Service(tmp_path, DEREGISTRATION_DELAY="2") as service:
        service.await_ready()
        before = time.monotonic()
        waiting = service.send_command("drain")
        wait_for("readiness", lambda: get(service, "/health/readiness") == 503)
        assert read_answer(waiting) == {"ok": True, "left": True}
        assert time.monotonic() - before > 2
        assert service.chat() == (200, "hello")
        assert service.query("drain") == {"ok": True, "left": True}
        assert service.stop() == 0
    assert "stop requested again" not in service.log()
