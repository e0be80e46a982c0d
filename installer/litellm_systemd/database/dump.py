"""Dump and restore a database with the programs of PostgreSQL, as the service's user.

A password goes to them in the environment, never in arguments. A dump has everything that LiteLLM stores, keys and
credentials as LiteLLM stores them, so that only root may read it.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from litellm_systemd.command import minimal_environment, run
from litellm_systemd.database.connection import with_token
from litellm_systemd.env.database import Database
from litellm_systemd.env.secrets import redact
from litellm_systemd.env.variables import DATABASE_URL
from litellm_systemd.errors import CommandError, InstallerError, MissingError, Unavailable
from litellm_systemd.host.files import free_space
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.service_user import as_service_user

#: Where distributions keep the programs of each version (Debian, PGDG for RHEL), and PATH.
_FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/bin", "/usr/bin")
_INSTALL = "Install it: sudo apt install postgresql-client, or sudo dnf install postgresql{}"
#: Names of libpq's environment variables (https://www.postgresql.org/docs/current/libpq-envars.html).
_VARIABLES = {
    **{"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"},
    **{"sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT"},
}
#: For psql: LiteLLM's tables, and the views that it creates (check_view_exists in proxy/utils.py). In quotes, a
#: star would be a plain character.
_PATTERN = '("LiteLLM_"*|_prisma_migrations|"MonthlyGlobalSpend"*|"Last30d"*|"DailyTagSpend")'
#: Drops them, those that are newer than the dump as well. Without CASCADE: a view of the user stops it.
_DROP = r"""\o /dev/null
SET client_min_messages = error;
SET lock_timeout = '60s';
SELECT pg_advisory_xact_lock({locks[0]}), pg_advisory_xact_lock({locks[1]});
DO $$ DECLARE names text; BEGIN
  SELECT string_agg(format('%I.%I', schemaname, viewname), ', ') INTO names FROM pg_views
    WHERE schemaname = {schema} AND viewname ~ '^(LiteLLM_|MonthlyGlobalSpend|Last30d|DailyTagSpend)';
  IF names IS NOT NULL THEN EXECUTE 'DROP VIEW ' || names; END IF;
  SELECT string_agg(format('%I.%I', schemaname, tablename), ', ') INTO names FROM pg_tables
    WHERE schemaname = {schema} AND (tablename LIKE 'LiteLLM\_%' OR tablename = '_prisma_migrations');
  EXECUTE 'DROP TABLE ' || names;
END $$;
"""


def libpq_environment(database: Database) -> dict[str, str]:
    """The variables with which a program that uses libpq connects to the database."""
    return {_VARIABLES[name]: value for name, value in database.libpq().items()}


def require_tools(server: int) -> Path:
    """The folder of pg_dump, pg_restore and psql that can dump a server of that version, such as 150013.

    Raises:
        MissingError: pg_dump is not installed.
        Unavailable: each pg_dump is older than the server, which it refuses to dump.
    """
    major = server // 10_000
    folders = {
        folder for pattern in _FOLDERS for folder in Path("/").glob(pattern[1:]) if (folder / "pg_dump").exists()
    }
    found = {folder: version for folder in sorted(folders) if (version := _version(folder))}
    usable = [folder for folder, version in found.items() if version >= major]
    if usable:
        return min(usable, key=lambda folder: found[folder])
    hint = _INSTALL.format(major)
    if not found:
        raise MissingError("pg_dump is not installed, and the database is dumped before it is migrated", hint)
    raise Unavailable(
        f"the database runs PostgreSQL {major}, and pg_dump {max(found.values())} of this host cannot dump it",
        f"Install pg_dump {major} or later: sudo apt install postgresql-client-{major}, or sudo dnf install"
        f" postgresql{major}",
    )


def _version(folder: Path) -> int:
    """The major version of its pg_dump; 0 if it does not run, as Debian's wrapper without a version to choose."""
    done = run((str(folder / "pg_dump"), "--version"), check=False)
    found = re.search(r"\s(\d+)", done.stdout)
    return int(found[1]) if found and done.returncode == 0 else 0


def require_space(layout: Layout, size: int) -> None:
    """Check that a dump of `size` bytes of tables has room. It is compressed, and usually much smaller.

    Raises:
        Unavailable: there is too little.
    """
    free = free_space(layout.real(layout.own_state))
    if free < size:
        raise Unavailable(
            f"the dump of the database needs up to {size >> 20} MiB, and {layout.dumps} has {free >> 20} MiB",
            "Make room there, and run the command again.",
        )


def write_dump(layout: Layout, database: Database, path: Path, *, server: int, tables_of: str = "") -> None:
    """Write a dump in the custom format of pg_dump, readable by root alone.

    `server`: the version of the server, such as 150013.
    `tables_of`: a schema, to dump only LiteLLM's tables and views in it; by default all of the database.

    Raises:
        InstallerError: pg_dump is missing, too old, or failed. The file does not exist then.
    """
    # --strict-names: no match is an error.
    pattern = (f'--table="{tables_of}".{_PATTERN}', "--strict-names") if tables_of else ()
    argv = ("pg_dump", "--format=custom", "--no-password", *pattern)
    folder = require_tools(server)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with _private_file(path) as target:
            _run(layout, database, folder, argv, target=target)
            os.fsync(target.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def restore_dump(layout: Layout, database: Database, path: Path, *, server: int) -> None:
    """Restore a dump of a whole database in one transaction: its objects are replaced, others stay.

    Raises:
        InstallerError: pg_restore is missing, too old, or failed. Nothing was changed then.
    """
    options = ("--clean", "--if-exists", "--no-owner", "--single-transaction", "--no-password")
    with path.open("rb") as source:
        argv = ("pg_restore", *options, f"--dbname={database.name}")
        _run(layout, database, require_tools(server), argv, source=source)


def restore_tables(
    layout: Layout, database: Database, path: Path, *, server: int, schema: str, locks: tuple[int, int]
) -> None:
    """Replace LiteLLM's tables and views in a schema by those of a dump of them, in one transaction.

    `locks` are those of migrations, which it waits for.

    Raises:
        InstallerError: pg_restore or psql failed. Nothing was changed then.
    """
    folder = require_tools(server)
    with tempfile.TemporaryFile(dir=path.parent) as script:
        quoted = "'" + schema.replace("'", "''") + "'"
        script.write(_DROP.format(locks=locks, schema=quoted).encode())
        script.flush()
        with path.open("rb") as source:
            _run(layout, database, folder, ("pg_restore", "--no-owner", "--file=-"), source=source, target=script)
        script.seek(0)
        argv = ("psql", "--no-psqlrc", "--quiet", "--no-password", "--single-transaction", "--set=ON_ERROR_STOP=1")
        _run(layout, database, folder, argv, source=script)


@contextlib.contextmanager
def _private_file(path: Path) -> Iterator[BinaryIO]:
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        yield file


def _run(
    layout: Layout,
    database: Database,
    folder: Path,
    argv: tuple[str, ...],
    *,
    source: BinaryIO | None = None,
    target: BinaryIO | None = None,
) -> None:
    program = (str(folder / argv[0]), *argv[1:])
    database = with_token(database, DATABASE_URL.name)
    environment = libpq_environment(database)
    try:
        run(
            as_service_user(layout, program),
            environment={**minimal_environment(), **environment, "PGCONNECT_TIMEOUT": "10"},
            timeout=None,
            source=source,
            target=target,
        )
    except CommandError as error:
        # The first line names the cause; the last one may only say that the transaction was aborted.
        lines = [line for line in error.stderr.splitlines() if "error" in line.lower()] or [error.message]
        reason = redact(lines[0], database.password)
        raise InstallerError(
            f"{argv[0]} of {database.name} at {database.address} failed: {reason}",
            "Fix the cause, and run the command again.",
        ) from None
