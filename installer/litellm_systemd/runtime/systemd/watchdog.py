"""When the main process sends WATCHDOG=1 and EXTEND_TIMEOUT_USEC=."""

from __future__ import annotations

from litellm_systemd.runtime.systemd.notify import Notifier

#: Seconds by which the stop timeout is extended during a drain. The extension is renewed after a third of them.
_EXTENSION = 15.0


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
        """Send WATCHDOG=1 if the last one was sent at least a quarter of WatchdogSec= ago."""
        interval = self._notifier.watchdog_interval
        if interval is not None and now - self._pinged_at >= interval:
            self._pinged_at = now
            self._notifier.watchdog()

    def extend(self, now: float) -> None:
        """Extend the stop timeout if a third of the last extension has passed (sd_notify(3))."""
        if now - self._extended_at >= _EXTENSION / 3:
            self._extended_at = now
            self._notifier.extend(_EXTENSION)
