"""The host: systemd, memory, SELinux and AppArmor, the Python of the active release, the clock, and file systems.

The clock is compared with the installed files and with AWS. File systems need free bytes and inodes, and some have to
be writable.
"""

from __future__ import annotations

import base64
import http.client
import os
import re
import socket
import ssl
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from litellm_systemd.aws.sources import proxies_for
from litellm_systemd.command import run
from litellm_systemd.doctor.check_network import endpoints_of
from litellm_systemd.doctor.check_unit import drop_ins
from litellm_systemd.doctor.disk_usage import cleaner_of, find_consumers, mount_point
from litellm_systemd.doctor.engine import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import REINSTALL, PermissionDenied, Unavailable
from litellm_systemd.host.observe import OLDEST_SYSTEMD, is_booted, memory_field
from litellm_systemd.releases.inventory import current_release, missing_python
from litellm_systemd.report.report import Outcome

#: MiB of memory that should be available.
_MIN_MEMORY = 128
#: MB of a worker that it does not share, and MB of the main process, as docs/profile.md measures them.
_WORKER, _MAIN_PROCESS = 100, 375
#: The share of the memory of a host that is for the service.
_USABLE = 0.75

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
        snapshot.systemctl.system_state(timeout=snapshot.optional_timeout)
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
    state = snapshot.systemctl.system_state(timeout=snapshot.optional_timeout)
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


LOOPBACK = Cause(
    "host-loopback",
    "The loopback interface is down, or has no address: no program of this host connects to 127.0.0.1, where the"
    " service listens.",
    "sudo {command}",
)
#: <net/if.h>
_IFF_UP = 0x1


@detects(LOOPBACK)
def detect_host_loopback(_snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a loopback interface that is not up, or lost its address."""
    flags = Path("/sys/class/net/lo/flags").read_text(encoding="ascii").strip()
    if not int(flags, 16) & _IFF_UP:
        yield LOOPBACK.finding(f"/sys/class/net/lo/flags: {flags}, without IFF_UP", command="ip link set lo up")
        return
    with socket.socket() as local:
        try:
            local.bind(("127.0.0.1", 0))
        except OSError as error:
            evidence = f"no program can listen on 127.0.0.1: {error.strerror}"
            yield LOOPBACK.finding(evidence, command="ip address add 127.0.0.1/8 dev lo")


NO_MEMORY_CONTROLLER = Cause(
    "host-cgroup-memory",
    "A drop-in limits the memory, but the kernel has no memory controller for control groups: systemd accepts the"
    " limit without enforcing it.",
    "Set WORKER_MEMORY_LIMIT=MIB in .env, which the service enforces itself; then: sudo litellmctl install",
    outcome=Outcome.WARNING,
    requires=("host-systemd-absent", "host-systemd-silent"),
)


@detects(NO_MEMORY_CONTROLLER)
def detect_host_cgroup_memory(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a memory limit that is not enforced."""
    missing = _missing_controller(snapshot)
    # Without a drop-in the service's own limit of its workers is enough.
    lines = drop_ins(snapshot)
    for name in ("MemoryMax", "MemoryHigh"):
        where, limit = next((each.where for each in lines if each.name == name), ""), snapshot.service.get(name, "")
        if missing and where and limit != "infinity":
            yield NO_MEMORY_CONTROLLER.finding(f"{where}: {name}={limit}, but {missing}")


def _missing_controller(snapshot: Snapshot) -> str:
    """Why the kernel enforces no memory limit; empty if it does."""
    # A container may see the controllers of its host without being allowed to use them.
    used, is_counted = snapshot.service.get("MemoryCurrent", ""), snapshot.service.get("MemoryAccounting") == "yes"
    if snapshot.is_active and is_counted and not used.isdigit():
        return f"systemd cannot read how much the service uses (MemoryCurrent={used})"
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    has_controller = Path("/sys/fs/cgroup/memory").is_dir() or (
        controllers.exists() and "memory" in controllers.read_text(encoding="ascii").split()
    )
    return "" if has_controller else "/sys/fs/cgroup has no memory controller"


MEMORY = Cause(
    "host-memory",
    "Memory is nearly exhausted: the kernel may kill a worker, and a restart may fail. The main process takes about"
    f" {_MAIN_PROCESS} MB, and each worker about {_WORKER} MB more.",
    "Set NUM_WORKERS=1 in .env, or add memory; then: sudo litellmctl install",
    outcome=Outcome.WARNING,
)


@detects(MEMORY)
def detect_host_memory(_snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a host with little available memory."""
    left = memory_field(Path("/proc/meminfo"), "MemAvailable")
    if left is not None and left < _MIN_MEMORY:
        yield MEMORY.finding(f"MemAvailable: {left} MiB")


FEW = Cause(
    "host-workers",
    "The host has too little memory for its number of workers. The main process takes about"
    f" {_MAIN_PROCESS} MB, and each worker about {_WORKER} MB more. A reload runs new and old workers together, so it"
    " needs memory for twice as many: it may fail, or the kernel may kill workers.",
    "Set a smaller NUM_WORKERS in .env, or add memory; then: sudo litellmctl install",
    outcome=Outcome.WARNING,
)


@detects(FEW)
def detect_host_workers(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect more workers than the memory of the host is enough for."""
    total = memory_field(Path("/proc/meminfo"), "MemTotal")
    workers = len([each for each in snapshot.runtime.get("workers", ()) if each["state"] == "serving"])
    # Twice, for a reload.
    if total is not None and workers and total * _USABLE < _MAIN_PROCESS + 2 * workers * _WORKER:
        yield FEW.finding(f"MemTotal: {total} MiB, {workers} workers")


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


UNMOUNTED = Cause(
    "host-unmounted",
    "A file system of /etc/fstab is not mounted, and files of the service are on it: they seem to be missing.",
    "sudo mount {path} && sudo litellmctl start    # if that fails: sudo blkid; journalctl -b -p err",
    requires=("host-systemd-absent", "host-systemd-silent"),
)


@detects(UNMOUNTED)
def detect_host_unmounted(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a missing file system with files of the service, while the service does not run."""
    layout = snapshot.layout
    path = layout.real("/etc/fstab")
    if snapshot.is_active or not path.exists():
        return
    fstab = path.read_text(encoding="utf-8", errors="replace")
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    folders = (layout.etc, layout.prefix, layout.state, layout.cache, layout.own_state)
    resolved = {folder: os.path.realpath(layout.real(folder)) for folder in folders}
    for number, point, folder in find_unmounted(fstab, mounts, resolved):
        yield UNMOUNTED.finding(f"/etc/fstab:{number}: {point} is not mounted, and {folder} is on it", path=point)


def find_unmounted(fstab: str, mounts: str, folders: Mapping[str, str]) -> Iterator[tuple[int, str, str]]:
    """The mount points of fstab(5) above folders that are not mounted: line, mount point and first folder.

    `mounts`: the text of /proc/self/mountinfo. `folders`: their paths, and where links lead from there.
    """
    mounted = {line.split()[4] for line in mounts.splitlines() if len(line.split()) > 4}
    for number, line in enumerate(fstab.splitlines(), 1):
        fields = line.split()
        if len(fields) < 4 or line.lstrip().startswith("#") or "noauto" in fields[3].split(","):
            continue
        point = fields[1].rstrip("/")
        below = next((each for each, path in folders.items() if Path(path).is_relative_to(point or "/")), "")
        if point and point not in mounted and below:
            yield number, point, below


PYTHON = Cause(
    "host-python-gone",
    "The Python of the active release is missing, usually after a system upgrade, or cannot be executed. A running"
    " service continues but cannot be restarted.",
    "{remedy}",
    requires=("files-release-gone",),
)


@detects(PYTHON)
def detect_host_python_gone(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect an active release whose Python is missing."""
    current = current_release(snapshot.layout)
    missing = None if current is None else missing_python(snapshot.layout, current)
    if missing is not None:
        evidence = f"release {current} needs {missing}, which does not exist or cannot be executed"
        yield PYTHON.finding(evidence, remedy=REINSTALL)
    elif current is not None:
        python = snapshot.layout.real(f"{snapshot.layout.release(current)}/bin/python").resolve()
        # `files-unreadable` reports those above the release.
        folders = set(python.parents) - set(snapshot.layout.real(snapshot.layout.current).parents)
        for path in (*sorted(folders), python):
            mode = path.stat().st_mode
            if not mode & stat.S_IXOTH:
                evidence = f"{path} has mode {stat.S_IMODE(mode):04o}: the user litellm cannot execute {python}"
                yield PYTHON.finding(evidence, remedy=f"sudo chmod a+x {path} && sudo litellmctl start")


#: Seconds for a connection, and for each response on it.
_TIMEOUT = 2.0
#: Seconds: AWS refuses a signature whose time is off by more than five minutes.
_MAX_SKEW = 240

CLOCK = Cause(
    "host-clock",
    "The clock is wrong. AWS rejects requests whose time is off by more than five minutes, and TLS certificates seem"
    " expired or not yet valid.",
    "sudo timedatectl set-ntp true    # or: sudo systemctl restart chronyd",
    requires=("files-not-installed",),
)


@detects(CLOCK)
def detect_host_clock(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a clock that is behind the installed files, or that differs from the clock of AWS."""
    made = snapshot.file(snapshot.layout.service)
    if made is not None:
        ahead = snapshot.layout.real(snapshot.layout.service).lstat().st_mtime - time.time()
        if ahead > _MAX_SKEW:
            yield CLOCK.finding(f"this host's time is {_now()}, {ahead / 60:.0f} minutes before the installation")
            return
    address = next(iter(endpoints_of(snapshot.gateway, snapshot.environment)), None)
    offset = None if address is None else read_offset(address, snapshot.environment)
    if offset is not None and abs(offset) > _MAX_SKEW:
        direction = "behind" if offset > 0 else "ahead of"
        yield CLOCK.finding(f"this host's time is {_now()}, {abs(offset) / 60:.0f} minutes {direction} {address}")


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())


UNSYNCHRONIZED = Cause(
    "host-clock-free",
    "Nothing synchronizes the clock: it drifts until AWS rejects the service's signatures.",
    "sudo timedatectl set-ntp true",
    outcome=Outcome.WARNING,
    requires=("host-systemd-absent", "host-systemd-silent"),
)


@detects(UNSYNCHRONIZED)
def detect_host_clock_free(_snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a clock without synchronization. In a container the host is responsible for it."""
    if run(("systemd-detect-virt", "--quiet", "--container"), check=False, timeout=2).returncode == 0:
        return
    answer = run(("timedatectl", "show", "--property=NTPSynchronized", "--property=NTP"), check=False, timeout=2.5)
    if "NTPSynchronized=no" in answer.stdout.splitlines() and "NTP=no" in answer.stdout.splitlines():
        yield UNSYNCHRONIZED.finding("timedatectl: NTP=no, NTPSynchronized=no")


def read_offset(url: str, environ: Mapping[str, str]) -> float | None:
    """Seconds that the clock of an HTTP server is ahead of ours; None if it does not answer or sends no date.

    `url` begins with `http` or `https`. `environ` names the proxy, as for the service.
    """
    parts = urlsplit(url)
    try:
        connection = _connect(parts, urlsplit(proxies_for(parts.hostname or "", environ).get(parts.scheme, "")))
        try:
            # Unsigned, so AWS rejects it and bills nothing. The response still has a date.
            connection.request("GET", "/")
            date = connection.getresponse().getheader("date")
        finally:
            connection.close()
        return parsedate_to_datetime(date).timestamp() - time.time() if date else None
    except (OSError, http.client.HTTPException, ValueError):
        return None


def _connect(url: SplitResult, proxy: SplitResult) -> http.client.HTTPConnection:
    if url.scheme != "https":
        return http.client.HTTPConnection(url.hostname or "", url.port, timeout=_TIMEOUT)
    # Certificates are not verified, because none seems valid to a wrong clock. Only the date is used.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if not proxy.hostname:
        return http.client.HTTPSConnection(url.hostname or "", url.port, timeout=_TIMEOUT, context=context)
    connection = http.client.HTTPSConnection(proxy.hostname, proxy.port or 80, timeout=_TIMEOUT, context=context)
    connection.set_tunnel(url.hostname or "", url.port or 443, _proxy_headers(proxy))
    return connection


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if not proxy.username:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}


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
    folders = (layout.state, layout.cache, layout.own_state, layout.prefix)
    for wanted in ("/etc", *folders, "/run", "/tmp", "/var/log", "/var/log/journal"):  # noqa: S108
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
    "{remedy}",
)
#: Seconds to find out what uses the space.
_MEASURE = 1.5


@detects(FULL)
def detect_host_disk_full(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect file systems with little free space."""
    for space in snapshot.cached("free space", lambda: observe_free_space(snapshot)):
        outcome = assess_free_space(space.bytes, space.bytes_share, *_BYTES)
        if outcome is not None:
            top = mount_point(Path(space.path))
            consumers = find_consumers(top, _MEASURE)
            largest = f"; the largest: {', '.join(map(str, consumers))}" if consumers else ""
            search = f"sudo du -xh --max-depth=2 {top} | sort -h | tail"
            remedy = "; ".join((*filter(None, map(cleaner_of, consumers)), search))
            evidence = f"{space.path} has {space.bytes // 1024} KiB free{largest}"
            yield FULL.finding(evidence, outcome=outcome, remedy=remedy)


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
            top = mount_point(Path(space.path))
            yield INODES.finding(f"{space.path} has {space.inodes} free inodes", outcome=outcome, path=str(top))


READ_ONLY = Cause(
    "host-read-only",
    "A file system is read-only: below /var the service cannot start, below /etc and the prefix changes fail. The"
    " kernel makes a file system read-only after a disk error.",
    "sudo mount -o remount,rw {path} && sudo litellmctl start    # first check the kernel log: journalctl -k -p err",
)


@detects(READ_ONLY)
def detect_host_read_only(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect read-only file systems that have to be writable."""
    layout, found = snapshot.layout, dict[Path, list[str]]()
    for path in (layout.etc, layout.state, layout.cache, layout.own_state, layout.prefix):
        real = layout.real(path)
        if real.exists() and _is_read_only(real):
            found.setdefault(_top_read_only(real), []).append(path)
    for top, paths in found.items():
        outcome = Outcome.FAILED if {layout.state, layout.cache} & set(paths) else Outcome.WARNING
        others = f" (and {', '.join(paths[1:])})" if paths[1:] else ""
        evidence = f"{paths[0]} is on a read-only file system{others}"
        yield READ_ONLY.finding(evidence, outcome=outcome, path=str(top))


def _is_read_only(path: Path) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def _top_read_only(path: Path) -> Path:
    """The top folder of the read-only mount of a path. A bind mount has the device of what is above it."""
    while path.parent != path and path.parent.stat().st_dev == path.stat().st_dev and _is_read_only(path.parent):
        path = path.parent
    return path
