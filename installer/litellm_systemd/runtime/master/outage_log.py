"""One line in the journal when workers cannot use a server any more, such as the database, and one when they can.

A server that comes and goes does not fill the journal: short outages that follow each other are counted, and have one
line together.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

#: Outages that have a line each, until there is none for so many seconds.
_MOST, _FORGET = 3, 3600.0
#: Seconds between two lines about further ones: first and longest. They double with each line.
_FIRST_INTERVAL, _LONGEST_INTERVAL = 60.0, 3600.0
#: Seconds after which an outage has a line in any case.
_LONG = 60.0


class OutageLog:
    """What the workers say about a server. Times are in seconds of the monotonic clock.

    `name`: of the server, as in a sentence. `advice`: what an outage means. `relief`: what its end means.
    """

    def __init__(
        self, name: str, error: Callable[[str], None], notice: Callable[[str], None], *, advice: str, relief: str = ""
    ) -> None:
        #: Why the server cannot be used, in its own words; empty if it can.
        self.cause = ""
        #: The Unix time at which the last outage began.
        self.since = 0.0
        #: Whether a worker uses such a server.
        self.is_used = False
        self._last_cause, self._logged_cause, self._is_logged = "", "", False
        self._began = self._ended = self._logged_at = self._next_at = 0.0
        #: Lines about this series of outages, seconds until the next one, and outages since the last one.
        self._lines, self._interval, self._count = 0, 0.0, 0
        self._name, self._error, self._notice = name, error, notice
        self._advice, self._relief = advice, relief

    def update(self, causes: Iterable[str | None], now: float) -> None:
        """Compare with the last heartbeats: why a worker cannot use the server, "" if it can, None if it has none."""
        found = [each for each in causes if each is not None]
        self.is_used = bool(found)
        before, self.cause = self.cause, next(filter(None, found), "")
        if self.cause and not before:
            self.since, self._began, self._is_logged = time.time(), now, False
            if now - self._ended >= _FORGET:
                self._lines, self._interval, self._count, self._next_at = 0, 0.0, 0, now
            self._count += 1
        elif before and not self.cause:
            self._ended, self._last_cause = now, before
            if self._is_logged and self.is_used:
                self._notice(f"{self._name} can be used again, after {now - self._began:.0f} s{self._relief}")
        if now >= self._next_at or (self.cause and now - self._began >= _LONG):
            self.flush(now)
        if self.cause and self._logged_cause and now - self._began >= _LONG:
            # A server that is restarted with another password first refuses connections. Two lines are enough.
            if self.cause != self._logged_cause:
                self._error(f"{self.render()}. {self._advice}")
            self._logged_cause = ""

    def flush(self, now: float) -> None:
        """Log the outages that are counted, if there are any."""
        if self.cause and not self._is_logged:
            self._is_logged, self._logged_cause = True, self.cause
            self._log(f"{self.render()}. {self._advice}", now)
        elif not self.cause and self.is_used and self._count:
            self._log(f"{self._name} could not be used, and can now: {self._last_cause.rstrip('.')}", now)

    def _log(self, text: str, now: float) -> None:
        more = f"{self._count} more in {now - self._logged_at:.0f} s: " if self._interval else ""
        self._error(f"{more}{text}")
        self._lines += 1
        if self._lines >= _MOST:
            self._interval = min(self._interval * 2 or _FIRST_INTERVAL, _LONGEST_INTERVAL)
        self._count, self._logged_at, self._next_at = 0, now, now + self._interval

    def render(self) -> str:
        """The outage, as in a sentence."""
        return f"{self._name} cannot be used: {self.cause.rstrip('.')}"

    def build(self) -> dict[str, object]:
        """The state for the status."""
        return {"usable": not self.cause, "cause": self.cause, "since": round(self.since, 3) if self.cause else None}


def build_database_log(error: Callable[[str], None], notice: Callable[[str], None]) -> OutageLog:
    advice = "The master key works, and a virtual key for as long as LiteLLM has it in its cache"
    return OutageLog("the database", error, notice, advice=advice)


def build_redis_log(error: Callable[[str], None], notice: Callable[[str], None], workers: int) -> OutageLog:
    """The log of Redis, with what an outage means for this instance, which has `workers`, and for the others."""
    where = "each instance" if workers == 1 else f"each of the {workers} workers of each instance"
    return OutageLog(
        "Redis",
        error,
        notice,
        advice=f"Until it can, {where} has its own limits, cooldowns and cache: a limit of 10 allows 10 in each of"
        " them",
        relief=": limits, cooldowns and cache are shared",
    )
