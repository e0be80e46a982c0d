"""One journal line for each burst of requests without the right key, for all workers together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from litellm_systemd.runtime.channel import OTHER_ADDRESSES, Refusals
from litellm_systemd.runtime.master.status import render_count

#: Seconds without a refusal that end a burst, and the seconds after which a longer one is logged.
_QUIET, _LONGEST = 5.0, 60.0
#: The number of addresses in a line; the others are counted.
_NAMED = 3
#: Addresses that are counted separately. An attacker has as many as it likes.
_MAX_ADDRESSES = 1000


class RefusalLog:
    """Adds up the refusals of a burst, and passes one line to `log` when it ends. Times are in seconds."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._clients: Counter[str] = Counter()
        self._wrong = self._missing = 0
        self._first_at = self._last_at = 0.0

    def add(self, refusals: Refusals, now: float) -> None:
        """Count what a worker has refused."""
        if not self._clients:
            self._first_at = now
        self._last_at = now
        self._wrong += refusals.wrong
        self._missing += refusals.missing
        for client, count in refusals.clients.items():
            known = client in self._clients or len(self._clients) < _MAX_ADDRESSES
            self._clients[client if known else OTHER_ADDRESSES] += count

    def tick(self, now: float) -> None:
        """Log a burst that has ended, or that has lasted long enough."""
        if now - self._last_at >= _QUIET or now - self._first_at >= _LONGEST:
            self.flush()

    def flush(self) -> None:
        """Log what is counted."""
        if self._clients:
            self._log(self._render())
            self._clients, self._wrong, self._missing = Counter(), 0, 0

    def _render(self) -> str:
        counts = ((self._wrong, "with a wrong key"), (self._missing, "without a key"))
        kinds = " and ".join(f"{render_count(count, 'request')} {kind}" for count, kind in counts if count)
        return f"refused {kinds}, from {self._render_clients()}"

    def _render_clients(self) -> str:
        others = self._clients.pop(OTHER_ADDRESSES, 0)
        ranked = self._clients.most_common()
        # A trusted proxy passes on what its client sent as an address: it may contain control characters.
        named = [f"{client.encode('unicode_escape').decode()} ({count})" for client, count in ranked[:_NAMED]]
        if others := others + sum(count for _, count in ranked[_NAMED:]):
            named.append(f"{OTHER_ADDRESSES} ({others})")
        return ", ".join(named)
