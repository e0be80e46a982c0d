"""sd_notify(3): what systemd is told."""

from __future__ import annotations

import os
import time
from collections.abc import MutableMapping

import sdnotify  # type: ignore[import-untyped]

_BRIEFLY = 0.1


class Notifier:
    """Tells systemd of every change, once. Without a NOTIFY_SOCKET nothing is sent and nothing fails.

    The variables are taken out of the environment: LiteLLM and the workers must not answer for this process.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._systemd = sdnotify.SystemdNotifier()
        environ.pop("NOTIFY_SOCKET", None)
        microseconds = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        mine = microseconds.isdigit() and pid in ("", str(os.getpid()))
        #: Seconds between two WATCHDOG=1; None if systemd doesn't watch. Half would do (sd_watchdog_enabled(3)).
        self.watchdog_interval = int(microseconds) / 1e6 / 4 if mine and int(microseconds) else None
        self._status = ""

    def close(self) -> None:
        """Let go of the socket; for a forked child."""
        if self._systemd.socket is not None:
            self._systemd.socket.close()

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}", patience=_BRIEFLY)

    def ready(self, text: str) -> None:
        """Start or reload is done."""
        self._status = text
        self._send("READY=1", f"STATUS={text}")

    def reloading(self, text: str) -> None:
        """A reload begins; `ready` ends it, however it went."""
        self._status = text
        # The time stamp tells systemd that READY=1 belongs to this reload and not to one before (sd_notify(3)).
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", f"STATUS={text}")

    def stopping(self, text: str) -> None:
        """The service begins to go down."""
        self._status = text
        self._send("STOPPING=1", f"STATUS={text}")

    def watchdog(self) -> None:
        """A sign of life."""
        self._send("WATCHDOG=1", patience=_BRIEFLY)

    def extend(self, seconds: float) -> None:
        """Ask for this much more time from now on, to start or to stop."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}", patience=_BRIEFLY)

    def _send(self, *assignments: str, patience: float = 5.0) -> None:
        if self._systemd.socket is None:
            return
        # The queue of systemd's socket is short (net.unix.max_dgram_qlen). While PID 1 is stuck a sender blocks, and
        # this process must not get stuck with it: a state is worth waiting for, the rest is said again anyway.
        self._systemd.socket.settimeout(patience)
        # sdnotify encodes as Latin-1 and drops what doesn't fit; systemd wants UTF-8. One line an assignment.
        lines = (" ".join(assignment.splitlines()) for assignment in assignments)
        self._systemd.notify("\n".join(lines).encode().decode("latin-1"))
