"""Master and worker in conversation."""

from __future__ import annotations

import pytest

from litellm_systemd.runtime.channel import Beat, Drained, Environment, Failed, Message, Serve, open_channel

MESSAGES: tuple[Message, ...] = (
    Beat(serving=True, inflight=1, connections=2, requests=3),
    Environment({"DATABASE_URL": "x" * 100_000, "é": "\n"}),
    Failed("no\nsuch 'model'"),
    Drained(0, 0.0),
    Serve(),
)


def test_messages_arrive_whole() -> None:
    """Each message comes out as it went in, one at a time."""
    ours, theirs = open_channel()
    for message in MESSAGES:
        theirs.send(message)
        assert ours.receive() == message
    with pytest.raises(BlockingIOError):
        ours.receive()


def test_the_end_is_a_message() -> None:
    """What was said before the end is heard, then the end, as often as one asks."""
    ours, theirs = open_channel()
    theirs.send(Drained(3, 1.5))
    theirs.close()
    assert [ours.receive(), ours.receive(), ours.receive()] == [Drained(3, 1.5), None, None]
    ours.send(Serve())  # to nobody


def test_a_deaf_master_blocks_no_worker() -> None:
    """A worker goes on when nobody reads its beats."""
    _ours, theirs = open_channel()
    for number in range(20_000):
        theirs.send(Beat(serving=True, inflight=0, connections=0, requests=number))
