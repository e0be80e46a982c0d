"""One journal line for each burst of refused requests or closed connections, for all workers together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from litellm_systemd.runtime.channel import CONNECTION, GUESSED_KEY, OTHER_ADDRESSES, REQUEST, Refusals
from litellm_systemd.runtime.master.status import render_count

#: Seconds without a refusal that end a burst, and the seconds after which a longer one is logged. That time doubles
#: with each line, up to the last one, so that an attack of any length has few lines.
_QUIET, _LONG, _LONGEST = 5.0, 60.0, 86_400.0
#: Seconds for which the status has a client that guessed a key.
_REMEMBERED = 3600.0
#: The number of addresses in a line; the others are counted.
_NAMED = 3
#: Addresses that are counted separately. An attacker has as many as it likes.
_MAX_ADDRESSES = 1000
_VERBS = {REQUEST: "refused", GUESSED_KEY: "refused", CONNECTION: "closed"}


class RefusalLog:
    """Adds up the refusals of a burst, and logs one line when it ends: with `warn` about guessed keys, or else with
    `notice`. Times are in seconds.
    """

    def __init__(self, notice: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self._notice = notice
        self._warn = warn
        self._bursts: dict[str, _Burst] = {}
        #: By client, the number of guessed keys and the time of the last one.
        self._guesses: dict[str, tuple[int, float]] = {}

    def add(self, refusals: Refusals, now: float) -> None:
        """Count what a worker has refused."""
        self._bursts.setdefault(refusals.subject, _Burst(refusals.subject, now)).add(refusals, now)
        if refusals.subject == GUESSED_KEY:
            for client, count in refusals.clients.items():
                name = _name(client, self._guesses)
                self._guesses[name] = self._guesses.get(name, (0, now))[0] + count, now

    def tick(self, now: float) -> None:
        """Log each burst that has ended, or that has lasted long enough."""
        for subject, burst in tuple(self._bursts.items()):
            if now - burst.last_at >= _QUIET:
                del self._bursts[subject]
                self._log(subject, burst)
            elif now - burst.first_at >= burst.longest:
                self._bursts[subject] = _Burst(subject, now, min(burst.longest * 2, _LONGEST))
                self._log(subject, burst)

    def flush(self) -> None:
        """Log what is counted."""
        for subject, burst in self._bursts.items():
            self._log(subject, burst)
        self._bursts.clear()

    def build_guesses(self, now: float) -> list[dict[str, Any]]:
        """For the status: the clients that guessed keys within the last hour, the most active ones first."""
        self._guesses = {each: found for each, found in self._guesses.items() if now - found[1] < _REMEMBERED}
        ranked = sorted(self._guesses.items(), key=lambda item: -item[1][0])
        return [
            {"client": client, "refused": count, "age": round(now - last_at, 3)}
            for client, (count, last_at) in ranked[:_NAMED]
        ]

    def _log(self, subject: str, burst: _Burst) -> None:
        if burst.is_empty:
            return
        (self._warn if subject == GUESSED_KEY else self._notice)(burst.render())


class _Burst:
    """The refusals of one subject."""

    def __init__(self, subject: str, now: float, longest: float = _LONG) -> None:
        self.first_at = self.last_at = now
        self.longest = longest
        self._subject = subject
        self._reasons: Counter[str] = Counter()
        self._clients: Counter[str] = Counter()

    @property
    def is_empty(self) -> bool:
        return not self._clients

    def add(self, refusals: Refusals, now: float) -> None:
        self.last_at = now
        self._reasons.update(refusals.reasons)
        for client, count in refusals.clients.items():
            self._clients[_name(client, self._clients)] += count

    def render(self) -> str:
        counts = [f"{render_count(count, self._subject)} {reason}" for reason, count in self._reasons.most_common()]
        listed = " and ".join(filter(None, (", ".join(counts[:-1]), counts[-1])))
        return f"{_VERBS[self._subject]} {listed}, from {_render_clients(self._clients)}"


def _name(client: str, counted: Mapping[str, object]) -> str:
    """The name under which a client is counted."""
    return client if client in counted or len(counted) < _MAX_ADDRESSES else OTHER_ADDRESSES


def _render_clients(clients: Mapping[str, int]) -> str:
    others = clients.get(OTHER_ADDRESSES, 0)
    ranked = Counter({client: count for client, count in clients.items() if client != OTHER_ADDRESSES}).most_common()
    # A trusted proxy passes on what its client sent as an address: it may contain control characters.
    named = [f"{client.encode('unicode_escape').decode()} ({count})" for client, count in ranked[:_NAMED]]
    if others := others + sum(count for _, count in ranked[_NAMED:]):
        named.append(f"{OTHER_ADDRESSES} ({others})")
    return ", ".join(named)
