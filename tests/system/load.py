"""Load on the gateway in a box: clients that send chats continuously, with and without keep-alive, and streams."""

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
from service import MODEL, end_streams, inflight, key
from tests.connections import is_stale

CLIENTS = 16
STREAMS = 8
#: The number of events of a stream, which has one per second; and of a stream that only a force-close or
#: `service.end_streams` ends.
EVENTS = 20
ENDLESS = 3600
#: Seconds between two chats of a client. 16 clients then take a quarter of a processor: most of the others is for the
#: process that starts, so that a test waits less for it.
PAUSE = 0.5
#: For tests of minutes.
LONG_PAUSE = 1.0
#: Seconds: longer than any restart with its drain, so that waiting does not count as a failure.
_CLIENT_TIMEOUT = 180


@dataclass
class Load:
    """The number of chats with status 200 and of streams that have begun, a description of each failure, and the text
    of each stream.
    """

    answered: int = 0
    begun: int = 0
    failed: list[str] = field(default_factory=list)
    streamed: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, outcome: str) -> None:
        with self._lock:
            if outcome == "200":
                self.answered += 1
            else:
                self.failed.append(outcome)

    def begin_stream(self) -> None:
        with self._lock:
            self.begun += 1

    def record_stream(self, text: str) -> None:
        with self._lock:
            self.streamed.append(text)

    @property
    def whole(self) -> int:
        """The number of complete streams."""
        return sum(_is_whole(text) for text in self.streamed)

    @property
    def refused(self) -> list[str]:
        """The failures with a refused connection, of which there must be none."""
        return [outcome for outcome in self.failed if "refused" in outcome.lower()]


def _is_whole(text: str) -> bool:
    words = re.findall(r"\b(w\d+|end) ", text)
    in_order = [f"w{number}" for number in range(len(words) - 1)]
    return text.rstrip().endswith("data: [DONE]") and words == [*in_order, "end"]


@contextmanager
def loaded(
    box: Box,
    *,
    streams: int = 0,
    events: int = EVENTS,
    clients: int = CLIENTS,
    pause: float = PAUSE,
    bearer: str = "",
) -> Iterator[Load]:
    """Run clients during the `with` block, half of them with keep-alive.

    `streams` streams with `events` events are opened before the block and read to their end after it. `pause` is the
    time between two chats of a client in seconds. `bearer` is the key of the clients, by default the master key.
    """
    load, over, bearer = Load(), threading.Event(), bearer or key(box)
    readers = [threading.Thread(target=_stream, args=(box, bearer, load, events)) for _ in range(streams)]
    chatters = [
        threading.Thread(target=_client, args=(box, bearer, load, over, number % 2 == 0, pause, number / clients))
        for number in range(clients)
    ]
    try:
        # Workers report once a second. Requests of an earlier load would count as open streams.
        box.wait_until(lambda: inflight(box) == 0, 30, "no request is in flight")
        for thread in readers:
            thread.start()
        box.wait_until(lambda: _all_begun(box, load, streams), _CLIENT_TIMEOUT, f"{streams} streams have begun")
        for thread in chatters:
            thread.start()
        box.wait_until(lambda: load.answered >= clients, _CLIENT_TIMEOUT, "the first chats are answered")
        yield load
    except BaseException:
        # End the streams, so that a failed test does not wait for them.
        with contextlib.suppress(BoxError):
            end_streams(box)
        raise
    finally:
        over.set()
        for thread in (*chatters, *readers):
            if thread.ident is not None:
                thread.join(timeout=_CLIENT_TIMEOUT)


def _all_begun(box: Box, load: Load, streams: int) -> bool:
    """Whether all streams have begun, and the service counts them: unless one has ended, which a slow start of the
    others outlives.
    """
    return load.begun == streams and (bool(load.streamed) or inflight(box) >= streams)


def _ask(connection: http.client.HTTPConnection, bearer: str, **body: object) -> http.client.HTTPResponse:
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    return connection.getresponse()


def _client(
    box: Box, bearer: str, load: Load, over: threading.Event, keep: bool, pause: float, offset: float
) -> None:
    """Send chats until it is over. `offset`: the part of a pause before them, so that clients take turns."""
    connection: http.client.HTTPConnection | None = None
    over.wait(pause * offset)
    while not over.wait(pause):
        try:
            if connection is not None and is_stale(connection):
                connection.close()
                connection = None
            if connection is None:
                connection = box.http_connection("127.0.0.1", 4000, timeout=_CLIENT_TIMEOUT)
            response = _ask(connection, bearer, model=MODEL, messages=[{"role": "user", "content": "hi"}])
            response.read()
            load.record(str(response.status))
            closes = response.will_close
        except (OSError, http.client.HTTPException) as error:
            load.record(repr(error))
            closes = True
        # After `Connection: close` open a new connection in the box. http.client would open it in the network of the
        # host.
        if connection is not None and (closes or not keep):
            connection.close()
            connection = None


def _stream(box: Box, bearer: str, load: Load, events: int) -> None:
    """Read one streamed response. The text of a stream that breaks is what arrived before, and the error."""
    text = ""
    try:
        with contextlib.closing(box.http_connection("127.0.0.1", 4000, timeout=_CLIENT_TIMEOUT)) as connection:
            message = {"role": "user", "content": str(events)}
            response = _ask(connection, bearer, model="slow", stream=True, messages=[message])
            while chunk := response.read1():
                if not text:
                    load.begin_stream()
                text += chunk.decode()
    except (OSError, http.client.HTTPException) as error:
        text += f"\n{error!r}"
    load.record_stream(text)
