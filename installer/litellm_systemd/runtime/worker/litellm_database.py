"""LiteLLM's database mode in a forked worker: Prisma's query engine, its client, and the size of its pool.

Each worker has a query engine of its own: a child process to which LiteLLM speaks HTTP on the loopback interface, and
which holds the connections to PostgreSQL.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import logging
import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from litellm_systemd.contract import QUERY_ENGINE
from litellm_systemd.env.database import parse_url
from litellm_systemd.env.variables import DATABASE_CONNECTION_LIMIT, IAM_TOKEN_DB_AUTH
from litellm_systemd.errors import InputError

_LOGGER = logging.getLogger(__name__)
_URL = "DATABASE_URL"
_REPLICA_URL = "DATABASE_URL_READ_REPLICA"
_ENGINE = "PRISMA_QUERY_ENGINE_BINARY"
_TYPES = "prisma.types"
_QUERY = "prisma.engine._query"
_CLIENT = "litellm.proxy.db.prisma_client"
_WRITE_ENGINE = "_write_engine"
_TOKEN_AUTH = "litellm.proxy.db.token_auth"  # noqa: S105 - a module
_MIGRATION = "litellm.proxy.db.check_migration"
_LIMIT = "connection_limit"
#: prctl(2): the signal that a process gets when the thread that started it exits.
_PR_SET_PDEATHSIG = 1

#: PostgreSQL's default of max_connections, less what it reserves for superusers.
_DEFAULT_CONNECTIONS = 97
#: Connections that are left to migrations, dumps, psql and other programs.
_SPARE = 10
#: A worker gains nothing from more: LiteLLM's own default.
_LARGEST_POOL = 10
#: Seconds to connect in order to read max_connections.
_CONNECT_TIMEOUT = 3
_CONNECTIONS = (
    "select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    " - coalesce(current_setting('reserved_connections', true)::int, 0)"
)


def check_parts(environ: Mapping[str, str], prefix: Path = Path(sys.prefix)) -> None:
    """Check that the release has Prisma's client and query engine.

    Raises:
        InputError: one is missing.
    """
    spec = importlib.util.find_spec("prisma")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not any((Path(folder) / "client.py").is_file() for folder in folders):
        missing = "Prisma's client"
    elif not os.access(engine := environ.get(_ENGINE) or engine_path(prefix), os.X_OK):
        missing = f"Prisma's query engine ({engine})"
    else:
        return
    raise InputError(
        f"{_URL} is set, and this release has no {missing}",
        "Install a release with both, or remove the database from .env: sudo litellmctl install"
        if "INVOCATION_ID" in environ  # systemd's
        else f"Use a release or an image with both, or unset {_URL}.",
    )


def engine_path(prefix: Path = Path(sys.prefix)) -> str:
    """The query engine of a release."""
    return str(prefix / QUERY_ENGINE)


def prepare(environ: MutableMapping[str, str]) -> None:
    """Call this before LiteLLM is imported: it imports Prisma's client if there is one."""
    environ.setdefault(_ENGINE, engine_path())
    # Migrations are a step of the install, and Prisma's own program for them is not in a release.
    environ["DISABLE_SCHEMA_UPDATE"] = "true"
    # It would stop the start during an outage. Connecting is a check too.
    environ.setdefault("DISABLE_PRISMA_HEALTH_CHECK_ON_STARTUP", "true")
    if importlib.util.find_spec("prisma") is not None:
        sys.modules.setdefault(_TYPES, _Types(_TYPES))


class _Types(types.ModuleType):
    """In place of the generated module with the types of all arguments.

    They are for type checkers: ten thousand TypedDicts, which take 320 MB and several seconds to import.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(importlib.import_module("prisma._types"), name, dict)


def apply(environ: Mapping[str, str]) -> None:
    """Apply what LiteLLM and Prisma's client need to the imported modules."""
    if environ.get(_URL):
        # 13 MB, which each worker would import to check the database.
        with contextlib.suppress(ImportError):
            importlib.import_module("psycopg")
    # RuntimeError: a release without a database has no generated client.
    with contextlib.suppress(ImportError, AttributeError, RuntimeError):
        _find_engine_in_new_clients()
    with contextlib.suppress(ImportError, AttributeError):
        _skip_comparison_of_schemas()
    with contextlib.suppress(ImportError, AttributeError):
        _end_engines_with_their_worker()


def _find_engine_in_new_clients() -> None:
    """Let LiteLLM set the engine of a client: prisma-client-py has renamed the attribute (BerriAI/litellm#39114).

    Otherwise the first connection of each worker fails after the engine has started, and no later one succeeds.
    """
    wrapper: Any = importlib.import_module(_CLIENT).PrismaWrapper
    client: Any = importlib.import_module("prisma").Prisma
    if not hasattr(client, "_Prisma__engine") and hasattr(client, "_engine"):
        setattr(wrapper, _WRITE_ENGINE, staticmethod(lambda client, engine: setattr(client, "_engine", engine)))


def _skip_comparison_of_schemas() -> None:
    """Do not run Prisma's command line tool at the start: it needs Node, and would download it."""
    vars(importlib.import_module(_MIGRATION))["check_prisma_schema_diff"] = lambda *_, **__: None


def _end_engines_with_their_worker() -> None:
    """Have the kernel kill the engine of a worker that exits in any way, also by SIGKILL.

    Otherwise it would keep its connections to PostgreSQL for ever.
    """
    module: Any = importlib.import_module(_QUERY)
    prctl = ctypes.CDLL(None).prctl

    def popen(arguments: Any, *, preexec_fn: Callable[[], object] | None = None, **options: Any) -> Any:
        worker = os.getpid()

        def prepare_child() -> None:
            if preexec_fn is not None:
                preexec_fn()
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != worker:  # it has exited before
                os._exit(1)

        # Its log, which repeats the errors in its responses. It writes to standard error why it cannot start.
        options["stdout"] = subprocess.DEVNULL
        return subprocess.Popen(arguments, preexec_fn=prepare_child, **options)

    module.subprocess = types.SimpleNamespace(Popen=popen, TimeoutExpired=subprocess.TimeoutExpired)


def limit_pools(environ: MutableMapping[str, str], configured: int | None, workers: int) -> None:
    """Set the number of connections of each worker in the URLs that LiteLLM has built.

    Args:
        environ: that of the worker, in which LiteLLM has set up the database.
        configured: what the administrator has set in the configuration or in the URL, None if nothing.
        workers: of the service.
    """
    if not environ.get(_URL):
        return
    limit = DATABASE_CONNECTION_LIMIT.read(environ) or configured
    if limit is None:
        usable = _read_connections(environ[_URL])
        limit = pool_size(usable or _DEFAULT_CONNECTIONS, workers)
        if usable is not None and limit * most_engines(workers) > usable:
            _LOGGER.warning(
                "The database accepts %d connections, too few for %d workers and a reload: raise max_connections of"
                " PostgreSQL, or lower NUM_WORKERS",
                usable,
                workers,
            )
    for name in (_URL, _REPLICA_URL):
        if environ.get(name):
            environ[name] = set_parameter(environ[name], _LIMIT, str(limit))


def renew_token(url: str, environ: Mapping[str, str]) -> str:
    """The URL with a fresh token as its password, if the database has IAM authentication; otherwise as it is.

    LiteLLM renews the token of a worker three minutes before its end. One that another worker has got, or of before
    an outage, may have expired. It may query the metadata of the instance.

    Raises:
        Exception: there are no AWS credentials.
    """
    if not url or not IAM_TOKEN_DB_AUTH.read(environ):
        return url
    auth: Any = importlib.import_module(_TOKEN_AUTH)
    endpoint = auth.parse_iam_endpoint_from_url(url)
    token = auth.mint_database_token(auth.RdsIamTokenAuth.from_env(), endpoint)
    parts = urlsplit(url)
    user, host = parts.netloc.split(":", 1)[0], parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{token}@{host}"))


def renew_own_token(environ: MutableMapping[str, str]) -> None:
    """Renew the token that this worker connects with next. An outage follows if that fails, with its cause."""
    try:
        environ.update({_URL: renew_token(environ[_URL], environ)} if environ.get(_URL) else {})
    except Exception as error:
        _LOGGER.warning("no AWS credentials for a token of the database: %s", error)


def _read_connections(url: str) -> int | None:
    """The number of connections that the database accepts from us; None if it cannot be read now."""
    try:
        psycopg: Any = importlib.import_module("psycopg")
        parameters = parse_url(url).libpq()
        with psycopg.connect(**parameters, connect_timeout=_CONNECT_TIMEOUT) as connection:
            return int(connection.execute(_CONNECTIONS).fetchone()[0])
    except Exception as error:  # LiteLLM connects next, and its error counts
        _LOGGER.debug("cannot read max_connections: %s", error)
        return None


def most_engines(workers: int) -> int:
    """Engines that run at the same time: of the workers, of those that drain, of a standby, and of a recycled one."""
    return 3 * workers + 1


def pool_size(usable: int, workers: int) -> int:
    """Connections for each engine so that all engines together use no more than `usable`, less some spare ones."""
    return max(1, min(_LARGEST_POOL, (usable - _SPARE) // most_engines(workers)))


def set_parameter(url: str, name: str, value: str) -> str:
    parts = urlsplit(url)
    query = {**dict(parse_qsl(parts.query, keep_blank_values=True)), name: value}
    return urlunsplit(parts._replace(query=urlencode(query)))
