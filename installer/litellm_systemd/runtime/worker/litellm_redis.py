"""Outages of Redis in a worker: how one is noticed, what goes on, and how it ends.

LiteLLM counts in each process while its Redis is down, and says so nowhere. A request waits ten seconds for a Redis
that hangs, and where the event loop waits, all requests do. After five failures LiteLLM leaves Redis alone, also in
the first minute after it is back. Here a worker asks Redis itself, every two seconds and as soon as a call fails, and
what Redis answers decides whether LiteLLM uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import json
import logging
import re
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from litellm_systemd.env.secrets import MASK
from litellm_systemd.runtime.worker.outage import Outage, first_line

_LOGGER = logging.getLogger(__name__)
_CACHE = "litellm.caching.redis_cache"
_CLIENTS = "litellm._redis"
#: Seconds between two checks, also of an outage.
_INTERVAL, _OUTAGE_INTERVAL = 2.0, 1.0
#: Seconds for a check, and how often it is tried: the event loop may have been blocked, or an idle connection closed.
_CHECK_TIMEOUT, _TRIES = 1.0, 2
#: Seconds for a call of LiteLLM: for one that waits alone, and for one in which the event loop waits.
_CALL_TIMEOUT, _BLOCKING_TIMEOUT = 2.0, 1.0
_TIMEOUTS = ("socket_timeout", "socket_connect_timeout")
#: What a check writes, and for how many milliseconds. A server that is full or read-only answers a PING.
_KEY, _LIFETIME = "litellm-systemd:check", 60_000
_SILENT = f"no answer within {_CHECK_TIMEOUT:g} s"
#: What Redis says to a client without a password.
_NO_PASSWORD = re.compile("NOAUTH|HELLO must be called with the client already authenticated")
#: The calls that block the event loop. LiteLLM's breaker does not know of them, and each does without Redis.
_BLOCKING: Mapping[str, Callable[[], Any]] = {
    "get_cache": lambda: None,
    "set_cache": lambda: None,
    "batch_get_cache": dict,
}
_INCREMENT = "increment_cache"
#: What LiteLLM logs because of an outage.
_ABOUT_IT = re.compile(r"redis|ttl preservation|litellm cache:", re.IGNORECASE)
#: What it logs because of nothing else, also before the outage is noticed.
_UNREACHABLE = re.compile(
    r"connection (?:closed|lost|reset|refused)|connectionerror|connecting to|timeout (?:reading|connecting|writing)"
    r"|timeouterror|writing to socket|not reachable|broken pipe|no connection available|maxmemory|read only replica"
    r"|is loading"
    # With the password, see `_without_password`.
    r"|unknown command\W+(?:hello|auth)\b"
    r"|invalid username-password|authentication required|no permissions",
    re.IGNORECASE,
)


class _Server:
    """A Redis that LiteLLM's caches use, by the parameters of their connections.

    `cause` is why it cannot be used, empty if it can.
    """

    def __init__(self) -> None:
        self.cause = ""
        self.caches: weakref.WeakSet[Any] = weakref.WeakSet()
        self._client: Any = None

    async def check(self) -> None:
        """Ask it, and let LiteLLM use it or not."""
        before, found = self.cause, ""
        for _ in range(_TRIES):
            if not (found := await self._ask()):
                break
        if before and not found:
            await self._connect_again()
        self.cause = found

    async def _ask(self) -> str:
        """Why it does not accept what LiteLLM writes, in its own words."""
        cache = next(iter(self.caches), None)
        if cache is None:
            return ""
        try:
            if self._client is None:
                self._client = _open_client(cache)
            written = self._client.set(cache.check_and_fix_namespace(key=_KEY), "1", px=_LIFETIME)
            await asyncio.wait_for(written, _CHECK_TIMEOUT)
        except Exception as error:
            # The next check takes a new connection: a server that was the primary refuses for as long as the old one
            # lasts.
            await _disconnect(self._client)
            return _without_password(_describe(error), self._client)
        return ""

    async def _connect_again(self) -> None:
        """Let LiteLLM connect again too."""
        for cache in list(self.caches):
            await _disconnect(getattr(cache, "redis_async_client", None))


class _Outage(Outage):
    """`was_explained`: lines of LiteLLM were dropped because of an outage that no check has seen yet."""

    was_explained = False


_SERVERS: dict[str, _Server] = {}
_OUTAGE = _Outage()


def cause() -> str | None:
    """Why LiteLLM cannot use Redis, "" if it can; None if it is to use none."""
    used = [server for server in _SERVERS.values() if server.caches]
    return _OUTAGE.cause if used else None


def explains(text: str, kind: str) -> bool:
    """Whether a failure in LiteLLM's log is a consequence of the outage, which the main process reports once."""
    if _ABOUT_IT.search(f"{kind} {text}") is None:
        return False
    if not _OUTAGE.cause:
        if not _SERVERS or _UNREACHABLE.search(text) is None:
            return False
        _OUTAGE.was_explained = True
        _OUTAGE.suspect()
    return True


async def watch() -> None:
    """Check each Redis for as long as the worker runs. Without one, this does nothing."""
    while True:
        # During an outage LiteLLM does not use it, so there is no suspicion.
        await (asyncio.sleep(_OUTAGE_INTERVAL) if _OUTAGE.cause else _OUTAGE.wait(_INTERVAL))
        await check()


async def check() -> None:
    """Ask each Redis whether it can be used."""
    for name, server in list(_SERVERS.items()):
        if server.caches:
            await server.check()
        else:  # of a configuration that is no longer used
            del _SERVERS[name]
    _OUTAGE.cause = next((server.cause for server in _SERVERS.values() if server.cause), "")
    if _OUTAGE.was_explained and not _OUTAGE.cause:
        _LOGGER.info("Redis did not answer for a moment")
    _OUTAGE.was_explained = False


def apply() -> None:
    """Apply to LiteLLM's client of Redis."""
    with contextlib.suppress(ImportError, AttributeError):
        clients: Any = importlib.import_module(_CLIENTS)
        cache: Any = importlib.import_module(_CACHE)
        _wrap(clients, cache.RedisCache, cache.RedisCircuitBreakerOpenError)


def _wrap(clients: Any, cache: Any, is_open: Any) -> None:
    make, construct = clients.get_redis_client, cache.__init__
    calls = {name: getattr(cache, name) for name in (*_BLOCKING, _INCREMENT)}

    @functools.wraps(make)
    def get_redis_client(**options: Any) -> Any:
        client = make(**{**options, **{name: _lower(options.get(name)) for name in _TIMEOUTS}})
        _fail_at_once(client)
        return client

    @functools.wraps(construct)
    def __init__(self: Any, *args: Any, **options: Any) -> None:
        options = {**dict.fromkeys(_TIMEOUTS, _CALL_TIMEOUT), **options}
        server = _SERVERS.setdefault(_name(args, options), _Server())
        # It connects and logs why it cannot.
        construct(self, *args, **options)
        server.caches.add(self)
        self.litellm_systemd_server = server
        _decide(self._circuit_breaker, server)
        _OUTAGE.suspect()

    for name, call in calls.items():
        setattr(cache, name, _skip_in_outage(call, _BLOCKING.get(name), is_open))
    clients.get_redis_client, cache.__init__ = get_redis_client, __init__


def _decide(breaker: Any, server: _Server) -> None:
    """Let the checks open and close one of LiteLLM's breakers, unless it is turned off."""
    if breaker.enabled:
        vars(breaker).update(
            is_open=lambda: bool(server.cause),
            record_failure=lambda *_, **__: _OUTAGE.suspect(),
            record_success=lambda: None,
        )


def _skip_in_outage(call: Any, default: Callable[[], Any] | None, is_open: Any) -> Any:
    """Do without Redis as LiteLLM does when the call fails, but at once."""

    @functools.wraps(call)
    def skip_in_outage(self: Any, *args: Any, **options: Any) -> Any:
        server = getattr(self, "litellm_systemd_server", None)
        if server is None or not server.cause:
            return call(self, *args, **options)
        if default is None:
            raise is_open(f"Redis cannot be used: {server.cause}")
        return default()

    return skip_in_outage


def _fail_at_once(client: Any) -> None:
    """Without this, a client that blocks the event loop tries eleven times, with its time-out each."""
    redis: Any = importlib.import_module("redis")
    if isinstance(client, redis.Redis):
        client.set_retry(importlib.import_module("redis.retry").Retry(_no_backoff(), 0))


def _open_client(cache: Any) -> Any:
    """A client of its own, so that a check does not wait for a connection of LiteLLM's pool."""
    options = {**cache.redis_kwargs, **dict.fromkeys(_TIMEOUTS, _CHECK_TIMEOUT), "max_connections": 1}
    client = importlib.import_module(_CLIENTS).get_redis_async_client(**options)
    if isinstance(client, importlib.import_module("redis.asyncio").Redis):
        client.set_retry(importlib.import_module("redis.asyncio.retry").Retry(_no_backoff(), 0))
    return client


def _no_backoff() -> Any:
    return importlib.import_module("redis.backoff").NoBackoff()


async def _disconnect(client: Any) -> None:
    with contextlib.suppress(Exception):  # that of a cluster has no pool
        await asyncio.wait_for(client.connection_pool.disconnect(inuse_connections=False), _CHECK_TIMEOUT)


def _name(args: tuple[Any, ...], options: Mapping[str, Any]) -> str:
    return json.dumps([args, sorted(options.items())], default=repr)


def _lower(value: Any) -> float:
    """A time-out in which the event loop waits."""
    with contextlib.suppress(TypeError, ValueError):
        return min(float(value), _BLOCKING_TIMEOUT)
    return _BLOCKING_TIMEOUT


def _without_password(text: str, client: Any) -> str:
    """A server repeats the arguments of a command that it does not know: one before version 6 those of HELLO."""
    pool = getattr(client, "connection_pool", None)
    password = pool.connection_kwargs.get("password") if pool is not None else None
    return text.replace(str(password), MASK) if password else text


def _describe(error: BaseException) -> str:
    kind, text = type(error).__name__, first_line(str(error))
    if "timeout" in kind.lower() or not text:
        return _SILENT if "timeout" in kind.lower() else kind
    if _NO_PASSWORD.search(text):
        return "it requires a password, and none is set"
    return text if kind == "ConnectionError" else f"{text.rstrip('.')} ({kind})"
