"""systemd's EnvironmentFile=: parse it as systemd does, and find lines that it reads differently from how they look.

Sources: systemd.exec(5) "EnvironmentFile=", src/basic/env-file.c (the parser).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from litellm_systemd.env.dotenv import quote

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SPACE = " \t"
# A repeated group remembers each of its matches: the runs of plain characters are outside of the groups or one match.
# One statement: a comment, a line without "=" (dropped, as systemd does), or a name up to its "=".
_STATEMENT = r"[ \t\n\r]*(?:(?P<comment>[#;]%s)|(?P<name>[^=\n\r]*)=|(?P<dropped>[^=\n\r]*))"
_HEAD = re.compile(_STATEMENT % r"[^\n\r]*")
#: The same before systemd 254: a comment that ends with a backslash goes on in the next line.
_OLD_HEAD = re.compile(_STATEMENT % r"[^\n\r\\]*(?:\\.[^\n\r\\]*)*\\?", re.DOTALL)
_COMMENTS_END_SINCE = 254
_QUOTED = re.compile(
    r"[ \t]*(?:'(?P<single>[^']*)(?P<end>'?)|\"(?P<double>[^\"\\]*(?:\\.[^\"\\]*)*)(?P<end2>\"?))", re.DOTALL
)
_BARE = re.compile(r"[ \t]*((?:\\.|[^ \t\n\r\\]+|[ \t]+(?=[^ \t\n\r]))*)[ \t]*\\?", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
#: A comment that ends with a backslash.
_CONTINUED = re.compile(r"^[ \t]*[#;].*\\$", re.MULTILINE)
#: An assignment on a line of its own inside quotes or a comment.
_SWALLOWED = re.compile(r"[\n\r][ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=")
_BOM = "\ufeff"
#: A valid name after `export`, or with characters around it that an editor may not show.
_MISTYPED = re.compile(r"[^\x21-\x7e]*(?:(export)[^\x21-\x7e]+)?([A-Za-z_][A-Za-z0-9_]*)[^\x21-\x7e]*")


@dataclass(frozen=True, slots=True)
class Fault:
    """A line that systemd reads differently from how it looks.

    `text` says what is wrong, without a value; `lost` are the variables that the line seems to set and does not.
    `alters`: the variable that it sets has another value than the line shows. `repeats`: an earlier line sets it too.
    """

    line: int
    text: str
    lost: tuple[str, ...] = ()
    alters: bool = False
    repeats: bool = False

    @property
    def is_harmful(self) -> bool:
        """Whether a variable is lost or has another value, so that more than an ignored line is wrong."""
        return self.alters or bool(self.lost)


@dataclass(frozen=True, slots=True)
class EnvironmentFile:
    """The variables of a file, the line that last sets each of them, and the faults in the order of the lines."""

    values: dict[str, str] = field(default_factory=dict, repr=False)
    lines: dict[str, int] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()


def parse_environment_file(text: str) -> dict[str, str]:
    """The variables of an EnvironmentFile as systemd 254 and later read them, manual edits included.

    Lines that systemd ignores (comments, `export X=1`, an invalid name) are ignored here too.
    """
    return read_environment_text(text).values


#: Why systemd rejects a file that no editor can correct.
ONLY_NUL = "the file has NUL bytes only, as after a power failure"


def read_environment_bytes(content: bytes, systemd: Callable[[], int]) -> tuple[EnvironmentFile, str]:
    """As `read_environment_text`, and why systemd rejects the whole file; an empty string if it does not.

    `systemd` returns its version, which matters for few files.
    """
    # As bytes: text mode would turn a carriage return in a value into a newline.
    text = content.decode(errors="replace")
    found = read_environment_text(text, systemd() if _CONTINUED.search(text) else _COMMENTS_END_SINCE)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return found, "the file is UTF-16, and must be UTF-8"
    if content and not content.strip(b"\0"):
        return found, ONLY_NUL
    if b"\0" in content:
        return found, f"line {content.count(bytes([10]), 0, content.index(0)) + 1} contains a NUL byte"
    try:
        content.decode()
    except UnicodeDecodeError:
        # Only variables must be UTF-8: check_utf8ness_and_warn() in env-file.c. A comment may be anything.
        for name, value in found.values.items():
            if "\ufffd" in value:
                return found, f"line {found.lines[name]} is not UTF-8"
    return found, ""


def read_environment_text(text: str, systemd: int = _COMMENTS_END_SINCE) -> EnvironmentFile:
    """As `parse_environment_file`, with lines and faults. `systemd` is its version."""
    head = _HEAD if systemd >= _COMMENTS_END_SINCE else _OLD_HEAD
    values, lines, faults = dict[str, str](), dict[str, int](), list[Fault]()
    position, line, counted = 0, 1, 0
    while match := head.match(text, position):
        # Counted step by step: from the start each time would take quadratic time.
        begin = match.end() - len(match[0].lstrip(" \t\n\r"))
        line, counted = line + text.count("\n", counted, begin), begin
        position = match.end()
        if match["comment"] and (lost := tuple(_SWALLOWED.findall(match["comment"]))):
            faults.append(
                Fault(
                    line, "the comment ends with a backslash, and before systemd 254 goes on in the next line", lost
                )
            )
        if match["dropped"]:
            faults.append(Fault(line, "the line is not an assignment and is ignored"))
        if (name := match["name"]) is not None:
            value, position, unclosed = _parse_value(text, position)
            name = name.rstrip(_SPACE)
            if _NAME.fullmatch(name):
                if values.get(name, value) != value:
                    again = f"{name} is set again, and overrides line {lines[name]}"
                    faults.append(Fault(line, again, repeats=True))
                values[name], lines[name] = value, line
            else:
                faults.append(_invalid_name(line, name))
            if unclosed is not None:
                faults.append(_unclosed(line, name, unclosed, line + text.count("\n", begin, position)))
        if position >= len(text):
            break
    return EnvironmentFile(values, lines, tuple(each for each in faults if not _is_overridden(each, values)))


def _is_overridden(fault: Fault, values: dict[str, str]) -> bool:
    """Whether each variable that a line loses is set by another line, so that nothing is lost."""
    return bool(fault.lost) and all(name in values for name in fault.lost)


def _invalid_name(line: int, name: str) -> Fault:
    mistyped = _MISTYPED.fullmatch(name)
    if mistyped is None:
        return Fault(line, f"{name[:40]!r} is not a valid name of a variable, and the line is ignored")
    export, plain = mistyped.groups()
    cause = "'export'" if export else "a character that is not ASCII"
    if name.startswith(_BOM):
        cause = "a byte order mark"
    return Fault(line, f"{cause} makes the name of {plain} invalid, and the line is ignored", (plain,))


def _unclosed(line: int, name: str, swallowed: str, last: int) -> Fault:
    lost = tuple(_SWALLOWED.findall(swallowed))
    loses = f"; {', '.join(lost)} in there {'is' if len(lost) == 1 else 'are'} not set" if lost else ""
    at_end = last == line or swallowed.endswith("\n")
    end = "the end of the file" if at_end else f"line {last}"
    why = "has no closing quote" if swallowed.lstrip()[:1] in ("'", '"') else "ends with a backslash"
    # With the end of the last line, the end of that line is a part of the value.
    return Fault(line, f"the value of {name} {why} and goes on to {end}{loses}", lost, swallowed.endswith("\n"))


def _parse_value(text: str, position: int) -> tuple[str, int, str | None]:
    """Parse a value: any number of quoted parts, then an optional bare part.

    Returns the value, the position after it, and the text that goes on further than it looks, None if there is none:
    a quoted part that ends with the file, or has an assignment in a later line and is followed by more text; or a
    bare part with an assignment after a backslash and a newline.
    """
    parts, unclosed = list[str](), None
    while match := _QUOTED.match(text, position):
        position = match.end()
        double = match["double"]
        parts.append(match["single"] if double is None else _ESCAPE.sub(_unescape_double, double))
        is_closed = match["end"] or match["end2"]
        goes_on = text[position : position + 1] not in ("", "\n", "\r", " ", "\t")
        if not is_closed or (goes_on and _SWALLOWED.search(match[0])):
            unclosed = match[0]
    bare = _BARE.match(text, position)
    if bare is None:  # pragma: no cover - the pattern matches the empty string
        return "".join(parts), position, unclosed
    parts.append(_ESCAPE.sub(lambda escape: escape[1].strip("\n"), bare[1]))
    return "".join(parts), bare.end(), unclosed or (bare[0] if _SWALLOWED.search(bare[0]) else None)


def _unescape_double(match: re.Match[str]) -> str:
    follower = match[1]
    if follower == "\n":
        return ""
    return follower if follower in '"\\`$' else match[0]


def set_assignment(text: str, name: str, value: str) -> str:
    """The text of an EnvironmentFile with another value of one variable. Everything else stays as it is."""
    line = f"{name}={quote(value)}"
    kept, position, copied = [], 0, 0
    while match := _HEAD.match(text, position):
        position = match.end()
        if match["name"] is not None:
            start = match.start("name")
            _, position, _ = _parse_value(text, position)
            if match["name"].rstrip(_SPACE) == name:
                kept += [text[copied:start], line]
                copied = position
        if position >= len(text):
            break
    kept.append(text[copied:])
    if copied:
        return "".join(kept)
    return f"{text.rstrip(chr(10))}\n{line}\n"
