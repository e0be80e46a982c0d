"""When systemd is to hear from the master."""

from __future__ import annotations

from litellm_systemd.runtime.systemd.notify import Notifier

#: While a drain lasts, systemd is asked for this many seconds more, three times as often.
_EXTENSION = 15.0


class Watchdog:
    """Signs of life, and requests for more time, each as often as it takes.

    The rule for WATCHDOG=1: the master's loop turns, and some worker has answered its probe of late. A worker that
    hangs is replaced by the master, which systemd needn't know. If none answers, the signs cease, and systemd
    restarts it all unless a successor answers within WatchdogSec= from then on.
    """

    def __init__(self, notifier: Notifier) -> None:
        self._notifier = notifier
        self._beaten = self._extended = float("-inf")

    def beat(self, now: float) -> None:
        """Say WATCHDOG=1 if it is time, with a quarter of WatchdogSec= between two."""
        interval = self._notifier.watchdog_interval
        if interval is not None and now - self._beaten >= interval:
            self._beaten = now
            self._notifier.watchdog()

    def extend(self, now: float) -> None:
        """Ask for more time to stop, once a third of what was asked for last is used up (sd_notify(3))."""
        if now - self._extended >= _EXTENSION / 3:
            self._extended = now
            self._notifier.extend(_EXTENSION)
