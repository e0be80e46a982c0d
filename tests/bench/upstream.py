"""A cheap upstream for streams: the event streams of the fake Bedrock, encoded once, from one event loop.

`python -m tests.bench.upstream` prints its port and serves until it is terminated. It answers ConverseStream and
InvokeModelWithResponseStream to the prompt `STREAM 425 EVENTS EVERY 10 MS` (tests/fakes/default_behavior.py). The
fakes themselves check signatures and use a thread for each connection, which would need more processor time than the
gateway that is measured.
"""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from typing import Any

import httptools
import uvloop

from tests.fakes import converse, eventstream, invoke
from tests.fakes.answer import Answer, Block
from tests.fakes.default_behavior import behave
from tests.fakes.prompt import read_parts
from tests.fakes.prompt_cache import CacheUse

_HEAD = (
    f"HTTP/1.1 200 OK\r\nContent-Type: {eventstream.CONTENT_TYPE}\r\nTransfer-Encoding: chunked\r\n"
    "x-amzn-RequestId: 00000000-0000-4000-8000-000000000000\r\n\r\n"
).encode()
#: The last segment of the path, and the number of events until the first word of the answer, included.
_FORMS = {"converse-stream": 2, "invoke-with-response-stream": 3}
#: The events after the last word.
_TAIL = 3


@functools.cache
def encode(operation: str, text: str, size: int) -> tuple[bytes, ...]:
    """The chunks of a response: the first word with the events before it, words, the last word with the end."""
    answer = Answer((Block("text", text, size),), CacheUse(0, {}, 20))
    events = converse.events(answer) if operation == "converse-stream" else invoke.events(answer, "fake")
    chunks = [f"{len(event):x}\r\n".encode() + event + b"\r\n" for event in events]
    first, last = _FORMS[operation], -_TAIL - 1
    return (b"".join(chunks[:first]), *chunks[first:last], b"".join(chunks[last:]) + b"0\r\n\r\n")


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._transport: Any = None
        self._path = self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, path: bytes) -> None:
        self._path, self._body = path, b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        script = behave(read_parts(json.loads(self._body)))
        chunks = encode(self._path.decode().rpartition("/")[2], script["text"], script["size"])
        self._transport.write(_HEAD)
        self._send(chunks, 0, asyncio.get_running_loop().time(), script["pause"])

    def _send(self, chunks: tuple[bytes, ...], number: int, begin: float, pause: float) -> None:
        """Write the chunks that are due. A late call doesn't shift the later ones."""
        loop = asyncio.get_running_loop()
        due = min(len(chunks), int((loop.time() - begin) / pause) + 1) if pause else len(chunks)
        due = max(due, number + 1)
        if self._transport.is_closing():
            return
        self._transport.write(b"".join(chunks[number:due]))
        if due < len(chunks):
            loop.call_at(begin + due * pause, self._send, chunks, due, begin, pause)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", 0, backlog=1024)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main())
