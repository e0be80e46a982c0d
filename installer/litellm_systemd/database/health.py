"""The state of the database as doctor needs it, found by a program of its own.

A program, since a login over the UNIX socket is made as the service's user, and setting that user changes all threads
of a process; and since it can be killed. It prints JSON: a `Health`. Nothing is changed in the database.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litellm_systemd.database.connection import require_database
from litellm_systemd.database.migration_files import own_package, read_migrations
from litellm_systemd.database.migrations import SCHEMA, find_database, open_schema, read_status
from litellm_systemd.database.postgres import administer
from litellm_systemd.env.database import SOCKET_FOLDER, Database, parse_url
from litellm_systemd.env.variables import DATABASE_URL, MASTER_KEY, SALT_KEY
from litellm_systemd.errors import DatabaseDown, DatabaseError, DatabaseFull, InputError

if TYPE_CHECKING:
    from typing import LiteralString

    from psycopg import Connection

    Rows = Connection[tuple[Any, ...]]

#: For each statement here: a server that is slow, or tables that are locked, must not stop doctor.
_LIMITS = "SET statement_timeout = '2s'; SET lock_timeout = '500ms'"
_NAMED = 3
#: The limits of connections, with the number in use.
_CONNECTIONS: LiteralString = """
SELECT 'max_connections', current_setting('max_connections')::int
    - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true)::int, 0), count(*)
  FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
UNION ALL SELECT 'role', rolconnlimit, (SELECT count(*) FROM pg_stat_activity WHERE usename = rolname
    AND backend_type = 'client backend' AND pid <> pg_backend_pid())
  FROM pg_roles WHERE rolname = %(user)s AND rolconnlimit >= 0
UNION ALL SELECT 'database', datconnlimit, (SELECT count(*) FROM pg_stat_activity a WHERE a.datname = d.datname
    AND backend_type = 'client backend' AND pid <> pg_backend_pid())
  FROM pg_database d WHERE datname = %(name)s AND datconnlimit >= 0
"""
_HOLDERS: LiteralString = """
SELECT usename, coalesce(datname, ''), application_name, count(*) FROM pg_stat_activity
  WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() GROUP BY 1, 2, 3 ORDER BY 4 DESC LIMIT 3
"""
#: Sessions that hold a lock for which LiteLLM waits, and wait for none themselves.
_BLOCKERS: LiteralString = """
SELECT b.pid, b.usename, b.application_name, coalesce(b.state, ''), max(extract(epoch FROM clock_timestamp()
    - w.query_start))::float, count(DISTINCT w.pid), ''
  FROM pg_stat_activity w CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS x(pid)
  JOIN pg_stat_activity b ON b.pid = x.pid
  WHERE w.datname = current_database() AND w.usename = current_user AND w.wait_event_type = 'Lock'
    AND cardinality(pg_blocking_pids(b.pid)) = 0 AND b.pid <> pg_backend_pid()
  GROUP BY 1, 2, 3, 4 HAVING max(clock_timestamp() - w.query_start) > make_interval(secs => %(blocked)s) LIMIT 3
"""
#: Statements and open transactions, of which the text is cut where it could have a value in it.
_SLOW: LiteralString = """
SELECT pid, usename, application_name, state, extract(epoch FROM clock_timestamp()
    - CASE WHEN state = 'active' THEN query_start ELSE state_change END)::float, 0,
    left(regexp_replace(split_part(query, '''', 1), '\\s+', ' ', 'g'), 80)
  FROM pg_stat_activity
  WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
    AND application_name NOT IN ('pg_dump', 'litellmctl') AND (
      (state = 'active' AND wait_event_type IS DISTINCT FROM 'Lock'
        AND clock_timestamp() - query_start > make_interval(secs => %(slow)s))
      OR (state LIKE 'idle in transaction%%' AND clock_timestamp() - state_change > make_interval(secs => %(idle)s)))
  ORDER BY 5 DESC LIMIT 3
"""


@dataclass(frozen=True, slots=True)
class Session:
    """A session of PostgreSQL.

    `seconds`: how long others wait for it, it runs a statement, or its transaction is open. `state` is empty if the
    user may not see it. `waiting`: sessions that wait for it. `query`: the start of its statement.
    """

    pid: int
    user: str
    application: str
    state: str
    seconds: float
    waiting: int = 0
    query: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """What was found. What could not be read has its default, and is named in `unread`.

    `error`: why the service cannot use the database, with a `hint`; `kind` is then "down", "full" or "refused".
    `server`: its version, such as 150013. `history`: what is wrong with the ledger of migrations, with a hint.
    `pending` and `newer`: names of migrations. `limit`: the one that is reached first, of `limit_of` "role",
    "database" or "max_connections", and `used` of it. `holders`: user, database, program and number of the most
    connections. `stored`: values that a key decrypts, by its name, and under "" those that none does.
    """

    error: str = ""
    hint: str = ""
    kind: str = ""
    server: int = 0
    history: str = ""
    history_hint: str = ""
    pending: tuple[str, ...] = ()
    newer: tuple[str, ...] = ()
    limit: int = 0
    limit_of: str = ""
    used: int = 0
    holders: tuple[tuple[str, str, str, int], ...] = ()
    blockers: tuple[Session, ...] = ()
    slow: tuple[Session, ...] = ()
    stored: Mapping[str, int] | None = None
    unread: tuple[str, ...] = ()


def parse_health(text: str) -> Health:
    """What `main` has printed."""
    values = json.loads(text)
    for name in ("blockers", "slow"):
        values[name] = tuple(Session(**each) for each in values[name])
    values["holders"] = tuple(tuple(each) for each in values["holders"])
    return Health(**values)


def observe(environ: Mapping[str, str], position: str, package: Path, limits: Mapping[str, float]) -> Health:
    """The state of the database.

    Args:
        environ: DATABASE_URL, and if they are set DIRECT_URL, LITELLM_SALT_KEY, LITELLM_MASTER_KEY and what IAM
            authentication needs.
        position: where the URL is written, for messages.
        package: the litellm-proxy-extras of the release in use.
        limits: seconds, from which a session is reported: "blocked", "slow" and "idle".
    """
    main = parse_url(environ[DATABASE_URL.name], position, environ)
    try:
        require_database(main, position)
    except DatabaseError as error:
        kind = {DatabaseDown: "down", DatabaseFull: "full"}.get(type(error), "refused")
        found = _read_as_administrator(main) if kind == "full" else {}
        return Health(error.message, error.hint, kind, **found)
    values: dict[str, Any] = {}
    unread: list[str] = []
    try:
        database, schema = find_database(environ)
        with open_schema(database, schema) as connection:
            connection.execute(_LIMITS)
            values["server"] = connection.info.server_version
            with _noting("pg_stat_activity", unread):
                values |= _read_connections(connection, main)
                values["blockers"] = _read_sessions(connection, _BLOCKERS, limits)
                values["slow"] = _read_sessions(connection, _SLOW, limits)
            with _noting("the history of migrations", unread):
                values |= _compare(connection, schema, package)
            with _noting("the stored values", unread):
                values["stored"] = _read_stored(connection, schema, environ)
    except DatabaseError as error:
        unread.append(error.message)
    return Health(**values, unread=tuple(unread))


@contextlib.contextmanager
def _noting(what: str, unread: list[str]) -> Iterator[None]:
    """Note in `unread` what the block could not read, because it is locked, slow or not allowed."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:
        unread.append(f"{what}: {' '.join(str(error).split())}")


def _read_as_administrator(database: Database) -> dict[str, Any]:
    """Who holds the connections: superusers have some of their own. Nothing if the server is on another host."""
    if not database.is_local:
        return {}
    with (
        contextlib.suppress(DatabaseError),
        administer(database.port, folder=database.socket or SOCKET_FOLDER) as connection,
    ):
        connection.execute(_LIMITS)
        return _read_connections(connection, database)
    return {}


def _read_connections(connection: Rows, database: Database) -> dict[str, Any]:
    rows = connection.execute(_CONNECTIONS, {"user": database.user, "name": database.name}).fetchall()
    name, limit, used = min(rows, key=lambda row: row[1] - row[2])
    holders = connection.execute(_HOLDERS).fetchall()
    return {"limit_of": name, "limit": limit, "used": used, "holders": tuple(holders)}


def _read_sessions(connection: Rows, query: LiteralString, limits: Mapping[str, float]) -> tuple[Session, ...]:
    return tuple(Session(*row) for row in connection.execute(query, dict(limits)).fetchall())


def _compare(connection: Rows, schema: str, package: Path) -> dict[str, Any]:
    """The ledger, compared with the migrations of the release."""
    migrations = read_migrations(package)
    try:
        status = read_status(connection, schema, migrations, package / SCHEMA)
    except InputError as error:
        return {"history": error.message, "history_hint": error.hint}
    known = {each.name for each in migrations}
    return {"pending": status.pending, "newer": tuple(name for name in status.applied if name not in known)}


def _read_stored(connection: Rows, schema: str, environ: Mapping[str, str]) -> dict[str, int]:
    from litellm_systemd.database.stored_values import read_stored_values

    keys = {each.name: environ[each.name] for each in (SALT_KEY, MASTER_KEY) if environ.get(each.name)}
    stored = read_stored_values(connection, keys, schema)
    return {**stored.readable, "": stored.unreadable}


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the state of the database as JSON."""
    parser = argparse.ArgumentParser(prog="health")
    parser.add_argument("--position", required=True)
    parser.add_argument("--package", type=Path, metavar="FOLDER")
    for name in ("blocked", "slow", "idle"):
        parser.add_argument(f"--{name}", type=float, required=True, metavar="SECONDS")
    given = parser.parse_args(arguments)
    limits = {name: getattr(given, name) for name in ("blocked", "slow", "idle")}
    health = observe(environ, given.position, given.package or own_package(), limits)
    sys.stdout.write(json.dumps(asdict(health)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
