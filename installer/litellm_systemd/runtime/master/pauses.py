"""Pauses of the main process: a frozen or stopped service, a suspended host, a virtual machine that was moved.

Timeouts must not count them: a worker that was paused as well could send no heartbeat, and is as healthy as before.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

#: Seconds between two measurements from which the time between them is a pause.
_PAUSE = 1.0
#: Seconds from which a pause has a line in the journal, unless this process was busy for half of them.
_LONG, _BUSY_SHARE = 5.0, 0.5


@dataclass(frozen=True, slots=True)
class Pause:
    """The time since the last measurement in which this process did not run.

    `missed`: its seconds on the monotonic clock, 0 without a pause. `text`: a line for the journal, empty if the
    pause was short, or if this process was busy.
    """

    missed: float
    text: str


class PauseDetector:
    """Measures pauses. Call `measure` more often than once a second."""

    def __init__(self, now: float) -> None:
        self._measured_at = now
        self._suspended = _read_suspended_time()
        self._busy = time.process_time()

    def measure(self, now: float) -> Pause:
        """The pause since the last call; `now` is on the monotonic clock."""
        suspended, busy = _read_suspended_time(), time.process_time()
        missed, asleep, worked = now - self._measured_at, suspended - self._suspended, busy - self._busy
        self._measured_at, self._suspended, self._busy = now, suspended, busy
        if missed <= _PAUSE:
            missed = 0.0
        length = missed + asleep
        if length < _LONG or worked > length * _BUSY_SHARE:
            return Pause(missed, "")
        what = "the host was suspended" if asleep > missed else "the service was paused"
        return Pause(missed, f"{what} for {length:.0f} s, and its timeouts do not count them")


def _read_suspended_time() -> float:
    """Seconds for which the host was suspended since its boot: CLOCK_MONOTONIC does not count them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
