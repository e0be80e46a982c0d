"""The progress of a verb: a line for each step, and on a terminal the elapsed time of the current one."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable

from litellm_systemd.errors import InstallerError
from litellm_systemd.report.report import printable

#: Seconds until a step shows its time, and between two updates.
_PAUSE = 1.0
#: Moves to the start of the line and clears it (ECMA-48: EL).
_CLEAR = "\r\x1b[K"


class Step(str):
    """A line about a step that may take a while.

    `detail` returns what the step does at the moment, and is called from another thread. Only a terminal shows a
    step that `is_brief`, and only while it runs.
    """

    def __new__(cls, text: str, detail: Callable[[], str] = str, *, is_brief: bool = False) -> Step:
        step = super().__new__(cls, text)
        step.detail, step.is_brief = detail, is_brief
        return step

    detail: Callable[[], str]
    is_brief: bool


class Progress:
    """Called with each line; `write` gets the text. `is_live` says whether that is a terminal that can clear a line.

    Without `is_verbose` each `Step` is brief. Other lines, such as warnings, are always kept.
    """

    def __init__(self, write: Callable[[str], None], is_live: Callable[[], bool]) -> None:
        self._write, self._is_live = write, is_live
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self.is_verbose = True

    def __call__(self, line: str) -> None:
        """Show a line, and its elapsed time until the next one or `close`."""
        self.close()
        step = line if isinstance(line, Step) else Step(line)
        is_kept = not isinstance(line, Step) or (self.is_verbose and not step.is_brief)
        if is_kept:
            self._write(f"  {printable(line)}\n")
        if self._is_live():
            self._ended.clear()
            self._thread = threading.Thread(
                target=self._run, args=("" if is_kept else step, step.detail), daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Clear the elapsed time, before other output."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._ended.set()
            thread.join()

    def _run(self, text: str, detail: Callable[[], str]) -> None:
        began = time.monotonic()
        if text:
            self._show(text)
        while not self._ended.wait(_PAUSE):
            now = ""
            with contextlib.suppress(InstallerError, OSError):
                now = detail()
            elapsed = f"{time.monotonic() - began:.0f} s"
            complete = ", ".join(filter(None, (text, elapsed, now)))
            if len(complete) > _columns():
                room = max(0, _columns() - len(elapsed) - 2)
                complete = f"{elapsed}, {now}" if now else f"{text[:room]}, {elapsed}"
            self._show(complete)
        self._write(_CLEAR)

    def _show(self, text: str) -> None:
        # A line that wraps could not be cleared.
        self._write(f"{_CLEAR}  {printable(text)[: _columns()]}")


def _columns() -> int:
    """The length of a text that fits on one line of the terminal, after two spaces."""
    return shutil.get_terminal_size().columns - 3
