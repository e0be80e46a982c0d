"""The code that has blocked event loops: in the journal and in the status."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest

from litellm_systemd.runtime import options
from litellm_systemd.runtime.activity import Frame
from litellm_systemd.runtime.master.blocks import Block, BlockLog

PATH = "/etc/litellm/configs/mine.py"
OWN = Frame(PATH, 3, "async_pre_call_hook")
#: The innermost frames first: the user's code has called a library, and LiteLLM has called the user's code.
STACK = (Frame(json.__file__, 299, "loads"), OWN, Frame(options.__file__, 7, "run"))
TEXTS = {PATH: "import json\nclass Mine:\n    values = json.loads(secret)\n"}
WHERE = f"{PATH}:3 in async_pre_call_hook"


class World:
    def __init__(self) -> None:
        self.errors: list[str] = []
        self.warnings: list[str] = []
        self.log = BlockLog(self.errors.append, self.warnings.append)

    def add(
        self, now: float, stack: tuple[Frame, ...] = STACK, *, killed: bool = False, is_short: bool = True
    ) -> None:
        self.log.add("worker 1 (pid 70)", Block(4.0, "POST /v1/messages", stack, killed, is_short), TEXTS, now)


def test_killed_worker() -> None:
    """An error names file and line of the user's code in the stack of a worker that is killed, and what it called."""
    world = World()
    world.add(10.0, killed=True, is_short=False)
    assert world.errors == [
        "worker 1 (pid 70) hangs in POST /v1/messages and is killed after 4 s:"
        f" {WHERE}, json.loads, blocks the event loop of a worker"
    ]
    assert world.log.build(12.0) == [
        {
            "where": WHERE,
            "call": "json.loads",
            "request": "POST /v1/messages",
            "count": 1,
            "killed": 1,
            "longest": 4.0,
            "age": 2.0,
        }
    ]
    assert world.log.build(3610.0) == []


def test_repeated_short_blocks() -> None:
    """From the third on, short blocks by the same code have a warning, one in ten minutes."""
    world = World()
    for second in range(500):
        world.add(float(second))
    assert world.errors == []
    assert world.warnings == [
        f"{WHERE}, json.loads, blocks the event loop of a worker: 3 times so far, for up to 4.0 s."
        " Its other requests wait meanwhile"
    ]
    world.add(700.0)
    assert len(world.warnings) == 2
    assert world.log.build(700.0)[0]["count"] == 501


@pytest.mark.parametrize(
    ("stack", "is_short", "where"),
    [
        ((Frame(os.__file__, 9, "walk"), Frame(json.__file__, 9, "load")), False, f"{os.__file__}:9 in walk"),
        ((Frame(os.__file__, 9, "walk"),), True, None),
        ((Frame(asyncio.__file__.replace("__init__", "runners"), 118, "run"), OWN), False, None),
        ((Frame("<string>", 1, "<module>"), OWN), True, WHERE),
        ((), False, None),
    ],
)
def test_other_stacks(stack: tuple[Frame, ...], is_short: bool, where: str | None) -> None:
    """Code of libraries is named only if it blocked for long, and an event loop that waits for events never."""
    world = World()
    world.add(10.0, stack, is_short=is_short)
    assert [each["where"] for each in world.log.build(10.0)] == [where][: where is not None]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"{sys.prefix}/lib/python3/site-packages/litellm/utils.py", False),
        (asyncio.__file__, False),
        (options.__file__, False),
        ("<string>", False),
        (f"{sys.prefix}-mine/mine.py", True),
        (f"{sys.base_prefix}/share/mine.py", True),
        ("/etc/litellm/configs/mine.py", True),
    ],
)
def test_own_code(path: str, expected: bool) -> None:
    """Code of Python, of the packages and of this package is not the user's, and all other code is."""
    assert Frame(path, 1, "hook").is_own is expected
