"""Reload requests: which clients wait for which reload."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class ReloadClient(Protocol):
    """A client that has requested a reload and waits for the result."""

    def answer(self, reply: Mapping[str, Any]) -> None:
        """Send the result."""


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """The result of a reload: when it ended (Unix time), the generation that serves, its duration, and any error."""

    at: float
    generation: int
    seconds: float
    error: str


class Reloads:
    """Runs one reload at a time.

    All requests that arrive during a reload share the next one, because the file may have changed in the meantime.
    """

    def __init__(self) -> None:
        self.last: ReloadResult | None = None
        self.running = False
        self._started_at = 0.0
        self._waiting: list[ReloadClient] = []
        self._next: list[ReloadClient] | None = None

    def request(self, *clients: ReloadClient) -> None:
        """Request a reload on behalf of any number of clients. `begin` starts it."""
        self._next = [*(self._next or []), *clients]

    def begin(self) -> bool:
        """Start the requested reload. Returns False if there is no request or a reload is running."""
        if self.running or self._next is None:
            return False
        self._waiting, self._next = self._next, None
        self._started_at = time.monotonic()
        self.running = True
        return True

    def finish(self, generation: int, error: str) -> ReloadResult:
        """Record the end of the running reload. `notify` sends the result to the clients."""
        self.last = ReloadResult(time.time(), generation, time.monotonic() - self._started_at, error)
        self.running = False
        return self.last

    def notify(self, result: ReloadResult) -> None:
        """Send the result to every client of the reload that has ended."""
        for client in self._waiting:
            client.answer({"ok": not result.error, "error": result.error, "generation": result.generation})
        self._waiting = []

    def cancel(self, error: str) -> None:
        """Drop the running and the requested reload, and send `error` to all their clients."""
        for client in (*self._waiting, *(self._next or [])):
            client.answer({"ok": False, "error": error})
        self._waiting, self._next, self.running = [], None, False
