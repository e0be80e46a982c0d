"""Outages of Redis in a worker, against LiteLLM's own classes, and which of LiteLLM's lines they explain."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import socketserver
import threading
from typing import Any

import pytest

from litellm_systemd.contract import OFFLINE_VARIABLES
from litellm_systemd.runtime.worker import litellm_redis


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """LiteLLM's module of the cache in Redis, imported only here because it takes seconds, with our changes."""
    for name, value in OFFLINE_VARIABLES.items():
        monkeypatch.setenv(name, value)
    found = importlib.import_module("litellm.caching.redis_cache")
    clients = importlib.import_module("litellm._redis")
    for name in ("__init__", "get_cache", "set_cache", "batch_get_cache", "increment_cache"):
        monkeypatch.setattr(found.RedisCache, name, getattr(found.RedisCache, name))
    monkeypatch.setattr(clients, "get_redis_client", clients.get_redis_client)
    monkeypatch.setattr(litellm_redis, "_SERVERS", {})
    monkeypatch.setattr(litellm_redis, "_OUTAGE", litellm_redis._Outage())
    litellm_redis.apply()
    return found


@pytest.fixture
def cache(module: Any) -> Any:
    """A cache of LiteLLM whose Redis refuses connections."""
    return module.RedisCache(host="127.0.0.1", port=1)


def test_litellm_has_what_is_changed(module: Any, cache: Any) -> None:
    """LiteLLM's client of Redis and its breaker have the shape on which the changes depend: with another version this
    test fails, and not the service.
    """
    assert inspect.signature(module.RedisCache.__init__).parameters["socket_timeout"].default == 5.0
    assert cache.redis_kwargs["socket_timeout"] < 5
    breaker = cache._circuit_breaker
    for name in ("is_open", "record_failure", "record_success"):
        assert callable(getattr(type(breaker), name))
    assert breaker.enabled
    assert "is_timeout" in inspect.signature(type(breaker).record_failure).parameters
    # It asks the breaker before each call, and nothing else.
    assert "breaker.is_open()" in inspect.getsource(module._enter_circuit_breaker)
    assert "get_redis_client(**redis_kwargs)" in inspect.getsource(inspect.unwrap(module.RedisCache.__init__))
    assert cache.redis_client.get_retry().get_retries() == 0
    assert cache.check_and_fix_namespace(key="a") == "a"


def test_checks_decide_whether_litellm_uses_redis(module: Any, cache: Any) -> None:
    """A Redis that refuses connections is an outage: LiteLLM's calls fail or do without it at once. Failures that
    LiteLLM counts itself change nothing.
    """
    assert litellm_redis.cause() == ""
    for _ in range(10):
        cache._circuit_breaker.record_failure()
    assert not cache._circuit_breaker.is_open()

    asyncio.run(litellm_redis.check())
    assert "Error 111 connecting to 127.0.0.1:1." in str(litellm_redis.cause())
    assert cache._circuit_breaker.is_open()
    cache._circuit_breaker.record_success()
    with pytest.raises(module.RedisCircuitBreakerOpenError):
        asyncio.run(cache.async_get_cache("a"))
    assert cache.get_cache("a") is None
    assert cache.set_cache("a", 1) is None
    assert cache.batch_get_cache(["a"]) == {}
    with pytest.raises(module.RedisCircuitBreakerOpenError):
        cache.increment_cache("a", 1)


class Old(socketserver.StreamRequestHandler):
    """A Redis before version 6, which knows no HELLO and repeats what followed it."""

    def handle(self) -> None:
        words = self.connection.recv(65536).decode().split("\r\n")[4::2]
        self.wfile.write(f"-ERR unknown command `HELLO`, with args beginning with: {words}\r\n".encode())


def test_no_password_in_a_cause(module: Any) -> None:
    """The cause of an outage, which the journal has, is without the password, although the server repeats it."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Old) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cache = module.RedisCache(host="127.0.0.1", port=server.server_address[1], password="hunter-2222")
        asyncio.run(litellm_redis.check())
        server.shutdown()
    assert cache.redis_kwargs["password"] == "hunter-2222"
    assert "unknown command" in str(litellm_redis.cause())
    assert "hunter" not in str(litellm_redis.cause())


class Closed(socketserver.StreamRequestHandler):
    """A Redis with a password, before which it answers nothing."""

    def handle(self) -> None:
        self.connection.recv(65536)
        self.wfile.write(
            b"-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO\r\n"
        )


def test_missing_password_in_a_cause(module: Any) -> None:
    """If the password is missing, the cause says so, and not how a client would send it."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Closed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cache = module.RedisCache(host="127.0.0.1", port=server.server_address[1])
        asyncio.run(litellm_redis.check())
        server.shutdown()
    assert cache.redis_kwargs.get("password") is None
    assert litellm_redis.cause() == "it requires a password, and none is set"


def test_no_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Redis there is no state, and lines that could be about it are logged."""
    monkeypatch.setattr(litellm_redis, "_SERVERS", {})
    assert litellm_redis.cause() is None
    assert not litellm_redis.explains("redis: connection refused", "3 LiteLLM redis")


@pytest.mark.parametrize(
    ("text", "kind", "is_explained"),
    [
        (
            "LiteLLM: Error occurred in async batch get cache: Error 111 connecting to h:1. Refused.",
            "3 x redis",
            True,
        ),
        (
            "LiteLLM Proxy: TTL preservation failed, falling back to regular pipeline: Connection closed by server.",
            "",
            True,
        ),
        (
            "LiteLLM: Redis async_increment_cache failed: command not allowed when used memory > 'maxmemory'.",
            "",
            True,
        ),
        ("LiteLLM: Redis Caching: Timeout reading from 127.0.0.1:6379", "", True),
        ("asyncio: Task exception was never retrieved (RedisCache.ping()) exception=TimeoutError", "", True),
        ("LiteLLM: post_call_redis_batch: Error UNKNOWN while writing to socket. Connection lost.", "", True),
        (
            "LiteLLM: Error connecting to Async Redis client - unknown command `HELLO`, with args beginning with: ",
            "",
            True,
        ),
        ("LiteLLM: Redis: unknown command 'GETEX', with args beginning with: 'a'", "", False),
        ("LiteLLM: Redis: WRONGTYPE Operation against a key holding the wrong kind of value", "", False),
        ("LiteLLM Proxy: Connection error. (ConnectionRefusedError; model demo)", "3 openai demo", False),
    ],
)
def test_explained_lines(cache: Any, text: str, kind: str, is_explained: bool) -> None:
    """Before a check has noticed an outage, only lines that can have no other cause are consequences of it."""
    assert cache.redis_kwargs
    assert litellm_redis.explains(text, kind) is is_explained
