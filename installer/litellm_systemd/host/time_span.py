"""Time spans of systemd.time(7), such as `1h 30min`."""

from __future__ import annotations

import re

#: Seconds of each unit. A number without a unit is in seconds. Months and years are left out.
_UNITS = {
    **dict.fromkeys(("us", "usec", "µs"), 1e-6),
    **dict.fromkeys(("ms", "msec"), 1e-3),
    **dict.fromkeys(("", "s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86_400.0),
    **dict.fromkeys(("w", "week", "weeks"), 604_800.0),
}
_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-zµ]*)")


def parse_time_span(text: str) -> float | None:
    """Return the seconds of a time span; None if the text is not one."""
    text = text.strip()
    if text == "infinity":
        return float("inf")
    parts = list(_PART.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text or any(part[2] not in _UNITS for part in parts):
        return None
    return sum(float(part[1]) * _UNITS[part[2]] for part in parts)
