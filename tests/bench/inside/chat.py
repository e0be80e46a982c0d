"""Clients that send chats without a pause. They use raw sockets, to need little processor time.

A client has one request in flight and does not retry. After a failure it pauses for `PAUSE`, so a closed port counts
at most 100 failures per second and client, independent of the speed of the machine.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httptools

HOST, PORT = "127.0.0.1", 4000
#: Seconds between a failure and the same client's next request.
PAUSE = 0.01
#: Seconds until a request without a response counts as failed. This is longer than any start.
PATIENCE = 60.0
_DONE = b"data: [DONE]"
_Opened = TypeVar("_Opened", bound="Connection")


def build_request(method: str, path: str, body: bytes = b"", bearer: str = "") -> bytes:
    head = [f"{method} {path} HTTP/1.1", f"Host: {HOST}:{PORT}", "Content-Type: application/json"]
    head += [f"Authorization: Bearer {bearer}"] if bearer else []
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body


class Connection(asyncio.Protocol):
    """One connection. `ask` sends a request and returns with the complete response."""

    #: Seconds until a request without a complete response fails.
    patience = PATIENCE

    def __init__(self) -> None:
        self.closed = False
        self.status = 0
        self.body = b""
        self._parser = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self._answer: asyncio.Future[None] | None = None

    @classmethod
    async def open(cls: type[_Opened], port: int = PORT) -> _Opened:
        """Raises OSError (refused, reset) or TimeoutError."""
        connect = asyncio.get_running_loop().create_connection(cls, HOST, port)
        return (await asyncio.wait_for(connect, PATIENCE))[1]

    async def ask(self, request: bytes) -> None:
        """Set `status` and `body`. Raises ConnectionError if the connection closes before the end of the response."""
        loop = asyncio.get_running_loop()
        self._answer, self.body = loop.create_future(), b""
        alarm = loop.call_later(self.patience, self._give_up)
        self._transport.write(request)
        try:
            await self._answer
        finally:
            alarm.cancel()

    def close(self) -> None:
        """Close the connection. A second call has no effect."""
        self.closed = True
        if self._transport is not None:
            self._transport.close()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"not HTTP: {error}"))
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        self._fail(error or ConnectionError("closed before the end of the answer"))

    # What httptools calls.

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if not self._parser.should_keep_alive():
            self.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    def _give_up(self) -> None:
        self._fail(TimeoutError(f"no answer in {self.patience:g} s"))
        self.close()

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


@dataclass
class Tally:
    """The results of the requests. Times are seconds of time.monotonic(), latencies are seconds.

    `longest_wait` is the time of a single request, failed or not. `longest_gap` is the longest time of a client from
    its last response (or the start) to the next. Without failures the two are equal. If connections are refused
    immediately, the second is the outage that a user notices.
    """

    since: float = field(default_factory=time.monotonic)
    latencies: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    longest_wait: float = 0.0
    longest_gap: float = 0.0

    @property
    def failed(self) -> int:
        return self.failures.total()

    def note(self, begin: float, end: float, failure: str, answered_before: float) -> None:
        self.longest_wait = max(self.longest_wait, end - begin)
        if failure:
            self.failures[failure] += 1
        else:
            self.latencies.append(end - begin)
            self.longest_gap = max(self.longest_gap, end - max(answered_before, self.since))


@dataclass
class Load:
    """A number of clients and their request. `tally` can be replaced while they run."""

    request: bytes
    stream: bool = False
    over: bool = False
    tally: Tally = field(default_factory=Tally)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    served: set[int] = field(default_factory=set)

    def start(self, kept: int, fresh: int = 0) -> None:
        """Start clients: `kept` reuse their connection, `fresh` open a new one for each request."""
        for number in range(kept + fresh):
            self.tasks.append(asyncio.create_task(self._client(number, keep=number < kept)))

    async def warm_up(self, seconds: float) -> None:
        """Return when each client has a response and the seconds are over. Discard the results until then."""
        limit = time.monotonic() + PATIENCE
        while len(self.served) < len(self.tasks) and time.monotonic() < limit:
            await asyncio.sleep(0.05)
        await asyncio.sleep(seconds)
        self.tally = Tally()

    async def stop(self) -> None:
        """Wait for the request in flight of each client."""
        self.over = True
        await asyncio.gather(*self.tasks)

    async def _client(self, number: int, keep: bool) -> None:
        connection: Connection | None = None
        answered = time.monotonic()
        while not self.over:
            begin = time.monotonic()
            connection, failure = await attempt(connection, self.request, self.stream)
            end = time.monotonic()
            self.tally.note(begin, end, failure, answered)
            if failure:
                await asyncio.sleep(PAUSE)
            else:
                self.served.add(number)
                answered = end
            if connection is not None and (failure or not keep):
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


async def attempt(
    connection: Connection | None, request: bytes, stream: bool = False
) -> tuple[Connection | None, str]:
    """Send one request, on the open connection or a new one. Return the connection and the failure, if any."""
    try:
        if connection is None or connection.closed:
            connection = await Connection.open()
        await connection.ask(request)
    except (OSError, asyncio.TimeoutError) as error:
        return connection, _name(error)
    if connection.status != 200:
        return connection, f"HTTP {connection.status}"
    if stream and _DONE not in connection.body[-40:]:
        return connection, "stream without its end"
    return connection, ""


def _name(error: BaseException) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    if isinstance(error, (ConnectionResetError, BrokenPipeError)):
        return "reset"
    return str(error) or type(error).__name__
