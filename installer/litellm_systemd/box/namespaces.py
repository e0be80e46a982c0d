"""The namespaces, tmpfs and control groups that boxes run in. They are removed when this process exits.

A `Namespaces` has its own mount namespace and PID namespace (mount_namespaces(7), pid_namespaces(7)). The first
process in them waits for the end of a pipe that this Python process holds. When this process exits, even by SIGKILL,
the kernel kills every process of every box and removes every mount. A shell outside then removes the empty control
groups. The only file that is written on the host is a lock file in `STATE`.

It needs root, util-linux and a Linux kernel since 2020, and only the standard library of Python 3.10 or later.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from litellm_systemd.box.processes import CLEAN_ENVIRONMENT, BoxError, children


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of mountinfo."""

    root: str
    point: str
    kind: str
    options: str


def mounts() -> Iterator[Mount]:
    """The mounts of this process, parents before children (proc_pid_mountinfo(5))."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(" "), right.split(" ", 2)
        yield Mount(fields[3], fields[4], kind, options)


def cgroup_folders(pid: int) -> tuple[Path, ...]:
    """The control groups of a process in the hierarchies that systemd manages: v2, and v1's `name=systemd`."""
    groups: dict[str, str] = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, group = line.split(":", 2)
        groups[controllers] = group
    folders: list[Path] = []
    for mount in mounts():
        is_systemd_v1 = mount.kind == "cgroup" and "name=systemd" in mount.options.split(",")
        key = "name=systemd" if is_systemd_v1 else "" if mount.kind == "cgroup2" else None
        if key is not None and key in groups:
            relative = os.path.relpath(groups[key], mount.root)
            folders.append(Path(mount.point) / relative)
    return tuple(dict.fromkeys(folders))


def find_cgroups(name: str) -> list[Path]:
    """The control groups with this name in any hierarchy. Other groups may appear and disappear meanwhile."""
    points = [mount.point for mount in mounts() if mount.kind in ("cgroup", "cgroup2")]
    return [Path(path) for point in points for path, _, _ in os.walk(point) if Path(path).name == name]


def remove_cgroup(folder: Path) -> None:
    """Remove a control group and the groups below it, if they are empty. cgroupfs supports only rmdir."""
    for path, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            Path(path).rmdir()


#: The folder of the lock files, one for each open `Namespaces`. It is the only folder of the host that is written to.
STATE = Path("/run/litellm-boxes")
#: The folder of boxes and layers inside the mount namespace, where /run is a new tmpfs.
STORE = Path("/run/boxes")
#: The prefix of the names of control groups, by which leftovers are found.
CGROUP_PREFIX = "litellm-boxes-"

# The first process of the PID namespace. A new /run hides the locks of systemd-nspawn and the systemd of the host.
# Mounts propagate from the host but not to the host (slave).
_INIT_SCRIPT = """
set -eu
mount -t tmpfs -o mode=0755,size=80%,nr_inodes=4m boxes /run
mkdir -m 0700 /run/boxes
echo ready
exec cat >/dev/null
"""

# Runs until the namespaces and this Python process have ended, and removes what the kernel does not remove.
_KEEPER_SCRIPT = """
unshare --mount --propagation slave --pid --fork --kill-child --mount-proc -- sh -c "$1"
find /sys/fs/cgroup -depth -type d -path "*/$2*" -exec rmdir {} \\; 2>/dev/null
rm -f "$3"
"""


class Namespaces:
    """Namespaces, a tmpfs and control groups for boxes. The kernel removes them when this process exits.

    Any number of processes can have any number of them open at the same time.
    """

    def __init__(self) -> None:
        self.name = CGROUP_PREFIX + uuid.uuid4().hex[:12]
        self.cgroups: tuple[Path, ...] = ()
        self._numbers = itertools.count(1)
        self._lock: IO[str] | None = None
        self._keeper: subprocess.Popen[str] | None = None
        self._init = 0

    def __enter__(self) -> Namespaces:
        self.open()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def open(self) -> None:
        """Remove leftovers of processes that were killed, then create namespaces, tmpfs and control groups."""
        try:
            self._lock = _take_lock(self.name)
            self._start_keeper()
            self.cgroups = tuple(folder / self.name for folder in cgroup_folders(self._init))
            if not self.cgroups:
                raise BoxError("no cgroup file system is mounted below /sys/fs/cgroup")
            for folder in self.cgroups:
                folder.mkdir()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove all boxes with their processes and mounts. Returns when they are removed."""
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.close()
            self._keeper.wait(timeout=60)
            self._keeper = None
        if self._lock is not None:
            Path(self._lock.name).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def new_name(self, kind: str) -> str:
        """A name that is unique in these namespaces."""
        return f"{kind}-{next(self._numbers)}"

    def argv(self, *argv: str) -> tuple[str, ...]:
        """The command that runs `argv` in the namespaces, with the files of the host and those in `STORE`."""
        if not self._init:
            raise BoxError("the namespaces are not open")
        return ("nsenter", "--target", str(self._init), "--mount", "--pid", "--", *argv)

    def call(self, *argv: str, stdin: str = "") -> str:
        """Run a short command in the namespaces. Returns its output. Raises BoxError if it fails."""
        done = subprocess.run(
            self.argv(*argv), input=stdin, text=True, capture_output=True, env=dict(CLEAN_ENVIRONMENT), check=False
        )
        if done.returncode != 0:
            raise BoxError(f"{' '.join(argv)}: exit code {done.returncode}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _start_keeper(self) -> None:
        argv = ["sh", "-c", _KEEPER_SCRIPT, "keeper", _INIT_SCRIPT, self.name, str(STATE / f"{self.name}.lock")]
        if Path("/run/systemd/system").is_dir():
            # systemd manages the control groups of this machine and has to delegate one (Delegate=).
            argv = ["systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes", *argv]
        # A new session, so that Ctrl-C on the terminal does not stop the cleanup.
        self._keeper = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True, cwd="/", env=dict(CLEAN_ENVIRONMENT),
        )  # fmt: skip
        lines: list[str] = []
        for line in self._keeper.stdout or ():
            if line == "ready\n":
                unshare = children(self._keeper.pid)[0]
                self._init = children(unshare)[0]
                return
            lines.append(line)
        raise BoxError("cannot create namespaces and a tmpfs: " + "".join(lines).strip())


def _take_lock(name: str) -> IO[str]:
    """Create and lock the file that marks the namespaces as in use, after removing leftovers of other processes."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / "lock").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        for leftover in STATE.glob(f"{CGROUP_PREFIX}*.lock"):
            _remove_leftovers(leftover)
        lock = (STATE / f"{name}.lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        return lock


def _remove_leftovers(lock: Path) -> None:
    """Remove the control groups of a keeper that was killed. The kernel has removed the processes and mounts."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError), lock.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for folder in find_cgroups(lock.stem):
            remove_cgroup(folder)
        # A process that is still exiting keeps its group. Then the lock file stays, so that a later open() retries.
        if not find_cgroups(lock.stem):
            lock.unlink()
