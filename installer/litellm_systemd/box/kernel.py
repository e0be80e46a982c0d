"""What the kernel says of mounts and control groups."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Mount:
    root: str
    point: str
    kind: str
    options: str


def mounts() -> Iterator[Mount]:
    """The mounts of this process (proc_pid_mountinfo(5)), parents before children."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, _, right = line.partition(" - ")
        words, (kind, _, options) = left.split(" "), right.split(" ", 2)
        yield Mount(words[3], words[4], kind, options)


def cgroup_folders(pid: int) -> tuple[Path, ...]:
    """Where a process stands in the hierarchies that systemd manages: v2, and v1's `name=systemd` if there is one."""
    places: dict[str, str] = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, place = line.split(":", 2)
        places[controllers] = place
    folders: list[Path] = []
    for mount in mounts():
        named = mount.kind == "cgroup" and "name=systemd" in mount.options.split(",")
        key = "name=systemd" if named else "" if mount.kind == "cgroup2" else None
        if key is not None and key in places:
            inside = os.path.relpath(places[key], mount.root)
            folders.append(Path(mount.point) / inside)
    return tuple(dict.fromkeys(folders))


def find_cgroups(name: str) -> list[Path]:
    """The control groups with this name, in any hierarchy. Those of others come and go while it looks."""
    points = [mount.point for mount in mounts() if mount.kind in ("cgroup", "cgroup2")]
    return [Path(path) for point in points for path, _, _ in os.walk(point) if Path(path).name == name]


def remove_cgroup(folder: Path) -> None:
    """Remove a control group and those below it, if they are empty: rmdir is all that cgroupfs has."""
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            Path(path).rmdir()
