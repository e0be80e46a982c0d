"""The host: systemd, memory, access control, and the Python of the release."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from litellm_systemd.doctor.cause import REINSTALL, Cause, Finding, looks_for
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import PermissionDenied, Unavailable
from litellm_systemd.host.observe import OLDEST_SYSTEMD, is_booted, memory_field
from litellm_systemd.releases.inventory import current_release, missing_python
from litellm_systemd.report.report import Outcome

#: MiB of memory that must be left.
_LITTLE_MEMORY = 128

ABSENT = Cause(
    "host-systemd-absent",
    "systemd isn't the init of this machine, as in most containers: there can be no service.",
    "litellmctl run    # serves in the foreground, without systemd",
)


@looks_for(ABSENT)
def systemd_absent(_scene: Snapshot) -> Iterator[Finding]:
    """Whether there is a systemd to talk to."""
    if not is_booted():
        yield ABSENT.found("there is no /run/systemd/system")


SILENT = Cause(
    "host-systemd-silent",
    "systemd gives no answer: its bus is down, or it has crashed.",
    "systemctl --force reboot",
    needs=("host-systemd-absent",),
)


@looks_for(SILENT)
def systemd_silent(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether systemd answers."""
    try:
        snapshot.systemctl.system_state(timeout=2.5)
    except Unavailable as error:
        yield SILENT.found(error.message)


STOPPING = Cause(
    "host-systemd-stopping",
    "The host is shutting down, or is in its rescue mode: services aren't started.",
    "systemctl default",
    outcome=Outcome.WARNING,
    needs=("host-systemd-absent", "host-systemd-silent"),
)


@looks_for(STOPPING)
def systemd_stopping(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the host is in a state in which services run. Degraded is one: some other unit has failed."""
    state = snapshot.systemctl.system_state(timeout=2.5)
    if state in ("maintenance", "stopping"):
        yield STOPPING.found(f"systemctl is-system-running: {state}")


OLD = Cause(
    "host-systemd-old",
    f"The sandbox of the service needs systemd {OLDEST_SYSTEMD} or later; an older one ignores parts of it.",
    "a newer release of the operating system",
    needs=("host-systemd-absent",),
)


@looks_for(OLD)
def systemd_old(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether systemd knows what the units ask of it."""
    version = snapshot.systemctl.version()
    if version < OLDEST_SYSTEMD:
        yield OLD.found(f"systemd {version}")


NO_MEMORY_CONTROLLER = Cause(
    "host-cgroup-memory",
    "The kernel has no memory controller for this system's control groups: the limit is accepted and not enforced.",
    "WORKER_MEMORY_LIMIT=MIB in .env, then: sudo litellmctl install    # the service keeps that limit by itself",
    outcome=Outcome.WARNING,
    needs=("host-systemd-absent", "host-systemd-silent"),
)


@looks_for(NO_MEMORY_CONTROLLER)
def cgroup_memory(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether a limit of memory that somebody set is kept."""
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    has_one = Path("/sys/fs/cgroup/memory").is_dir() or (
        controllers.exists() and "memory" in controllers.read_text(encoding="ascii").split()
    )
    for name in ("MemoryMax", "MemoryHigh"):
        value = snapshot.service.get(name, "infinity")
        if value not in ("infinity", "") and not has_one:
            yield NO_MEMORY_CONTROLLER.found(f"{name}={value}, and no memory controller in /sys/fs/cgroup")


MEMORY = Cause(
    "host-memory",
    "Memory is nearly used up: the kernel may kill a worker, and a restart may not come up. A worker takes about 100"
    " MB of its own, the main process 300 MB.",
    "NUM_WORKERS=1 in .env, then: sudo litellmctl install    # or more memory",
    outcome=Outcome.WARNING,
)


@looks_for(MEMORY)
def memory(_scene: Snapshot) -> Iterator[Finding]:
    """Whether there is memory left."""
    left = memory_field(Path("/proc/meminfo"), "MemAvailable")
    if left is not None and left < _LITTLE_MEMORY:
        yield MEMORY.found(f"MemAvailable: {left} MiB")


DENIED = Cause(
    "host-denials",
    "SELinux or AppArmor has forbidden the service something that it needs, such as to run its Python or to listen.",
    "restorecon -R {prefix}    # SELinux; what is denied: ausearch -m AVC | audit2why. AppArmor: aa-status",
    outcome=Outcome.WARNING,
    needs=("host-systemd-absent",),
)
_DENIAL = re.compile(r"avc: +denied|apparmor=\"DENIED\"")
_OURS = re.compile(r"litellm")


def denials(lines: tuple[str, ...]) -> tuple[str, ...]:
    """The lines of a kernel log that tell of something that was denied to us."""
    return tuple(line for line in lines if _DENIAL.search(line) and _OURS.search(line))


@looks_for(DENIED)
def denied(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the kernel log tells of a denial, and of how many; the last one stands for all."""
    lines = snapshot.systemctl.kernel_lines(2000)
    if not lines and not snapshot.is_root:
        raise PermissionDenied("only root and the group systemd-journal may read the journal")
    found = denials(lines)
    if found:
        yield DENIED.found(f"{len(found)} times since boot, the last one: {found[-1]}", prefix=snapshot.layout.prefix)


PYTHON = Cause(
    "host-python-gone",
    "The Python that the release in use was made with is gone, usually by an upgrade of the system, or can't be run."
    " A service that runs goes on until it restarts, and doesn't come back then.",
    REINSTALL,
    needs=("files-release-gone",),
)


@looks_for(PYTHON)
def python_gone(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the release in use has a Python."""
    current = current_release(snapshot.layout)
    missing = None if current is None else missing_python(snapshot.layout, current)
    if missing is not None:
        yield PYTHON.found(f"{missing} isn't there, and release {current} needs it")
