"""Redis of LiteLLM: whether the variables name one, and what they say. Pure; the runtime and the commands use it.

LiteLLM passes each variable REDIS_NAME to the client library as its parameter `name` (_redis.py). With a URL it
ignores most others, and parts of it prefer REDIS_HOST to REDIS_URL, so that both together mean nothing certain.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, unquote

from litellm_systemd.env.secret_references import is_reference
from litellm_systemd.env.urls import ENCODE, is_compose_name, split_login, split_port
from litellm_systemd.env.variables import (
    AWS_REGION_NAME,
    REDIS_AWS_IAM_AUTH,
    REDIS_AWS_IAM_CACHE_NAME,
    REDIS_AWS_IAM_REGION,
    REDIS_AWS_IAM_SERVERLESS,
    REDIS_AWS_IAM_USER_NAME,
    REDIS_CLUSTER_NODES,
    REDIS_DB,
    REDIS_HOST,
    REDIS_PASSWORD,
    REDIS_PORT,
    REDIS_SENTINEL_NODES,
    REDIS_SENTINEL_PASSWORD,
    REDIS_SERVICE_NAME,
    REDIS_SSL,
    REDIS_SSL_CA_CERTS,
    REDIS_SSL_CERT_REQS,
    REDIS_URL,
    REDIS_USERNAME,
    Variable,
    is_loopback,
    is_on,
)
from litellm_systemd.errors import InputError

#: One of these says where Redis is.
TARGETS = (REDIS_URL, REDIS_HOST, REDIS_CLUSTER_NODES, REDIS_SENTINEL_NODES)

_FORM = "redis://:PASSWORD@HOST:6379/0, or rediss:// for TLS"
_ENCODE = f"{ENCODE} Or set {REDIS_HOST.name} and {REDIS_PASSWORD.name} in place of the URL, which need no encoding."
#: For the service of a compose file, as in the workshop's .env.
COMPOSE_HINT = (
    "If {} is a service of a compose file, remove the variable, or install a Redis of this host and set REDIS_HOST to"
    " localhost: sudo apt-get install redis-server"
)
#: What has a meaning with REDIS_HOST alone, and with a cluster.
_WITH_HOST = (REDIS_PORT, REDIS_DB)
_LOGIN = (REDIS_USERNAME, REDIS_PASSWORD)
_TLS = (REDIS_SSL, REDIS_SSL_CA_CERTS, REDIS_SSL_CERT_REQS)
_IAM_PARTS = (REDIS_AWS_IAM_USER_NAME, REDIS_AWS_IAM_CACHE_NAME)
_IAM_OPTIONS = (*_IAM_PARTS, REDIS_AWS_IAM_REGION, REDIS_AWS_IAM_SERVERLESS)
#: As LiteLLM looks for the region, which it takes from no other variable (_build_elasticache_iam_provider).
_IAM_REGIONS = (REDIS_AWS_IAM_REGION.name, "AWS_REGION", "AWS_DEFAULT_REGION")


@dataclass(frozen=True, slots=True)
class IamLogin:
    """How a token for ElastiCache is signed. `credentials` are the variables with the AWS credentials."""

    user: str
    cache: str
    region: str
    is_serverless: bool = False
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Redis:
    """What the variables say. `socket` is the path of a UNIX socket, empty for TCP. `repr` shows no password.

    `others` are further nodes of a cluster. `sentinels` watch the server, whose address they know: `host` is that of
    the first one then. `certificate_check` is "none" if any certificate is accepted. `namespace` begins all keys.
    """

    host: str
    port: int = REDIS_PORT.default
    user: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    socket: str = ""
    is_encrypted: bool = False
    certificate_file: str = ""
    certificate_check: str = REDIS_SSL_CERT_REQS.default
    checks_name: bool = True
    is_cluster: bool = False
    others: tuple[tuple[str, int], ...] = ()
    sentinels: tuple[tuple[str, int], ...] = ()
    iam: IamLogin | None = None
    namespace: str = ""

    @property
    def is_local(self) -> bool:
        """Whether the connection stays on this host."""
        return bool(self.socket) or is_loopback(self.host)

    @property
    def address(self) -> str:
        """Where the server is, for messages."""
        return self.socket or (f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}")


def names_redis(values: Mapping[str, str]) -> bool:
    """Whether the variables say where Redis is."""
    return any(values.get(each.name) for each in TARGETS)


def find_redis(values: Mapping[str, str], where: Callable[[str], str] = str) -> tuple[Redis, str] | None:
    """The Redis of the variables, and the name of the one that says where it is; None without one.

    Args:
        values: variables by name, with the values of secrets, not references to them.
        where: returns the position of a variable for messages, such as `.env:12`.

    Raises:
        InputError: LiteLLM cannot use a value, or parts of it use different ones.
    """
    target = _find_target(values, where)
    if target is None:
        return None
    name, position = target.name, f"{where(target.name)}: {target.name}"
    is_url = target is REDIS_URL
    found = parse_url(values[name], position) if is_url else _read_parts(values, target, position, where)
    iam = _read_iam(values, found, where)
    return (found if iam is None else replace(found, iam=iam)), name


def _find_target(values: Mapping[str, str], where: Callable[[str], str]) -> Variable[str | None] | None:
    """The variable that says where Redis is.

    Raises:
        InputError: there are several, or variables of another one.
    """
    targets = [each for each in TARGETS if values.get(each.name)]
    given = _given(values, (*_WITH_HOST, *_LOGIN, *_TLS))
    if not targets:
        return None
    first = targets[0]
    if len(targets) > 1:
        names = [each.name for each in targets]
        raise InputError(
            f"{where(names[1])}: {' and '.join(names)} are both set, and parts of LiteLLM use one, parts the other",
            f"Remove all but one of them, such as {names[1]}.",
        )
    useless = {
        REDIS_URL.name: given,
        REDIS_HOST.name: [],
        REDIS_CLUSTER_NODES.name: _given(values, _WITH_HOST),
        REDIS_SENTINEL_NODES.name: _given(values, (REDIS_PORT,)),
    }[first.name]
    if useless:
        remedy = f"Remove {' and '.join(useless)}."
        if first is REDIS_URL:
            remedy = f"Write it into the URL ({_FORM}; ?ssl_ca_certs=FILE), or replace the URL by {REDIS_HOST.name}."
        raise InputError(f"{where(useless[0])}: {useless[0]} has no effect with {first.name}", remedy)
    return first


def _given(values: Mapping[str, str], variables: tuple[Variable[Any], ...]) -> list[str]:
    return [each.name for each in variables if values.get(each.name)]


def parse_url(url: str, position: str = REDIS_URL.name) -> Redis:
    """What a URL says, as the client library reads it (`redis.connection.parse_url`).

    `position`: where it is written, such as `.env:12: REDIS_URL`; no message has the value in it.

    Raises:
        InputError: it is not the URL of a Redis server.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][\w+.-]*", scheme):
        raise InputError(f"{position} is not a URL", f"Write {_FORM}.")
    if scheme in ("valkey", "valkeys"):
        raise InputError(
            f"{position}: LiteLLM does not know {scheme}://",
            f"Write redis{'s' if scheme == 'valkeys' else ''}:// for Valkey as well.",
        )
    if scheme not in ("redis", "rediss", "unix"):
        raise InputError(
            f"{position}: LiteLLM supports redis://, rediss:// and unix://, not {scheme}://", f"Write {_FORM}."
        )
    login, location = split_login(rest, position, _ENCODE)
    user, colon, password = login.partition(":")
    if user and not colon:
        raise InputError(f"{position} has a user and no password", f"Write {_FORM}, with the colon, for a password.")
    host, path, query = re.fullmatch(r"([^/?]*)(/?[^?]*)\??(.*)", location, re.DOTALL).groups()  # type: ignore[union-attr]
    options = dict(parse_qsl(query, keep_blank_values=True))
    found = Redis(
        host="",
        user=unquote(user),
        password=unquote(password),
        is_encrypted=scheme == "rediss",
        certificate_file=options.get("ssl_ca_certs", ""),
        certificate_check=options.get("ssl_cert_reqs") or REDIS_SSL_CERT_REQS.default,
        checks_name=options.get("ssl_check_hostname", "").lower() not in ("false", "0", "no", "off", "n", "f"),
    )
    if scheme == "unix":
        if host or not path.strip("/"):
            raise InputError(f"{position} names no UNIX socket", "Write unix:///run/redis/redis-server.sock.")
        return replace(found, socket=unquote(path), database=_database(options.get("db", ""), position))
    if "," in host:
        raise InputError(
            f"{position} names several hosts", f"Write the nodes of a cluster as {REDIS_CLUSTER_NODES.name}."
        )
    if not host:
        raise InputError(f"{position} has no host", f"Write {_FORM}.")
    name, port = split_port(host, position, REDIS_PORT.default, f"Write {_FORM}.")
    number = _database(options.get("db") or unquote(path).strip("/"), position)
    return replace(found, host=name, port=port, database=number)


def _database(text: str, position: str) -> int:
    """The number of a database. The library takes 0 for anything that is none."""
    if not re.fullmatch(r"\d{0,4}", text):
        raise InputError(f"{position} has {text[:20]} where the number of the database is", f"Write {_FORM}.")
    return int(text or 0)


def _read_parts(
    values: Mapping[str, str], target: Variable[str | None], position: str, where: Callable[[str], str]
) -> Redis:
    """What the single variables say."""
    nodes: tuple[tuple[str, int], ...] = ()
    host, port = values[target.name], REDIS_PORT.read(values, where)
    if target is REDIS_HOST:
        if re.search(r"[\s/@:?#]", host) and not re.fullmatch(r"[0-9A-Fa-f:]+(?:%\w+)?", host):
            raise InputError(
                f"{position} is not the name of a host",
                f"Write the name alone, the port in {REDIS_PORT.name}, or a URL in {REDIS_URL.name}.",
            )
    else:
        nodes = _read_nodes(values, target, position)
        host, port = nodes[0]
    encrypted = REDIS_SSL.read(values, where)
    options = _given(values, (REDIS_SSL_CA_CERTS, REDIS_SSL_CERT_REQS))
    if options and not encrypted:
        # Without TLS, LiteLLM passes them to a connection that does not know them, and each one fails.
        raise InputError(f"{where(options[0])}: {options[0]} needs TLS", f"Set {REDIS_SSL.name}=true.")
    return Redis(
        host=host,
        port=port,
        user=values.get(REDIS_USERNAME.name, ""),
        password=values.get(REDIS_PASSWORD.name, ""),
        database=REDIS_DB.read(values, where),
        is_encrypted=encrypted,
        certificate_file=REDIS_SSL_CA_CERTS.read(values, where) or "",
        certificate_check=REDIS_SSL_CERT_REQS.read(values, where),
        is_cluster=target is REDIS_CLUSTER_NODES,
        others=nodes[1:] if target is REDIS_CLUSTER_NODES else (),
        sentinels=nodes if target is REDIS_SENTINEL_NODES else (),
    )


def _read_nodes(
    values: Mapping[str, str], target: Variable[str | None], position: str
) -> tuple[tuple[str, int], ...]:
    """The nodes of a cluster, or the Sentinels, which LiteLLM reads as JSON."""
    others: list[str] = []
    try:
        entries = json.loads(values[target.name])
        if target is REDIS_CLUSTER_NODES:
            nodes = tuple((str(each["host"]), int(each["port"])) for each in entries)
            others = sorted({str(key) for each in entries for key in each} - {"host", "port"})
        else:
            nodes = tuple((str(host), int(port)) for host, port in entries)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        nodes = ()
    if not nodes:
        raise InputError(f"{position} is not a list of nodes in JSON", target.more)
    if others:
        raise InputError(
            f"{position} has {' and '.join(others)} in a node, with which LiteLLM does not start",
            f"Write host and port alone, and the login as {REDIS_USERNAME.name} and {REDIS_PASSWORD.name}.",
        )
    if target is REDIS_SENTINEL_NODES and not values.get(REDIS_SERVICE_NAME.name):
        raise InputError(f"{position} needs {REDIS_SERVICE_NAME.name} as well", "Set it, such as to mymaster.")
    return nodes


def _read_iam(values: Mapping[str, str], redis: Redis, where: Callable[[str], str]) -> IamLogin | None:
    """How to log in to ElastiCache without a password; None with one."""
    switch = REDIS_AWS_IAM_AUTH.name
    if not REDIS_AWS_IAM_AUTH.read(values, where):
        return None
    login, position = read_iam(values, where), f"{where(switch)}: {switch}"
    if not redis.is_encrypted:
        raise InputError(f"{position} needs TLS", f"Set {REDIS_SSL.name}=true, or write rediss:// in the URL.")
    if redis.password:
        raise InputError(
            f"{position} does not use the password that is set as well", f"Remove the password, or {switch}."
        )
    return login


def read_iam(values: Mapping[str, str], where: Callable[[str], str] = str) -> IamLogin:
    """How a token for ElastiCache is signed.

    Raises:
        InputError: the user, the cache or the region is missing.
    """
    position = f"{where(REDIS_AWS_IAM_AUTH.name)}: {REDIS_AWS_IAM_AUTH.name}"
    if missing := [each.name for each in _IAM_PARTS if not values.get(each.name)]:
        raise InputError(f"{position} needs {' and '.join(missing)} as well", "Set it to that of the cache.")
    region = next((values[name] for name in _IAM_REGIONS if values.get(name)), "")
    if not region:
        raise InputError(
            f"{position} needs a region, and LiteLLM does not use {AWS_REGION_NAME.name} here",
            f"Set {REDIS_AWS_IAM_REGION.name}.",
        )
    return IamLogin(
        user=values[REDIS_AWS_IAM_USER_NAME.name],
        cache=values[REDIS_AWS_IAM_CACHE_NAME.name].lower(),
        region=region,
        is_serverless=REDIS_AWS_IAM_SERVERLESS.read(values, where),
        credentials=values,
    )


def uses_iam(values: Mapping[str, str]) -> bool:
    """Whether LiteLLM signs a token with the AWS credentials of the service, in place of a password."""
    return names_redis(values) and is_on(values, REDIS_AWS_IAM_AUTH)


def check_redis(values: Mapping[str, str], where: Callable[[str], str]) -> list[str]:
    """Check the variables of Redis, and return warnings.

    `where`: returns the position of a variable for messages, such as `.env:12`.

    Raises:
        InputError: the first value that LiteLLM cannot use.
    """
    if not names_redis(values):
        given = _given(values, (*_WITH_HOST, *_LOGIN, *_TLS, REDIS_AWS_IAM_AUTH, *_IAM_OPTIONS))
        given += _given(values, (REDIS_SERVICE_NAME, REDIS_SENTINEL_PASSWORD))
        return [f"{where(given[0])}: {' and '.join(given)} has no effect without {REDIS_HOST.name}."] if given else []
    if is_reference(values.get(REDIS_URL.name, "")):
        _find_target(values, where)
        return []
    redis, name = find_redis(values, where) or (Redis(""), "")
    warnings = _encryption_warnings(redis, f"{where(name)}: {name}")
    if redis.sentinels:
        warnings.append(
            f"{where(name)}: {name} is passed to LiteLLM; install and doctor do not connect to Sentinels."
        )
    return warnings


def _encryption_warnings(redis: Redis, position: str) -> list[str]:
    if redis.is_local or redis.is_encrypted:
        return []
    crosses = "the password and cached responses cross" if redis.password else "cached responses cross"
    compose = f" {COMPOSE_HINT.format(redis.host)}." if is_compose_name(redis.host) else ""
    return [
        f"{position}: {redis.host} is another host, and without TLS {crosses} the network unencrypted. Set"
        f" {REDIS_SSL.name}=true, or write rediss:// in the URL.{compose}"
    ]
