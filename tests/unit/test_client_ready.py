"""Waiting for readiness, with a scripted gateway and a simulated clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from litellm_systemd.client.gateway import (
    READINESS,
    FailureKind,
    Gateway,
    GatewayError,
    NotReady,
    Response,
    wait_ready,
)
from litellm_systemd.contract import ExitCode

REFUSED = GatewayError(FailureKind.REFUSED, "nothing listens on h:1 (connection refused)")
STARTING = Response(503, {}, '{"detail": "Service Unhealthy"}', 0.0)
READY = Response(200, {}, '{"status": "healthy"}', 0.0)


@dataclass
class Script:
    """Scripted responses, the last one repeated forever; each request takes `cost` seconds of the simulated clock."""

    responses: tuple[Response | GatewayError, ...]
    cost: float = 0.0
    timeout: float = 60.0
    now: float = 100.0
    timeouts: list[float] = field(default_factory=list)

    def respond(self, timeout: float) -> Response:
        line = self.responses[min(len(self.timeouts), len(self.responses) - 1)]
        self.timeouts.append(timeout)
        self.sleep(self.cost)
        if isinstance(line, GatewayError):
            raise line
        return line

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds

    def wait(self, seconds: float) -> float:
        return wait_ready(ScriptedGateway(self), seconds, clock=self.clock, sleep=self.sleep)


class ScriptedGateway(Gateway):
    """A gateway that returns scripted responses instead of using the network."""

    __slots__ = ("script",)
    script: Script

    def __init__(self, script: Script) -> None:
        super().__init__("http://h:1", "", script.timeout)
        object.__setattr__(self, "script", script)

    def get(self, path: str, *, timeout: float | None = None) -> Response:
        assert path == READINESS
        assert timeout is not None
        return self.script.respond(timeout)


def test_ready_at_once() -> None:
    """A gateway that is ready needs no waiting."""
    script = Script((READY,))
    assert (script.wait(30), len(script.timeouts)) == (0.0, 1)


def test_ready_after_a_while() -> None:
    """Refused connections and status 503 are retried, and the elapsed time is reported."""
    script = Script((REFUSED, STARTING, STARTING, READY), cost=0.5)
    assert script.wait(30) == pytest.approx(script.now - 100.0)
    assert len(script.timeouts) == 4


@pytest.mark.parametrize(
    ("script", "last"),
    [
        ((REFUSED,), "nothing listens on h:1 (connection refused)"),
        ((REFUSED, STARTING), "HTTP 503, Service Unhealthy"),
        ((STARTING, REFUSED), "nothing listens on h:1 (connection refused)"),
        ((Response(404, {}, "", 0.0),), "HTTP 404"),
        ((Response(204, {}, "", 0.0),), "HTTP 204"),
    ],
)
def test_the_error_has_the_last_status(script: tuple[Response | GatewayError, ...], last: str) -> None:
    """When the time is over, the error has the last status and a remedy."""
    with pytest.raises(NotReady) as caught:
        Script(script).wait(12)
    assert caught.value.last == last
    assert caught.value.message == f"h:1 was not ready within 12 s; last status: {last}"
    assert "journalctl" in caught.value.hint
    assert caught.value.code is ExitCode.UNAVAILABLE


def test_the_deadline_is_kept() -> None:
    """No pause exceeds the deadline, and the last request is made at the deadline, not before."""
    script = Script((REFUSED,))
    with pytest.raises(NotReady):
        script.wait(7.3)
    assert script.now == pytest.approx(107.3)


def test_zero_seconds_still_make_one_request() -> None:
    """A limit of zero seconds allows one request."""
    assert Script((READY,)).wait(0) == 0.0
    with pytest.raises(NotReady):
        Script((REFUSED,)).wait(0)


def test_a_request_ends_at_the_deadline() -> None:
    """A gateway that accepts connections without responding delays a request no longer than the time that is left."""
    script = Script((REFUSED,), cost=4.0, timeout=5.0)
    with pytest.raises(NotReady):
        script.wait(10)
    assert script.timeouts[0] == 5.0
    assert 1.0 <= script.timeouts[-1] < 5.0


def test_pauses_grow_to_a_second() -> None:
    """A start that takes a minute causes dozens of requests, not hundreds."""
    script = Script((REFUSED,))
    with pytest.raises(NotReady):
        script.wait(60)
    assert 60 <= len(script.timeouts) <= 75
