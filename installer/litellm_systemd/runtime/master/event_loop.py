"""The event loop of the main process: readable files and signals, in one thread."""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Protocol


class HasFileno(Protocol):
    """An object that a selector can watch."""

    def fileno(self) -> int:
        """Its descriptor."""


Callback = Callable[[], None]


class EventLoop:
    """Runs callbacks when a file is readable or a signal has arrived. No callback runs inside a signal handler."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._handlers: dict[int, Callback] = {}
        # Python writes the number of each signal to one end (signal.set_wakeup_fd), which makes the other readable.
        self._wakeup_reader, self._wakeup_writer = socket.socketpair()
        for end in (self._wakeup_reader, self._wakeup_writer):
            end.setblocking(False)
        self.watch(self._wakeup_reader, self._dispatch_signals)

    def watch(self, file: HasFileno, callback: Callback) -> None:
        """Run `callback` whenever `file` is readable."""
        self._selector.register(file.fileno(), selectors.EVENT_READ, callback)

    def unwatch(self, file: HasFileno) -> None:
        """Stop watching `file`. Call it before the file is closed."""
        with contextlib.suppress(KeyError):
            self._selector.unregister(file.fileno())

    def on_signal(self, number: signal.Signals, callback: Callback) -> None:
        """Run `callback` after a signal. Several that arrive together may count as one."""
        self._handlers[number] = callback
        signal.set_wakeup_fd(self._wakeup_writer.fileno(), warn_on_full_buffer=False)
        signal.signal(number, _do_nothing)
        signal.siginterrupt(number, False)

    def wait(self, seconds: float) -> None:
        """Run the callbacks of the first batch of events, or return after `seconds` without one."""
        for key, _ in self._selector.select(max(0.0, seconds)):
            # An earlier callback of this batch may have closed the file, and a new file may have its descriptor.
            if self._selector.get_map().get(key.fd) == key:
                callback: Callback = key.data
                callback()

    def close(self) -> None:
        """Close the descriptors. In a forked child the registrations of the parent stay as they are (epoll(7))."""
        self._selector.close()
        self._wakeup_reader.close()
        self._wakeup_writer.close()

    def _dispatch_signals(self) -> None:
        numbers: set[int] = set()
        with contextlib.suppress(BlockingIOError):
            while data := self._wakeup_reader.recv(4096):
                numbers.update(data)
        for number in sorted(numbers):
            if number in self._handlers:
                self._handlers[number]()


def _do_nothing(number: int, frame: object) -> None:
    """A Python-level handler: without one, Python does not write the signal to the wakeup descriptor."""


@contextlib.contextmanager
def signals_blocked() -> Iterator[set[signal.Signals]]:
    """Block all signals during a fork: one that arrives before the child has its own handlers would be lost.

    Yields the signal mask from before.
    """
    held = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    before = {signal.Signals(number) for number in held}
    try:
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
