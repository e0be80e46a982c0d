"""How what stands at a path differs from what was written there. Pure."""

from __future__ import annotations

from litellm_systemd.model import FileState, Kind, Record


def describe_drift(found: FileState | None, record: Record) -> str:
    """All differences in words; empty if there is none."""
    if found is None:
        return "is gone"
    if found.kind is not record.kind:
        return f"is a {found.kind.value}, and was a {record.kind.value}"
    edited = found.kind is not Kind.FOLDER and found.digest != record.digest
    return ", ".join(filter(None, ("edited" if edited else "", access_drift(found, record))))


def access_drift(found: FileState, record: Record) -> str:
    """The differences of mode and owner in words; empty if there is none. Those of a link mean nothing."""
    if Kind.LINK in (found.kind, record.kind):
        return ""
    ways = []
    if found.mode != record.mode:
        ways.append(f"mode {found.mode:04o}, was {record.mode:04o}")
    if (found.owner, found.group) != (record.owner, record.group):
        ways.append(f"owner {found.owner}:{found.group}, was {record.owner}:{record.group}")
    return ", ".join(ways)
