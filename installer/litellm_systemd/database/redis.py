"""Connect to the Redis of LiteLLM as LiteLLM does, name the cause if that fails, and read the state of the server."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from litellm_systemd.env.redis import COMPOSE_HINT, Redis
from litellm_systemd.env.secrets import redact
from litellm_systemd.env.urls import is_compose_name
from litellm_systemd.env.variables import (
    REDIS_DB,
    REDIS_PASSWORD,
    REDIS_PORT,
    REDIS_SSL,
    REDIS_SSL_CA_CERTS,
    REDIS_USERNAME,
)
from litellm_systemd.errors import InstallerError, RedisError

if TYPE_CHECKING:
    from redis import Redis as Client

#: Seconds for a connection, and for each part of an answer; and for all answers, which may come byte by byte.
_TIMEOUT, _TOTAL_TIMEOUT = 3.0, 10.0
#: Bytes of all answers of a connection. INFO has a few thousand.
_MOST_BYTES = 1 << 20
_TOO_LONG = "more than 1 MiB"
#: The key that is written for a few seconds, and what the scripts of LiteLLM need as well.
_KEY, _SCRIPT = "litellmctl:check", "return 1"
_INSTALL = "Correct host and port, or start the server. On Debian: sudo apt-get install redis-server"


@dataclass(frozen=True, slots=True)
class _Failure:
    """A failure by what the client library or the server says, as a kind, a cause and a remedy.

    `variable` is the one that is probably wrong, empty if that is the address or nothing here.
    """

    kind: str
    pattern: re.Pattern[str]
    cause: str
    remedy: str
    variable: str


def _failure(kind: str, pattern: str, cause: str, remedy: str, variable: str = "") -> _Failure:
    return _Failure(kind, re.compile(pattern, re.IGNORECASE), cause, remedy, variable)


_FAILURES = (
    _failure(
        "clients",
        r"max number of clients reached",
        "Redis at {address} has no free connection (maxclients)",
        "Raise maxclients, or end idle clients: CLIENT LIST shows them.",
    ),
    _failure(
        "loading",
        r"is loading the dataset",
        "Redis at {address} is still loading its data",
        "Wait, and run the command again.",
    ),
    _failure(
        "refused",
        r"WRONGPASS|invalid username-password|invalid password|user is disabled",
        "Redis at {address} refuses the password of the user {user}",
        "Correct the user and the password. In a URL the password is percent-encoded.",
        REDIS_PASSWORD.name,
    ),
    _failure(
        "refused",
        r"without any password configured",
        "Redis at {address} has no password, and one is set here",
        "Remove the password here, or set requirepass in its redis.conf.",
        REDIS_PASSWORD.name,
    ),
    _failure(
        "refused",
        r"NOAUTH|authentication required|HELLO must be called with the client already authenticated",
        "Redis at {address} requires a password, and none is set",
        "Set REDIS_PASSWORD, or write it into the URL: redis://:PASSWORD@HOST",
    ),
    _failure(
        "refused",
        r"DENIED .*protected mode|running in protected mode",
        "Redis at {address} is in protected mode: it has no password and accepts no other host",
        "Set requirepass in its redis.conf.",
    ),
    _failure(
        "refused",
        r"NOPERM|no permissions",
        "Redis at {address} does not permit the user {user} what LiteLLM does: {text}",
        "Allow the user all keys, channels and commands: ACL SETUSER {user} ~* &* +@all -@dangerous +info",
        REDIS_USERNAME.name,
    ),
    _failure(
        "refused",
        r"DB index is out of range|invalid DB index|SELECT is not allowed",
        "Redis at {address} has no database {database}",
        "Use a smaller number, or 0 for a cluster.",
        REDIS_DB.name,
    ),
    _failure(
        "replica",
        r"READONLY|read.only replica",
        "Redis at {address} is a read-only replica",
        "Connect to the primary. Of ElastiCache that is the primary endpoint, which follows a failover.",
    ),
    _failure(
        "full",
        r"OOM command not allowed|used memory > 'maxmemory'",
        "Redis at {address} is full and refuses writes",
        "Raise its maxmemory, or allow it to evict: CONFIG SET maxmemory-policy volatile-lru",
    ),
    _failure(
        "full",
        r"MISCONF",
        "Redis at {address} refuses writes because it cannot save its data: {text}",
        "Free disk space on its host. A Redis for LiteLLM alone need not save: CONFIG SET save ''",
    ),
    _failure(
        "refused",
        r"unknown command",
        "Redis at {address} lacks a command that LiteLLM needs: {text}",
        "Remove the rename-command of it from its redis.conf, and restart it.",
    ),
    _failure(
        "other",
        r"BUSY Redis is busy",
        "Redis at {address} answers nothing while it runs a script: {text}",
        "End the script on its host: redis-cli SCRIPT KILL",
    ),
    _failure(
        "tls",
        r"certificate|CERTIFICATE_VERIFY_FAILED|Hostname mismatch|IP address mismatch",
        "the TLS certificate of Redis at {address} is not accepted: {text}",
        "Set REDIS_SSL_CA_CERTS to the file of the authority that signed it (in a URL: ?ssl_ca_certs=FILE), and"
        " connect to a name that it is for.",
        REDIS_SSL_CA_CERTS.name,
    ),
    _failure(
        "other",
        _TOO_LONG,
        f"what listens on {{address}} answers with {_TOO_LONG}, as Redis does not",
        "Correct host and port.",
    ),
    _failure(
        "down",
        r"Connection refused|No such file or directory|Error (?:111|2) connecting",
        "no Redis listens on {address}",
        _INSTALL,
    ),
    _failure(
        "unreachable",
        r"Timeout|timed out|No route to host|Network is unreachable|Host is unreachable",
        "Redis at {address} does not answer within {timeout:g} s",
        "Allow the port in the firewall or security group between this host and Redis. If Redis is on this host, it"
        " hangs.",
    ),
)
#: Of a server that expects TLS and gets none, and of one that gets TLS and expects none.
_EXPECTS_TLS = ("Redis at {address} expects TLS", "Set REDIS_SSL=true, or write rediss:// in the URL.")
_OFFERS_NONE = (
    "Redis at {address} offers no TLS on this port",
    "Remove REDIS_SSL, or write redis:// in the URL. With TLS, a server often has another port.",
)


@dataclass(frozen=True, slots=True)
class RedisHealth:
    """What a server answers. `error` and `hint` say why it cannot be used, and `kind` is that of the cause.

    `variable` is the one that is probably wrong, empty if that is the address or nothing here.
    Memory is in bytes, 0 if it is not limited. `evicted` counts keys since its start. `clients` are connected, of
    `max_clients` (0 if that is unknown). `unread` is what the user may not read.
    """

    error: str = ""
    hint: str = ""
    kind: str = ""
    variable: str = ""
    version: str = ""
    used: int = 0
    limit: int = 0
    policy: str = ""
    evicted: int = 0
    clients: int = 0
    max_clients: int = 0
    unread: tuple[str, ...] = field(default=())


def observe_redis(redis: Redis, values: Mapping[str, str]) -> RedisHealth:
    """The state of the server, or why LiteLLM cannot use it: it must accept the login, writes and scripts.

    Sentinels are not asked. `values`: variables by name, for the certificates that the service trusts.
    """
    if redis.sentinels:
        return RedisHealth()
    found = RedisHealth()
    # A client of a cluster needs one node that answers.
    for host, port in ((redis.host, redis.port), *redis.others):
        found = _observe(replace(redis, host=host, port=port), values)
        if found.kind not in ("down", "unreachable"):
            break
    return found


def _observe(redis: Redis, values: Mapping[str, str]) -> RedisHealth:
    # Late: it is slow to load, and only a service with Redis needs it.
    from redis.exceptions import RedisError as LibraryError

    try:
        redis = _with_token(redis)
        if unknown := _find_unknown_name(redis):
            return unknown
        with contextlib.closing(_connect(redis, values)) as client, _limited(partial(_sockets, client)) as is_over:
            try:
                client.ping()
                return _read(client, redis)
            except (LibraryError, OSError, ValueError):
                if not is_over():
                    raise
                return _explain(redis, "Timeout")
    except InstallerError as error:
        return RedisHealth(error.message, error.hint, "refused")
    except RecursionError:
        return _explain(redis, _TOO_LONG)
    except (LibraryError, OSError, ValueError) as error:
        return _explain(redis, str(error))


def _connect(redis: Redis, values: Mapping[str, str]) -> Client:
    """A client as LiteLLM makes one, which does not try again."""
    from redis._parsers import _RESP2Parser
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from redis import Redis as Client

    place: dict[str, Any] = {"host": redis.host, "port": redis.port}
    if redis.socket:
        place = {"unix_socket_path": redis.socket}
    elif redis.is_encrypted:
        place |= {
            "ssl": True,
            "ssl_ca_certs": redis.certificate_file or values.get("SSL_CERT_FILE") or None,
            "ssl_cert_reqs": redis.certificate_check,
            "ssl_check_hostname": redis.checks_name and redis.certificate_check != "none",
        }
    client = Client(
        **place,
        db=redis.database,
        username=redis.user or None,
        password=redis.password or None,
        socket_timeout=_TIMEOUT,
        socket_connect_timeout=_TIMEOUT,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
    kind: Any = client.connection_pool.connection_class

    class Connection(kind):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            # In Python, it reads one element after the other: hiredis allocates as many as the server announces.
            super().__init__(**{**options, "parser_class": _RESP2Parser})

        def _connect(self) -> Any:
            return _LimitedSocket(super()._connect())

    client.connection_pool.connection_class = Connection
    return client


class _LimitedSocket:
    """A socket of which at most _MOST_BYTES are read: the library keeps an answer of any length in memory."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner, self._left = inner, _MOST_BYTES

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def recv(self, *arguments: Any) -> bytes:
        data = self._inner.recv(*arguments)
        self._count(len(data))
        return data

    def recv_into(self, *arguments: Any) -> int:
        size = self._inner.recv_into(*arguments)
        self._count(size)
        return size

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise OSError(_TOO_LONG)


@contextlib.contextmanager
def _limited(find_sockets: Callable[[], Iterable[socket.socket]]) -> Iterator[Callable[[], bool]]:
    """Shut the sockets down after _TOTAL_TIMEOUT. Yields a function that returns whether that has happened.

    The time-out of a socket begins again with each byte: a server that trickles its answer would never be left.
    """
    over = threading.Event()

    def shut_down() -> None:
        over.set()
        for each in find_sockets():
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(_TOTAL_TIMEOUT, shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield over.is_set
    finally:
        timer.cancel()


def _sockets(client: Client) -> list[socket.socket]:
    """The sockets of a client in use. To disconnect it in another thread would touch its parser as well."""
    used = list(getattr(client.connection_pool, "_in_use_connections", ()))
    return [each._sock for each in used if each._sock is not None]


def _with_token(redis: Redis) -> Redis:
    """The server with a fresh token as its password, if it has IAM authentication."""
    if redis.iam is None:
        return redis
    from litellm_systemd.aws.client import Refused, sign_cache_token

    login = redis.iam
    try:
        token = sign_cache_token(
            login.credentials, login.region, login.cache, login.user, is_serverless=login.is_serverless
        )
    except Refused as error:
        raise RedisError(
            f"no AWS credentials for the token of the user {login.user}: {error}",
            "Give the service an access key or the instance a role: docs/redis.md, ElastiCache.",
        ) from None
    return replace(redis, user=login.user, password=token)


def _find_unknown_name(redis: Redis) -> RedisHealth | None:
    if redis.socket:
        return None
    try:
        socket.getaddrinfo(redis.host, redis.port, type=socket.SOCK_STREAM)
    except OSError:
        hint = COMPOSE_HINT.format(redis.host) if is_compose_name(redis.host) else "Correct the name of the host."
        return RedisHealth(f"the host {redis.host} is not known (DNS, /etc/hosts)", hint, "unreachable")
    return None


def _read(client: Client, redis: Redis) -> RedisHealth:
    """The state of a server that accepts the login, and whether it accepts writes."""
    from redis.exceptions import RedisError as LibraryError
    from redis.exceptions import ResponseError

    unread: list[str] = []
    found: dict[str, Any] = {}
    try:
        found = dict(client.info())
    except ResponseError as error:
        unread.append(f"INFO: {error}")
    limit = _number(found.get("maxclients"))
    if not limit:
        # ElastiCache has no CONFIG, and a Redis before version 7 no maxclients in INFO.
        with contextlib.suppress(LibraryError):
            limit = _number(dict(client.config_get("maxclients")).get("maxclients"))
    health = RedisHealth(
        version=str(found.get("valkey_version") or found.get("redis_version") or ""),
        used=_number(found.get("used_memory")),
        limit=_number(found.get("maxmemory")),
        policy=str(found.get("maxmemory_policy") or ""),
        evicted=_number(found.get("evicted_keys")),
        clients=_number(found.get("connected_clients")),
        max_clients=limit,
        unread=tuple(unread),
    )
    try:
        client.set(f"{redis.namespace}:{_KEY}" if redis.namespace else _KEY, "1", ex=10)
        client.eval(_SCRIPT, 0)
    except ResponseError as error:
        # The node of a cluster names the one that has the key.
        if not (redis.is_cluster and re.match(r"MOVED|ASK|\d+ [\w.-]+:\d+", str(error))):
            failure = _explain(redis, str(error))
            return replace(
                health, error=failure.error, hint=failure.hint, kind=failure.kind, variable=failure.variable
            )
    return health


def _number(value: Any) -> int:
    with contextlib.suppress(TypeError, ValueError):
        return int(value)
    return 0


def _explain(redis: Redis, said: str) -> RedisHealth:
    text = redact(" ".join(said.split()), redis.password)
    facts = {
        "address": redis.address,
        "user": redis.user or "default",
        "database": redis.database,
        "timeout": _TIMEOUT,
        "text": text,
    }
    found = next((each for each in _FAILURES if each.pattern.search(said)), None)
    if found is None or found.kind == "unreachable":
        mismatch = _find_mismatch(redis)
        if mismatch:
            cause, remedy = mismatch
            return RedisHealth(cause.format(**facts), remedy, "tls", REDIS_SSL.name)
    if found is None and "Connection closed" in text:
        cause = f"what listens on {redis.address} closes the connection, as Redis does not"
        return RedisHealth(cause, "Correct host and port.", "other", REDIS_PORT.name)
    if found is None:
        return RedisHealth(f"Redis at {redis.address} cannot be used: {text}", "", "other")
    cause, remedy = found.cause, found.remedy
    if redis.iam is not None and found.kind == "refused" and "password" in cause:
        cause = "ElastiCache at {address} does not accept the token of the user {user}"
        remedy = (
            "Allow elasticache:Connect for that cache and user, see: litellmctl iam-policy --with elasticache. The"
            " user needs IAM authentication, a name that is its id, and a group of the cache, and this host the right"
            " time."
        )
    return RedisHealth(cause.format(**facts), remedy.format(**facts), found.kind, found.variable)


def _find_mismatch(redis: Redis) -> tuple[str, str] | None:
    """Whether one side expects TLS and the other does not: then neither understands the other, or both wait."""
    if redis.socket:
        return None
    with contextlib.suppress(OSError), _open(redis) as connection:
        if redis.is_encrypted:
            connection.sendall(b"PING\r\n")
            return _OFFERS_NONE if connection.recv(16)[:1] in (b"+", b"-") else None
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with context.wrap_socket(connection):
            return _EXPECTS_TLS
    return None


@contextlib.contextmanager
def _open(redis: Redis) -> Iterator[socket.socket]:
    with (
        socket.create_connection((redis.host, redis.port), timeout=_TIMEOUT) as connection,
        _limited(lambda: [connection]),
    ):
        yield connection
