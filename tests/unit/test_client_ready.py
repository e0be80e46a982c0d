"""Waiting for readiness, with a scripted gateway and a clock of its own."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from litellm_systemd.client.errors import FailureKind, GatewayError
from litellm_systemd.client.gateway import Gateway, Response
from litellm_systemd.client.ready import READINESS, NotReady, Ready, wait_ready
from litellm_systemd.contract import ExitCode

REFUSED = GatewayError(FailureKind.REFUSED, "nothing listens on h:1 (connection refused)")
STARTING = Response(503, {}, '{"detail": "Service Unhealthy"}', 0.0)
READY = Response(200, {}, '{"status": "healthy"}', 0.0)


@dataclass
class Scene:
    """A script that a gateway plays, its last line for ever; each look costs `cost` seconds of the clock."""

    script: tuple[Response | GatewayError, ...]
    cost: float = 0.0
    timeout: float = 60.0
    now: float = 100.0
    timeouts: list[float] = field(default_factory=list)

    def look(self, timeout: float) -> Response:
        line = self.script[min(len(self.timeouts), len(self.script) - 1)]
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

    def wait(self, seconds: float) -> Ready:
        return wait_ready(Actor(self), seconds, clock=self.clock, sleep=self.sleep)


class Actor(Gateway):
    """A gateway that plays a scene instead of asking the network."""

    __slots__ = ("scene",)
    scene: Scene

    def __init__(self, scene: Scene) -> None:
        super().__init__("http://h:1", "", scene.timeout)
        object.__setattr__(self, "scene", scene)

    def get(self, path: str, *, timeout: float | None = None) -> Response:
        assert path == READINESS
        assert timeout is not None
        return self.scene.look(timeout)


def test_ready_at_once() -> None:
    """A gateway that is ready is not waited for."""
    scene = Scene((READY,))
    ready = scene.wait(30)
    assert (ready.seconds, ready.looks) == (0.0, 1)


def test_ready_after_a_while() -> None:
    """Refused and 503 are waited out, and the time is told."""
    scene = Scene((REFUSED, STARTING, STARTING, READY), cost=0.5)
    ready = scene.wait(30)
    assert ready.looks == 4
    assert ready.seconds == pytest.approx(scene.now - 100.0)


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
def test_the_failure_says_what_was_last_seen(script: tuple[Response | GatewayError, ...], last: str) -> None:
    """When the time is up, the error has the last thing seen and a remedy."""
    with pytest.raises(NotReady) as caught:
        Scene(script).wait(12)
    assert caught.value.last == last
    assert caught.value.message == f"h:1 was not ready within 12 s; last seen: {last}"
    assert "journalctl" in caught.value.hint
    assert caught.value.code is ExitCode.UNAVAILABLE


def test_the_deadline_is_kept() -> None:
    """No sleep goes past the deadline, and the last look is made at it, not before it."""
    scene = Scene((REFUSED,))
    with pytest.raises(NotReady):
        scene.wait(7.3)
    assert scene.now == pytest.approx(107.3)


def test_no_time_still_means_one_look() -> None:
    """Zero seconds ask once."""
    assert Scene((READY,)).wait(0).looks == 1
    with pytest.raises(NotReady):
        Scene((REFUSED,)).wait(0)


def test_a_look_may_not_outlast_the_deadline() -> None:
    """A gateway that accepts and is silent holds a look no longer than the time that is left."""
    scene = Scene((REFUSED,), cost=4.0, timeout=5.0)
    with pytest.raises(NotReady):
        scene.wait(10)
    assert scene.timeouts[0] == 5.0
    assert 1.0 <= scene.timeouts[-1] < 5.0


def test_pauses_grow_to_a_second() -> None:
    """A start of a minute costs the gateway dozens of questions, not hundreds."""
    scene = Scene((REFUSED,))
    with pytest.raises(NotReady):
        scene.wait(60)
    assert 60 <= len(scene.timeouts) <= 75
