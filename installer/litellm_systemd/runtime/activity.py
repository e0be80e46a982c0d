"""What a worker does at this moment, in memory and a file that it shares with the main process.

The main process thereby knows whether a worker is slow or hung, and which request blocks its event loop, even while C
code holds the GIL, so that no Python code of the worker runs:

- Each step of a request's tasks starts by writing the request into shared memory. While many requests keep the loop
  busy this changes, and while one request blocks the loop it does not.
- On `STACK_SIGNAL` faulthandler writes the stack of the main thread into the file, from a signal handler in C. On a
  fatal signal it writes the stacks of all threads. On standard error other processes' lines would mix with them.
"""

from __future__ import annotations

import asyncio
import faulthandler
import mmap
import os
import re
import signal
import sys
import sysconfig
from collections.abc import Coroutine, Sequence
from contextvars import Context, ContextVar
from typing import Any, NamedTuple

import litellm_systemd

#: The signal on which a worker writes its stack.
STACK_SIGNAL = signal.SIGUSR1
#: Bytes of the record of a request: its number in the worker, then method and path, filled up with zeros.
_SIZE, _NUMBER = 256, 8
_RECORD = slice(0, _SIZE)
_IDLE = bytes(_NUMBER)
#: What precedes the method of a request that is answered.
_ANSWERED = "after "
#: Bytes of a stack: faulthandler writes 100 frames at most.
_MAX_STACK = 65536
#: Bytes of the stacks of all threads; faulthandler writes 100 threads at most.
_MAX_DUMP = 2**20
#: How faulthandler begins the stacks of a fatal signal.
_DUMP = "Fatal Python error: "
#: A line of faulthandler (Python/traceback.c).
_FRAME = re.compile(r'^  File "([^"]+)", line (\d+) in (.+)$', re.MULTILINE)
#: Python, the packages of the release, and this package: code that its users did not write.
_LIBRARIES = (
    "<",
    *(f"{folder}/" for folder in {sys.prefix, sysconfig.get_path("stdlib"), *litellm_systemd.__path__}),
)
#: The innermost frames that a line in the journal shows.
_SHOWN_FRAMES = 6


class Activity:
    """The record of one worker. The main process creates it before the fork."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _SIZE)
        self._stack = os.fdopen(os.memfd_create("litellm-stack"), "r+b", buffering=0)
        self._count = 0

    def close(self) -> None:
        """Release it in the main process, or in a sibling of the worker."""
        self._memory.close()
        self._stack.close()

    # In the worker.

    def register(self) -> None:
        """Write the stack on `STACK_SIGNAL` from now on, whose default action would end the process, and all stacks
        on a fatal signal.
        """
        faulthandler.register(STACK_SIGNAL, file=self._stack, all_threads=False)
        faulthandler.enable(self._stack)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Record the requests of this loop from now on."""
        loop.set_task_factory(self._create_task)

    async def record(self, scope: Any, serving: Coroutine[Any, Any, None]) -> None:
        """Await `serving`, which serves the request of an ASGI scope."""
        self._count += 1
        request = _Request(self._count, scope)
        _REQUEST.set(request)
        try:
            await _Steps(serving, request, self._memory)
        finally:
            request.end()

    def _create_task(self, loop: Any, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        """Create a task like asyncio. A task that a request starts, such as that of a stream, has the same record."""
        context: Context | None = options.get("context")
        request = _REQUEST.get(None) if context is None else context.get(_REQUEST)
        if request is not None:
            coroutine = _Steps(coroutine, request, self._memory)
        return asyncio.Task(coroutine, loop=loop, **options)

    # In the main process.

    def read(self) -> bytes:
        """The request whose code runs now. Two reads are equal if the loop has stayed in one request, or idle."""
        return self._memory[_RECORD]

    def reset_stack(self) -> None:
        """Drop the last stack. Call it before `STACK_SIGNAL` is sent."""
        self._stack.truncate(0)
        self._stack.seek(0)  # for the worker too: it has the same open file

    def read_stack(self) -> tuple[Frame, ...]:
        """The last stack, the innermost frame first. Empty if the worker has not written it."""
        text = self._read(_MAX_STACK)
        return tuple(Frame(path, int(line), function) for path, line, function in _FRAME.findall(text))

    def read_dump(self) -> str:
        """The stacks of all threads of a worker that a fatal signal has ended, without empty lines; else empty."""
        _, begin, dump = self._read(_MAX_DUMP).partition(_DUMP)
        return begin + "\n".join(line for line in dump.splitlines() if line)

    def _read(self, size: int) -> str:
        return os.pread(self._stack.fileno(), size, 0).decode(errors="replace")


class Frame(NamedTuple):
    """Where a function of a stack is: `line` runs now, or has called the frame before."""

    path: str
    line: int
    function: str

    @property
    def is_own(self) -> bool:
        """Whether the user wrote the code."""
        return not self.path.startswith(_LIBRARIES)


def render_stack(stack: Sequence[Frame]) -> str:
    """The innermost frames in one line, such as "mine.py:7 hook < utils.py:90 call"."""
    frames = stack[:_SHOWN_FRAMES]
    return " < ".join(f"{path.rpartition('/')[2]}:{line} {function}" for path, line, function in frames)


def render_record(record: bytes) -> str:
    """The request of a record, such as "POST /v1/messages"; empty if the loop was not in a request."""
    return record[_NUMBER:].rstrip(b"\0").decode(errors="replace") if record[:_NUMBER] != _IDLE else ""


def locate(request: str) -> str:
    """` in REQUEST` for a message, ` after REQUEST` for one that is answered; empty without one."""
    return f" {request}" if request.startswith(_ANSWERED) else f" in {request}" if request else ""


def unwrap(coroutine: Any) -> tuple[Any, str]:
    """A coroutine without what records its request, and that request; empty if there is none, or it is answered."""
    if not isinstance(coroutine, _Steps):
        return coroutine, ""
    request = render_record(coroutine._request.record)
    return coroutine._coroutine, "" if request.startswith(_ANSWERED) else request


class _Request:
    """The record of a request. It has no query string, in which LiteLLM accepts keys."""

    __slots__ = ("_number", "_text", "record")

    def __init__(self, number: int, scope: Any) -> None:
        self._number = number.to_bytes(_NUMBER, "big")
        # The raw path, because a decoded one can contain a newline.
        path = scope["raw_path"].decode("latin-1").encode("unicode_escape")
        self._text = scope.get("method", "WebSocket").encode() + b" " + path
        self.record = self._build(b"")

    def end(self) -> None:
        """The request is answered. Its tasks may go on, such as callbacks that log it."""
        self.record = self._build(_ANSWERED.encode())

    def _build(self, prefix: bytes) -> bytes:
        record: bytes = self._number + prefix + self._text
        return record[:_SIZE].ljust(_SIZE, b"\0")


_REQUEST: ContextVar[_Request] = ContextVar("litellm_systemd_request")


class _Steps(Coroutine[Any, Any, Any]):
    """A coroutine that writes the record of its request before each step, and removes it afterwards."""

    __slots__ = ("_coroutine", "_memory", "_request")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], request: _Request, memory: mmap.mmap) -> None:
        self._coroutine = coroutine
        self._request = request
        self._memory = memory

    def send(self, value: Any) -> Any:
        self._memory[_RECORD] = self._request.record
        try:
            return self._coroutine.send(value)
        finally:
            self._memory[:_NUMBER] = _IDLE

    def throw(self, *error: Any) -> Any:
        self._memory[_RECORD] = self._request.record
        try:
            return self._coroutine.throw(*error)
        finally:
            self._memory[:_NUMBER] = _IDLE

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Any:
        return self

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def __getattr__(self, name: str) -> Any:
        # Debuggers and anyio read attributes of the coroutine such as cr_frame and __qualname__.
        return getattr(self._coroutine, name)
