"""TimeoutStopSec= of the service with its drop-ins, against the times of a stop."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from litellm_systemd import contract
from litellm_systemd.env.dotenv import Dotenv
from litellm_systemd.env.load_balancer import explain_stop_timeout
from litellm_systemd.host.effective import UnitLine, find_drop_ins, read_lines
from litellm_systemd.host.layout import Layout

#: The units of systemd.time(7) that a timeout may have, in seconds.
_UNITS = {
    **dict.fromkeys(("us", "usec", "µs"), 1e-6),
    **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604_800.0),
}
_PART = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([a-zµ]*)")
#: Seconds: DefaultTimeoutStopSec= of systemd, for an empty value.
_DEFAULT = 90.0


@dataclass(frozen=True, slots=True)
class ShortTimeout:
    """A TimeoutStopSec= that ends something too early: the line that sets it, and the end of a sentence about it."""

    line: UnitLine
    message: str

    def remedy(self, layout: Layout) -> str:
        """What to do: an install writes the unit for the variables of now."""
        if self.line.path == layout.service:
            return "sudo litellmctl install --installed"
        return f"Remove the line {self.line.where}, then: sudo systemctl daemon-reload"


def read_unit(layout: Layout) -> Iterator[UnitLine]:
    """The assignments of the service and its drop-ins in systemd's order, whether systemd runs or not."""
    drop_ins = {path.name: path for path in find_drop_ins(layout, contract.SERVICE)}
    yield from read_lines(layout, layout.service)
    for _, path in sorted(drop_ins.items()):
        yield from read_lines(layout, f"/{path.relative_to(layout.root)}")


def find_short_timeout(lines: Iterable[UnitLine], dotenv: Dotenv) -> ShortTimeout | None:
    """The TimeoutStopSec= that is shorter than a stop may take; None if there is none.

    Raises:
        InputError: a variable has no valid time.
    """
    own = [each for each in lines if each.section == "[Service]" and each.name in ("TimeoutStopSec", "TimeoutSec")]
    seconds = parse_span(own[-1].value) if own else None
    if seconds is None:
        return None
    message = explain_stop_timeout(dotenv.values, dotenv.where, seconds)
    return ShortTimeout(own[-1], message) if message else None


def parse_span(text: str) -> float | None:
    """The seconds of a timeout in a unit; 0 means none. None if systemd would ignore the line."""
    if not text:
        return _DEFAULT
    if text == "infinity":
        return float("inf")
    parts = list(_PART.finditer(text))
    if "".join(part[0] for part in parts) != text.rstrip() or any(part[2] not in _UNITS for part in parts):
        return None
    return sum(float(part[1]) * _UNITS[part[2]] for part in parts) or float("inf")
