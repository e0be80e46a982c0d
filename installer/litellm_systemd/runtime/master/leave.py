"""How an instance leaves its load balancer: for some time before a drain, /health/readiness answers 503.

Everything else is served meanwhile, on the open port. A balancer has noticed when the time is over, and then sends no
request to a port that closes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

from litellm_systemd.runtime.leaving_flag import LeavingFlag


class LeaveClient(Protocol):
    """A client that waits until the drain may begin."""

    @property
    def is_waiting(self) -> bool:
        """Whether it has not ended the connection."""

    def answer(self, reply: Mapping[str, Any]) -> None:
        """Send the result."""


class Leave:
    """The time between the plan of a drain and the drain, `delay` seconds; 0 without a load balancer."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.flag = LeavingFlag()
        #: When the drain may begin: on the monotonic clock, and as Unix time. Both are 0 until it is planned.
        self.over_at = self.until = 0.0
        self._is_over = True
        self._waiting: list[LeaveClient] = []

    @property
    def is_planned(self) -> bool:
        """Whether the time has begun. It may be over."""
        return bool(self.flag)

    @property
    def is_awaited(self) -> bool:
        """Whether a client waits for the end. ExecStop= may have been killed."""
        return any(client.is_waiting for client in self._waiting)

    def begin(self) -> None:
        """Announce the drain to the load balancer."""
        self.flag.set()
        self._is_over = False
        self.over_at, self.until = time.monotonic() + self.delay, time.time() + self.delay

    def wait(self, client: LeaveClient) -> None:
        """Answer a client at the end."""
        self._waiting.append(client)

    def excuse(self, seconds: float) -> None:
        """Do not count the last `seconds`, in which the main process did not run."""
        if not self._is_over:
            self.over_at += seconds
            self.until += seconds

    def end(self) -> None:
        """The drain may begin: answer all clients."""
        self._is_over = True
        for client in self._waiting:
            client.answer({"ok": True, "left": self.is_planned})
        self._waiting.clear()
