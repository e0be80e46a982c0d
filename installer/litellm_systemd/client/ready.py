"""Wait until a gateway is ready, up to a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from litellm_systemd.client.errors import JOURNAL, GatewayError
from litellm_systemd.client.gateway import Gateway
from litellm_systemd.errors import Unavailable

#: Costs nothing and needs no key, unlike /health, which calls every model.
READINESS = "/health/readiness"
#: Seconds between two attempts: short at first, because a service is often nearly ready.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0


@dataclass(frozen=True, slots=True)
class Ready:
    """The gateway responded with 200 after `seconds`, at the given number of `attempts`."""

    seconds: float
    attempts: int


class NotReady(Unavailable):
    """The deadline passed; `last` describes the last response or error."""

    def __init__(self, where: str, seconds: float, last: str, hint: str) -> None:
        super().__init__(f"{where} was not ready within {seconds:g} s; last status: {last}", hint)
        self.last = last


def wait_ready(
    gateway: Gateway,
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Ready:
    """Query readiness until it succeeds, at least once. NotReady after `seconds`."""
    started, pause, attempts = clock(), _FIRST_PAUSE, 0
    while True:
        left = seconds - (clock() - started)
        # A socket unit accepts connections before the service runs, so one request may last until the deadline.
        last, hint = _query(gateway, min(gateway.timeout, max(left, _LONGEST_PAUSE)))
        attempts += 1
        passed = clock() - started
        if not last:
            return Ready(passed, attempts)
        # Not 0: the clock cannot represent a smaller step, and the loop would never end.
        if seconds - passed < 0.001:
            raise NotReady(gateway.where, seconds, last, hint)
        sleep(min(pause, seconds - passed))
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _query(gateway: Gateway, timeout: float) -> tuple[str, str]:
    """The reason why the gateway is not ready, and the remedy; two empty strings if it is ready."""
    try:
        answer = gateway.get(READINESS, timeout=timeout)
    except GatewayError as error:
        return error.message, error.hint
    if answer.status == 200:
        return "", ""
    reason = gateway.explain(answer)
    return f"HTTP {answer.status}" + (f", {reason}" if reason else ""), f"Read {JOURNAL}."
