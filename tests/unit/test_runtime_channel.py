"""The messages between the main process and a worker."""

from __future__ import annotations

import pytest

from litellm_systemd.runtime.channel import (
    Drained,
    Environment,
    Heartbeat,
    Message,
    Refusals,
    Serve,
    StartFailed,
    open_channel,
)

MESSAGES: tuple[Message, ...] = (
    Heartbeat(serving=True, inflight=1, connections=2, requests=3),
    Environment({"DATABASE_URL": "x" * 100_000, "é": "\n"}),
    StartFailed("no\nsuch 'model'"),
    Drained(0, 0.0),
    Refusals("request", {"with a wrong key": 3}, {"192.0.2.7": 3}),
    Serve(),
)


def test_messages_are_unchanged() -> None:
    """Each message arrives as it was sent, one per call."""
    ours, theirs = open_channel()
    for message in MESSAGES:
        theirs.send(message)
        assert ours.receive() == message
    with pytest.raises(BlockingIOError):
        ours.receive()


def test_end_of_stream() -> None:
    """Messages that were sent before the end arrive first, and every later call returns None."""
    ours, theirs = open_channel()
    theirs.send(Drained(3, 1.5))
    theirs.close()
    assert [ours.receive(), ours.receive(), ours.receive()] == [Drained(3, 1.5), None, None]
    ours.send(Serve())  # it is dropped without an error


def test_unread_messages_do_not_block() -> None:
    """A worker continues if the main process does not read its heartbeats."""
    _ours, theirs = open_channel()
    for number in range(20_000):
        theirs.send(Heartbeat(serving=True, inflight=0, connections=0, requests=number))
