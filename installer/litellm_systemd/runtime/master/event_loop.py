"""The master's event loop: files that can be read, and signals, in one thread."""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Protocol


class HasFileno(Protocol):
    """What a selector can watch."""

    def fileno(self) -> int:
        """Its descriptor."""


Callback = Callable[[], None]


class Events:
    """Calls back when something can be read or a signal has come. Nothing runs inside a signal handler."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._handlers: dict[int, Callback] = {}
        # Python writes the number of each signal into one end (signal.set_wakeup_fd); the other end wakes us.
        self._wake, self._woken = socket.socketpair()
        for end in (self._wake, self._woken):
            end.setblocking(False)
        self.watch(self._wake, self._on_signal)

    def watch(self, file: HasFileno, callback: Callback) -> None:
        """Call back whenever `file` can be read."""
        self._selector.register(file.fileno(), selectors.EVENT_READ, callback)

    def forget(self, file: HasFileno) -> None:
        """Watch no longer; before it is closed."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(file.fileno())

    def on_signal(self, number: signal.Signals, callback: Callback) -> None:
        """Call back after a signal; several that come together may count as one."""
        self._handlers[number] = callback
        signal.set_wakeup_fd(self._woken.fileno(), warn_on_full_buffer=False)
        signal.signal(number, _noted)
        signal.siginterrupt(number, False)

    def wait(self, seconds: float) -> None:
        """Run what is due; return after the first batch or the time-out."""
        for key, _ in self._selector.select(max(0.0, seconds)):
            # An earlier callback of this batch may have closed the file, and another taken its number.
            if self._selector.get_map().get(key.fd) == key:
                callback: Callback = key.data
                callback()

    def close(self) -> None:
        """Give up the descriptors. In a forked child this leaves the parent's registrations alone (epoll(7))."""
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def _on_signal(self) -> None:
        numbers: set[int] = set()
        with contextlib.suppress(BlockingIOError):
            while data := self._wake.recv(4096):
                numbers.update(data)
        for number in sorted(numbers):
            if number in self._handlers:
                self._handlers[number]()


def _noted(number: int, frame: object) -> None:
    """Only so that Python handles the signal at all."""


@contextlib.contextmanager
def signals_held() -> Iterator[set[signal.Signals]]:
    """Hold all signals back, for a fork: one that came before the child has its own handlers would be lost."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    before = {signal.Signals(number) for number in held}
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
