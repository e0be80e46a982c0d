"""Files of environment variables: read a `.env` as python-dotenv does, and write the EnvironmentFile of systemd.

Each variable of a `.env` keeps its line for messages. The grammar of EnvironmentFile= looks like dotenv's, but
differs (`environment_file`): a mapping is written so that the service gets it unchanged. Sources: systemd.exec(5)
"EnvironmentFile=" and src/basic/env-util.c (valid names and values).
"""

from __future__ import annotations

import io
import os
import re
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv.parser import parse_stream
from dotenv.variables import parse_variables

from litellm_systemd.contract import TRIAL_SOCKET
from litellm_systemd.errors import InputError, MissingError, PermissionDenied
from litellm_systemd.user_files import read_trusted

#: execve(2): the kernel refuses one string of more than 32 pages, and by default a quarter of an 8 MiB stack in all.
MAX_ASSIGNMENT_BYTES = 131_071
MAX_TOTAL_BYTES = 1_572_864
#: The steps that python-dotenv may take for one value: it looks for the end of the name after each ${.
_MAX_STEPS = 50_000_000
#: Variables that systemd, litellmctl or the runtime sets. A file that overrides them breaks readiness or the
#: watchdog, or turns the service into a throwaway instance, whose clients may make models fail.
RESERVED = frozenset(
    {
        *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "MAINPID", "INVOCATION_ID", "JOURNAL_STREAM"),
        *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"),
        *("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CACHE_DIRECTORY"),
        TRIAL_SOCKET,
    }
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# SHELL_NEED_ESCAPE: inside double quotes, a backslash escapes these characters and a newline.
_ESCAPED = re.compile(r'(["\\`$])')

#: More blanks in a row take python-dotenv quadratic time: its search for a comment starts at each of them.
_MAX_BLANKS = 500
_BLANKS = re.compile(r"[^\S\r\n]+")

_TEXT_HINT = "Use UTF-8 text without NUL and noncharacters. Encode other values, for example as base64."


@dataclass(frozen=True, slots=True)
class Dotenv:
    """The variables of one file, and the line that last set each of them; `files` has those that others set."""

    source: str
    values: Mapping[str, str] = field(repr=False)
    lines: Mapping[str, int] = field(repr=False, default_factory=dict)
    files: Mapping[str, str] = field(repr=False, default_factory=dict)

    def file_of(self, name: str) -> str:
        """The file that set a variable last; the main one for a variable that is not set."""
        return self.files.get(name, self.source)

    def where(self, name: str) -> str:
        """The position of a variable for messages: `.env:12`, or only the file."""
        line = self.lines.get(name)
        return self.file_of(name) if line is None else f"{self.file_of(name)}:{line}"


def read_dotenv(path: Path) -> Dotenv:
    """Read a `.env` as python-dotenv does, with a byte order mark and CRLF allowed.

    Raises:
        MissingError: there is no such file.
        PermissionDenied: it can't be read, or another user could have written what root would read.
        InputError: it isn't UTF-8, is too large or no regular file, or a line isn't an assignment (python-dotenv
            would skip it silently).
    """
    try:
        # In text mode, so that each form of line break counts as one.
        text = io.TextIOWrapper(io.BytesIO(read_trusted(path)), encoding="utf-8-sig").read()
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
    except ValueError as error:
        raise InputError(f"{path} {error}", "Name a file of assignments: NAME=value.") from None
    return parse_dotenv(text, str(path))


def parse_dotenv(text: str, source: str) -> Dotenv:
    """Parse the text of a `.env`; see `read_dotenv`."""
    for blanks in _BLANKS.finditer(text):
        if len(blanks[0]) > _MAX_BLANKS:
            line = text.count("\n", 0, blanks.start()) + 1
            raise InputError(f"{source}:{line}: more than {_MAX_BLANKS} blanks in a row", "Remove them.")
    lines: dict[str, int] = {}
    values: dict[str, str | None] = {}
    environment = ChainMap(values, dict[str, str | None](os.environ))
    expanded = 0
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
            value = binding.value
            if value is not None and "${" in value:
                value = _expand(value, environment, f"{source}:{line}", MAX_TOTAL_BYTES - expanded)
                expanded += len(value)
            values[binding.key] = value
    return Dotenv(source, {name: value for name, value in values.items() if value is not None}, lines)


def _expand(value: str, environment: Mapping[str, str | None], where: str, room: int) -> str:
    """Replace ${NAME} as python-dotenv does (dotenv.main.resolve_variables), up to `room` characters.

    Without a limit a few lines that double the one before fill the memory.
    """
    found = ""
    if value.count("${") * len(value) <= _MAX_STEPS:
        for atom in parse_variables(value):
            found += atom.resolve(environment)
            if len(found) > room:
                break
        else:
            return found
    raise InputError(f"{where}: the value is too long once each ${{NAME}} is replaced", "Use fewer references.")


def _masked_line(text: str) -> str:
    """The name at the start of a line, never its value, which may be a key."""
    head = text.strip().splitlines()[0]
    return repr(head.split("=")[0][:40] + ("=…" if "=" in head else ""))


def check_assignment(name: str, value: str, where: str) -> None:
    """Reject a variable that systemd can't pass to a service.

    `where`: the position of the variable for messages, such as `.env:12`.

    Raises:
        InputError: the variable and the reason.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{where}: {name!r} is not a valid name of an environment variable",
            "Use letters, digits and underscores. The first character can't be a digit.",
        )
    if name in RESERVED:
        setter = "litellmctl" if name == TRIAL_SOCKET else "systemd"
        raise InputError(f"{where}: {setter} sets {name} for the service itself", "Remove the line.")
    if not _is_accepted(value):
        raise InputError(f"{where}: the value of {name} contains a character that systemd rejects", _TEXT_HINT)
    if len(f"{name}={value}".encode()) > MAX_ASSIGNMENT_BYTES:
        raise InputError(
            f"{where}: the value of {name} is longer than the kernel passes to a program (128 KiB)",
            "Store the value in a file, and set the variable to the path of the file.",
        )


def _is_accepted(value: str) -> bool:
    """Apply systemd's unichar_is_valid(): no surrogates and no noncharacters. Control characters are valid."""
    return "\0" not in value and not any(
        0xD800 <= code <= 0xDFFF or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE for code in map(ord, value)
    )


def quote(value: str) -> str:
    """Quote one value for an EnvironmentFile. systemd reads any value that `check_assignment` accepts unchanged."""
    return '"' + _ESCAPED.sub(r"\\\1", value) + '"'


def render_assignments(environment: Mapping[str, str]) -> str:
    """The lines of an EnvironmentFile, one variable each (a value with newlines takes several)."""
    return "".join(f"{name}={quote(value)}\n" for name, value in environment.items())
