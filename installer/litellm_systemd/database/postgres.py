"""The PostgreSQL of the distribution, with a role and a database of the service (`install --with-postgres`).

The service logs in over the UNIX socket as its own user (peer authentication): there is no password.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from litellm_systemd.command import inherited_environment, minimal_environment, run
from litellm_systemd.contract import POSTGRES, SERVICE_USER
from litellm_systemd.database.connection import connect
from litellm_systemd.env.database import DEFAULT_PORT, OWN_NAME, SOCKET_FOLDER, Database, own_url, parse_url
from litellm_systemd.errors import CommandError, DatabaseError, Unavailable
from litellm_systemd.host.observe import memory_field, port_trouble
from litellm_systemd.host.state import PostgresState
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.report.progress import Step

if TYPE_CHECKING:
    from psycopg import Connection

#: The user of the server, which is also its superuser.
_ADMINISTRATOR = "postgres"
_POSITION = "the PostgreSQL of this host"
#: Debian and Ubuntu have programs for several versions and clusters (postgresql-common). Fedora, RHEL and Amazon
#: Linux have one cluster.
_DEBIAN_SERVERS, _SERVER = "usr/lib/postgresql/*/bin/postgres", "usr/bin/postgres"
_DATA = "/var/lib/pgsql/data"
#: Seconds.
_START_TIMEOUT, _INSTALL_TIMEOUT = 60, 900
_NO_PACKAGE = (
    "Install the server of PostgreSQL in another way and run the command again, or set DATABASE_URL to a database on"
    " another host."
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A server with its data: its port, its unit, whether it runs, and the folder of the data."""

    port: int
    unit: str
    is_online: bool
    data: str = _DATA


def observe_postgres(systemctl: Systemctl, url: str = "", *, starts: bool = False) -> PostgresState:
    """What `set_up_postgres` and the two `create_` functions would find.

    Args:
        systemctl: of this host.
        url: that of the database if an earlier install has created it: another server must not take its place.
        starts: start a server that is stopped: only then it is known what it has, and so what an undo may drop.

    Raises:
        InstallerError: PostgreSQL cannot be installed or used as it is here; the message has the cause.
    """
    cluster = find_cluster(_port(url) if url else 0)
    if cluster is None and url and _port(url) != DEFAULT_PORT:
        raise DatabaseError(
            f"the PostgreSQL of this host with the port {_port(url)}, which has the database of the service, is gone",
            "Restore it, or use another database: sudo litellmctl install --without-postgres",
        )
    if cluster is None:
        if trouble := port_trouble(f"127.0.0.1:{DEFAULT_PORT}"):
            raise Unavailable(
                f"a PostgreSQL of this host needs port {DEFAULT_PORT}: {trouble.partition('. ')[0]}",
                "Stop it. If it is the PostgreSQL of a compose file: docker compose down",
            )
        return PostgresState(own_url(), package="" if _is_installed() else _package_command()[0])
    is_enabled = systemctl.unit_state(POSTGRES).is_enabled
    if not cluster.is_online:
        if not starts:
            return PostgresState(own_url(cluster.port), "", True, False, is_enabled, bool(url), bool(url))
        _start(systemctl, cluster)
    with administer(cluster.port) as connection:
        role = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (OWN_NAME,)).fetchone()
        found = connection.execute(
            "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", (OWN_NAME,)
        ).fetchone()
    if found is not None and found[0] != OWN_NAME:
        raise DatabaseError(
            f"{_POSITION} has a database {OWN_NAME}, which belongs to {found[0]}",
            "To use it, set DATABASE_URL. Otherwise rename it: sudo -u postgres psql -c 'ALTER DATABASE"
            f" {OWN_NAME} RENAME TO other'",
        )
    return PostgresState(
        own_url(cluster.port),
        has_cluster=True,
        is_online=True,
        is_enabled=is_enabled,
        has_role=role is not None,
        has_database=found is not None,
    )


def set_up_postgres(url: str, systemctl: Systemctl, say: Callable[[str], None]) -> None:
    """Install, create, enable and start the server of a URL, each unless it is so already.

    Raises:
        InstallerError: a step failed. What was installed stays.
    """
    port = _port(url)
    is_new = find_cluster(port) is None
    if not _is_installed():
        _install(say)
    if find_cluster(port) is None:
        _create_cluster()
    systemctl.daemon_reload()  # for the units of a new cluster, which a generator writes
    systemctl.enable(POSTGRES)
    cluster = find_cluster(port) or Cluster(port, POSTGRES, is_online=False)
    _start(systemctl, cluster)
    if is_new:
        _tune(port)
        systemctl.restart(cluster.unit)
        _await_server(port)


def create_role(url: str) -> None:
    """Create the role of the service, without a password."""
    with administer(_port(url)) as connection:
        connection.execute(f"CREATE ROLE {OWN_NAME} LOGIN")


def create_database(url: str) -> None:
    """Create the database of the service, which no other role may connect to, and log in as the service.

    Raises:
        DatabaseError: the server does not accept the service's user over its socket.
    """
    with administer(_port(url)) as connection:
        row = connection.execute("SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'template1'")
        # A server that was set up without a locale stores bytes of any encoding.
        has_text = row.fetchone() == ("UTF8",)
        more = "" if has_text else " TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
        connection.execute(f"CREATE DATABASE {OWN_NAME} OWNER {OWN_NAME}{more}")
        connection.execute(f"REVOKE ALL ON DATABASE {OWN_NAME} FROM PUBLIC")
    try:
        connect(parse_url(url), _POSITION).close()
    except DatabaseError as error:
        error.hint = (
            f"Add the line 'local {OWN_NAME} {OWN_NAME} peer' at the top of its pg_hba.conf (to find it: sudo"
            " -u postgres psql -c 'SHOW hba_file'), then: sudo systemctl reload postgresql"
        )
        raise


def drop_database(url: str) -> None:
    """Drop the database unless a table has a row. For the undo of a run that has created it."""
    database = parse_url(url)
    with administer(database.port, OWN_NAME, database.socket) as connection:
        tables = connection.execute(
            "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog',"
            " 'information_schema') AND tablename <> '_prisma_migrations'"
        ).fetchall()
        if any(connection.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for (name,) in tables):  # noqa: S608
            return
    with administer(database.port, folder=database.socket) as connection:
        connection.execute(f"DROP DATABASE {OWN_NAME} WITH (FORCE)")


def drop_role(url: str) -> None:
    """Drop the role unless it owns the database."""
    with administer(_port(url)) as connection:
        if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (OWN_NAME,)).fetchone() is None:
            connection.execute(f"DROP ROLE {OWN_NAME}")


@contextmanager
def administer(
    port: int, name: str = "postgres", folder: str = SOCKET_FOLDER
) -> Iterator[Connection[tuple[object, ...]]]:
    """A connection as the superuser of the server, to the database `name`, over the socket in `folder`.

    Raises:
        DatabaseError: there is none, or a statement of the block failed.
    """
    from psycopg import Error

    database = Database("localhost", name, _ADMINISTRATOR, port=port, socket=folder)
    try:
        opened = connect(database, _POSITION, user=_ADMINISTRATOR)
    except DatabaseError as error:
        if Path(folder, f".s.PGSQL.{port}").exists():
            error.hint = (
                "Its pg_hba.conf needs the line 'local all postgres peer', as distributions ship it. To use it with a"
                " password instead, set DATABASE_URL."
            )
        raise
    with opened as connection:
        try:
            # Without the schemas of the database: a role that may create functions in one could give the superuser a
            # function or an operator that fits better than PostgreSQL's own (CVE-2018-1058).
            connection.execute("SET search_path = pg_catalog, pg_temp")
            yield connection
        except Error as error:
            raise DatabaseError(f"{_POSITION}: {' '.join(str(error).split())}") from None


def _start(systemctl: Systemctl, cluster: Cluster) -> None:
    """Start a server unless it runs. On Debian the first unit stands for all clusters, and may run without one."""
    systemctl.start(POSTGRES)
    systemctl.start(cluster.unit)
    _await_server(cluster.port)


def _port(url: str) -> int:
    return parse_url(url).port


def _await_server(port: int) -> None:
    """Wait until the server accepts connections."""
    deadline = time.monotonic() + _START_TIMEOUT
    while True:
        try:
            with administer(port):
                return
        except DatabaseError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _is_installed() -> bool:
    return any(Path("/").glob(_DEBIAN_SERVERS)) or Path("/", _SERVER).exists()


def _has_program(name: str) -> bool:
    return shutil.which(name, path=minimal_environment()["PATH"]) is not None


def find_cluster(port: int) -> Cluster | None:
    """The cluster with a port. For 0, one that runs, else the one with the lowest port. None if there is none."""
    if _has_program("pg_lsclusters"):
        rows = [line.split() for line in run(("pg_lsclusters", "--no-header")).stdout.splitlines()]
        found = [
            Cluster(int(at), f"postgresql@{version}-{name}.service", status.startswith("online"), data)
            for version, name, at, status, _, data, *_ in rows
            if port in (0, int(at))
        ]
        return min(found, key=lambda each: (not each.is_online, each.port), default=None)
    if not Path("/", _SERVER).exists() or not Path(_DATA, "PG_VERSION").exists():
        return None
    return Cluster(DEFAULT_PORT, POSTGRES, Path(f"{SOCKET_FOLDER}/.s.PGSQL.{DEFAULT_PORT}").exists())


def _package_command() -> tuple[str, tuple[str, ...]]:
    """How the package manager of this host installs PostgreSQL: in words, and as a command line.

    Raises:
        Unavailable: there is no package manager that is known here.
    """
    if _has_program("apt-get"):
        argv: tuple[str, ...] = ("apt-get", "install", "--yes", "--no-install-recommends", "postgresql")
        return "apt-get install postgresql", argv
    if _has_program("dnf"):
        name = _dnf_package()
        return f"dnf install {name}", ("dnf", "install", "--assumeyes", name)
    raise Unavailable("PostgreSQL is not installed, and this host has neither apt-get nor dnf", _NO_PACKAGE)


def _dnf_package() -> str:
    """The package of the server: without a version in its name (Fedora, RHEL), else the newest (Amazon Linux)."""
    argv = ("dnf", "--quiet", "repoquery", "--available", "--queryformat", "%{name}\n", "postgresql*-server")
    names = set(run(argv, check=False, timeout=_INSTALL_TIMEOUT).stdout.split())
    versions = [name for name in names if name.removeprefix("postgresql").removesuffix("-server").isdigit()]
    if "postgresql-server" in names or not versions:
        return "postgresql-server"
    return max(versions, key=lambda name: int(name.removeprefix("postgresql").removesuffix("-server")))


def _install(say: Callable[[str], None]) -> None:
    words, argv = _package_command()
    environment = {**inherited_environment(), **minimal_environment(), "DEBIAN_FRONTEND": "noninteractive"}
    say(Step(f"installing PostgreSQL: {words}"))
    try:
        run(argv, environment=environment, timeout=_INSTALL_TIMEOUT)
    except CommandError as error:
        if argv[0] == "apt-get":
            say(Step("updating the lists of packages: apt-get update"))
            run(("apt-get", "update"), environment=environment, timeout=_INSTALL_TIMEOUT, hint=_NO_PACKAGE)
            run(argv, environment=environment, timeout=_INSTALL_TIMEOUT, hint=_NO_PACKAGE)
            return
        error.hint = _NO_PACKAGE
        raise


def _create_cluster() -> None:
    """Create a cluster where the package did not: Fedora and RHEL never do, Debian may be set not to."""
    if not _has_program("pg_lsclusters"):
        run(("postgresql-setup", "--initdb"), timeout=_INSTALL_TIMEOUT)
        return
    versions = [int(path.parent.parent.name) for path in Path("/").glob(_DEBIAN_SERVERS)]
    run(("pg_createcluster", "--start-conf=auto", str(max(versions)), "main"), timeout=_INSTALL_TIMEOUT)


def _tune(port: int) -> None:
    """Settings for a host that is small and has another main task. ALTER SYSTEM writes postgresql.auto.conf."""
    memory = memory_field(Path("/proc/meminfo"), "MemTotal") or 1024
    settings = {
        # An eighth of the memory, where a server of its own would get a quarter.
        "shared_buffers": f"{min(max(memory // 8, 32), 256)}MB",
        "effective_cache_size": f"{max(memory // 4, 64)}MB",
        # The queries are short: to compile them or to spread them over CPUs costs more than it gains.
        "jit": "off",
        "max_parallel_workers_per_gather": "0",
        "max_wal_size": "512MB",
    }
    with administer(port) as connection:
        for name, value in settings.items():
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")


def drop_command() -> str:
    return f"sudo -u {_ADMINISTRATOR} dropdb {OWN_NAME} && sudo -u {_ADMINISTRATOR} dropuser {SERVICE_USER}"
