"""One line in the journal when the database cannot be used any more, and one when it can again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

_ADVICE = "The master key works, and a virtual key for as long as LiteLLM has it in its cache"


class DatabaseLog:
    """What the workers say about the database. Times are in seconds of the monotonic clock."""

    def __init__(self, error: Callable[[str], None], notice: Callable[[str], None]) -> None:
        #: Why the database cannot be used, in the words of PostgreSQL; empty if it can.
        self.cause = ""
        #: The Unix time at which the last outage began.
        self.since = 0.0
        self._began = 0.0
        self._error, self._notice = error, notice

    def update(self, causes: Iterable[str], now: float) -> None:
        """Compare with the last heartbeat of each worker: why it cannot use the database, or an empty string."""
        before, self.cause = self.cause, next(filter(None, causes), "")
        if self.cause and not before:
            self.since, self._began = time.time(), now
            self._error(f"the database cannot be used: {self.cause}. {_ADVICE}")
        elif before and not self.cause:
            self._notice(f"the database can be used again, after {now - self._began:.0f} s")
