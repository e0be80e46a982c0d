"""What a signal that asks this process to end does, while a block runs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from litellm_systemd.errors import Interrupted


def interruptible() -> AbstractContextManager[None]:
    """Have it raise `Interrupted`, so that what was begun is undone."""

    def raise_interrupted(number: int, _frame: object) -> None:
        raise Interrupted(number)

    return _on_signals(raise_interrupted)


def uninterruptible() -> AbstractContextManager[None]:
    """Have it do nothing: whoever interrupts now would get neither the old state nor the new one."""
    return _on_signals(signal.SIG_IGN)


@contextmanager
def _on_signals(handler: Any) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
