"""One journal line for each burst of refused requests or closed connections, for all workers together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from litellm_systemd.runtime.channel import CONNECTION, OTHER_ADDRESSES, REQUEST, Refusals
from litellm_systemd.runtime.master.status import render_count

#: Seconds without a refusal that end a burst, and the seconds after which a longer one is logged.
_QUIET, _LONGEST = 5.0, 60.0
#: The number of addresses in a line; the others are counted.
_NAMED = 3
#: Addresses that are counted separately. An attacker has as many as it likes.
_MAX_ADDRESSES = 1000
_VERBS = {REQUEST: "refused", CONNECTION: "closed"}


class RefusalLog:
    """Adds up the refusals of a burst, and passes one line to `log` when it ends. Times are in seconds."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log
        self._bursts: dict[str, _Burst] = {}

    def add(self, refusals: Refusals, now: float) -> None:
        """Count what a worker has refused."""
        self._bursts.setdefault(refusals.subject, _Burst(refusals.subject, now)).add(refusals, now)

    def tick(self, now: float) -> None:
        """Log each burst that has ended, or that has lasted long enough."""
        for subject, burst in tuple(self._bursts.items()):
            if now - burst.last_at >= _QUIET or now - burst.first_at >= _LONGEST:
                del self._bursts[subject]
                self._log(burst.render())

    def flush(self) -> None:
        """Log what is counted."""
        for burst in self._bursts.values():
            self._log(burst.render())
        self._bursts.clear()


class _Burst:
    """The refusals of one subject."""

    def __init__(self, subject: str, now: float) -> None:
        self.first_at = self.last_at = now
        self._subject = subject
        self._reasons: Counter[str] = Counter()
        self._clients: Counter[str] = Counter()

    def add(self, refusals: Refusals, now: float) -> None:
        self.last_at = now
        self._reasons.update(refusals.reasons)
        for client, count in refusals.clients.items():
            known = client in self._clients or len(self._clients) < _MAX_ADDRESSES
            self._clients[client if known else OTHER_ADDRESSES] += count

    def render(self) -> str:
        counts = [f"{render_count(count, self._subject)} {reason}" for reason, count in self._reasons.most_common()]
        listed = " and ".join(filter(None, (", ".join(counts[:-1]), counts[-1])))
        return f"{_VERBS[self._subject]} {listed}, from {_render_clients(self._clients)}"


def _render_clients(clients: Mapping[str, int]) -> str:
    others = clients.get(OTHER_ADDRESSES, 0)
    ranked = Counter({client: count for client, count in clients.items() if client != OTHER_ADDRESSES}).most_common()
    # A trusted proxy passes on what its client sent as an address: it may contain control characters.
    named = [f"{client.encode('unicode_escape').decode()} ({count})" for client, count in ranked[:_NAMED]]
    if others := others + sum(count for _, count in ranked[_NAMED:]):
        named.append(f"{OTHER_ADDRESSES} ({others})")
    return ", ".join(named)
