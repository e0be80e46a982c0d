"""Read a `.env` as python-dotenv does, and record the line of each variable."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from litellm_systemd.errors import InputError, MissingError, PermissionDenied


@dataclass(frozen=True, slots=True)
class Dotenv:
    """The variables of one file, and the line that last set each of them."""

    source: str
    values: Mapping[str, str] = field(repr=False)
    lines: Mapping[str, int] = field(repr=False, default_factory=dict)

    def where(self, name: str) -> str:
        """The position of a variable for messages: `.env:12`, or only the file."""
        line = self.lines.get(name)
        return self.source if line is None else f"{self.source}:{line}"


def read_dotenv(path: Path) -> Dotenv:
    """Read a `.env` as python-dotenv does, with a byte order mark and CRLF allowed.

    Raises:
        MissingError: there is no such file.
        PermissionDenied: it can't be read.
        InputError: it isn't UTF-8, or a line isn't an assignment (python-dotenv would skip it silently).
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise MissingError(
            f"{path}: no such file", "Name your file with --env-file, or create one: litellmctl init"
        ) from None
    except PermissionError:
        raise PermissionDenied(
            f"{path}: this user has no permission to read it", "Run the command with sudo."
        ) from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder", "Give the path of the file.") from None
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror}", "Give the path of the file.") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: not UTF-8 text", "Save the file as UTF-8.") from None
    return parse_dotenv(text, str(path))


def parse_dotenv(text: str, source: str) -> Dotenv:
    """Parse the text of a `.env`; see `read_dotenv`."""
    lines = {}
    for binding in parse_stream(io.StringIO(text)):
        blank = len(binding.original.string) - len(binding.original.string.lstrip())
        line = binding.original.line + binding.original.string[:blank].count("\n")
        if binding.error:
            raise InputError(
                f"{source}:{line}: not an assignment: {_masked_line(binding.original.string)}",
                "Write NAME=value. Put quotes around a value with spaces, quotes or #, and close them.",
            )
        if binding.key is not None:
            lines[binding.key] = line
    values = dotenv_values(stream=io.StringIO(text))
    return Dotenv(source, {name: value for name, value in values.items() if value is not None}, lines)


def _masked_line(text: str) -> str:
    """The name at the start of a line, never its value, which may be a key."""
    head = text.strip().splitlines()[0]
    return repr(head.split("=")[0][:40] + ("=…" if "=" in head else ""))
