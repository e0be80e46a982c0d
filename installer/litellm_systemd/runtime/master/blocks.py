"""Which code has blocked the event loops of workers: for the journal, the status and `doctor`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litellm_systemd.runtime.activity import Frame, locate

#: A call in a line of code. Its arguments are left out: they may hold a key.
_CALL = re.compile(r"([A-Za-z_][\w.]*)\(")
#: Seconds without a further block after which code is forgotten.
_REMEMBERED = 3600.0
#: How many blocks by the same code have a line together, and the fewest seconds between two such lines.
_MANY, _INTERVAL = 3, 600.0
#: The number of functions that the status names.
_MAX_NAMED = 5


@dataclass(frozen=True, slots=True)
class Block:
    """A worker's event loop stood still for `seconds`. `stack` is what ran then, `request` may be empty.

    `is_short`: it was only long enough for a late heartbeat.
    """

    seconds: float
    request: str
    stack: tuple[Frame, ...]
    killed: bool = False
    is_short: bool = False


@dataclass(slots=True)
class _Place:
    """A line of code that has blocked event loops. `logged_at` is the time of the last line about all its blocks."""

    where: str
    call: str
    request: str = ""
    count: int = 0
    killed: int = 0
    longest: float = 0.0
    last_at: float = 0.0
    logged_at: float = float("-inf")

    def render(self) -> str:
        call = f", {self.call}," if self.call else ""
        return f"{self.where}{call} blocks the event loop of a worker"


class BlockLog:
    """Counts blocks by the line of code that caused them. Times are in seconds.

    It logs with `error` a worker that had to be killed, and with `warn` code that blocks repeatedly for a short time.
    Short blocks count only if the code is the user's: on a busy host any other code may be late.
    """

    def __init__(self, error: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self._error = error
        self._warn = warn
        self._places: dict[str, _Place] = {}

    def add(self, worker: str, block: Block, texts: Mapping[str, str], now: float) -> None:
        """Count a block of a worker. `texts` holds the Python files of its configuration, by path."""
        frame = find_cause(block.stack)
        if frame is None or (block.is_short and not frame.is_own):
            return
        where = f"{frame.path}:{frame.line} in {frame.function}"
        place = self._places.setdefault(where, _Place(where, find_call(frame, texts)))
        place.request = block.request
        place.count += 1
        place.killed += block.killed
        place.longest = max(place.longest, block.seconds)
        place.last_at = now
        if block.killed:
            self._error(
                f"{worker} hangs{locate(block.request)} and is killed after {block.seconds:.0f} s: {place.render()}"
            )
        elif block.is_short and place.count >= _MANY and now - place.logged_at >= _INTERVAL:
            place.logged_at = now
            self._warn(
                f"{place.render()}: {place.count} times so far, for up to {place.longest:.1f} s."
                " Its other requests wait meanwhile"
            )

    def build(self, now: float) -> list[dict[str, Any]]:
        """For the status: the code whose last block was within the last hour, the latest first."""
        self._places = {key: each for key, each in self._places.items() if now - each.last_at < _REMEMBERED}
        latest = sorted(self._places.values(), key=lambda each: -each.last_at)
        return [
            {
                "where": each.where,
                "call": each.call,
                "request": each.request,
                "count": each.count,
                "killed": each.killed,
                "longest": round(each.longest, 3),
                "age": round(now - each.last_at, 3),
            }
            for each in latest[:_MAX_NAMED]
        ]


def find_cause(stack: Sequence[Frame]) -> Frame | None:
    """The innermost frame of the user's own code, else the innermost one; None if the event loop waits for events."""
    if not stack or "/asyncio/" in stack[0].path:
        return None
    return next((frame for frame in stack if frame.is_own), stack[0])


def find_call(frame: Frame, texts: Mapping[str, str]) -> str:
    """What the line of a frame calls, such as `time.sleep`; empty if that is not known."""
    lines = texts.get(frame.path, "").splitlines()
    found = _CALL.search(lines[frame.line - 1]) if 0 < frame.line <= len(lines) else None
    return found[1] if found else ""
