"""The host: systemd, memory, SELinux and AppArmor, and the Python of the active release."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from litellm_systemd.doctor.cause import REINSTALL, Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import PermissionDenied, Unavailable
from litellm_systemd.host.observe import OLDEST_SYSTEMD, is_booted, memory_field
from litellm_systemd.releases.inventory import current_release, missing_python
from litellm_systemd.report.report import Outcome

#: MiB of memory that should be available.
_MIN_MEMORY = 128

ABSENT = Cause(
    "host-systemd-absent",
    "systemd is not the init system of this machine, as in most containers: no service can run.",
    "litellmctl run    # runs the gateway in the foreground, without systemd",
)


@detects(ABSENT)
def detect_host_systemd_absent(_snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a machine that systemd did not boot."""
    if not is_booted():
        yield ABSENT.finding("/run/systemd/system does not exist")


SILENT = Cause(
    "host-systemd-silent",
    "systemd does not answer: its bus is down, or it has crashed.",
    "sudo systemctl --force reboot",
    requires=("host-systemd-absent",),
)


@detects(SILENT)
def detect_host_systemd_silent(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a systemd that does not answer."""
    try:
        snapshot.systemctl.system_state(timeout=2.5)
    except Unavailable as error:
        yield SILENT.finding(error.message)


STOPPING = Cause(
    "host-systemd-stopping",
    "The host is shutting down or in rescue mode: services are not started.",
    "sudo systemctl default",
    outcome=Outcome.WARNING,
    requires=("host-systemd-absent", "host-systemd-silent"),
)


@detects(STOPPING)
def detect_host_systemd_stopping(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a host state in which services do not run. They run in state degraded: another unit has failed."""
    state = snapshot.systemctl.system_state(timeout=2.5)
    if state in ("maintenance", "stopping"):
        yield STOPPING.finding(f"systemctl is-system-running: {state}")


OLD = Cause(
    "host-systemd-old",
    f"The sandbox of the service needs systemd {OLDEST_SYSTEMD} or later; older versions ignore parts of it.",
    "Upgrade the operating system.",
    requires=("host-systemd-absent",),
)


@detects(OLD)
def detect_host_systemd_old(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a systemd that is too old for the units."""
    version = snapshot.systemctl.version()
    if version < OLDEST_SYSTEMD:
        yield OLD.finding(f"systemd {version}")


NO_MEMORY_CONTROLLER = Cause(
    "host-cgroup-memory",
    "The kernel has no memory controller for control groups: systemd accepts the memory limit without enforcing it.",
    "Set WORKER_MEMORY_LIMIT=MIB in .env, which the service enforces itself; then: sudo litellmctl install",
    outcome=Outcome.WARNING,
    requires=("host-systemd-absent", "host-systemd-silent"),
)


@detects(NO_MEMORY_CONTROLLER)
def detect_host_cgroup_memory(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a memory limit that is not enforced."""
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    has_controller = Path("/sys/fs/cgroup/memory").is_dir() or (
        controllers.exists() and "memory" in controllers.read_text(encoding="ascii").split()
    )
    for name in ("MemoryMax", "MemoryHigh"):
        value = snapshot.service.get(name, "infinity")
        if value not in ("infinity", "") and not has_controller:
            yield NO_MEMORY_CONTROLLER.finding(f"{name}={value}, but /sys/fs/cgroup has no memory controller")


MEMORY = Cause(
    "host-memory",
    "Memory is nearly exhausted: the kernel may kill a worker, and a restart may fail. A worker needs about 100 MB,"
    " the main process 300 MB.",
    "Set NUM_WORKERS=1 in .env, or add memory; then: sudo litellmctl install",
    outcome=Outcome.WARNING,
)


@detects(MEMORY)
def detect_host_memory(_snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a host with little available memory."""
    left = memory_field(Path("/proc/meminfo"), "MemAvailable")
    if left is not None and left < _MIN_MEMORY:
        yield MEMORY.finding(f"MemAvailable: {left} MiB")


DENIED = Cause(
    "host-denials",
    "SELinux or AppArmor denied the service an operation that it needs, such as running its Python or listening.",
    "sudo restorecon -R {prefix}    # for SELinux, see: sudo ausearch -m AVC; for AppArmor, see: sudo aa-status",
    outcome=Outcome.WARNING,
    requires=("host-systemd-absent",),
)
_DENIAL = re.compile(r"avc: +denied|apparmor=\"DENIED\"")


def find_denials(lines: tuple[str, ...]) -> tuple[str, ...]:
    """The lines of a kernel log that report a denial for the service."""
    return tuple(line for line in lines if _DENIAL.search(line) and "litellm" in line)


@detects(DENIED)
def detect_host_denials(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect denials in the kernel log. One finding has their number and the last one."""
    lines = snapshot.systemctl.kernel_lines(2000)
    if not lines and not snapshot.is_root:
        raise PermissionDenied("only root and the group systemd-journal can read the journal")
    found = find_denials(lines)
    if found:
        evidence = f"denials since boot: {len(found)}; the last one: {found[-1]}"
        yield DENIED.finding(evidence, prefix=snapshot.layout.prefix)


PYTHON = Cause(
    "host-python-gone",
    "The Python of the active release is missing, usually after a system upgrade, or cannot be executed. A running"
    " service continues but cannot be restarted.",
    REINSTALL,
    requires=("files-release-gone",),
)


@detects(PYTHON)
def detect_host_python_gone(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect an active release whose Python is missing."""
    current = current_release(snapshot.layout)
    missing = None if current is None else missing_python(snapshot.layout, current)
    if missing is not None:
        yield PYTHON.finding(f"release {current} needs {missing}, which does not exist")
