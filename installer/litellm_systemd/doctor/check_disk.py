"""File systems: free bytes, free inodes, and whether they are writable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from litellm_systemd.doctor.cause import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.report.report import Outcome

#: Below the first number is a failure, below the second a warning: for bytes, and for inodes.
_BYTES, _INODES = (2**20, 64 * 2**20), (100, 2000)
#: A file system is nearly full only if its free share is at most this as well.
_MAX_FREE_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class FreeSpace:
    """Free bytes and inodes of a file system, and their share of the total; None if it has no limit."""

    path: str
    bytes: int
    bytes_share: float
    inodes: int
    inodes_share: float | None


def observe_free_space(snapshot: Snapshot) -> tuple[FreeSpace, ...]:
    """The writable file systems that the service and litellmctl use, each with the first such path on it."""
    layout = snapshot.layout
    found: dict[int, FreeSpace] = {}
    for wanted in ("/etc", layout.state, layout.cache, layout.own_state, layout.prefix, "/run", "/tmp", "/var/log"):  # noqa: S108
        path = layout.real(wanted)
        while not path.exists():
            path = path.parent
        status = os.statvfs(path)
        if status.f_blocks and not status.f_flag & os.ST_RDONLY:
            space = FreeSpace(
                str(path),
                status.f_bavail * status.f_frsize,
                status.f_bavail / status.f_blocks,
                status.f_favail,
                status.f_favail / status.f_files if status.f_files else None,
            )
            found.setdefault(path.stat().st_dev, space)
    return tuple(found.values())


def assess_free_space(left: int, share: float | None, failure: int, warning: int) -> Outcome | None:
    """FAILED below `failure`, WARNING below `warning`, else None. A small file system is not taken for a full one."""
    if share is None or share > _MAX_FREE_SHARE or left >= warning:
        return None
    return Outcome.FAILED if left < failure else Outcome.WARNING


FULL = Cause(
    "host-disk-full",
    "The file system is full: the service cannot write its state, journald drops lines, and changes fail.",
    "sudo du -xh --max-depth=2 {path} | sort -h | tail    # shows what uses the space; old releases can go:"
    " sudo litellmctl releases prune",
)


@detects(FULL)
def detect_host_disk_full(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect file systems with little free space."""
    for space in snapshot.cached("free space", lambda: observe_free_space(snapshot)):
        outcome = assess_free_space(space.bytes, space.bytes_share, *_BYTES)
        if outcome is not None:
            yield FULL.finding(f"{space.path} has {space.bytes // 1024} KiB free", outcome=outcome, path=space.path)


INODES = Cause(
    "host-inodes",
    "The file system has no free inodes: no file can be created on it, even if bytes are free.",
    "sudo du -x --inodes --max-depth=2 {path} | sort -n | tail    # shows where the files are",
)


@detects(INODES)
def detect_host_inodes(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect file systems with few free inodes."""
    for space in snapshot.cached("free space", lambda: observe_free_space(snapshot)):
        outcome = assess_free_space(space.inodes, space.inodes_share, *_INODES)
        if outcome is not None:
            yield INODES.finding(f"{space.path} has {space.inodes} free inodes", outcome=outcome, path=space.path)


READ_ONLY = Cause(
    "host-read-only",
    "A file system is read-only: below /var the service cannot start, below /etc and the prefix changes fail. The"
    " kernel makes a file system read-only after a disk error.",
    "sudo mount -o remount,rw {path}    # first check the kernel log: journalctl -k -p err",
)


@detects(READ_ONLY)
def detect_host_read_only(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect read-only file systems that have to be writable."""
    layout = snapshot.layout
    for path in (layout.etc, layout.state, layout.cache, layout.own_state, layout.prefix):
        real = layout.real(path)
        if real.exists() and os.statvfs(real).f_flag & os.ST_RDONLY:
            outcome = Outcome.FAILED if path in (layout.state, layout.cache) else Outcome.WARNING
            yield READ_ONLY.finding(f"{path} is on a read-only file system", outcome=outcome, path=path)
