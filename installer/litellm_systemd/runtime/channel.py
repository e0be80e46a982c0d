"""The messages between the main process and a worker: JSON over a socket pair that preserves message boundaries.

The end of the stream is a message too: it means that the process at the other end has exited.
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from typing import Any

#: Stands for the clients whose refusals are not counted by address.
OTHER_ADDRESSES = "other addresses"
#: What refusals are about.
REQUEST, GUESSED_KEY, CONNECTION = "request", "guessed key", "connection"

_MAX_MESSAGE_SIZE = 262144


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The event loop of a worker runs. `connections` counts open ones, `inflight` requests without an answer.

    `memory` is the resident memory in MiB, shared pages included; 0 if unknown. `unhealthy` is the number of seconds
    since the worker last passed its own health check. `lag` is the number of seconds by which its last timer was
    late. `database` is why the worker cannot use the database, empty if it can or if there is none. `redis` is the
    same for Redis, but None if there is none. `calls` counts the requests that called a model or were about to, and
    `failed_calls` how many of them failed in the user's code.
    """

    serving: bool
    inflight: int
    connections: int
    requests: int
    memory: int = 0
    unhealthy: float = 0.0
    lag: float = 0.0
    database: str = ""
    redis: str | None = None
    calls: int = 0
    failed_calls: int = 0


@dataclass(frozen=True, slots=True)
class Environment:
    """The first worker of a generation has set up LiteLLM. The other workers need these environment variables."""

    variables: dict[str, str]


@dataclass(frozen=True, slots=True)
class StartFailed:
    """A worker cannot start. `cause` is one line; `by_litellm`: LiteLLM refuses its configuration."""

    cause: str
    by_litellm: bool = True


@dataclass(frozen=True, slots=True)
class Drained:
    """A worker has drained for `seconds` and then force-closed `cut` requests."""

    cut: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Refusals:
    """A worker has refused requests, or closed connections, since its last message of this kind.

    `subject` is `REQUEST`, `GUESSED_KEY` or `CONNECTION`. `reasons` counts them by reason, in the words of the
    journal ("with a wrong key"), and `clients` by address.
    """

    subject: str
    reasons: dict[str, int]
    clients: dict[str, int]


@dataclass(frozen=True, slots=True)
class FailureReport:
    """A worker has logged a failure in one line, `text`.

    `priority`: as in syslog(3). `kind`: equal for failures with the same cause. `call`: the id of the request, or "".
    """

    priority: int
    kind: str
    text: str
    call: str


@dataclass(frozen=True, slots=True)
class Serve:
    """From the main process: accept connections."""


Message = Heartbeat | Environment | StartFailed | Drained | Refusals | FailureReport | Serve
_TYPES: dict[str, type[Any]] = {
    each.__name__: each for each in (Heartbeat, Environment, StartFailed, Drained, Refusals, FailureReport, Serve)
}


class Channel:
    """One end of the socket pair. No method blocks."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.setblocking(False)

    def fileno(self) -> int:
        """The descriptor, for selectors and event loops."""
        return self._end.fileno()

    def send(self, message: Message) -> bool:
        """Send the message, or drop it if the other process has exited or hangs and its buffer is full.

        Health checks and SIGCHLD detect both, so a lost message needs no error here. Returns whether it was sent.
        """
        packet = json.dumps([type(message).__name__, asdict(message)]).encode()
        try:
            return self._end.send(packet) > 0
        except OSError:
            return False

    def receive(self) -> Message | None:
        """The next message, or None at the end of the stream. Raises BlockingIOError if no message has arrived."""
        try:
            packet = self._end.recv(_MAX_MESSAGE_SIZE)
        except ConnectionError:
            return None
        if not packet:
            return None
        name, fields = json.loads(packet)
        message: Message = _TYPES[name](**fields)
        return message

    def close(self) -> None:
        self._end.close()


def open_channel() -> tuple[Channel, Channel]:
    """A connected pair: the end of the main process and the end of the worker."""
    # SOCK_SEQPACKET: one recv(2) returns one message and, unlike datagrams, it has an end of stream (unix(7)).
    master_end, worker_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(master_end), Channel(worker_end)
