"""A load on a box's gateway: clients that chat without a pause, on kept and fresh connections, and open streams."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from box import Box, BoxError
from service import MODEL, end_streams, inflight, key, wait_until_open

CLIENTS = 16
STREAMS = 8
#: Events of a stream, and seconds between the first and the end; and of one that nothing but the service or
#: `service.end_streams` ends.
EVENTS = 20
ENDLESS = 3600
#: A client waits longer than any restart with its drain takes: patience must not count as a failure.
_PATIENCE = 180


@dataclass
class Load:
    """What came of it: chats answered with 200, each other outcome in words, and the whole text of each stream."""

    answered: int = 0
    failed: list[str] = field(default_factory=list)
    streamed: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, outcome: str) -> None:
        with self._lock:
            if outcome == "200":
                self.answered += 1
            else:
                self.failed.append(outcome)

    def note_stream(self, text: str) -> None:
        with self._lock:
            self.streamed.append(text)

    @property
    def whole(self) -> int:
        """How many streams came to their end, with every event in them."""
        return sum(_is_whole(text) for text in self.streamed)

    @property
    def refused(self) -> list[str]:
        """Failures of those who found the port closed: there must never be any."""
        return [outcome for outcome in self.failed if "refused" in outcome.lower()]


def _is_whole(text: str) -> bool:
    words = re.findall(r"\b(w\d+|end) ", text)
    in_order = [f"w{number}" for number in range(len(words) - 1)]
    return text.rstrip().endswith("data: [DONE]") and words == [*in_order, "end"]


@contextmanager
def loaded(
    box: Box, *, streams: int = 0, events: int = EVENTS, clients: int = CLIENTS, pause: float = 0.0
) -> Iterator[Load]:
    """Keep clients busy while the block runs, half of them on a kept connection.

    `streams` of so many `events` are opened before it begins, and read to their end after it is over. `pause`:
    seconds that a client rests between two chats, where what is watched is that nobody fails, and other work needs
    the processors.
    """
    load, over, bearer = Load(), threading.Event(), key(box)
    readers = [threading.Thread(target=_stream, args=(box, bearer, load, events)) for _ in range(streams)]
    chatters = [
        threading.Thread(target=_client, args=(box, bearer, load, over, number % 2 == 0, pause))
        for number in range(clients)
    ]
    try:
        # Workers report once a second: requests of a load before would pass for streams that are open.
        box.wait_until(lambda: inflight(box) == 0, 30, "nothing of before is counted any more")
        for thread in readers:
            thread.start()
        wait_until_open(box, streams)
        for thread in chatters:
            thread.start()
        box.wait_until(lambda: load.answered >= clients, 60, "the first chats are answered")
        yield load
    except BaseException:
        # A test that failed mustn't wait for streams that nothing else would end.
        with contextlib.suppress(BoxError):
            end_streams(box)
        raise
    finally:
        over.set()
        for thread in (*chatters, *readers):
            if thread.ident is not None:
                thread.join(timeout=_PATIENCE)


def _ask(connection: http.client.HTTPConnection, bearer: str, **body: object) -> http.client.HTTPResponse:
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    return connection.getresponse()


def _client(box: Box, bearer: str, load: Load, over: threading.Event, keep: bool, pause: float) -> None:
    connection: http.client.HTTPConnection | None = None
    while not over.wait(pause):
        try:
            if connection is None:
                connection = box.http_connection("127.0.0.1", 4000, timeout=_PATIENCE)
            response = _ask(connection, bearer, model=MODEL, messages=[{"role": "user", "content": "hi"}])
            response.read()
            load.note(str(response.status))
            leaves = response.will_close
        except (OSError, http.client.HTTPException) as error:
            load.note(repr(error))
            leaves = True
        # A client that is told `Connection: close` opens a new one; http.client would do that by itself, but in the
        # host's network.
        if connection is not None and (leaves or not keep):
            connection.close()
            connection = None


def _stream(box: Box, bearer: str, load: Load, events: int) -> None:
    """Read one streamed answer; what came of it before it broke counts as its text."""
    text = ""
    try:
        with contextlib.closing(box.http_connection("127.0.0.1", 4000, timeout=_PATIENCE)) as connection:
            message = {"role": "user", "content": str(events)}
            response = _ask(connection, bearer, model="slow", stream=True, messages=[message])
            while chunk := response.read1():
                text += chunk.decode()
    except (OSError, http.client.HTTPException) as error:
        text += f"\n{error!r}"
    load.note_stream(text)
