"""Load on a fleet: clients that send chats and streams through HAProxy, and check each answer to its last word."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from box import wait_until
from fleet import Fleet
from service import MODEL
from tests.connections import is_stale

CLIENTS = 32
#: Seconds between two requests of a client. 32 clients then send eight a second, which takes half of a processor.
PAUSE = 3.0
#: Seconds that no answer takes, not even one that waits for a restart.
_TIMEOUT = 180
#: Events of the shortest stream, and the milliseconds that it takes. Each event takes milliseconds of a processor.
EVENTS, _DURATION = 5, 1500


@dataclass(frozen=True, slots=True)
class Outcome:
    """A request: when it began and ended (`time.monotonic`), which instance answered, and what was wrong with it."""

    began: float
    ended: float
    instance: str
    streamed: bool
    failure: str


@dataclass
class Load:
    """The outcomes so far, in the order of their ends."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failed(self) -> list[Outcome]:
        return [each for each in self.outcomes if each.failure]

    def served_by(self, instance: str, since: float = 0) -> list[Outcome]:
        """The requests from a time on that an instance answered."""
        return [each for each in self.outcomes if each.instance == instance and each.began >= since]

    def wait_for_each(self, *instances: str) -> None:
        """Wait until each of these instances has answered a request from now on."""
        now = time.monotonic()
        wait_until(lambda: all(self.served_by(each, now) for each in instances), 180, f"{instances} answer")


@contextmanager
def loaded(
    fleet: Fleet, bearer: str, *, pause: float = PAUSE, streams: bool = True, events: int = EVENTS
) -> Iterator[Load]:
    """Run clients during the block. Half of them keep their connections, and with `streams` half of both stream.

    `pause` is in seconds, between two requests of a client. The shortest stream has `events` events. The block ends
    when each request that has begun did.
    """
    load, over = Load(), threading.Event()
    clients = [_Client(fleet, bearer, load, number, streams and number % 4 < 2, events) for number in range(CLIENTS)]
    threads = [threading.Thread(target=each.run, args=(over, pause)) for each in clients]
    try:
        for thread in threads:
            thread.start()
        wait_until(lambda: len(load.outcomes) >= CLIENTS, 180, "the first requests are answered")
        yield load
    finally:
        over.set()
        for thread in threads:
            thread.join(timeout=_TIMEOUT)


class _Client:
    def __init__(self, fleet: Fleet, bearer: str, load: Load, number: int, streams: bool, events: int) -> None:
        self._fleet, self._bearer, self._load = fleet, bearer, load
        self._streams, self._keeps = streams, number % 2 == 0
        #: The part of a pause before the first request, so that the clients do not send all at once.
        self._offset = number / CLIENTS
        #: Different answers, so that a mix-up is seen.
        self._events = events + number % 8
        self._gap = _DURATION // events
        self._connection: http.client.HTTPConnection | None = None

    def run(self, over: threading.Event, pause: float) -> None:
        over.wait(pause * self._offset)
        while not over.is_set():
            self._load.outcomes.append(self._request())
            over.wait(pause)
        self._close()

    def _request(self) -> Outcome:
        began, instance, failure = time.monotonic(), "", ""
        try:
            response = self._send()
            instance = response.getheader("x-instance", "")
            body = response.read().decode()
            failure = "" if response.status == 200 else f"HTTP {response.status}: {body}"
            failure = failure or self._check(body)
            closes = response.will_close
        except (OSError, http.client.HTTPException) as error:
            failure, closes = repr(error), True
        if closes or failure or not self._keeps:
            self._close()
        return Outcome(began, time.monotonic(), instance, self._streams, failure)

    def _send(self) -> http.client.HTTPResponse:
        if self._connection is not None and is_stale(self._connection):
            self._close()
        if self._connection is None:
            self._connection = self._fleet.connection(timeout=_TIMEOUT)
        pause = f" EVERY {self._gap} MS" if self._streams else ""
        message = {"role": "user", "content": f"STREAM {self._events} EVENTS{pause}"}
        body = {"model": MODEL, "stream": self._streams, "messages": [message]}
        headers = {"Authorization": f"Bearer {self._bearer}", "Content-Type": "application/json"}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        return self._connection.getresponse()

    def _check(self, body: str) -> str:
        """What is wrong with an answer. The fake Bedrock answers with numbers (tests/fakes/default_behavior.py)."""
        text = _streamed(body) if self._streams else json.loads(body)["choices"][0]["message"]["content"]
        expected = [f"{number:04}" for number in range(self._events)]
        return "" if text.split() == expected else f"incomplete or wrong: {body[-300:]}"

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _streamed(body: str) -> str:
    """The text of a stream; empty if its end is missing."""
    events = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data: ")]
    if not events or events.pop() != "[DONE]":
        return ""
    choices = (choice for event in events for choice in json.loads(event).get("choices", ()))
    return "".join(choice["delta"].get("content") or "" for choice in choices)
