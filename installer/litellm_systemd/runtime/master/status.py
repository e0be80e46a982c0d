"""The master's state in words and as JSON."""

from __future__ import annotations

import os
import socket
import time
from typing import Any, Protocol

from litellm_systemd.env.variables import ALLOW_MOCK_TESTING
from litellm_systemd.errors import InstallerError
from litellm_systemd.runtime.master.generation import Generation
from litellm_systemd.runtime.master.recycling import Recycling
from litellm_systemd.runtime.master.reloads import ReloadResult, Reloads
from litellm_systemd.runtime.master.worker_handle import Phase, WorkerHandle
from litellm_systemd.runtime.options import Options
from litellm_systemd.runtime.systemd.listeners import render_listener, render_listeners


class MasterState(Protocol):
    """What the status is made from: the attributes of `Master` that it reads."""

    options: Options
    born: float
    listeners: tuple[socket.socket, ...]
    current: Generation | None
    coming: Generation | None
    retiring: list[Generation]
    recycling: Recycling
    reloads: Reloads
    restarts: int
    stopping: bool
    live_since: float

    @property
    def generations(self) -> list[Generation]:
        """All that have workers, the newest first."""

    @property
    def processes(self) -> list[WorkerHandle]:
        """All workers."""


def render_status(master: MasterState) -> str:
    """One line for `systemctl status`."""
    if master.stopping:
        left = _inflight(master.processes)
        return f"draining: {_count(left, 'request')} left" if left else "stopping"
    if master.current is None:
        return f"starting {_count(master.options.workers, 'worker')}"
    parts = [_serving(master, master.current)]
    if master.options.mock_testing and master.options.trial_socket is None:
        parts.append(f"{ALLOW_MOCK_TESTING.name} is on: every client can make models fail")
    if master.coming is not None:
        parts.append(f"reloading: starting {_count(master.options.workers, 'worker')}")
    elif master.reloads.last is not None and master.reloads.last.error:
        parts.append(f"the last reload failed: {master.reloads.last.error}")
    former = [each for each in master.retiring if each.number != master.current.number]
    left = _inflight([process for each in former for process in each.processes])
    if left:
        parts.append(f"{_count(left, 'request')} left on the configuration before")
    for generation in (master.current, master.recycling.spare):
        if generation is not None and generation.trouble:
            parts.append(f"a worker can't start: {generation.trouble}")
    return "; ".join(parts)


def render_error(error: InstallerError) -> str:
    """An error and its remedy in one line."""
    return f"{error.message}. {error.hint}" if error.hint else error.message


def build_status(master: MasterState) -> dict[str, Any]:
    """The answer to {"command": "status"}. Times are Unix time, ages seconds."""
    generation = master.current or master.coming
    configuration = generation.configuration if generation else None
    now = time.monotonic()
    return {
        "ok": True,
        "state": _state(master),
        "status": render_status(master),
        "pid": os.getpid(),
        "age": round(now - master.born, 3),
        "mock_testing": master.options.mock_testing,
        "listen": [render_listener(each) for each in master.listeners],
        "generation": generation.number if generation else None,
        "since": round(master.live_since, 3) or None,
        "config": str(configuration.path) if configuration else None,
        "config_name": configuration.name if configuration else None,
        "sha256": configuration.digest if configuration else None,
        "models": configuration.models if configuration else None,
        "workers": [_worker(process, each, now) for each in master.generations for process in each.processes],
        "restarts": master.restarts,
        "last_reload": _reload(master.reloads.last),
    }


def _state(master: MasterState) -> str:
    if master.stopping:
        return "stopping"
    if master.current is None:
        return "starting"
    return "serving" if master.coming is None else "reloading"


def _worker(process: WorkerHandle, generation: Generation, now: float) -> dict[str, Any]:
    return {
        "worker": process.slot,
        "pid": process.pid,
        "generation": generation.number,
        "state": process.phase.value,
        "serving": process.beat.serving,
        "age": round(now - process.born, 3),
        "answered": round(now - process.beat_at, 3),
        "inflight": process.beat.inflight,
        "connections": process.beat.connections,
        "requests": process.beat.requests,
    }


def _reload(outcome: ReloadResult | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    return {
        "ok": not outcome.error,
        "at": round(outcome.at, 3),
        "generation": outcome.generation,
        "seconds": round(outcome.seconds, 3),
        "error": outcome.error,
    }


def _serving(master: MasterState, generation: Generation) -> str:
    serving, size = generation.count(Phase.SERVING), generation.size
    workers = _count(size, "worker") if serving == size else f"{serving} of {_count(size, 'worker')}"
    models = _count(generation.configuration.models, "model")
    return f"serving on {render_listeners(master.listeners)} with {models}, {workers}"


def _inflight(processes: list[WorkerHandle]) -> int:
    return sum(process.beat.inflight for process in processes)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
