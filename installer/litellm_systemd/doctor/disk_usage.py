"""What uses the space of a file system: its largest folders and files, measured for a limited time."""

from __future__ import annotations

import contextlib
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

#: Folders that often fill a file system, and the command that frees their space.
CLEANERS: Mapping[str, str] = {
    "/var/log/journal": "sudo journalctl --vacuum-size=200M",
    "/var/cache/apt": "sudo apt-get clean",
    "/var/cache/dnf": "sudo dnf clean all",
    "/var/lib/docker": "sudo docker system prune",
    "/var/lib/containers": "sudo podman system prune",
    "/var/lib/systemd/coredump": "sudo rm /var/lib/systemd/coredump/*",
    "/var/crash": "sudo rm /var/crash/*",
    "/opt/litellm-systemd/releases": "sudo litellmctl releases prune",
}
#: Smaller ones are not worth naming: bytes.
_MIN_SIZE = 2**20


@dataclass(frozen=True, slots=True)
class Consumer:
    """A folder or file and its size in bytes, or more if the time was over."""

    path: Path
    size: int

    def __str__(self) -> str:
        size = self.size / 2**20
        return f"{self.path} {size / 1024:.1f} GiB" if size >= 1024 else f"{self.path} {size:.0f} MiB"


def cleaner_of(consumer: Consumer) -> str:
    """The command that frees the space; empty if none is known, or if the journal is smaller than what that keeps."""
    path = str(consumer.path)
    is_kept = path == "/var/log/journal" and consumer.size <= 200 * 2**20
    return "" if is_kept else CLEANERS.get(path, "")


def find_consumers(top: Path, seconds: float, known: Mapping[str, str] = CLEANERS) -> tuple[Consumer, ...]:
    """The largest folders and files below a folder on its file system, at most three, found in so many seconds."""
    end = time.monotonic() + seconds
    device = top.stat().st_dev
    folders = [Path(each) for each in known]
    candidates = sorted(_candidates(top, device, folders), key=lambda each: each not in folders)
    found = [Consumer(each, _size(each, device, end)) for each in candidates]
    found.sort(key=lambda each: -each.size)
    return tuple(each for each in found[:3] if each.size >= _MIN_SIZE)


def mount_point(path: Path) -> Path:
    """The top folder of the file system of a path."""
    while path.parent != path and path.parent.stat().st_dev == path.stat().st_dev:
        path = path.parent
    return path


def _candidates(folder: Path, device: int, known: list[Path]) -> Iterator[Path]:
    """What is in a folder; of a folder above known ones, what is in it."""
    with contextlib.suppress(OSError):
        for entry in sorted(folder.iterdir()):
            if not _is_on(entry, device):
                continue
            if entry not in known and any(entry in each.parents for each in known):
                yield from _candidates(entry, device, known)
            else:
                yield entry


def _is_on(path: Path, device: int) -> bool:
    """Whether a path is on a device. What cannot be read, such as a network mount without its server, is not."""
    try:
        return path.lstat().st_dev == device and not path.is_symlink()
    except OSError:
        return False


def _size(path: Path, device: int, end: float) -> int:
    """Bytes on the disk of a file, or of all files below a folder on one device; fewer if the time is over."""
    total, waiting = 0, [path]
    while waiting and time.monotonic() < end:
        each = waiting.pop()
        with contextlib.suppress(OSError):
            status = each.lstat()
            if status.st_dev == device:
                total += status.st_blocks * 512
                waiting += each.iterdir() if stat.S_ISDIR(status.st_mode) else ()
    return total
