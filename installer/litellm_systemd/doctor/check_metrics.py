"""Metrics: does something listen on METRICS, can the service count, and does Prometheus scrape it?

The gateway serves without its metrics, so that each finding is a warning.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from litellm_systemd import contract
from litellm_systemd.doctor.check_network import own_units
from litellm_systemd.doctor.engine import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot, edit_command
from litellm_systemd.env.metrics import MetricsAddress, parse_metrics
from litellm_systemd.env.settings import find_metrics
from litellm_systemd.env.variables import METRICS, METRICS_KEY
from litellm_systemd.errors import PermissionDenied
from litellm_systemd.host.effective import read_unit_lines
from litellm_systemd.host.observe import port_trouble
from litellm_systemd.host.state import in_words
from litellm_systemd.report.report import Outcome

#: Seconds without a scrape. Prometheus scrapes every minute or more often.
_PAUSE = 900
#: Seconds without a first scrape, while Prometheus is set up.
_SET_UP = 86_400
#: Bytes. A worker needs up to 4 MiB for its counters.
_LEAST_SPACE = 4 * 1024 * 1024

_REQUIRES = ("host-systemd-absent", "host-systemd-silent", "files-not-installed", "environment-unusable")
_FREE = f"sudo du -xah {contract.METRICS_DIRECTORY} /run | sort -h | tail    # remove what fills it"
_RENDER = "sudo litellmctl install --installed    # writes the unit again"

MISMATCH = Cause(
    "metrics-mismatch",
    "The socket unit of the metrics does not listen where METRICS says: METRICS was changed after the installation,"
    " or a drop-in changes the address.",
    "{remedy}",
    outcome=Outcome.WARNING,
    requires=_REQUIRES,
)


@detects(MISMATCH)
def detect_metrics_mismatch(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect METRICS without its socket unit, the socket unit without METRICS, and different addresses."""
    address, unit = find_metrics(snapshot.environment), snapshot.unit(contract.METRICS_SOCKET)
    where = snapshot.dotenv.where(METRICS.name)
    if address is None:
        if unit.is_active:
            yield MISMATCH.finding(f"{contract.METRICS_SOCKET} is active, and METRICS is not set", remedy=_RENDER)
        return
    evidence = f"{where} has METRICS={address.listen}"
    if unit.load != "loaded":
        yield MISMATCH.finding(f"{evidence}, and there is no {contract.METRICS_SOCKET}", remedy=_RENDER)
    elif address.listen not in (listening := _listening(snapshot)):
        found, remedy = snapshot.metrics_socket, _RENDER
        lines = [each for each in read_unit_lines(snapshot.layout, found) if each.name == "ListenStream"]
        if lines and lines[-1].path != found.get("FragmentPath"):
            remedy = f"{edit_command(lines[-1].path)}    # remove ListenStream=, and set METRICS in .env"
        yield MISMATCH.finding(f"{evidence}, {contract.METRICS_SOCKET} has {', '.join(listening)}", remedy=remedy)


TAKEN = Cause(
    "metrics-port-taken",
    "Another program listens on the address of METRICS, so there are no metrics. The gateway serves without them.",
    "Stop that program, then: sudo litellmctl restart    # or set another METRICS in .env, then: sudo litellmctl"
    " install",
    outcome=Outcome.WARNING,
    requires=_REQUIRES,
)


@detects(TAKEN)
def detect_metrics_port_taken(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect another program on the port while the service runs without its metrics."""
    if trouble := _other_listener(snapshot):
        yield TAKEN.finding(trouble)


CLOSED = Cause(
    "metrics-socket-closed",
    "The service is running, but the socket unit of its metrics was stopped or has failed: there are no metrics, or"
    " none after the main process has exited.",
    "sudo litellmctl restart",
    outcome=Outcome.WARNING,
    requires=_REQUIRES,
    skipped_if=("port-closed",),
)


@detects(CLOSED)
def detect_metrics_socket_closed(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a running service whose metrics socket is not active."""
    if find_metrics(snapshot.environment) is not None and _is_closed(snapshot) and not _other_listener(snapshot):
        state = snapshot.unit(contract.METRICS_SOCKET).active
        yield CLOSED.finding(f"{contract.SERVICE} is active but {contract.METRICS_SOCKET} {in_words(state)}")


FOLDER = Cause(
    "metrics-folder",
    "The service cannot count in its folder: it is missing, full, or belongs to another user. Metrics are missing or"
    " stand still; the gateway serves without them.",
    "{remedy}",
    outcome=Outcome.WARNING,
    requires=_REQUIRES,
)


@detects(FOLDER)
def detect_metrics_folder(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a folder of the counters that the service cannot use."""
    if find_metrics(snapshot.environment) is None:
        return
    layout = snapshot.layout
    state, real = snapshot.file(layout.metrics), layout.real(layout.metrics)
    create = f"sudo systemd-tmpfiles --create {layout.tmpfiles} && sudo litellmctl restart"
    if state is None:
        yield FOLDER.finding(f"{layout.metrics} is missing", remedy=create)
        return
    found = real.lstat()
    if not stat.S_ISDIR(found.st_mode):
        yield FOLDER.finding(f"{layout.metrics} is not a folder", remedy=f"sudo rm {layout.metrics} && {create}")
    elif state.owner != contract.SERVICE_USER or not found.st_mode & stat.S_IWUSR:
        evidence = f"{layout.metrics}: mode {state.mode:04o}, owner {state.owner}:{state.group}"
        yield FOLDER.finding(evidence, remedy=create)
    else:
        space = os.statvfs(real)
        if space.f_bavail * space.f_frsize < _LEAST_SPACE or (space.f_files and not space.f_favail):
            free = f"{space.f_bavail * space.f_frsize // 1024} KiB and {space.f_favail} inodes"
            yield FOLDER.finding(f"{layout.metrics} has {free} free", remedy=_FREE)
        elif error := _reported(snapshot).get("error"):
            yield FOLDER.finding(f"the service cannot write to {layout.metrics}: {error}", remedy=_FREE)
        elif foreign := _foreign_folder(snapshot):
            owner = f"{contract.SERVICE_USER}:{contract.SERVICE_USER}"
            yield FOLDER.finding(
                f"{layout.metrics}/{foreign} belongs to another user",
                remedy=f"sudo chown -R {owner} {layout.metrics} && sudo litellmctl restart",
            )


CALLBACK = Cause(
    "metrics-callback",
    "LiteLLM's Prometheus callback is not active in the workers: requests, tokens and cost are not counted.",
    "sudo litellmctl logs --errors    # has the reason; then: sudo litellmctl restart",
    outcome=Outcome.WARNING,
    requires=_REQUIRES,
)


@detects(CALLBACK)
def detect_metrics_callback(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect workers that count nothing of LiteLLM's, although METRICS is set."""
    if find_metrics(snapshot.environment) is not None and _reported(snapshot).get("callback") is False:
        yield CALLBACK.finding("the main process reports that the callback is not active")


KEY = Cause(
    "metrics-key",
    "Other machines can connect to the metrics, and METRICS_KEY is not set: Prometheus has to send the master key"
    " over plain HTTP.",
    "Set METRICS_KEY in .env to the output of 'openssl rand -hex 24', then: sudo litellmctl install",
    outcome=Outcome.WARNING,
    requires=_REQUIRES,
)


@detects(KEY)
def detect_metrics_key(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect metrics that need a key and have none of their own, by METRICS or by the socket unit."""
    if find_metrics(snapshot.environment) is None or snapshot.environment.get(METRICS_KEY.name):
        return
    for listen in _listening(snapshot):
        if (address := _address(listen)) is not None and not address.is_open:
            yield KEY.finding(f"{contract.METRICS_SOCKET} listens on {listen}")
            return


REFUSED = Cause(
    "metrics-refused",
    "Scrapes are refused because they send no key, or a wrong one.",
    "Set authorization.credentials_file of the scrape in prometheus.yml to a file with METRICS_KEY (docs/metrics.md)",
    outcome=Outcome.WARNING,
    requires=_REQUIRES,
)


@detects(REFUSED)
def detect_metrics_refused(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect refused scrapes of the last minutes, after the last one with a right key."""
    if find_metrics(snapshot.environment) is None or not snapshot.is_active:
        return
    scraped, refused = _ages(snapshot)
    if refused is not None and refused < _PAUSE and (scraped is None or refused < scraped):
        yield REFUSED.finding(f"the last scrape was refused {_render(refused)} ago")


IDLE = Cause(
    "metrics-not-scraped",
    "Prometheus does not scrape the metrics any more, or has not since METRICS was set a day ago.",
    "Look at http://PROMETHEUS:9090/targets, and on this host at: curl -s {curl} | head",
    outcome=Outcome.WARNING,
    requires=_REQUIRES,
)


@detects(IDLE)
def detect_metrics_not_scraped(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect that the scrapes have stopped, or that there has been none for a day."""
    address = find_metrics(snapshot.environment)
    if address is None or not snapshot.is_active or not snapshot.unit(contract.METRICS_SOCKET).is_active:
        return
    scraped, refused = _ages(snapshot)
    if refused is not None and refused < _PAUSE:
        return
    opened = _open_for(snapshot)
    # After a start, the scraper gets the same time.
    if scraped is not None and min(scraped, opened) > _PAUSE:
        yield IDLE.finding(f"the last scrape was {_render(scraped)} ago", curl=_curl(address))
    elif scraped is None and opened > _SET_UP:
        evidence = f"no scrape since {contract.METRICS_SOCKET} opened {_render(opened)} ago"
        yield IDLE.finding(evidence, curl=_curl(address))


def _foreign_folder(snapshot: Snapshot) -> str:
    """The name of a folder with counts that the service cannot enter, as after `chown -R`; empty if there is none."""
    root = snapshot.layout.real(snapshot.layout.metrics)
    owner = root.lstat().st_uid
    for each in sorted(root.iterdir()) if snapshot.is_root else ():
        with contextlib.suppress(FileNotFoundError):  # of a process that has exited
            found = each.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid != owner:
                return each.name
    return ""


def _reported(snapshot: Snapshot) -> Mapping[str, Any]:
    """What the main process reports of its metrics; empty if it has none or does not answer."""
    return snapshot.runtime.get("metrics") or {}


def _other_listener(snapshot: Snapshot) -> str:
    """The process that listens on the port of METRICS in place of the service, as `port_trouble`; empty if none."""
    address = find_metrics(snapshot.environment)
    if address is None or not _is_closed(snapshot):
        return ""
    trouble: str = snapshot.cached("metrics listener", partial(port_trouble, address.listen, is_metrics=True))
    return "" if own_units(trouble) else trouble


def _is_closed(snapshot: Snapshot) -> bool:
    """Whether the service runs without the socket unit of its metrics."""
    unit = snapshot.unit(contract.METRICS_SOCKET)
    return snapshot.is_active and unit.load == "loaded" and not unit.is_active


def _listening(snapshot: Snapshot) -> tuple[str, ...]:
    """The addresses of the socket unit, as in its property Listen: `127.0.0.1:9400 (Stream)`."""
    return tuple(re.findall(r"^(\S.*) \(Stream\)$", snapshot.metrics_socket.get("Listen", ""), re.MULTILINE))


def _address(listen: str) -> MetricsAddress | None:
    try:
        return parse_metrics(listen)
    except ValueError:
        return None


def _ages(snapshot: Snapshot) -> tuple[float | None, float | None]:
    """Seconds since the last scrape and since the last refused one, None if there was none."""
    if not snapshot.is_root:
        raise PermissionDenied(f"only root can read {contract.METRICS_DIRECTORY}")
    folder = snapshot.layout.real(contract.METRICS_DIRECTORY)
    return _age(folder / contract.METRICS_SCRAPED), _age(folder / contract.METRICS_REFUSED)


def _age(path: Path) -> float | None:
    # The service owns the folder, so no link is followed.
    try:
        return max(0.0, time.time() - path.lstat().st_mtime)
    except OSError:
        return None


def _open_for(snapshot: Snapshot) -> float:
    """Seconds since the socket unit became active."""
    entered = int(snapshot.metrics_socket.get("ActiveEnterTimestampMonotonic") or 0)
    return time.clock_gettime(time.CLOCK_MONOTONIC) - entered / 1e6


def _curl(address: MetricsAddress) -> str:
    if address.path:
        return f"--unix-socket {address.path} http://metrics/metrics"
    key = "" if address.is_open else "-H 'Authorization: Bearer KEY' "
    return f"{key}http://{address.listen}/metrics"


def _render(seconds: float) -> str:
    minutes = int(seconds // 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
