"""Standard input, output and error of litellmctl, where they are closed or cannot be written.

A reader that closes the pipe, as `| head` does, changes nothing: the rest of the output is dropped, and the exit code
is that of the verb. Any other error, such as a full disk, is an `OutputError`. Progress and messages on standard
error are dropped where they cannot be written: no change of a host may stop halfway because of them.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from litellm_systemd.errors import OutputError


def open_streams() -> None:
    """Replace sys.stdin, sys.stdout and sys.stderr by streams that behave as this module says."""
    # A closed standard stream would be replaced by the next file that is opened. Writing to a file that is open for
    # reading fails as writing to a closed one does.
    for number, flags in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, flags), True)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    sys.stdout = _open_text(_Output(1, "w", closefd=False), sys.stdout)
    sys.stderr = _open_text(_Messages(2, "w", closefd=False), sys.stderr)


def _open_text(raw: io.FileIO, before: Any) -> io.TextIOWrapper:
    """A text stream with the encoding of the stream that it replaces. What that does not have becomes a `?`."""
    encoding = "utf-8" if before is None else before.encoding
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors="replace", line_buffering=raw.isatty())


class _Output(io.FileIO):
    """Standard output. After an error everything is dropped, so that the exit of Python cannot fail."""

    is_over = False

    def write(self, data: Any, /) -> int:
        if not self.is_over:
            try:
                return super().write(data)
            except BrokenPipeError:
                self.is_over = True
            except OSError as error:
                self.is_over = True
                raise OutputError(f"standard output cannot be written: {error.strerror}") from None
        return memoryview(data).nbytes


def write_bytes(data: bytes) -> bool:
    """Write to standard output. Whether someone still reads it."""
    sys.stdout.buffer.write(data)
    sys.stdout.flush()
    raw = getattr(sys.stdout.buffer, "raw", None)
    return not (isinstance(raw, _Output) and raw.is_over)


class _Messages(io.FileIO):
    """Standard error."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes
