"""Wait, up to a deadline, until a gateway says that it is ready."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from litellm_systemd.client.errors import JOURNAL, GatewayError
from litellm_systemd.client.gateway import Gateway
from litellm_systemd.errors import Unavailable

#: Costs nothing and needs no key, unlike /health, which calls every model.
READINESS = "/health/readiness"
#: Seconds between two looks: quick at first, because a service is often nearly there.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0


@dataclass(frozen=True, slots=True)
class Ready:
    """The gateway answered 200 after `seconds`, at look number `looks`."""

    seconds: float
    looks: int


class NotReady(Unavailable):
    """The deadline passed; `last` is what the last look saw."""

    def __init__(self, where: str, seconds: float, last: str, hint: str) -> None:
        super().__init__(f"{where} was not ready within {seconds:g} s; last seen: {last}", hint)
        self.last = last


def wait_ready(
    gateway: Gateway,
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Ready:
    """Ask for readiness until it is there. Looks at least once; NotReady after `seconds`."""
    started, pause, looks = clock(), _FIRST_PAUSE, 0
    while True:
        left = seconds - (clock() - started)
        # A socket unit accepts before the service runs, so that one look may well last to the deadline.
        last, hint = _look(gateway, min(gateway.timeout, max(left, _LONGEST_PAUSE)))
        looks += 1
        passed = clock() - started
        if not last:
            return Ready(passed, looks)
        # Not 0: a rest that a float can no longer add to the clock would be slept for ever.
        if seconds - passed < 0.001:
            raise NotReady(gateway.where, seconds, last, hint)
        sleep(min(pause, seconds - passed))
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _look(gateway: Gateway, timeout: float) -> tuple[str, str]:
    """What stands in the way and its remedy; two empty strings when ready."""
    try:
        answer = gateway.get(READINESS, timeout=timeout)
    except GatewayError as error:
        return error.message, error.hint
    if answer.status == 200:
        return "", ""
    said = gateway.explain(answer)
    return f"HTTP {answer.status}" + (f", {said}" if said else ""), f"Read {JOURNAL}."
