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
    sys.stdout = _open_text(_Output, 1, sys.stdout)
    sys.stderr = _open_text(_Messages, 2, sys.stderr)


def _open_text(kind: type[_Output], number: int, before: Any) -> io.TextIOWrapper:
    """A text stream with the encoding of the stream that it replaces. What that does not have becomes a `?`."""
    raw = io.FileIO(number, "w", closefd=False)
    encoding = "utf-8" if before is None else before.encoding
    return kind(io.BufferedWriter(raw), encoding=encoding, errors="replace", line_buffering=raw.isatty())


class _Output(io.TextIOWrapper):
    """Standard output.

    Errors are handled here and not in the file below: a signal between its write and the buffer that waits for it
    would write the text twice. After an error everything is dropped, so that the exit of Python cannot fail.
    """

    is_over = False

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self.drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self.drop(error)

    def drop(self, error: OSError) -> None:
        """Drop the rest of the output, and raise OutputError unless its reader has closed the pipe."""
        self.is_over = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
        self._refuse(error)

    def _refuse(self, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            raise OutputError(f"standard output cannot be written: {error.strerror}") from None


def write_bytes(data: bytes) -> bool:
    """Write to standard output. Whether someone still reads it."""
    out = sys.stdout
    try:
        out.buffer.write(data)
    except OSError as error:
        if not isinstance(out, _Output):
            raise
        out.drop(error)
    out.flush()
    return not (isinstance(out, _Output) and out.is_over)


class _Messages(_Output):
    """Standard error."""

    def _refuse(self, error: OSError) -> None:
        pass
