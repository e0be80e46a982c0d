"""TimeoutStopSec= of the service with its drop-ins, against the times of a stop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from litellm_systemd import contract
from litellm_systemd.env.dotenv import Dotenv
from litellm_systemd.env.load_balancer import explain_stop_timeout
from litellm_systemd.host.effective import UnitLine, find_drop_ins, read_lines
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.time_span import parse_time_span

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
    seconds = _read_timeout(own[-1].value) if own else None
    if seconds is None:
        return None
    message = explain_stop_timeout(dotenv.values, dotenv.where, seconds)
    return ShortTimeout(own[-1], message) if message else None


def _read_timeout(text: str) -> float | None:
    """The seconds of a timeout in a unit; 0 means none. None if systemd would ignore the line."""
    seconds = parse_time_span(text) if text else _DEFAULT
    return float("inf") if seconds == 0 else seconds
