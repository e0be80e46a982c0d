"""The gauges of the main process for /metrics, from what it knows anyway."""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from litellm_systemd.contract import VERIFY_RESULT
from litellm_systemd.env.credentials_expiry import find_end
from litellm_systemd.runtime.master.status import MasterState
from litellm_systemd.runtime.master.worker_pool import Phase, WorkerHandle
from litellm_systemd.runtime.metrics import families
from litellm_systemd.runtime.metrics.store import Gauge

#: The position of tcpi_unacked in struct tcp_info (linux/tcp.h): of a listening socket, the length of its queue.
_UNACKED = 24
_STATES = {Phase.STARTING: "starting", Phase.READY: "starting", Phase.SERVING: "ready", Phase.DRAINING: "draining"}


def build_constants(environ: Mapping[str, str], started_at: float) -> list[Gauge]:
    """The gauges that do not change while the main process runs.

    Args:
        environ: that of the service, with its secrets.
        started_at: when the main process started, on the monotonic clock.
    """
    labels = {
        "version": version("litellm-systemd"),
        "litellm_version": version("litellm"),
        "release": Path(sys.prefix).resolve().name,
    }
    start = time.time() - (time.monotonic() - started_at)
    found: list[Gauge] = [(families.BUILD_INFO.name, labels, 1.0), (families.START_TIME.name, {}, start)]
    if (end := find_end(environ)) is not None:
        found.append((families.CREDENTIALS_EXPIRY.name, {}, end.timestamp()))
    return found


def build_gauges(master: MasterState, now: float) -> list[Gauge]:
    """All others but memory. `now` is of the monotonic clock."""
    workers = master.workers
    beats = [worker.heartbeat for worker in workers]
    states = Counter(_state(worker, now, master.options.hang_limit) for worker in workers)
    found: list[Gauge] = [
        (families.WORKERS.name, {"state": each}, states[each]) for each in families.WORKERS.labels["state"]
    ]
    current = master.current
    last = master.reloads.last
    values: dict[families.Family, float | None] = {
        families.READY: float(any(beat.serving for beat in beats)),
        families.GENERATION: current.number if current else None,
        families.LAST_RELOAD: float(last is None or not last.error),
        families.IN_FLIGHT: sum(beat.inflight for beat in beats),
        families.CONNECTIONS: sum(beat.connections for beat in beats),
        families.BACKLOG: sum(map(_backlog, master.listeners)),
        families.REDIS_USABLE: float(not master.redis.cause) if master.redis.is_used else None,
        families.EVENT_LOOP_LAG: max((worker.lag for worker in workers), default=0.0),
    }
    if current is not None and current.configuration.tls is not None:
        values[families.CERTIFICATE_EXPIRY] = current.configuration.tls.certificate.not_after.timestamp()
    values |= _read_verify()
    found += [(family.name, {}, float(value)) for family, value in values.items() if value is not None]
    for model, day in (current.configuration.ends if current else {}).items():
        moment = datetime(day.year, day.month, day.day, tzinfo=timezone.utc)
        found.append((families.MODEL_END_OF_LIFE.name, {"model": model}, moment.timestamp()))
    return found


def _read_verify() -> dict[families.Family, float | None]:
    try:
        found = json.loads(Path(VERIFY_RESULT).read_bytes())
        return {families.LAST_VERIFY: float(found["at"]), families.LAST_VERIFY_SUCCESSFUL: float(found["ok"])}
    except (OSError, ValueError, TypeError, KeyError):
        return {}  # none has run since the system was started


def list_processes(workers: list[WorkerHandle]) -> dict[str, tuple[int, ...]]:
    """The processes whose memory counts, by role."""
    pids = tuple(worker.pid for worker in workers)
    # A worker starts no other process.
    engines = tuple(engine for pid in pids for engine in list_children(pid))
    return {"main": (os.getpid(),), "workers": pids, **({"engines": engines} if engines else {})}


def list_children(pid: int) -> tuple[int, ...]:
    """What the main thread of a process has started (proc_pid_tid_children(5)); nothing if it has exited."""
    try:
        return tuple(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()))
    except OSError:
        return ()


def _state(worker: WorkerHandle, now: float, hang_limit: float) -> str:
    if worker.phase is not Phase.STARTING and now - worker.progress_at > hang_limit / 2:
        return "hung"
    return _STATES[worker.phase]


def _backlog(listener: socket.socket) -> int:
    """Connections that wait in the queue of a listening socket; 0 for a UNIX socket, which does not tell."""
    try:
        found = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED + 4)
    except OSError:
        return 0
    (count,) = struct.unpack_from("I", found, _UNACKED)
    return int(count)
