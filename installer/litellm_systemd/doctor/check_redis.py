"""The Redis of LiteLLM: can the service use it, and does it keep what is counted?

Without Redis nothing is checked, and its client library is not loaded. No finding stops the gateway: without Redis
each worker counts on its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

from litellm_systemd import contract
from litellm_systemd.database.redis import RedisHealth, observe_redis
from litellm_systemd.doctor.engine import Cause, DoctorCheck, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot, edit_command
from litellm_systemd.env.redis import Redis
from litellm_systemd.gateway.redis_settings import find_used_redis
from litellm_systemd.host.observe import is_booted
from litellm_systemd.host.state import in_words
from litellm_systemd.host.stored_secrets import with_stored_redis_secrets
from litellm_systemd.report.report import Outcome, render_count

#: Seconds for a check: for a connection, one to see whether TLS is expected, and some commands.
_TIMEOUT = 16.0
#: Parts of the memory and of the connections in use, from which that is reported.
_NEARLY_FULL = 0.9
#: Seconds in which the workers connect again after an outage, with a margin.
_RECONNECTS = 30

_REQUIRES = ("files-not-installed", "environment-unusable", "environment-secrets", "configuration-unusable")
_ALONE = "Each worker counts limits and cooldowns on its own until this is fixed."


def _used(snapshot: Snapshot) -> tuple[Redis, str] | None:
    """The Redis of the service, and the variable or key that names it; None without one."""
    return snapshot.cached("redis", partial(_find_used, snapshot))  # type: ignore[no-any-return]


def _find_used(snapshot: Snapshot) -> tuple[Redis, str] | None:
    values = with_stored_redis_secrets(snapshot.environment, snapshot.gateway, timeout=snapshot.optional_timeout)
    return find_used_redis(snapshot.gateway, values)


def _health(snapshot: Snapshot) -> RedisHealth | None:
    """The state of Redis; None without one."""
    return snapshot.cached("redis health", partial(_observe, snapshot))  # type: ignore[no-any-return]


def _observe(snapshot: Snapshot) -> RedisHealth | None:
    used = _used(snapshot)
    return None if used is None else observe_redis(used[0], snapshot.environment)


def _check_kind(kind: str, explanation: str, *caused_by: str) -> DoctorCheck:
    """A check that reports one kind of failure of `RedisHealth`."""
    cause = Cause(f"redis-{kind}", f"{explanation} {_ALONE}", "{remedy}", requires=_REQUIRES, caused_by=caused_by)

    def detect(snapshot: Snapshot) -> Iterator[Finding]:
        health, used = _health(snapshot), _used(snapshot)
        if health is not None and used is not None and health.kind == kind:
            unit, remedy = _find_unit(snapshot, used[0]) if kind == "down" else ("", "")
            error = f"{_position(snapshot, health, used[1])}: {health.error}"
            evidence = f"{unit}; {error}" if unit else error
            yield cause.finding(evidence, remedy=remedy or _remedy(snapshot, health, used[1]))

    return detects(cause, timeout=_TIMEOUT)(detect)


def _position(snapshot: Snapshot, health: RedisHealth, name: str) -> str:
    """Where the variable or key is that is probably wrong. `name` is the one that says where Redis is."""
    if name not in snapshot.environment:
        return f"{snapshot.gateway.source}: {name}"
    shown = health.variable if snapshot.environment.get(health.variable) else name
    return f"{snapshot.dotenv.where(shown)}: {shown}"


def _remedy(snapshot: Snapshot, health: RedisHealth, name: str) -> str:
    edit = snapshot.edit_command(name) if name in snapshot.environment else edit_command(snapshot.config_path)
    after = "    # after a change in .env: sudo litellmctl install" if snapshot.is_active else ""
    return f"{health.hint or edit}{after}"


def _find_unit(snapshot: Snapshot, redis: Redis) -> tuple[str, str]:
    """The state of the unit of a Redis on this host, and the command that starts it; empty if there is none."""
    if not redis.is_local or not is_booted() or not snapshot.layout.is_host:
        return "", ""
    for unit in contract.REDIS_UNITS:
        found = snapshot.systemctl.show(unit, "LoadState", "ActiveState", "Result", "Id")
        if found.get("LoadState") == "masked":
            return f"{unit} is masked", f"{snapshot.systemctl.unmask_command(unit)}sudo systemctl start {unit}"
        if found.get("LoadState") == "loaded" and found.get("ActiveState") == "active":
            return (
                f"{unit} is active, on another address",
                f"sudo ss -ltnp | grep -E 'redis|valkey'    # where {unit} listens",
            )
        if found.get("LoadState") == "loaded":
            state = f"{unit} {in_words(found.get('ActiveState', ''))} (Result={found.get('Result')})"
            return state, f"sudo systemctl start {unit}    # if it fails: journalctl -u {unit} -n 30"
    return "", ""


DOWN = _check_kind("down", "No Redis listens on the address.", "host-loopback")
UNREACHABLE = _check_kind(
    "unreachable",
    "Redis does not answer: its name is not known, a firewall drops the packets, there is no route, or it hangs.",
    "network-dns",
)
REFUSED = _check_kind(
    "refused", "Redis refuses the service: the password, the user, a permission or the database is wrong."
)
TLS = _check_kind(
    "tls", "The service and Redis do not agree on TLS: one side expects none, or the certificate is not accepted."
)
REPLICA = _check_kind("replica", "The server is a read-only replica, as the old primary after a failover.")
CLIENTS = _check_kind("clients", "Redis accepts no further connection.")
LOADING = _check_kind("loading", "Redis loads its data, and answers nothing meanwhile.")
FULL = _check_kind(
    "full", "Redis refuses all writes: its memory is full and it may evict nothing, or its disk is full."
)
OTHER = _check_kind("other", "Redis answers what LiteLLM cannot use.")

_CONNECTED = (*_REQUIRES, *(each.cause.id for each in (DOWN, UNREACHABLE, REFUSED, TLS, REPLICA, CLIENTS, LOADING)))

MEMORY = Cause(
    "redis-memory",
    "Redis is nearly full. It evicts keys to make room, and among these may be counters: a limit then starts again at"
    " zero. With maxmemory-policy noeviction, it refuses writes when it is full.",
    "Raise its maxmemory, or of ElastiCache the node type. How much it needs: docs/redis.md",
    Outcome.WARNING,
    requires=(*_CONNECTED, "redis-full", "redis-other"),
)


@detects(MEMORY, timeout=_TIMEOUT)
def detect_redis_memory(snapshot: Snapshot) -> Iterator[Finding | str]:
    """Detect a server that is short of memory; also report what could not be read."""
    health = _health(snapshot)
    if health is None:
        return
    evicted = f"{render_count(health.evicted, 'key')} evicted since its start" if health.evicted else ""
    used = f"{health.used / 2**20:.1f} of {health.limit / 2**20:.1f} MiB in use" if health.limit else ""
    # That it has evicted keys says nothing of when. One that still does is nearly full.
    if health.limit and health.used > _NEARLY_FULL * health.limit:
        yield MEMORY.finding(f"{', '.join(filter(None, (used, evicted)))} (maxmemory-policy {health.policy})")
    elif health.version:
        yield f"Redis {health.version}, {used or 'no limit of memory'}"
    yield from health.unread


CONNECTIONS = Cause(
    "redis-connections",
    "Redis has few free connections: when none is left, it refuses further ones.",
    "Raise its maxclients, or end idle clients: CLIENT LIST shows them.",
    Outcome.WARNING,
    requires=_CONNECTED,
)


@detects(CONNECTIONS, timeout=_TIMEOUT)
def detect_redis_connections(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a server with few free connections."""
    health = _health(snapshot)
    if health is not None and health.max_clients and health.clients > _NEARLY_FULL * health.max_clients:
        yield CONNECTIONS.finding(f"{health.clients} of {health.max_clients} clients are connected")


UNUSED = Cause(
    "redis-unused",
    "The service cannot use Redis, although litellmctl can: the sandbox, a proxy or a firewall blocks the connection,"
    f" or the service still has old settings. {_ALONE}",
    "sudo litellmctl restart    # if it stays so: journalctl -u litellm -p warning -n 50",
    requires=(*_CONNECTED, "redis-full", "redis-other", "service-silent"),
    caused_by=("network-sandbox", "unit-sandbox"),
)


@detects(UNUSED, timeout=_TIMEOUT)
def detect_redis_unused(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect workers that cannot use a Redis that answers."""
    if _health(snapshot) is None or not snapshot.is_active:
        return
    found = snapshot.runtime.get("redis")
    if found and not found["usable"] and (age := time.time() - found["since"]) > _RECONNECTS:
        yield UNUSED.finding(f"the service reports for {age:.0f} s: {found['cause']}")
