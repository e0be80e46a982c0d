"""The outage of a server that LiteLLM uses, in a worker: why it cannot be used, and who wants to know now."""

from __future__ import annotations

import asyncio
import contextlib


class Outage:
    """`cause` is why the server cannot be used, empty if it can."""

    def __init__(self) -> None:
        self.cause = ""
        self._suspicion: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def suspect(self) -> bool:
        """Check the server now. Returns whether it will be checked. Any thread may call this."""
        if self._suspicion is None:
            return False
        loop, event = self._suspicion
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(event.set)
            return True
        return False

    async def wait(self, seconds: float) -> bool:
        """Wait, but only until there is a suspicion. Returns whether there is one."""
        if self._suspicion is None:
            self._suspicion = asyncio.get_running_loop(), asyncio.Event()
        event = self._suspicion[1]
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(event.wait(), seconds)
        found = event.is_set()
        event.clear()
        return found


def first_line(text: str) -> str:
    """What a library says first, without its advice in the next lines."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
