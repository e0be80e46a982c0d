"""The host's file systems: room for bytes, room for files, and whether they can be written to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from litellm_systemd.doctor.cause import Cause, Finding, looks_for
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.report.report import Outcome

#: Below the first nothing works, below the second not for long: bytes, and files.
_BYTES, _FILES = (2**20, 64 * 2**20), (100, 2000)
#: It takes that as well: no more than this share of all is left.
_LITTLE_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """What is left on a file system: bytes and files, and what share of all; it is None where it has no limit."""

    path: str
    bytes: int
    bytes_share: float
    files: int
    files_share: float | None


def observe_room(snapshot: Snapshot) -> tuple[FreeSpace, ...]:
    """The file systems that the service and litellmctl write to, each by the first path on it; no read-only ones."""
    layout = snapshot.layout
    found: dict[int, FreeSpace] = {}
    for wanted in ("/etc", layout.state, layout.cache, layout.own_state, layout.prefix, "/run", "/tmp", "/var/log"):  # noqa: S108
        path = layout.real(wanted)
        while not path.exists():
            path = path.parent
        status = os.statvfs(path)
        if status.f_blocks and not status.f_flag & os.ST_RDONLY:
            room = FreeSpace(
                str(path),
                status.f_bavail * status.f_frsize,
                status.f_bavail / status.f_blocks,
                status.f_favail,
                status.f_favail / status.f_files if status.f_files else None,
            )
            found.setdefault(path.stat().st_dev, room)
    return tuple(found.values())


def judge_room(left: int, share: float | None, none: int, little: int) -> Outcome | None:
    """How bad it is that so much is left; None if it isn't. A small file system isn't a full one."""
    if share is None or share > _LITTLE_SHARE or left >= little:
        return None
    return Outcome.FAILED if left < none else Outcome.WARNING


FULL = Cause(
    "host-disk-full",
    "There is no room left: the service can't write its state, journald drops lines, no change can be made.",
    "du -xh --max-depth=2 {path} | sort -h | tail    # shows what takes it; 'litellmctl releases prune' frees some",
)


@looks_for(FULL)
def disk_full(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether there is room on each file system that is written to."""
    for room in snapshot.once("room", lambda: observe_room(snapshot)):
        outcome = judge_room(room.bytes, room.bytes_share, *_BYTES)
        if outcome is not None:
            yield FULL.found(f"{room.bytes // 1024} KiB are left on {room.path}", outcome=outcome, path=room.path)


INODES = Cause(
    "host-inodes",
    "The file system can't hold any more files, though it may have room: nothing new can be made on it.",
    "du -x --inodes --max-depth=2 {path} | sort -n | tail    # where the files are",
)


@looks_for(INODES)
def inodes(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether each file system can hold more files."""
    for room in snapshot.once("room", lambda: observe_room(snapshot)):
        outcome = judge_room(room.files, room.files_share, *_FILES)
        if outcome is not None:
            yield INODES.found(f"{room.files} more files fit on {room.path}", outcome=outcome, path=room.path)


READ_ONLY = Cause(
    "host-read-only",
    "What can't be written to: below /var the service can't start; below /etc and the prefix no change can be made."
    " After an error on the disk the kernel does this by itself.",
    "mount -o remount,rw {path}    # after a look at: journalctl -k -p err",
)


@looks_for(READ_ONLY)
def read_only(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether a file system that has to be written to is mounted read-only."""
    layout = snapshot.layout
    for path in (layout.etc, layout.state, layout.cache, layout.own_state, layout.prefix):
        real = layout.real(path)
        if real.exists() and os.statvfs(real).f_flag & os.ST_RDONLY:
            outcome = Outcome.FAILED if path in (layout.state, layout.cache) else Outcome.WARNING
            yield READ_ONLY.found(f"{path} is on a read-only file system", outcome=outcome, path=path)
