"""Notifications to systemd, and when to send those that repeat: sd_notify(3)."""

from __future__ import annotations

import os
import time
from collections.abc import MutableMapping

import sdnotify  # type: ignore[import-untyped]

#: Seconds to wait for room in the queue of systemd's socket, for a notification that is repeated anyway.
_SHORT_TIMEOUT = 0.1
#: Seconds by which the stop timeout is extended during a drain. The extension is renewed after a third of them.
_EXTENSION = 15.0


class Notifier:
    """Sends each change of the state to systemd. Without NOTIFY_SOCKET it sends nothing and raises no error.

    It removes the variables of the protocol from the environment, so that LiteLLM and the workers cannot notify
    systemd in place of this process.
    """

    def __init__(self, environ: MutableMapping[str, str] = os.environ) -> None:
        self._systemd = sdnotify.SystemdNotifier()
        environ.pop("NOTIFY_SOCKET", None)
        microseconds = environ.pop("WATCHDOG_USEC", "")
        pid = environ.pop("WATCHDOG_PID", "")
        is_ours = microseconds.isdigit() and pid in ("", str(os.getpid()))
        #: Seconds between two WATCHDOG=1; None without WatchdogSec=. At most one second: systemd's timer continues
        #: while the service is frozen, so the time since the last WATCHDOG=1 shortens the pause that it survives.
        self.watchdog_interval = min(1.0, int(microseconds) / 1e6 / 4) if is_ours and int(microseconds) else None
        self._status = ""

    def close(self) -> None:
        """Close the socket. For a forked child."""
        if self._systemd.socket is not None:
            self._systemd.socket.close()

    def status(self, text: str) -> None:
        """Set the line that `systemctl status` shows."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}", timeout=_SHORT_TIMEOUT)

    def ready(self, text: str) -> None:
        """Report that a start or a reload is complete."""
        self._status = text
        self._send("READY=1", f"STATUS={text}")

    def reloading(self, text: str) -> None:
        """Report that a reload begins. `ready` ends it, whether it succeeds or fails."""
        self._status = text
        # With the timestamp systemd can match the later READY=1 to this reload (sd_notify(3)).
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", f"STATUS={text}")

    def stopping(self, text: str) -> None:
        """Report that the service stops."""
        self._status = text
        self._send("STOPPING=1", f"STATUS={text}")

    def watchdog(self) -> None:
        """Reset the watchdog timer."""
        self._send("WATCHDOG=1", timeout=_SHORT_TIMEOUT)

    def extend(self, seconds: float) -> None:
        """Extend the timeout of a start or stop to this many seconds from now."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}", timeout=_SHORT_TIMEOUT)

    def _send(self, *assignments: str, timeout: float = 5.0) -> None:
        if self._systemd.socket is None:
            return
        # The queue of systemd's socket is short (net.unix.max_dgram_qlen). While PID 1 hangs, a sender blocks. This
        # process must not hang too, so it waits longer for a change of state than for what is repeated anyway.
        self._systemd.socket.settimeout(timeout)
        # sdnotify encodes as Latin-1 and drops other characters, but systemd expects UTF-8. Each assignment is one
        # line.
        lines = (" ".join(assignment.splitlines()) for assignment in assignments)
        self._systemd.notify("\n".join(lines).encode().decode("latin-1"))


class Watchdog:
    """Limits how often the notifications are sent.

    The main process calls `ping` while its event loop runs and at least one worker passes its health check. It
    replaces a hung worker itself. If no worker passes its health check for WatchdogSec=, systemd restarts the
    service.
    """

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._pinged_at = self._extended_at = float("-inf")

    def ping(self, now: float) -> None:
        """Send WATCHDOG=1 if the last one was sent at least `watchdog_interval` ago."""
        interval = self._notifier.watchdog_interval
        if interval is not None and now - self._pinged_at >= interval:
            self._pinged_at = now
            self._notifier.watchdog()

    def forget_extension(self) -> None:
        """Let the next `extend` be sent: after ExecStop=, systemd begins a new TimeoutStopSec= (service.c)."""
        self._extended_at = float("-inf")

    def extend(self, now: float) -> None:
        """Extend the stop timeout if a third of the last extension has passed (sd_notify(3))."""
        if now - self._extended_at >= _EXTENSION / 3:
            self._extended_at = now
            self._notifier.extend(_EXTENSION)
