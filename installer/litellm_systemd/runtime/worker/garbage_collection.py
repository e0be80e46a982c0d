"""Garbage collection from the event loop, on Pythons where an automatic collection can crash a worker.

Before Python 3.12 a collection can start inside any allocation. If it starts inside `ContextVar.set`, and a finalizer
or a weakref callback that it runs sets a variable of the same context, `ContextVar.set` continues with freed memory
(python/cpython#148891). LiteLLM sets context variables in each request. Since 3.12 a collection starts only between
two instructions of Python code.

A callback of the event loop is between two instructions, and with the automatic collector off no thread of an
executor can be interrupted by a collection inside `ContextVar.set` either: it holds the interpreter's lock until it
returns.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys

#: Whether an automatic collection can crash this Python.
AFFECTED = sys.version_info < (3, 12)
#: Seconds between two checks, while there is something to collect and when there was nothing for a while.
_SHORTEST, _LONGEST = 0.01, 0.32


def disable_automatic() -> None:
    """Turn the automatic collector off if this Python is affected."""
    if AFFECTED:
        gc.disable()


class Collector:
    """Collects by the thresholds of the automatic collector (gc.get_threshold), from callbacks of an event loop."""

    def __init__(self) -> None:
        self._delay = _SHORTEST
        self._checks_from = 0
        self._old_objects = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start to collect if the automatic collector is off. Call it in the thread of the loop."""
        if not gc.isenabled():
            self._loop = loop
            self._schedule()

    def _schedule(self) -> None:
        # A finalizer that sets a variable sets it in this empty context.
        self._loop.call_later(self._delay, self._run, context=contextvars.Context())

    def _run(self) -> None:
        self._delay = _SHORTEST if self.collect_due() else min(self._delay * 2, _LONGEST)
        self._schedule()

    def collect_due(self) -> bool:
        """Collect the oldest generation that is due, and the younger ones with it. Returns whether one was due."""
        counts, thresholds = gc.get_count(), gc.get_threshold()
        due = [number for number, count in enumerate(counts) if count > thresholds[number] > 0]
        if not due:
            return False
        if due[-1] == 2 and not self._is_full_collection_due(counts[2], thresholds[2]):
            due.pop()
        if due:
            gc.collect(due[-1])
        if due and due[-1] == 2:
            self._checks_from, self._old_objects = 0, len(gc.get_objects(2))
        return bool(due)

    def _is_full_collection_due(self, count: int, threshold: int) -> bool:
        """Whether the old objects have grown by a quarter since the last full collection, as CPython requires.

        CPython counts them. Here they are listed, which takes 1 ms for 100,000, so not after each younger collection.
        """
        if count <= self._checks_from:
            return False
        self._checks_from = count + threshold
        return len(gc.get_objects(2)) * 4 >= self._old_objects * 5
