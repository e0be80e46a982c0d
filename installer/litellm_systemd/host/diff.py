"""Differences between two states of a path, as text in which secrets are masked. Pure."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator

from litellm_systemd.env.dotenv import parse_environment_file
from litellm_systemd.env.secrets import MASK, is_secret_variable, mask_lines, mask_yaml, redact
from litellm_systemd.host.state import FileKind, FileState, Record, is_edited


def describe_drift(found: FileState | None, record: Record) -> str:
    """All differences in words; empty if there is none."""
    if found is None:
        return "is gone"
    if found.kind is not record.kind:
        return f"is a {found.kind.value}, and was a {record.kind.value}"
    edited = found.kind is not FileKind.FOLDER and is_edited(found, record)
    return ", ".join(filter(None, ("edited" if edited else "", access_drift(found, record))))


def access_drift(found: FileState, record: Record) -> str:
    """The differences of mode and owner in words; empty if there is none. Those of a link mean nothing."""
    if FileKind.LINK in (found.kind, record.kind):
        return ""
    changes = []
    if found.mode != record.mode:
        changes.append(f"mode {found.mode:04o}, was {record.mode:04o}")
    if (found.owner, found.group) != (record.owner, record.group):
        changes.append(f"owner {found.owner}:{found.group}, was {record.owner}:{record.group}")
    return ", ".join(changes)


def render_diff(before: FileState | None, after: FileState | None) -> str:
    """A unified diff of two states of one path, either of which may be absent, with a line for mode and owner.

    Secrets are masked; the line of a secret that changed is still in the difference. Of environment files (*.env)
    the variables are compared.
    """
    path = (after or before or FileState("?")).path
    return "\n".join((*_attributes(before, after), *_content(path, before, after)))


def _attributes(before: FileState | None, after: FileState | None) -> Iterator[str]:
    if before is None or after is None:
        return
    if before.kind is not after.kind:
        yield f"{after.path}: a {before.kind.value}, to be a {after.kind.value}"
    elif after.kind is not FileKind.LINK and _access(before) != _access(after):
        yield f"{after.path}: {_access(before)}, to be {_access(after)}"


def _access(state: FileState) -> str:
    return f"mode {state.mode:04o} {state.owner}:{state.group}"


def _content(path: str, before: FileState | None, after: FileState | None) -> Iterator[str]:
    # A line is compared with its secrets and shown without them. NUL, which no text file has, separates the two.
    old, new = ([f"{shown}\0{line}" for shown, line in _lines(state)] for state in (before, after))
    names = (path if before else "/dev/null", path if after else "/dev/null")
    for line in difflib.unified_diff(old, new, *names, lineterm=""):
        yield line.partition("\0")[0]


def _lines(state: FileState | None) -> Iterator[tuple[str, str]]:
    """Each line as shown, and as in the file."""
    if state is None or state.kind in (FileKind.FOLDER, FileKind.OTHER):
        return
    text = state.content.decode(errors="replace")
    if state.kind is FileKind.LINK:
        yield f"link to {text}", text
    elif state.path.endswith(".env"):
        # A value can have several lines, and all but the first would look harmless.
        for name, value in parse_environment_file(text).items():
            shown = MASK if is_secret_variable(name, value) else redact(json.dumps(value))
            yield f"{name}={shown}", value
    else:
        mask = mask_yaml if state.path.endswith((".yml", ".yaml")) else mask_lines
        shown_lines, lines = mask(text).split("\n"), text.split("\n")
        yield from (
            zip(shown_lines, lines, strict=True) if lines[-1] else zip(shown_lines[:-1], lines[:-1], strict=True)
        )
