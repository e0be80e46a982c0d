"""The steps by which `doctor --fix` brings files back to what was installed: values, made from what is there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.host.layout import UNITS, Layout
from litellm_systemd.host.observe import observe_releases
from litellm_systemd.host.state import Action, FileKind, FileState, Record, Verb, link

_WHY = "as it was installed"


def restore(snapshot: Snapshot, path: str, record: Record) -> tuple[Action, ...]:
    """The steps that bring back what is gone; none if there is no copy of it."""
    layout = snapshot.layout
    if record.kind is FileKind.FOLDER:
        return (Action(Verb.CREATE_FOLDERS, layout.tmpfiles),) if path.startswith(layout.etc) else ()
    state = (
        _former_link(snapshot, path, record) if record.kind is FileKind.LINK else _former_file(snapshot, path, record)
    )
    return () if state is None else (Action(Verb.WRITE, path, _WHY, state), *_told_to_systemd(layout, path))


def restore_access(found: FileState, mode: int, owner: str, group: str) -> tuple[Action, ...]:
    """The step that gives a path its mode and owner back, whatever is in it."""
    wanted = FileState(found.path, b"", mode, owner, group, found.kind)
    return (Action(Verb.SET_ACCESS, found.path, _WHY, wanted),)


def _former_file(snapshot: Snapshot, path: str, record: Record) -> FileState | None:
    """A file out of the copies that litellmctl keeps, by its digest."""
    kept = snapshot.file(f"{snapshot.layout.pristine}/{record.digest}")
    if kept is None or kept.digest != record.digest:
        return None
    return FileState(path, kept.content, record.mode, record.owner, record.group)


def _former_link(snapshot: Snapshot, path: str, record: Record) -> FileState | None:
    """A link whose target is one of those that can be, by the digest of its text."""
    return next((link(path, target) for target in _targets(snapshot) if _digest(target) == record.digest), None)


def _targets(snapshot: Snapshot) -> Iterator[str]:
    layout = snapshot.layout
    yield from (f"releases/{name}" for name in observe_releases(layout))
    yield from (f"configs/{file.name}" for file in layout.real(layout.configs).glob("*.y*ml"))
    # It may be gone as well, and come back together with the link.
    yield from (path.removeprefix(f"{layout.etc}/") for path in snapshot.manifest if path.startswith(layout.configs))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _told_to_systemd(layout: Layout, path: str) -> tuple[Action, ...]:
    return (Action(Verb.DAEMON_RELOAD, "systemd"),) if path in {f"{layout.units}/{unit}" for unit in UNITS} else ()
