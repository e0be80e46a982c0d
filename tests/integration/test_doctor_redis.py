"""What install and doctor find on a real Redis that is broken in one way after the other."""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme
from botocore.credentials import Credentials

from litellm_systemd.aws.client import sign_cache_token
from litellm_systemd.commands.preflight import require_redis
from litellm_systemd.contract import ExitCode
from litellm_systemd.database import redis
from litellm_systemd.database.redis import observe_redis
from litellm_systemd.doctor import check_redis
from litellm_systemd.doctor.engine import Finding
from litellm_systemd.env.redis import Redis as Target
from litellm_systemd.env.settings import build_settings, parse_dotenv
from litellm_systemd.env.tls import TlsFiles
from litellm_systemd.errors import RedisError
from litellm_systemd.gateway.config import parse_config
from litellm_systemd.gateway.redis_settings import find_used_redis
from litellm_systemd.report.report import Outcome
from tests.certificates import issue_pair, write_pair
from tests.integration.doctor_snapshot import BASE, CONFIG, diagnose_part, find_unused
from tests.redis import Access, Redis, why_no_redis
from tests.skipping import refuse

PASSWORD = "p@ss:w/rd"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[TlsFiles, Path]:
    """A certificate for 127.0.0.1, and the file of its authority."""
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    files = write_pair(folder, issue_pair(authority, "127.0.0.1"))
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return files, folder / "ca.pem"


def hold_connections(server: Redis) -> AbstractContextManager[object]:
    """Use up the connections that `maxclients` allows."""
    holders = contextlib.ExitStack()
    for _ in range(3):
        holder = holders.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        holder.sendall(b"PING\r\n")
        assert holder.recv(5) == b"+PONG"
    return holders


@contextmanager
def set_password(server: Redis) -> Iterator[None]:
    """Let it require a password that clients do not know."""
    server.execute("CONFIG", "SET", "requirepass", "unknown")
    yield


@contextmanager
def reload_data(server: Redis) -> Iterator[None]:
    """Let it load its data until the end of the block."""
    server.execute("DEBUG", "POPULATE", "10000")

    def load() -> None:
        with pytest.raises(AssertionError):  # killed meanwhile
            server.execute("DEBUG", "RELOAD")

    loader = threading.Thread(target=load)
    loader.start()
    server.await_error("LOADING")
    yield
    server.kill()
    loader.join()


@contextmanager
def evict(server: Redis) -> Iterator[None]:
    """Fill it until it evicts keys."""
    server.execute("DEBUG", "POPULATE", "20000", "key", "200")
    server.execute("SET", "one-more", "1")
    yield


@contextmanager
def run_script(server: Redis) -> Iterator[None]:
    """Let it run a script that does not end."""
    server.execute("CONFIG", "SET", "lua-time-limit", "50")

    def run() -> None:
        with pytest.raises(AssertionError, match="killed"):
            server.execute("EVAL", "while true do end", "0")

    runner = threading.Thread(target=run)
    runner.start()
    server.await_error("BUSY")
    yield
    server.execute("SCRIPT", "KILL")
    runner.join()


@dataclass(frozen=True)
class Broken:
    """How a server is started, what is done to it, which variables differ, and the finding.

    `variable`: the one whose line install names.
    """

    id: str
    cause: str
    evidence: str
    remedy: str
    settings: tuple[str, ...] = ()
    damage: Callable[[Redis], AbstractContextManager[object]] = contextlib.nullcontext
    environment: Mapping[str, str] = field(default_factory=dict)
    password: str | None = None
    tls: bool = False
    warning: bool = False
    variable: str = "REDIS_HOST"


BROKEN = (
    Broken("killed", "down", "no Redis listens on 127.0.0.1:", "redis-server", damage=Redis.killed),
    Broken("hangs", "unreachable", "does not answer within", "firewall", damage=Redis.paused),
    Broken(
        "unknown host",
        "unreachable",
        "the host redis is not known",
        "a service of a compose file",
        environment={"REDIS_HOST": "redis"},
    ),
    Broken("no password", "refused", "requires a password", "REDIS_PASSWORD", damage=set_password),
    Broken(
        "password",
        "refused",
        "refuses the password of the user default",
        "Correct the user",
        password=PASSWORD,
        environment={"REDIS_PASSWORD": f"{PASSWORD}x"},
        variable="REDIS_PASSWORD",
    ),
    Broken(
        "user",
        "refused",
        "refuses the password of the user other",
        "Correct the user",
        environment={"REDIS_USERNAME": "other", "REDIS_PASSWORD": PASSWORD},
        variable="REDIS_PASSWORD",
    ),
    Broken(
        "permissions",
        "refused",
        "does not permit the user reader what LiteLLM does",
        "ACL SETUSER reader",
        settings=("user reader on >x ~* +@read +@connection",),
        environment={"REDIS_USERNAME": "reader", "REDIS_PASSWORD": "x"},
        variable="REDIS_USERNAME",
    ),
    Broken(
        "command",
        "refused",
        "lacks a command that LiteLLM needs: unknown command 'EVAL'",
        "rename-command",
        settings=('rename-command EVAL ""',),
    ),
    Broken("script", "other", "answers nothing while it runs a script", "SCRIPT KILL", damage=run_script),
    Broken(
        "database",
        "refused",
        "has no database 99",
        "smaller number",
        environment={"REDIS_DB": "99"},
        variable="REDIS_DB",
    ),
    Broken(
        "TLS expected",
        "tls",
        "expects TLS",
        "REDIS_SSL=true",
        tls=True,
        environment={"REDIS_SSL": "false"},
        variable="REDIS_SSL",
    ),
    Broken(
        "no TLS", "tls", "offers no TLS", "Remove REDIS_SSL", environment={"REDIS_SSL": "true"}, variable="REDIS_SSL"
    ),
    Broken("authority", "tls", "certificate verify failed: self-signed certificate", "REDIS_SSL_CA_CERTS", tls=True),
    Broken("full", "full", "is full and refuses writes", "maxmemory", damage=Redis.full),
    Broken("replica", "replica", "is a read-only replica", "primary endpoint", ("replicaof 127.0.0.1 9",)),
    Broken("no connection", "clients", "has no free connection", "maxclients", ("maxclients 3",), hold_connections),
    Broken(
        "loading",
        "loading",
        "is still loading its data",
        "Wait",
        ("enable-debug-command yes", "key-load-delay 2000", "loading-process-events-interval-bytes 1024"),
        reload_data,
    ),
    Broken(
        "evicts",
        "memory",
        "evicted since its start (maxmemory-policy allkeys-lru)",
        "Raise its maxmemory",
        ("enable-debug-command yes", "maxmemory 4mb", "maxmemory-policy allkeys-lru"),
        evict,
        warning=True,
    ),
    Broken(
        "few connections",
        "connections",
        "4 of 4 clients",
        "Raise its maxclients",
        ("maxclients 4",),
        hold_connections,
        warning=True,
    ),
)


@pytest.fixture
def server(request: pytest.FixtureRequest, certificate: tuple[TlsFiles, Path]) -> Iterator[Redis]:
    reason = why_no_redis()
    if reason is not None:
        refuse(reason)
    broken: Broken = request.param
    files, authority = certificate
    access = Access(broken.password, tls=files if broken.tls else None, authority=authority if broken.tls else None)
    with Redis(access, settings=broken.settings) as running:
        yield running


def find(root: Path, values: Mapping[str, str]) -> list[Finding]:
    """What doctor finds about Redis."""
    return list(diagnose_part(check_redis, root, {**BASE, **values}).causes)


def install(values: Mapping[str, str]) -> tuple[str, ...]:
    """What install checks of Redis before it changes anything."""
    dotenv = parse_dotenv("".join(f"{name}='{value}'\n" for name, value in values.items()), ".env")
    settings = build_settings(dotenv, installed={}, new_key=lambda: "sk-made")
    return require_redis(dotenv, settings, parse_config(CONFIG, "config.yaml"))


@pytest.mark.parametrize(
    ("broken", "server"),
    [(each, each) for each in BROKEN],
    indirect=["server"],
    ids=lambda each: str(getattr(each, "id", "")),
)
def test_causes(broken: Broken, server: Redis, tmp_path: Path) -> None:
    """Each damage is one finding of doctor, and is refused by install with exit code 67; both name the line of .env.

    No message has the password in it.
    """
    values = {**server.variables(), **broken.environment}
    with broken.damage(server):
        (found,) = find(tmp_path, values)
        if broken.warning:
            install(values)
        else:
            with pytest.raises(RedisError) as refused:
                install(values)
            assert refused.value.code is ExitCode.REDIS
            line = [*values].index(broken.variable) + 1
            assert refused.value.message.startswith(f".env:{line}: {broken.variable}: ")
            assert re.search(rf"/litellm\.env:\d+: {broken.variable}: ", found.evidence)
            assert broken.evidence in refused.value.message
            assert broken.remedy in refused.value.hint
            assert PASSWORD not in refused.value.render()
    assert found.cause.id == f"redis-{broken.cause}"
    assert broken.evidence in found.evidence
    assert broken.remedy in found.remedy
    assert found.outcome is (Outcome.WARNING if broken.warning else Outcome.FAILED)
    assert PASSWORD not in found.evidence + found.remedy


def test_healthy_with_tls(certificate: tuple[TlsFiles, Path], tmp_path: Path) -> None:
    """A Redis with TLS, a user and a password has no finding if its authority is named, for the name that it has."""
    files, authority = certificate
    with Redis(Access(PASSWORD, "gateway", files, authority)) as running:
        values = {**running.variables(), "REDIS_SSL_CA_CERTS": str(authority)}
        assert find(tmp_path, values) == []
        assert find(tmp_path, {"REDIS_URL": f"{running.url}?ssl_ca_certs={authority}"}) == []
        assert install({**running.variables(), "REDIS_SSL_CERT_REQS": "none"}) == ()
        (found,) = find(tmp_path, {**values, "REDIS_HOST": "localhost"})
        assert (found.cause.id, "not valid for 'localhost'" in found.evidence) == ("redis-tls", True)


def test_evictions_that_are_over(tmp_path: Path) -> None:
    """A Redis that has evicted keys and has room again is no finding."""
    reason = why_no_redis()
    if reason is not None:
        refuse(reason)
    with Redis(settings=("enable-debug-command yes", "maxmemory 4mb", "maxmemory-policy allkeys-lru")) as running:
        with evict(running):
            (found,) = find(tmp_path, running.variables())
        assert found.cause.id == "redis-memory"
        running.execute("FLUSHALL")
        running.execute("CONFIG", "SET", "maxmemory", "64mb")
        assert find(tmp_path, running.variables()) == []


def test_user_of_one_namespace(redis: Redis) -> None:
    """A user that may use the keys of the namespace of the configuration alone is enough."""
    redis.execute("ACL", "SETUSER", "gw", "on", ">x", "~gw:*", "&*", "+@all", "-@dangerous", "+info")
    values = {**BASE, **redis.variables(), "REDIS_USERNAME": "gw", "REDIS_PASSWORD": "x"}
    kinds = []
    for params in ("{type: redis}", "{type: redis, namespace: gw}"):
        text = CONFIG.replace("drop_params: true", f"cache: true, cache_params: {params}")
        used = find_used_redis(parse_config(text, "config.yaml"), values)
        assert used is not None
        kinds.append(observe_redis(used[0], values).kind)
    redis.execute("ACL", "DELUSER", "gw")
    assert kinds == ["refused", ""]


def test_service_without_a_usable_redis(tmp_path: Path, redis: Redis) -> None:
    """A service that cannot use a Redis that answers is a finding, once it had the time to connect again."""
    assert find_unused(check_redis.detect_redis_unused, tmp_path, {**BASE, **redis.variables()}, "redis") == [0, 1]


@pytest.mark.parametrize("is_serverless", [False, True])
def test_token_of_elasticache(is_serverless: bool) -> None:
    """install and doctor log in to ElastiCache with the token that LiteLLM signs."""
    # Not above: each worker of pytest-xdist imports this module, and LiteLLM takes seconds.
    from litellm._redis_credential_provider import ElastiCacheIAMCredentialProvider

    keys = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLE",
    }
    theirs = ElastiCacheIAMCredentialProvider(
        "litellm",
        "Gateway",
        "eu-central-1",
        is_serverless,
        lambda: Credentials(keys["AWS_ACCESS_KEY_ID"], keys["AWS_SECRET_ACCESS_KEY"]),
    )
    for _ in range(20):
        token = sign_cache_token(keys, "eu-central-1", "gateway", "litellm", is_serverless=is_serverless)
        expected = theirs.get_credentials()
        if token[-80:] == expected[1][-80:]:
            break  # signed in the same second
    assert ("litellm", token) == expected


class Trickle(socketserver.StreamRequestHandler):
    """Answers with one byte after the other, each in time, and never to the end."""

    first, more, pause = b"+", b"+", 0.1
    sent = 0

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.wfile.write(self.first)
            while True:
                self.wfile.write(self.more)
                type(self).sent += len(self.more)
                time.sleep(self.pause)


class Flood(Trickle):
    """Answers with a gigabyte."""

    first, more, pause = b"$1000000000\r\n", bytes(2**16), 0.0


class Elements(Flood):
    """Answers with a list of a thousand million elements."""

    first, more = b"*1000000000\r\n", b"$999\r\n" + bytes(999) + b"\r\n"


class Nested(Flood):
    """Answers with a list of a list of a list, and so on."""

    first, more = b"*1\r\n", b"*1\r\n" * 2**14


class Silent(socketserver.BaseRequestHandler):
    """Reads a request and closes the connection, as PostgreSQL does with one of Redis."""

    def handle(self) -> None:
        self.request.recv(65536)


def test_another_server_on_the_port() -> None:
    """A server that closes the connection is not Redis, and the port is probably wrong."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        health = redis.observe_redis(Target("127.0.0.1", server.server_address[1]), {})
        server.shutdown()
    assert (health.kind, health.variable, health.hint) == ("other", "REDIS_PORT", "Correct host and port.")
    assert "closes the connection, as Redis does not" in health.error


@pytest.mark.parametrize(
    ("handler", "kind", "error"),
    [
        (Trickle, "unreachable", "does not answer"),
        (Flood, "other", "answers with more than 1 MiB"),
        (Elements, "other", "answers with more than 1 MiB"),
        (Nested, "other", "answers with more than 1 MiB"),
    ],
)
def test_endless_answer(monkeypatch: pytest.MonkeyPatch, handler: type[Trickle], kind: str, error: str) -> None:
    """A server that does not complete an answer cannot be used: install and doctor neither wait nor keep it all."""
    monkeypatch.setattr(redis, "_TOTAL_TIMEOUT", 1.0)
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        health = redis.observe_redis(Target("127.0.0.1", server.server_address[1]), {})
        server.shutdown()
    assert (health.kind, error in health.error) == (kind, True)
    # More than is read is in the buffers of the sockets.
    assert handler.sent < 2**25
