"""One journal line for each burst of refused requests or closed connections, for all workers together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from litellm_systemd.runtime.channel import CONNECTION, GUESSED_KEY, OTHER_ADDRESSES, REQUEST, Refusals
from litellm_systemd.runtime.master.status import render_count

#: Seconds without a refusal that end a burst, and the seconds after which a longer one is logged.
_QUIET, _LONG = 5.0, 60.0
#: The fewest seconds between two lines about one subject: first and longest. They double with each line, also across
#: bursts, so that an attack of any length has few lines.
_FIRST_INTERVAL, _LONGEST_INTERVAL = 10.0, 3600.0
#: Seconds without a refusal after which the interval is the first one again.
_FORGET = 3600.0
#: Seconds for which the status has a client that guessed a key.
_REMEMBERED = 3600.0
#: The number of addresses in a line; the others are counted.
_NAMED = 3
#: Addresses that are counted separately. An attacker has as many as it likes.
_MAX_ADDRESSES = 1000
_VERBS = {REQUEST: "refused", GUESSED_KEY: "refused", CONNECTION: "closed"}


class RefusalLog:
    """Adds up the refusals of a burst, and logs one line when it ends: with `warn` about guessed keys, or else with
    `notice`. Further bursts within an hour share lines, which become rarer. Times are in seconds.
    """

    def __init__(self, notice: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self._notice = notice
        self._warn = warn
        self._subjects: dict[str, _Subject] = {}
        #: By client, the number of guessed keys and the time of the last one.
        self._guesses: dict[str, tuple[int, float]] = {}

    def add(self, refusals: Refusals, now: float) -> None:
        """Count what a worker has refused."""
        self._subjects.setdefault(refusals.subject, _Subject(refusals.subject)).add(refusals, now)
        if refusals.subject == GUESSED_KEY:
            if len(self._guesses) >= _MAX_ADDRESSES:
                self._forget_guesses(now)  # so that a current attacker keeps its name
            for client, count in refusals.clients.items():
                name = _name(client, self._guesses)
                self._guesses[name] = self._guesses.get(name, (0, now))[0] + count, now

    def tick(self, now: float) -> None:
        """Log each burst that has ended or lasted long enough, unless the last line is too recent."""
        for name, subject in tuple(self._subjects.items()):
            if subject.is_due(now):
                self._log(subject)
                subject.start_again(now)
            elif subject.is_forgotten(now):
                del self._subjects[name]

    def flush(self) -> None:
        """Log what is counted."""
        for subject in self._subjects.values():
            if subject.clients:
                self._log(subject)
        self._subjects.clear()

    def build_guesses(self, now: float) -> list[dict[str, Any]]:
        """For the status: the clients that guessed keys within the last hour, the most active ones first."""
        self._forget_guesses(now)
        ranked = sorted(self._guesses.items(), key=lambda item: -item[1][0])
        return [
            {"client": client, "refused": count, "age": round(now - last_at, 3)}
            for client, (count, last_at) in ranked[:_NAMED]
        ]

    def _forget_guesses(self, now: float) -> None:
        self._guesses = {each: found for each, found in self._guesses.items() if now - found[1] < _REMEMBERED}

    def _log(self, subject: _Subject) -> None:
        (self._warn if subject.name == GUESSED_KEY else self._notice)(subject.render())


class _Subject:
    """The refusals of one subject since the last line about it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.clients: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._first_at = self._last_at = 0.0
        #: When the next line may be logged, and how long after it the one that follows.
        self._next_at, self._interval = 0.0, _FIRST_INTERVAL

    def add(self, refusals: Refusals, now: float) -> None:
        if not self.clients:
            self._first_at = now
        self._last_at = now
        self._reasons.update(refusals.reasons)
        for client, count in refusals.clients.items():
            self.clients[_name(client, self.clients)] += count

    def is_due(self, now: float) -> bool:
        has_waited = now - self._last_at >= _QUIET or now - self._first_at >= _LONG
        return bool(self.clients) and has_waited and now >= self._next_at

    def is_forgotten(self, now: float) -> bool:
        return not self.clients and now - self._last_at >= _FORGET

    def start_again(self, now: float) -> None:
        """Count from zero after a line."""
        self.clients.clear()
        self._reasons.clear()
        self._next_at = now + self._interval
        self._interval = min(self._interval * 2, _LONGEST_INTERVAL)

    def render(self) -> str:
        ranked = sorted(self._reasons.items(), key=lambda item: (-item[1], item[0]))
        counts = [f"{render_count(count, self.name)} {reason}" for reason, count in ranked]
        listed = " and ".join(filter(None, (", ".join(counts[:-1]), counts[-1])))
        return f"{_VERBS[self.name]} {listed}, from {_render_clients(self.clients)}"


def _name(client: str, counted: Mapping[str, object]) -> str:
    return client if client in counted or len(counted) < _MAX_ADDRESSES else OTHER_ADDRESSES


def _render_clients(clients: Mapping[str, int]) -> str:
    others = clients.get(OTHER_ADDRESSES, 0)
    ranked = Counter({client: count for client, count in clients.items() if client != OTHER_ADDRESSES}).most_common()
    # A trusted proxy passes on what its client sent as an address: it may contain control characters.
    named = [f"{client.encode('unicode_escape').decode()} ({count})" for client, count in ranked[:_NAMED]]
    if others := others + sum(count for _, count in ranked[_NAMED:]):
        named.append(f"{OTHER_ADDRESSES} ({others})")
    return ", ".join(named)
