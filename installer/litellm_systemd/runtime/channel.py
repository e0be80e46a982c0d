"""What master and worker say to each other: JSON messages over a socket pair that keeps their boundaries.

The end of the stream is a message too: it tells either side that the other one is gone.
"""

from __future__ import annotations

import contextlib
import json
import socket
from dataclasses import asdict, dataclass
from typing import Any

_LIMIT = 262144


@dataclass(frozen=True, slots=True)
class Beat:
    """A worker answered its own probe. `connections` counts the open ones, `inflight` the unfinished requests.

    `memory` is what it has in memory, in MiB, pages that it shares included; 0 if unknown.
    """

    serving: bool
    inflight: int
    connections: int
    requests: int
    memory: int = 0


@dataclass(frozen=True, slots=True)
class Environment:
    """The first worker of a generation has set LiteLLM up; these variables are what the others need of it."""

    variables: dict[str, str]


@dataclass(frozen=True, slots=True)
class Failed:
    """A worker can't start; `cause` is one line."""

    cause: str


@dataclass(frozen=True, slots=True)
class Drained:
    """A worker has drained for `seconds`, and ended `cut` requests then."""

    cut: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Serve:
    """From the master: accept connections."""


Message = Beat | Environment | Failed | Drained | Serve
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Beat, Environment, Failed, Drained, Serve)}


class Channel:
    """One end of the pair. Nothing here ever blocks."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        end.setblocking(False)

    def fileno(self) -> int:
        """For selectors and event loops."""
        return self._end.fileno()

    def send(self, message: Message) -> None:
        """Send, or drop: the other side is gone, or hung with a full buffer. It is found out by other means."""
        packet = json.dumps([type(message).__name__, asdict(message)]).encode()
        with contextlib.suppress(OSError):
            self._end.send(packet)

    def receive(self) -> Message | None:
        """The next message; None at the end of the stream. Raises BlockingIOError if there is none yet."""
        try:
            packet = self._end.recv(_LIMIT)
        except ConnectionError:
            return None
        if not packet:
            return None
        kind, fields = json.loads(packet)
        message: Message = _KINDS[kind](**fields)
        return message

    def close(self) -> None:
        """Give it up."""
        self._end.close()


def open_channel() -> tuple[Channel, Channel]:
    """A connected pair: the master's end and the worker's."""
    # SOCK_SEQPACKET: one recv(2), one message; and unlike datagrams it has an end of stream (unix(7)).
    mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return Channel(mine), Channel(theirs)
