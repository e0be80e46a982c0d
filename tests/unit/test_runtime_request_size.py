"""The limit of the body of a request, in a running server."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from litellm_systemd.runtime.http.authentication import HAS_RIGHT_KEY
from litellm_systemd.runtime.http.limits import Limits
from litellm_systemd.runtime.http.refuse import RefusalCounter
from litellm_systemd.runtime.http.request_size import RequestSizeLimit
from tests.unit.running_server import Peer, World, serve

MIB = 1024 * 1024
LIMIT = 2 * MIB
CHUNKED = "Transfer-Encoding: chunked"


class Gateway:
    """A part of LiteLLM: it reads the whole body in a task of its own, as its middleware does."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.counter = RefusalCounter()
        self.bodies: list[int] = []
        self.ended_with: list[str] = []
        self._limit = limit
        self._lifespan: Any = None

    def wrap(self, application: Any) -> Any:
        self._lifespan = application
        limited = RequestSizeLimit(self._serve, self._limit, self.counter)

        async def authenticate(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http" and scope["path"] == "/public":
                scope["state"][HAS_RIGHT_KEY] = False
            await limited(scope, receive, send)

        return authenticate

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._read, receive)
        except BaseException as error:
            self.ended_with.append(type(error).__name__)
            raise
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"done"})

    async def _read(self, receive: Any) -> None:
        size = 0
        while True:
            message = await receive()
            size += len(message["body"])
            if not message["more_body"]:
                self.bodies.append(size)
                return


async def post(world: World, path: str, size: int, *headers: str) -> tuple[Peer, int, bytes]:
    """Send a body, all of it before the response is read. Returns the connection, the status and the error."""
    peer = await world.connect()
    framing = headers or (f"Content-Length: {size}",)
    peer.request(path, *framing, method="POST")
    piece = b"x" * 65536
    for _ in range(size // len(piece)):
        peer.writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if CHUNKED in headers else piece)
        await peer.writer.drain()
    if CHUNKED in headers:
        peer.writer.write(b"0\r\n\r\n")
    head = await peer.read_until(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
    return peer, int(head[9:12]), await peer.reader.readexactly(length)


@pytest.mark.parametrize("framing", [(), (CHUNKED,)])
@pytest.mark.parametrize(
    ("path", "size", "status"),
    [
        ("/v1/chat/completions", LIMIT, 200),
        ("/v1/chat/completions", LIMIT + 65536, 413),
        ("/v1/chat/completions", 2 * LIMIT, 413),
        ("/v1/messages", 2 * LIMIT, 413),
        ("/public", MIB, 200),
        ("/public", MIB + 65536, 413),
    ],
)
async def test_limit(framing: tuple[str, ...], path: str, size: int, status: int) -> None:
    """A body within the limit reaches the application; for a larger one its client gets 413 and a closed connection.

    The error is in the words of the API, and the client gets it although it sends everything before it reads.
    """
    gateway = Gateway()
    async with serve(limits=Limits(body_size=LIMIT), wrap=gateway.wrap) as world:
        peer, found, body = await post(world, path, size, *framing)
        assert found == status
        if status == 200:
            assert gateway.bodies == [size]
            return
        assert await peer.read_rest() == b""
        error = json.loads(body)["error"]
        kind = "request_too_large" if path == "/v1/messages" else "invalid_request_error"
        limit = MIB if path == "/public" else LIMIT
        assert (error["type"], gateway.bodies) == (kind, [])
        assert f"larger than {limit // MIB} MiB" in error["message"]
        assert gateway.ended_with == (["CancelledError"] if framing else [])
        assert gateway.counter.take()[0].reasons == {"larger than MAX_REQUEST_SIZE": 1}


async def test_announced_length() -> None:
    """A client that announces too much gets its 413 before it sends any of it, with `Expect` or without."""
    gateway = Gateway()
    async with serve(limits=Limits(body_size=LIMIT), wrap=gateway.wrap) as world:
        for headers in ((), ("Expect: 100-continue",)):
            peer = await world.connect()
            peer.request("/", f"Content-Length: {LIMIT + 1}", *headers, method="POST")
            assert b"HTTP/1.1 413 " in await peer.read_until(b"\r\n\r\n")
        assert b"larger than" in await peer.read_rest()


async def test_no_limit() -> None:
    """With 0 there is no limit."""
    gateway = Gateway(0)
    async with serve(limits=Limits(body_size=0), wrap=gateway.wrap) as world:
        assert (await post(world, "/", 40 * MIB, CHUNKED))[1] == 200
