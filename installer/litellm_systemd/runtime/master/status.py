"""The status of the main process: as one line of text and as JSON."""

from __future__ import annotations

import os
import socket
import time
from datetime import datetime, timezone
from typing import Any, Protocol

from litellm_systemd.contract import SERVING_HTTPS
from litellm_systemd.env.retired_keys import RetiredKey
from litellm_systemd.env.tls import Tls
from litellm_systemd.env.variables import ALLOW_MOCK_TESTING
from litellm_systemd.runtime.master.control import ReloadResult, Reloads
from litellm_systemd.runtime.master.worker_pool import Generation, Phase, Recycling, WorkerHandle
from litellm_systemd.runtime.options import Options
from litellm_systemd.runtime.systemd.port import render_listener, render_listeners


class GuessCounter(Protocol):
    """What is known of clients that guess keys."""

    def build_guesses(self, now: float) -> list[dict[str, Any]]:
        """The clients that guessed keys within the last hour."""


class BlockCounter(Protocol):
    """What is known of code that blocks workers."""

    def build(self, now: float) -> list[dict[str, Any]]:
        """The code whose last block was within the last hour."""


class ServerStatus(Protocol):
    """What is known of a server that the workers use."""

    cause: str
    since: float
    is_used: bool

    def render(self) -> str:
        """The outage, as in a sentence."""

    def build(self) -> dict[str, Any]:
        """Whether it can be used, why it cannot, and since when."""


class LeaveStatus(Protocol):
    """What is known of a planned drain."""

    delay: float
    until: float

    @property
    def is_planned(self) -> bool:
        """Whether the instance leaves its load balancer."""


class MetricsStatus(Protocol):
    """What is known of the metrics."""

    def build_status(self) -> dict[str, Any]:
        """Where they are served, and when they were last scraped."""


class MasterState(Protocol):
    """The attributes of `Master` that the status is made from."""

    options: Options
    started_at: float
    listeners: tuple[socket.socket, ...]
    current: Generation | None
    candidate: Generation | None
    draining: list[Generation]
    recycling: Recycling
    reloads: Reloads
    restarts: int
    stopping: bool
    serving_since: float

    @property
    def leave(self) -> LeaveStatus:
        """Whether a drain is planned."""

    @property
    def metrics(self) -> MetricsStatus | None:
        """The metrics; None without METRICS."""

    @property
    def refusals(self) -> GuessCounter:
        """What was refused."""

    @property
    def blocks(self) -> BlockCounter:
        """What has blocked workers."""

    @property
    def database(self) -> ServerStatus:
        """Whether the database can be used."""

    @property
    def redis(self) -> ServerStatus:
        """Whether Redis can be used."""

    @property
    def generations(self) -> list[Generation]:
        """All generations that have workers, the newest first."""

    @property
    def workers(self) -> list[WorkerHandle]:
        """All workers."""


def render_status(master: MasterState) -> str:
    """The line that `systemctl status` shows."""
    if master.stopping:
        inflight = _count_inflight(master.workers)
        return f"draining: {render_count(inflight, 'request')} in flight" if inflight else "stopping"
    if master.current is None:
        obstacle = master.candidate.obstacle if master.candidate else ""
        return f"starting {render_count(master.options.workers, 'worker')}{obstacle}"
    if master.leave.is_planned:
        until = time.strftime("%H:%M:%S", time.localtime(master.leave.until))
        requests = render_count(_count_inflight(master.workers), "request")
        return f"leaving: {requests} in flight, the port closes at {until}; /health/readiness answers 503"
    parts = [_render_serving(master, master.current)]
    if master.options.mock_testing and master.options.trial_socket is None:
        parts.append(f"{ALLOW_MOCK_TESTING.name} is on: every client can make models fail")
    for server in filter(lambda each: each.cause, (master.database, master.redis)):
        since = time.strftime("%H:%M:%S", time.localtime(server.since))
        parts.append(f"{server.render()} (since {since})")
    if master.candidate is not None:
        parts.append(f"reloading: starting {render_count(master.options.workers, 'worker')}")
    elif master.reloads.last is not None and master.reloads.last.error:
        parts.append(f"the last reload failed: {master.reloads.last.error}")
    previous = [each for each in master.draining if each.number != master.current.number]
    inflight = _count_inflight([worker for each in previous for worker in each.workers])
    if inflight:
        parts.append(f"{render_count(inflight, 'request')} in flight on the previous configuration")
    for generation in (master.current, master.recycling.replacement):
        if generation is not None and generation.start_error:
            parts.append(f"cannot start a worker: {generation.start_error}")
    if accepted := _accepted_keys(master):
        end = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(max(each.until for each in accepted)))
        parts.append(f"the old master key is accepted until {end}")
    for block in master.blocks.build(time.monotonic())[:1]:
        parts.append(f"{block['where']} has blocked workers {_render_times(block['count'])}")
    return "; ".join(parts)


def build_status(master: MasterState) -> dict[str, Any]:
    """The answer to {"command": "status"}.

    `since`, `at` and `not_after` are Unix times. The other times are in seconds: `age` since the start of a process,
    `answered` since the last health check that a worker passed. `retired_keys` has the Unix time until which each old
    master key is accepted, `leaving_until` the one until which the instance leaves its load balancer, which takes
    `deregistration_delay` seconds. `memory_limit` is that of a worker in MiB. Names of keys and states are published
    and do not change.
    """
    generation = master.current or master.candidate
    configuration = generation.configuration if generation else None
    now = time.monotonic()
    return {
        "ok": True,
        "state": _state(master),
        "status": render_status(master),
        "pid": os.getpid(),
        "age": round(now - master.started_at, 3),
        "mock_testing": master.options.mock_testing,
        "memory_limit": master.options.memory_limit,
        "listen": [render_listener(each) for each in master.listeners],
        "generation": generation.number if generation else None,
        "since": round(master.serving_since, 3) or None,
        "config": str(configuration.path) if configuration else None,
        "config_name": configuration.name if configuration else None,
        "sha256": configuration.digest if configuration else None,
        "models": configuration.models if configuration else None,
        "tls": _build_tls(configuration.tls) if configuration and configuration.tls else None,
        "workers": [_build_worker(worker, each, now) for each in master.generations for worker in each.workers],
        "inflight": _count_inflight(master.workers),
        "deregistration_delay": master.leave.delay,
        "leaving_until": round(master.leave.until, 3) or None,
        "restarts": master.restarts,
        "last_reload": _build_reload(master.reloads.last),
        "guesses": master.refusals.build_guesses(now),
        "blocks": master.blocks.build(now),
        "database": master.database.build() if configuration and configuration.has_database else None,
        "redis": _build_redis(master.redis) if master.redis.is_used else None,
        "metrics": None if master.metrics is None else master.metrics.build_status(),
        "retired_keys": [each.until for each in _accepted_keys(master)],
    }


def _build_redis(redis: ServerStatus) -> dict[str, Any]:
    """`counting`: whether limits, cooldowns and cache are shared with other workers and instances, or local."""
    return {"counting": "local" if redis.cause else "shared", **redis.build()}


def _accepted_keys(master: MasterState) -> list[RetiredKey]:
    return [each for each in master.options.retired_keys if each.until > time.time()]


def _state(master: MasterState) -> str:
    if master.stopping:
        return "stopping"
    if master.current is None:
        return "starting"
    if master.leave.is_planned:
        return "leaving"
    return "serving" if master.candidate is None else "reloading"


def _build_worker(worker: WorkerHandle, generation: Generation, now: float) -> dict[str, Any]:
    return {
        "worker": worker.slot,
        "pid": worker.pid,
        "generation": generation.number,
        "state": worker.phase.value,
        "serving": worker.heartbeat.serving,
        "age": round(now - worker.started_at, 3),
        "answered": round(now - worker.heartbeat_at + worker.heartbeat.unhealthy, 3),
        "inflight": worker.heartbeat.inflight,
        "connections": worker.heartbeat.connections,
        "requests": worker.heartbeat.requests,
        "calls": worker.heartbeat.calls,
        "failed_calls": worker.heartbeat.failed_calls,
    }


def _build_tls(tls: Tls) -> dict[str, Any]:
    certificate = tls.certificate
    return {
        "names": list(certificate.names),
        "not_before": round(certificate.not_before.timestamp()),
        "not_after": round(certificate.not_after.timestamp()),
        "sha256": certificate.sha256,
    }


def _build_reload(result: ReloadResult | None) -> dict[str, Any] | None:
    if result is None:
        return None
    return {
        "ok": not result.error,
        "at": round(result.at, 3),
        "generation": result.generation,
        "seconds": round(result.seconds, 3),
        "error": result.error,
    }


def _render_serving(master: MasterState, generation: Generation) -> str:
    serving, size = generation.count(Phase.SERVING), generation.size
    workers = render_count(size, "worker") if serving == size else f"{serving} of {render_count(size, 'worker')}"
    configuration = generation.configuration
    models = render_count(configuration.models, "model")
    tls = configuration.tls
    what = f"{SERVING_HTTPS} ({tls.certificate.render(datetime.now(timezone.utc))})" if tls else "serving"
    return f"{what} on {render_listeners(master.listeners)} with {models}, {workers}"


def _render_times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _count_inflight(workers: list[WorkerHandle]) -> int:
    return sum(worker.heartbeat.inflight for worker in workers)


def render_count(number: int, noun: str) -> str:
    """A number and its noun, such as "1 request" or "2 requests"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
