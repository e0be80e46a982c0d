"""The database in a backup: dump all of it, load it into an empty one, and undo that."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from litellm_systemd.database.connection import connect
from litellm_systemd.database.dump import restore_dump, write_dump
from litellm_systemd.database.migrations import find_database
from litellm_systemd.env.database import Database
from litellm_systemd.env.variables import DATABASE_URL
from litellm_systemd.host.layout import Layout


def dump_all(layout: Layout, environment: Mapping[str, str], path: Path) -> int:
    """Dump the database, consistent in itself, and return the version of its server.

    Raises:
        InstallerError: it cannot be reached or dumped.
    """
    database, _ = find_database(environment)
    server = _version(database)
    write_dump(layout, database, path, server=server)
    return server


def load_all(layout: Layout, environment: Mapping[str, str], path: Path) -> None:
    """Load a dump in one transaction.

    Raises:
        InstallerError: it cannot be loaded. The database is as before.
    """
    database, _ = find_database(environment)
    restore_dump(layout, database, path, server=_version(database))


def count_tables(environment: Mapping[str, str]) -> int:
    """The number of LiteLLM's tables. Raises DatabaseError."""
    database, schema = find_database(environment)
    with connect(database, DATABASE_URL.name) as connection:
        return len(connection.execute(_TABLES, (schema,)).fetchall())


def empty(environment: Mapping[str, str]) -> None:
    """Remove LiteLLM's tables with what depends on them, and the types that nothing uses then.

    Raises:
        DatabaseError: it cannot be reached.
    """
    database, schema = find_database(environment)
    with connect(database, DATABASE_URL.name) as connection, connection.transaction():
        for query in (_TABLES, _TYPES):
            for (statement,) in connection.execute(query, (schema,)).fetchall():
                connection.execute(str(statement).encode())


_TABLES = (
    "SELECT format('DROP TABLE IF EXISTS %%I.%%I CASCADE', schemaname, tablename) FROM pg_tables"
    r" WHERE schemaname = %s AND (tablename LIKE 'LiteLLM\_%%' OR tablename = '_prisma_migrations')"
)
_TYPES = (
    "SELECT format('DROP TYPE %%I.%%I', nspname, typname) FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace"
    " WHERE nspname = %s AND typtype = 'e'"
    " AND NOT EXISTS (SELECT FROM pg_attribute WHERE atttypid IN (t.oid, typarray))"
)


def _version(database: Database) -> int:
    with connect(database, DATABASE_URL.name) as connection:
        return connection.info.server_version
