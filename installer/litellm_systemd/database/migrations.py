"""Apply the migrations of this release's LiteLLM, as `prisma migrate deploy` does, without Prisma (docs/adr/0016).

A program: it runs in the Python of the release whose migrations it applies, as the service's user, with the service's
environment, and prints JSON. Its ledger is Prisma's, so that Prisma regards as applied what this program has applied.

A migration and its line in the ledger are one transaction: a killed run leaves no migration half applied. An index
that is built without a lock (CREATE INDEX CONCURRENTLY) is the exception; its migration can be repeated.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from litellm_systemd.contract import ExitCode
from litellm_systemd.database.connection import connect, with_token
from litellm_systemd.database.dump import libpq_environment
from litellm_systemd.database.migration_files import Migration, own_package, read_migrations
from litellm_systemd.database.migration_sql import is_concurrent, is_inert
from litellm_systemd.database.prisma_schema import parse_columns
from litellm_systemd.env.database import Database, parse_url
from litellm_systemd.env.secrets import redact
from litellm_systemd.env.variables import DATABASE_URL, DIRECT_URL
from litellm_systemd.errors import Busy, DatabaseError, InputError, InstallerError, ProgramError

if TYPE_CHECKING:
    from typing import LiteralString

    import psycopg
    from psycopg import Connection

    Rows = Connection[tuple[Any, ...]]

#: The lock of LiteLLM's migration jobs (litellm_proxy_extras.migration_lock) and that of Prisma, in LiteLLM's order.
LOCKS = (int.from_bytes(b"llm_mig2", "big"), 72707369)
#: That of this program: what follows the migrations must not run on two hosts at once, and cannot hold the others.
_PROGRAM_LOCK = int.from_bytes(b"llm_ctl1", "big")
#: A statement that waits for the lock of a table makes all later requests wait: it gives up, and is repeated.
_LOCK_TIMEOUT, _TRIES = "3s", 20
_CREATE_LEDGER = (
    "CREATE TABLE IF NOT EXISTS _prisma_migrations (id VARCHAR(36) PRIMARY KEY NOT NULL,"
    " checksum VARCHAR(64) NOT NULL, finished_at TIMESTAMPTZ, migration_name VARCHAR(255) NOT NULL, logs TEXT,"
    " rolled_back_at TIMESTAMPTZ, started_at TIMESTAMPTZ NOT NULL DEFAULT now(),"
    " applied_steps_count INTEGER NOT NULL DEFAULT 0)"
)
_READ_LEDGER = (
    "SELECT migration_name, checksum, coalesce(logs, ''), applied_steps_count, finished_at IS NOT NULL"
    " FROM _prisma_migrations WHERE rolled_back_at IS NULL ORDER BY started_at"
)
_RECORD = (
    "INSERT INTO _prisma_migrations (id, checksum, migration_name, logs, started_at, finished_at, rolled_back_at,"
    " applied_steps_count) VALUES (%s, %s, %s, %s, %s, %s, %s, %s)"
)
_SETTLE: dict[str, LiteralString] = {
    "finished_at": (
        "UPDATE _prisma_migrations SET finished_at = now()"
        " WHERE migration_name = %s AND finished_at IS NULL AND rolled_back_at IS NULL"
    ),
    "rolled_back_at": (
        "UPDATE _prisma_migrations SET rolled_back_at = now()"
        " WHERE migration_name = %s AND finished_at IS NULL AND rolled_back_at IS NULL"
    ),
}
_SIZE = (
    "SELECT count(*), coalesce(sum(pg_table_size(format('%%I.%%I', schemaname, tablename)::regclass)), 0)"
    r" FROM pg_tables WHERE schemaname = %s AND tablename LIKE 'LiteLLM\_%%'"
)
_COLUMNS = (
    "SELECT table_name || '.' || column_name,"
    " udt_name || (CASE WHEN is_nullable = 'YES' OR data_type = 'ARRAY' THEN '' ELSE ' not null' END)"
    " FROM information_schema.columns JOIN pg_tables ON schemaname = table_schema AND tablename = table_name"
    r" WHERE table_schema = %s AND table_name LIKE 'LiteLLM\_%%'"
)
_HOLDERS = (
    "SELECT a.application_name, coalesce(host(a.client_addr), 'this host of the database'), a.pid"
    " FROM pg_locks l JOIN pg_stat_activity a USING (pid)"
    " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND a.pid <> pg_backend_pid()"
    " AND (l.classid::bigint << 32) + l.objid::bigint = ANY(%s) LIMIT 1"
)
_NAMED = 3
#: The file next to the migrations.
SCHEMA = "schema.prisma"


@dataclass(frozen=True, slots=True)
class Status:
    """The ledger of the database, compared with the migrations of this release.

    `server`: the version of the server, such as 150013. `size`: bytes of LiteLLM's tables, 0 if there are none.
    `applied`: names, also those that this release does not know. `pending`: names, in order. `notes`: for the user.
    """

    server: int
    size: int
    applied: tuple[str, ...] = ()
    pending: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Line:
    """A line of the ledger that was not rolled back."""

    name: str
    checksum: str
    logs: str
    steps: int
    is_finished: bool

    def remedy(self, migration: Migration | None) -> str:
        """The column that LiteLLM sets to complete or withdraw an unfinished migration; empty if it cannot know.

        As in litellm_proxy_extras.migration_recovery.
        """
        if migration is None:
            return ""
        if self.steps == 1 and not self.logs.strip() and self.checksum == migration.checksum:
            return "finished_at"
        return "rolled_back_at" if is_inert(migration.sql) else ""


def find_database(environ: Mapping[str, str]) -> tuple[Database, str]:
    """The database to migrate, and the schema in it.

    DIRECT_URL goes around a connection pooler, through which no lock is kept.
    """
    main = parse_url(environ.get(DATABASE_URL.name, ""), values=environ)
    direct = environ.get(DIRECT_URL.name)
    return parse_url(direct, DIRECT_URL.name) if direct else main, main.schema


@contextmanager
def open_schema(database: Database, schema: str) -> Iterator[Rows]:
    """A connection to the schema, in autocommit mode.

    Raises:
        DatabaseError: there is none, or it breaks in the block.
    """
    import psycopg

    with connect(database, DATABASE_URL.name) as connection:
        try:
            connection.execute(
                "SELECT set_config('search_path', quote_ident(%s), false), set_config('lock_timeout', %s, false),"
                " set_config('statement_timeout', '0', false), set_config('client_min_messages', 'error', false)",
                (schema, _LOCK_TIMEOUT),
            )
            yield connection
        except psycopg.OperationalError as error:
            raise DatabaseError(
                f"the connection to {database.name} at {database.address} broke: {_clean(error, database)}",
                "What was not committed is undone. Run the command again.",
            ) from None


def _clean(error: Exception, database: Database) -> str:
    """The message of the server in one line. It names the user, and never the password."""
    return redact(" ".join(str(error).split()) or type(error).__name__, database.password)


def read_status(connection: Rows, schema: str, migrations: Sequence[Migration], declared: Path) -> Status:
    """Compare the ledger with the migrations of a release, of which `declared` is the schema.prisma. Reads only.

    Raises:
        InputError: a migration began and did not finish, or tables of LiteLLM have no ledger and another structure.
    """
    tables, size = connection.execute(_SIZE, (schema,)).fetchall()[0]
    found = connection.execute("SELECT to_regclass('_prisma_migrations') IS NOT NULL").fetchall()[0][0]
    lines = [_Line(*row) for row in connection.execute(_READ_LEDGER).fetchall()] if found else []
    known = {each.name: each for each in migrations}
    for line in lines:
        if not line.is_finished and not line.remedy(known.get(line.name)):
            raise _unfinished(line, schema)
    applied = {line.name for line in lines if line.is_finished or line.remedy(known.get(line.name)) == "finished_at"}
    notes = []
    if tables and not lines:
        _require_same_structure(connection, schema, declared)
        applied = set(known)
        notes.append(
            "The tables of LiteLLM have no history of migrations, and have the structure of this release: its"
            " migrations are recorded as applied."
        )
    if newer := sorted(applied - known.keys()):
        notes.append(
            f"A newer LiteLLM has migrated the database: this release does not know {len(newer)} of the applied"
            f" migrations, such as {newer[-1]}."
        )
    pending = tuple(name for name in known if name not in applied)
    return Status(connection.info.server_version, int(size), tuple(sorted(applied)), pending, tuple(notes))


def _unfinished(line: _Line, schema: str) -> InputError:
    condition = f"migration_name = '{line.name}' AND finished_at IS NULL AND rolled_back_at IS NULL"
    update = f'UPDATE "{schema}"._prisma_migrations SET {{}} = now() WHERE {condition}'  # noqa: S608 - not executed
    logs = " ".join(line.logs.split())[:600]
    return InputError(
        f"the migration {line.name} of the database began and did not finish"
        + (f": {logs}" if logs else ", as after a crash of Prisma or LiteLLM"),
        "Compare its migration.sql (in litellm_proxy_extras/migrations of the release) with the tables. If none of"
        f" its changes is there, run in psql: {update.format('rolled_back_at')}; if all of them are there:"
        f" {update.format('finished_at')}; then run the command again.",
    )


def _require_same_structure(connection: Rows, schema: str, declared: Path) -> None:
    """Check that tables without a ledger, as of `prisma db push`, have the columns of this release's schema.prisma.

    LiteLLM compares them with `prisma migrate diff` (migration_recovery.baseline_current_schema).

    Raises:
        InputError: they differ.
    """
    wanted = parse_columns(declared.read_text(encoding="utf-8"))
    present: dict[str, str] = dict(connection.execute(_COLUMNS, (schema,)).fetchall())
    tables = {name.partition(".")[0] for name in wanted}
    # Further tables may be partitions, which a user makes.
    names = {*wanted, *(name for name in present if name.partition(".")[0] in tables)}
    differing = sorted(name for name in names if present.get(name) != wanted.get(name))
    if differing:
        shown = "; ".join(
            f"{name} is {present.get(name, 'missing')}, and must be {wanted.get(name, 'missing')}"
            for name in differing[:_NAMED]
        )
        raise InputError(
            "the tables of LiteLLM have no history of migrations (_prisma_migrations) and are those of another"
            f" version: {len(differing)} columns differ: {shown}",
            "Let the LiteLLM that made them start once without --use_prisma_db_push, which writes the history. Or use"
            " a new database.",
        )


@contextmanager
def hold_locks(connection: Rows, wait: float, keys: Sequence[int] = LOCKS) -> Iterator[None]:
    """Hold the locks of everything that migrates this database, on any host, at most until the connection ends.

    Args:
        connection: not through a pooler of transactions.
        wait: seconds.
        keys: of the locks.

    Raises:
        Busy: another process holds them.
    """
    from psycopg import OperationalError

    deadline = time.monotonic() + wait
    held: list[int] = []
    try:
        for key in keys:
            while not connection.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchall()[0][0]:
                if time.monotonic() >= deadline:
                    raise _held_elsewhere(connection, wait, keys)
                time.sleep(random.uniform(0.2, 0.6))  # noqa: S311 - not for a secret
            held.append(key)
        # The snapshot of a statement with parameters stays until the next statement, and an index that is built
        # without a lock would wait for it.
        connection.execute("SELECT 1")
        yield
    finally:
        # Without the connection, they are released already.
        with suppress(OperationalError):
            for key in held:
                connection.execute("SELECT pg_advisory_unlock(%s)", (key,))


def _held_elsewhere(connection: Rows, wait: float, keys: Sequence[int]) -> Busy:
    found = connection.execute(_HOLDERS, (list(keys),)).fetchall()
    who = "{} from {} (process {} of PostgreSQL)".format(*found[0]) if found else "another process"
    return Busy(
        f"the database is being migrated by {who}" + (f", for more than {wait:.0f} s" if wait else ""),
        "Run the command again when that has finished.",
    )


def apply_migrations(
    connection: Rows, database: Database, schema: str, migrations: Sequence[Migration], declared: Path, wait: float
) -> Status:
    """Apply the pending migrations in order, and return the status with which it began.

    Raises:
        Busy: another process migrates the database for longer than `wait` seconds.
        InputError: see `read_status`.
        ProgramError: a migration failed. Those before it stay applied.
    """
    with hold_locks(connection, wait):
        status = read_status(connection, schema, migrations, declared)
        connection.execute(_CREATE_LEDGER)
        _settle(connection, migrations, status)
        for number, migration in enumerate((each for each in migrations if each.name in status.pending), 1):
            _apply(connection, database, migration, f"{number} of {len(status.pending)}")
    return status


def _settle(connection: Rows, migrations: Sequence[Migration], status: Status) -> None:
    """Complete the ledger: lines that LiteLLM would complete or withdraw, and those of tables without a ledger."""
    lines = {row[0]: _Line(*row) for row in connection.execute(_READ_LEDGER).fetchall()}
    now = datetime.now(timezone.utc)
    with connection.transaction():
        for migration in migrations:
            line = lines.get(migration.name)
            if line is not None and not line.is_finished:
                connection.execute(_SETTLE[line.remedy(migration)], (migration.name,))
            elif line is None and migration.name in status.applied:
                row = (str(uuid4()), migration.checksum, migration.name, "", now, now, None, 0)
                connection.execute(_RECORD, row)


def _apply(connection: Rows, database: Database, migration: Migration, position: str) -> None:
    import psycopg

    began = datetime.now(timezone.utc)
    for attempt in range(1, _TRIES + 1):
        try:
            _execute(connection, migration, began)
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            # The transaction was rolled back.
            if attempt == _TRIES:
                raise _failed(connection, database, migration, began, error, position) from None
            time.sleep(random.uniform(0.5, 1.5))  # noqa: S311 - not for a secret
        except psycopg.Error as error:
            if connection.broken:
                raise
            raise _failed(connection, database, migration, began, error, position) from None


def _execute(connection: Rows, migration: Migration, began: datetime) -> None:
    row = (str(uuid4()), migration.checksum, migration.name, None, began)
    # Without parameters, psycopg sends a script as one message, as Prisma does.
    if is_concurrent(migration.sql):
        connection.execute(migration.script)
        connection.execute(_RECORD, (*row, datetime.now(timezone.utc), None, 1))
        return
    with connection.transaction():
        connection.execute(migration.script)
        connection.execute(_RECORD, (*row, datetime.now(timezone.utc), None, 1))


def _failed(
    connection: Rows, database: Database, migration: Migration, began: datetime, error: psycopg.Error, position: str
) -> ProgramError:
    """Record the failure as rolled back, which it is, so that the next run tries it again."""
    reason = _clean(error, database)
    now = datetime.now(timezone.utc)
    row = (str(uuid4()), migration.checksum, migration.name, reason, began, None, now, 0)
    connection.execute(_RECORD, row)
    return ProgramError(
        f"the migration {migration.name} ({position}) failed: {error.sqlstate or 'no SQLSTATE'} {reason}",
        _remedy(error.sqlstate or "", database),
    )


def _remedy(sqlstate: str, database: Database) -> str:
    # Codes of PostgreSQL: https://www.postgresql.org/docs/current/errcodes-appendix.html
    if sqlstate in ("42501", "42P01") or sqlstate.startswith("28"):
        return f"Let {database.user} own the tables of LiteLLM (REASSIGN OWNED, or ALTER TABLE … OWNER TO)."
    if sqlstate == "55P03":
        return (
            "Another session holds a lock on a table, for example a dump or a transaction that was left open: find it"
            " in pg_stat_activity and run the command again."
        )
    if sqlstate.startswith("53"):
        return "Give the server of the database room, and run the command again."
    return "Nothing of this migration was applied. Fix the cause in the database, and run the command again."


def finish(database: Database) -> tuple[str, ...]:
    """What LiteLLM's own migration job does after the migrations: repair and build indexes. Returns notes.

    The views are created by the service when it starts.
    """
    # Its package imports all of LiteLLM to format its log, unless the log has a handler, and Prisma's generated
    # client, which takes 5 s of CPU, to read a setting of commands that are not run here.
    logging.getLogger("litellm_proxy_extras").addHandler(logging.StreamHandler())
    sys.modules["prisma"] = None  # type: ignore[assignment]
    from litellm_proxy_extras.utils import ProxyExtrasDBManager

    # It drops what it does not know from a URL, such as the folder of a UNIX socket.
    os.environ |= {DIRECT_URL.name: "postgresql://", **libpq_environment(with_token(database, DATABASE_URL.name))}
    repaired = ProxyExtrasDBManager.repair_invalid_indexes()
    built = ProxyExtrasDBManager.build_request_log_indexes()
    if repaired and built:
        return ()
    return (
        "Some indexes of the database could not be built: queries of the spend are slow until the next migration"
        " builds them.",
    )


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Apply the migrations. Prints the status before them as JSON, or the error and its remedy."""
    parser = argparse.ArgumentParser(prog="migrations")
    parser.add_argument("--wait", type=float, default=0, metavar="SECONDS", help="for another host that migrates")
    wait: float = parser.parse_args(arguments).wait
    code, answer = ExitCode.OK, {}
    try:
        package = own_package()
        migrations, declared = read_migrations(package), package / SCHEMA
        database, schema = find_database(environ)
        with open_schema(database, schema) as connection, hold_locks(connection, wait, (_PROGRAM_LOCK,)):
            status = apply_migrations(connection, database, schema, migrations, declared, wait)
            answer = asdict(replace(status, notes=(*status.notes, *finish(database))))
    except InstallerError as error:
        code, answer = error.code, {"error": error.message, "hint": error.hint}
    sys.stdout.write(json.dumps(answer) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
