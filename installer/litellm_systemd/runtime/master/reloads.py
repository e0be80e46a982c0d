"""Who waits for which reload."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Waiting(Protocol):
    """Somebody who asked for a reload and wants to hear how it went."""

    def answer(self, reply: Mapping[str, Any]) -> None:
        """Tell."""


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """How a reload ended: at which Unix time, with which generation live, after how long; `error` if it failed."""

    at: float
    generation: int
    seconds: float
    error: str


class Reloads:
    """One reload runs at a time. All who ask meanwhile wait for one more, since the file may have changed by then."""

    def __init__(self) -> None:
        self.last: ReloadResult | None = None
        self.running = False
        self._began = 0.0
        self._waiting: list[Waiting] = []
        self._next: list[Waiting] | None = None

    def ask(self, *who: Waiting) -> None:
        """Want a reload; `begin` starts it, now or when nothing else is under way."""
        self._next = [*(self._next or []), *who]

    def begin(self) -> bool:
        """Start what was asked for; False if nothing was, or one is running."""
        if self.running or self._next is None:
            return False
        self._waiting, self._next = self._next, None
        self._began = time.monotonic()
        self.running = True
        return True

    def end(self, generation: int, error: str) -> ReloadResult:
        """The running one has ended; `tell` says so to those who wait for it."""
        self.last = ReloadResult(time.time(), generation, time.monotonic() - self._began, error)
        self.running = False
        return self.last

    def tell(self, outcome: ReloadResult) -> None:
        """Answer all who wait for the one that has ended."""
        for each in self._waiting:
            each.answer({"ok": not outcome.error, "error": outcome.error, "generation": outcome.generation})
        self._waiting = []

    def refuse(self, error: str) -> None:
        """There will be no more of them."""
        for each in (*self._waiting, *(self._next or [])):
            each.answer({"ok": False, "error": error})
        self._waiting, self._next, self.running = [], None, False
