"""One journal line for each kind of failure, for all workers together."""

from __future__ import annotations

from collections.abc import Callable

from litellm_systemd.runtime.channel import FailureReport

#: The fewest seconds between two lines about one kind: first and longest. They double with each line.
_FIRST_INTERVAL, _LONGEST_INTERVAL = 10.0, 3600.0
#: Seconds without a failure after which the next one is logged at once again.
_FORGET = 3600.0
#: Kinds that are counted separately. Clients influence what a failure says.
_MAX_KINDS = 500
_OTHER = "failures of other kinds, such as"


class FailureLog:
    """Logs the first failure of a kind at once and counts the later ones. Times are in seconds."""

    def __init__(self, write: Callable[[int, str], None]) -> None:
        self._write = write
        self._kinds: dict[str, _Kind] = {}

    def add(self, report: FailureReport, now: float) -> None:
        """Log or count a failure in a worker."""
        name, text = report.kind, report.text
        if name not in self._kinds and len(self._kinds) >= _MAX_KINDS:
            name, text = f"{report.priority} {_OTHER}", f"{_OTHER}: {report.text}"
        if (kind := self._kinds.get(name)) is None:
            kind = self._kinds[name] = _Kind()
        kind.text, kind.priority, kind.last_at = text, report.priority, now
        if kind.count or now < kind.next_at:
            kind.count += 1
            return
        self._write(report.priority, f"{text} [request {report.call}]" if report.call else text)
        kind.start_interval(now)

    def tick(self, now: float) -> None:
        """Log the numbers of failures whose interval has ended."""
        for name, kind in tuple(self._kinds.items()):
            if kind.count and now >= kind.next_at:
                self._log(kind, now)
                kind.start_interval(now)
            elif not kind.count and now - kind.last_at >= _FORGET:
                del self._kinds[name]

    def flush(self, now: float) -> None:
        """Log what is counted."""
        for kind in self._kinds.values():
            if kind.count:
                self._log(kind, now)
        self._kinds.clear()

    def _log(self, kind: _Kind, now: float) -> None:
        self._write(kind.priority, f"{kind.count} more in {now - kind.since:.0f} s: {kind.text}")


class _Kind:
    """The failures of one kind since the last line about it."""

    def __init__(self) -> None:
        self.text, self.priority, self.count = "", 0, 0
        self.since = self.next_at = self.last_at = 0.0
        self._interval = _FIRST_INTERVAL

    def start_interval(self, now: float) -> None:
        """Count from zero after a line."""
        self.count, self.since, self.next_at = 0, now, now + self._interval
        self._interval = min(self._interval * 2, _LONGEST_INTERVAL)
