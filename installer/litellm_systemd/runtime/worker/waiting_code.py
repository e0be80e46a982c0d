"""Code of the user in which a request waits for long, such as a callback that calls a silent server with no timeout.

The event loop goes on meanwhile, so nothing else reports it, and the client gets no response. Every few seconds the
frames of all tasks are read. A request costs nothing.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import CoroutineType, FrameType
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from litellm_systemd.runtime.activity import Frame, unwrap
from litellm_systemd.runtime.failures import ERROR, WARNING

#: Seconds between two looks at all tasks, and how many looks in a row find code that is reported.
_INTERVAL, _LOOKS = 10.0, 3
#: Requests that have waited in the same line, without a look that found none, from which this is an error.
_REPEATED = 3
#: Tasks that are read in one turn of the event loop: two milliseconds at most.
_TURN = 50
#: What calls the user's code. If that code calls one of these, a model or a client may be slow.
_CALLER = re.compile(r"/site-packages/(litellm|starlette|fastapi|uvicorn)/")
_LITELLM, _OWN = "litellm", "own"
#: LiteLLM's class for providers of the user's own, and its hook that is a task of its own.
_PROVIDER_CLASS, _TASK = "CustomLLM", "async_moderation_hook"
_MAX_DEPTH = 500


class Waiting(NamedTuple):
    """A request that waits in the user's code: `called` is what LiteLLM calls, `where` its innermost line."""

    request: str
    called: Any
    where: str


async def watch(report: Callable[[int, str, str], object], interval: float = _INTERVAL) -> None:
    """Call `report` once for each request that waits in the user's code: with the priority, the place, and one line.

    `interval`: seconds between two looks.
    """
    seen: WeakKeyDictionary[Any, tuple[str, int]] = WeakKeyDictionary()
    reported: Counter[str] = Counter()
    while True:
        await asyncio.sleep(interval)
        before, seen = seen, WeakKeyDictionary()
        places = {where for where, _ in before.values()}
        reported = Counter({where: count for where, count in reported.items() if where in places})
        for number, task in enumerate(asyncio.all_tasks()):
            if number % _TURN == _TURN - 1:
                await asyncio.sleep(0)
            if (found := find_waiting(task.get_coro())) is None:
                continue
            where, looks = before.get(found.called, ("", 0))
            looks = looks + 1 if where == found.where else 1
            seen[found.called] = found.where, looks
            if looks == _LOOKS:
                seconds = f"{interval * (_LOOKS - 1):.0f} s"
                line = f"{found.where}: {found.request} has been waiting here for more than {seconds}"
                reported[found.where] += 1
                report(ERROR if reported[found.where] >= _REPEATED else WARNING, found.where, line)


def find_waiting(coroutine: Any) -> Waiting | None:
    """The user's code in which a suspended coroutine waits.

    None if there is none, or it waits for LiteLLM or a client, is a route or a provider of the user, or a task that
    answers no request, such as a callback that logs; or if the request has its response.
    """
    request, is_served, is_called = "", False, False
    called, where = None, ""
    for each, recorded in _awaited(coroutine):
        request = request or recorded
        frame = getattr(each, "cr_frame", None) or getattr(each, "gi_frame", None)
        if not isinstance(frame, FrameType) or not (origin := _find_origin(frame.f_code.co_filename)):
            continue
        if origin != _OWN:
            is_served = is_served or origin != _LITELLM
            is_called, called = is_served and origin == _LITELLM, None
        elif called or is_called or frame.f_code.co_name == _TASK:
            if any(kind.__name__ == _PROVIDER_CLASS for kind in type(frame.f_locals.get("self")).__mro__):
                return None
            called = called or each
            where = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
    return Waiting(request, called, where) if request and called else None


@lru_cache(maxsize=2000)
def _find_origin(path: str) -> str:
    """Whether a file is the user's, or which package it belongs to that calls such files; empty for others."""
    if (caller := _CALLER.search(path)) is not None:
        return caller[1]
    return _OWN if Frame(path, 0, "").is_own else ""


def _awaited(coroutine: Any) -> Iterator[tuple[Any, str]]:
    """A suspended coroutine, the one that it awaits, and so on as far as Python shows them, each with its request."""
    for _ in range(_MAX_DEPTH):
        if type(coroutine) is CoroutineType:
            yield coroutine, ""
            coroutine = coroutine.cr_await
            continue
        if coroutine is None:
            return
        coroutine, request = unwrap(coroutine)
        yield coroutine, request
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
