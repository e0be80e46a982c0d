"""Differences between two states of a path, as text that holds no secret. Pure."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator

from litellm_systemd.env.environment_file import parse_environment_file
from litellm_systemd.host.state import FileKind, FileState, Record


def describe_drift(found: FileState | None, record: Record) -> str:
    """All differences in words; empty if there is none."""
    if found is None:
        return "is gone"
    if found.kind is not record.kind:
        return f"is a {found.kind.value}, and was a {record.kind.value}"
    edited = found.kind is not FileKind.FOLDER and found.digest != record.digest
    return ", ".join(filter(None, ("edited" if edited else "", access_drift(found, record))))


def access_drift(found: FileState, record: Record) -> str:
    """The differences of mode and owner in words; empty if there is none. Those of a link mean nothing."""
    if FileKind.LINK in (found.kind, record.kind):
        return ""
    ways = []
    if found.mode != record.mode:
        ways.append(f"mode {found.mode:04o}, was {record.mode:04o}")
    if (found.owner, found.group) != (record.owner, record.group):
        ways.append(f"owner {found.owner}:{found.group}, was {record.owner}:{record.group}")
    return ", ".join(ways)


#: A name that says that its value is secret, in an environment file or a YAML file, and the value.
_SECRET = re.compile(
    r"""(?ix) ^ ([-+\s]* ["']? [\w.-]* (?:key(?!ring)|secret|token(?!s)|passw|credential) [\w.-]* ["']?
    \s* [=:] \s*) (?!["']?os\.environ/) \S .* $"""
)
#: User and password in an address.
_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")
MASK = "(secret)"


def render_diff(before: FileState | None, after: FileState | None, *, is_environment: bool = False) -> str:
    """A unified diff of two states of one path, either of which may be absent, with a line for mode and owner.

    Values of names that sound secret are masked, those that changed are told by their line alone. `is_environment`:
    both are environment files of systemd's; compared are the variables.
    """
    path = (after or before or FileState("?")).path
    lines = [*_attributes(before, after), *_content(path, before, after, is_environment=is_environment)]
    return "\n".join(lines)


def mask(line: str) -> str:
    """The line with the value of a secret name taken out."""
    return _LOGIN.sub(MASK, _SECRET.sub(rf"\1{MASK}", line))


def _attributes(before: FileState | None, after: FileState | None) -> Iterator[str]:
    if before is None or after is None:
        return
    if before.kind is not after.kind:
        yield f"{after.path}: a {before.kind.value}, to be a {after.kind.value}"
    elif after.kind is not FileKind.LINK and _access(before) != _access(after):
        yield f"{after.path}: {_access(before)}, to be {_access(after)}"


def _access(state: FileState) -> str:
    return f"mode {state.mode:04o} {state.owner}:{state.group}"


def _content(path: str, before: FileState | None, after: FileState | None, *, is_environment: bool) -> Iterator[str]:
    old, new = (_lines(state, is_environment=is_environment) for state in (before, after))
    names = (path if before else "/dev/null", path if after else "/dev/null")
    for line in difflib.unified_diff(old, new, *names, lineterm=""):
        yield line if line.startswith(("---", "+++", "@@")) else mask(line)


def _lines(state: FileState | None, *, is_environment: bool) -> list[str]:
    if state is None or state.kind in (FileKind.FOLDER, FileKind.OTHER):
        return []
    text = state.content.decode(errors="replace")
    if state.kind is FileKind.LINK:
        return [f"link to {text}"]
    if is_environment:
        # A value may go over several lines, and all but its first would look harmless.
        return [f"{name}={json.dumps(value)}" for name, value in parse_environment_file(text).items()]
    return text.splitlines()
