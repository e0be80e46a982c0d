"""The interval of the periodic check: parse the option, read the installed timer. Pure."""

from __future__ import annotations

import re

from litellm_systemd.errors import UsageError
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import HostState

OFF = "off"
#: Seconds. A check takes one or two.
_SHORTEST, _LONGEST = 60, 31 * 86_400
_UNITS = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "hr": 3600, "d": 86_400}
#: The common part of systemd.time(7).
_SPAN = re.compile(rf"(?:\d{{1,7}}(?:{'|'.join(sorted(_UNITS, key=len, reverse=True))}))+")
_PART = re.compile(r"(\d+)([a-z]+)")


def check_interval(text: str) -> str:
    """Return `text` if it is `off` or a time span that systemd reads as a person would.

    Raises:
        UsageError: it is not a time span, or is too short or too long.
    """
    span = text.replace(" ", "").lower()
    if span == OFF:
        return OFF
    seconds = sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(span)) if _SPAN.fullmatch(span) else 0
    if not _SHORTEST <= seconds <= _LONGEST:
        raise UsageError(f"--verify-every {text}: not a time from 1min to 31d", "Such as 15min, 1h30min, or off.")
    return span


def find_interval(layout: Layout, host: HostState) -> str:
    """The interval of the installed timer; `off` if litellmctl installed none."""
    found = host.files.get(layout.verify_timer)
    if found is None or layout.verify_timer not in host.manifest:
        return OFF
    spans = re.findall(r"^OnUnitActiveSec=(.+)$", found.content.decode(errors="replace"), re.MULTILINE)
    # A timer that was edited to another form is kept: see `FileState.keep_edits`.
    return spans[-1].strip() if spans else "15min"
