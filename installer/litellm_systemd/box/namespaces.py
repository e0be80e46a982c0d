"""The ground that boxes stand on: namespaces, a tmpfs and control groups that end with this process.

Everything a `Namespaces` makes lives in a mount namespace and a PID namespace of its own
(mount_namespaces(7), pid_namespaces(7)) whose first process does nothing but wait for the end of the pipe that
this Python process holds. When that ends, however it ends, SIGKILL included, the kernel kills every process of
every box and drops every mount. A shell outside then removes the empty control groups. The host's own files
are never written, but for a lock file in `STATE`.

Needs root, util-linux and a kernel of this decade; Python >= 3.10, the standard library only.
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
from types import TracebackType
from typing import IO

from litellm_systemd.box.processes import CLEAN_ENVIRONMENT, BoxError, children


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


#: The only folder of the host that is written to: a lock file for each namespaces that is open.
STATE = Path("/run/litellm-boxes")
#: Where boxes and layers are, seen from inside the namespaces' mount namespace, where /run is a fresh tmpfs.
STORE = Path("/run/boxes")
#: How the control groups of one are called, so that they can be found again.
CGROUP_PREFIX = "litellm-boxes-"

# First process of the PID namespace. /run is covered so that neither systemd-nspawn's locks nor a systemd
# of the host are within reach. Mounts of the host come in (slave), none goes out.
_YARD_INIT = """
set -eu
mount -t tmpfs -o mode=0755,size=80%,nr_inodes=4m boxes /run
mkdir -m 0700 /run/boxes
echo ready
exec cat >/dev/null
"""

# Outlives the namespaces and this Python process, to remove what no kernel removes for us.
_YARD_KEEPER = """
unshare --mount --propagation slave --pid --fork --kill-child --mount-proc -- sh -c "$1"
find /sys/fs/cgroup -depth -type d -path "*/$2*" -exec rmdir {} \\; 2>/dev/null
rm -f "$3"
"""


class Namespaces:
    """Where boxes stand: namespaces, a tmpfs and control groups that end when this process does.

    Any number of them, of any number of processes, can be open at the same time.
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> None:
        """Remove what dead processes left, then make the namespaces, the tmpfs and the control groups."""
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
        """End every process and mount of every box, and return when nothing of them is left."""
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.close()
            self._keeper.wait(timeout=60)
            self._keeper = None
        if self._lock is not None:
            Path(self._lock.name).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def new_name(self, kind: str) -> str:
        """A name that nothing in this namespaces has yet."""
        return f"{kind}-{next(self._numbers)}"

    def argv(self, *argv: str) -> tuple[str, ...]:
        """`argv`, run in the namespaces: the host's files, and those in `STORE`."""
        if not self._init:
            raise BoxError("the namespaces aren't open")
        return ("nsenter", "--target", str(self._init), "--mount", "--pid", "--", *argv)

    def call(self, *argv: str, stdin: str = "") -> str:
        """Run a short command in the namespaces. Returns its output, raises BoxError if it fails."""
        done = subprocess.run(
            self.argv(*argv), input=stdin, text=True, capture_output=True, env=dict(CLEAN_ENVIRONMENT), check=False
        )
        if done.returncode != 0:
            raise BoxError(f"{' '.join(argv)}: exit code {done.returncode}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def _start_keeper(self) -> None:
        argv = ["sh", "-c", _YARD_KEEPER, "keeper", _YARD_INIT, self.name, str(STATE / f"{self.name}.lock")]
        if Path("/run/systemd/system").is_dir():
            # Where systemd runs, the control groups are its own: it has to hand us some (Delegate=).
            argv = ["systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes", *argv]
        # A session of its own: Ctrl-C at the terminal must reach this process and leave the cleaning alone.
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
        raise BoxError("can't make namespaces and a tmpfs: " + "".join(lines).strip())


def _take_lock(name: str) -> IO[str]:
    """A locked file that marks the namespaces as in use. Those whose process is gone are cleared away first."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    with (STATE / "lock").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        for leftover in STATE.glob(f"{CGROUP_PREFIX}*.lock"):
            _clear_away(leftover)
        lock = (STATE / f"{name}.lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        return lock


def _clear_away(lock: Path) -> None:
    """Remove what a killed keeper left. The kernel has long ended the processes and mounts."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError), lock.open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for folder in find_cgroups(lock.stem):
            remove_cgroup(folder)
        # What is still dying keeps its group busy, and the lock is how the next namespaces finds it.
        if not find_cgroups(lock.stem):
            lock.unlink()
