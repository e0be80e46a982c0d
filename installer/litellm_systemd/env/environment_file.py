"""systemd's EnvironmentFile grammar: write a mapping so that the service gets it unchanged, and read it back.

It isn't dotenv's grammar, though it looks like it. Source: systemd.exec(5) "EnvironmentFile=" and
src/basic/env-file.c (the parser) and env-util.c (what a name and a value may be).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from litellm_systemd.errors import InputError

#: execve(2): the kernel refuses one string of more than 32 pages, and by default a quarter of an 8 MiB stack in all.
MAX_ASSIGNMENT_BYTES = 131_071
MAX_TOTAL_BYTES = 1_572_864

#: What systemd or the runtime sets itself; a file that overrides these breaks readiness, the watchdog or Python.
RESERVED = frozenset(
    {
        *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "MAINPID", "INVOCATION_ID", "JOURNAL_STREAM"),
        *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "PYTHONHOME"),
        *("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CACHE_DIRECTORY"),
    }
)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# SHELL_NEED_ESCAPE: inside double quotes a backslash means something before these, and before a newline.
_ESCAPED = re.compile(r'(["\\`$])')
_SPACE = " \t"
# One statement: a comment, a line without "=" (dropped, as systemd does), or a name up to its "=".
_HEAD = re.compile(r"\s*(?:[#;](?:\\.|[^\n\r\\])*\\?|(?P<name>[^=\n\r]*)=|[^=\n\r]*)", re.DOTALL)
_QUOTED = re.compile(r"[ \t]*(?:'(?P<single>[^']*)'?|\"(?P<double>(?:\\.|[^\"\\])*)\"?)", re.DOTALL)
_BARE = re.compile(r"[ \t]*((?:\\.|[^ \t\n\r\\]|[ \t]+(?=[^ \t\n\r]))*)[ \t]*\\?", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


def check_assignment(name: str, value: str, where: str) -> None:
    """Refuse what a systemd service can't be given.

    Args:
        name: the variable.
        value: its value.
        where: how to name the place to a user, such as `.env:12`.

    Raises:
        InputError: names the variable and says why.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{where}: {name!r} is not a name that a service's environment can hold",
            "Use letters, digits and underscores, and don't begin with a digit.",
        )
    if name in RESERVED:
        raise InputError(f"{where}: {name} is set by systemd for the service", "Remove the line.")
    if not _is_carried(value):
        raise InputError(f"{where}: the value of {name} holds a character that systemd can't carry", _TEXT_HINT)
    if len(f"{name}={value}".encode()) > MAX_ASSIGNMENT_BYTES:
        raise InputError(
            f"{where}: the value of {name} is longer than the kernel passes to a program (128 KiB)",
            "Keep it in a file and name the file.",
        )


_TEXT_HINT = "It must be UTF-8 text without NUL and noncharacters: encode it (base64, say), or name a file with it."


def _is_carried(value: str) -> bool:
    """Tell what unichar_is_valid() in systemd says: no surrogates and no noncharacters. Control characters pass."""
    return "\0" not in value and not any(
        0xD800 <= code <= 0xDFFF or 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE for code in map(ord, value)
    )


def quote(value: str) -> str:
    """Quote one value for an EnvironmentFile. Any value that `check_assignment` lets pass comes back unchanged."""
    return '"' + _ESCAPED.sub(r"\\\1", value) + '"'


def render_assignments(environment: Mapping[str, str]) -> str:
    """The lines of an EnvironmentFile, one variable each (a value with newlines takes several)."""
    return "".join(f"{name}={quote(value)}\n" for name, value in environment.items())


def parse_environment_file(text: str) -> dict[str, str]:
    """Read an EnvironmentFile as systemd reads it, edits by hand included.

    Lines that systemd ignores (comments, `export X=1`, a name that isn't one) are ignored here too.
    """
    found: dict[str, str] = {}
    position = 0
    while match := _HEAD.match(text, position):
        position = match.end()
        if (name := match["name"]) is not None:
            value, position = _parse_value(text, position)
            if _NAME.fullmatch(name.rstrip(_SPACE)):
                found[name.rstrip(_SPACE)] = value
        if position >= len(text):
            break
    return found


def _parse_value(text: str, position: int) -> tuple[str, int]:
    """Read a value: any number of quoted parts, then perhaps a bare one. Give it with the position behind it."""
    parts = []
    while match := _QUOTED.match(text, position):
        position = match.end()
        double = match["double"]
        parts.append(match["single"] if double is None else _ESCAPE.sub(_unescape_double, double))
    bare = _BARE.match(text, position)
    if bare is None:  # pragma: no cover - the pattern matches the empty string
        return "".join(parts), position
    parts.append(_ESCAPE.sub(lambda escape: escape[1].strip("\n"), bare[1]))
    return "".join(parts), bare.end()


def _unescape_double(match: re.Match[str]) -> str:
    follower = match[1]
    if follower == "\n":
        return ""
    return follower if follower in '"\\`$' else match[0]
