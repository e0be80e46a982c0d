"""What doctor finds on a real PostgreSQL that is broken in one way after the other."""

from __future__ import annotations

import json
import re
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from operator import attrgetter
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from nacl.secret import SecretBox
from psycopg import Connection
from psycopg.conninfo import make_conninfo

from litellm_systemd.database import postgres
from litellm_systemd.database.migration_files import own_package, read_migrations
from litellm_systemd.database.migrations import SCHEMA, apply_migrations, find_database, open_schema
from litellm_systemd.doctor import check_database
from litellm_systemd.doctor.engine import Finding
from litellm_systemd.report.report import Outcome
from tests.database import SALT_KEY, Database
from tests.integration.doctor_snapshot import BASE, diagnose_part, find_unused
from tests.postgres import PASSWORD

_LAST = read_migrations(own_package())[-1].name
#: Seconds, in place of those from which a lock or a transaction is reported.
_LIMIT = 0.3


@dataclass(frozen=True)
class Broken:
    """Statements of the superuser, the URL that is replaced, and the finding: cause, evidence, remedy.

    `undo` is for what the next test would find. `holds`: statements of a session that stays open.
    """

    id: str
    cause: str
    evidence: str
    remedy: str
    damage: LiteralString = ""
    undo: LiteralString = ""
    replace: tuple[str, str] = ("", "")
    environment: dict[str, str] = field(default_factory=dict)
    holds: tuple[LiteralString, ...] = ()
    warning: bool = False
    on_socket: bool = False


BROKEN = (
    Broken(
        "password",
        "database-refused",
        "refuses the password of the user litellm",
        "\\password litellm",
        damage="ALTER ROLE litellm PASSWORD 'another'",
        undo="ALTER ROLE litellm PASSWORD 'secret'",
    ),
    Broken(
        "role",
        "database-refused",
        "has no user litellm",
        "createuser --pwprompt litellm",
        on_socket=True,  # with a password, the server does not say that there is no such role
        damage="ALTER ROLE litellm RENAME TO gone",
        undo="ALTER ROLE gone RENAME TO litellm",
    ),
    Broken(
        "no log-in",
        "database-refused",
        "is not permitted to log in",
        "/etc/litellm/litellm.env",
        damage="ALTER ROLE litellm NOLOGIN",
        undo="ALTER ROLE litellm LOGIN",
    ),
    Broken(
        "database", "database-refused", "has no database missing_", "createdb", replace=("/litellm_", "/missing_")
    ),
    Broken(
        "read-only",
        "database-refused",
        " is read-only (default_transaction_read_only)",
        "RESET default_transaction_read_only",
        damage="ALTER ROLE litellm SET default_transaction_read_only = on",
        undo="ALTER ROLE litellm RESET default_transaction_read_only",
    ),
    Broken(
        "tables of another",
        "database-refused",
        "the user litellm may not use 1 table of LiteLLM, such as LiteLLM_TeamTable, which belongs to postgres",
        "OWNER TO %I",
        damage='ALTER TABLE "LiteLLM_TeamTable" OWNER TO postgres',
    ),
    Broken("TLS", "database-refused", "offers no TLS", "Turn on ssl", replace=("", "?sslmode=require")),
    Broken("port", "database-down", "no PostgreSQL listens on 127.0.0.1:1", "Start it", replace=(":PORT/", ":1/")),
    Broken(
        "role full",
        "database-connections",
        "1 of 1 connections of the role litellm are in use: litellm 1 (other) in litellm_",
        'ALTER ROLE "litellm" CONNECTION LIMIT -1',
        on_socket=True,
        damage="ALTER ROLE litellm CONNECTION LIMIT 1",
        undo="ALTER ROLE litellm CONNECTION LIMIT -1",
        holds=("SELECT 1",),
    ),
    Broken(
        "nearly full",
        "database-connections",
        "1 of 3 connections of the role litellm are in use: litellm 1 (other)",
        'ALTER ROLE "litellm" CONNECTION LIMIT -1',
        damage="ALTER ROLE litellm CONNECTION LIMIT 3",
        undo="ALTER ROLE litellm CONNECTION LIMIT -1",
        holds=("SELECT 1",),
        warning=True,
    ),
    Broken(
        "pools",
        "database-connections",
        "4 workers with up to 30 connections each; PostgreSQL allows 97 (max_connections)",
        "smaller DATABASE_CONNECTION_LIMIT",
        environment={"DATABASE_CONNECTION_LIMIT": "30", "NUM_WORKERS": "4"},
        warning=True,
    ),
    Broken(
        "half applied",
        "database-history",
        f"the migration {_LAST} of the database began and did not finish: ERROR: disk full",
        "SET rolled_back_at = now()",
        damage="UPDATE _prisma_migrations SET finished_at = NULL, logs = 'ERROR: disk full'"
        " WHERE migration_name = (SELECT max(migration_name) FROM _prisma_migrations)",
    ),
    Broken(
        "no history",
        "database-history",
        "LiteLLM_TeamTable.blocked is missing",
        "use a new database",
        damage='DROP TABLE _prisma_migrations; ALTER TABLE "LiteLLM_TeamTable" DROP COLUMN blocked CASCADE',
    ),
    Broken(
        "pending",
        "database-pending",
        f"1 migration pending, from {_LAST}",
        "sudo litellmctl install --installed",
        damage="DELETE FROM _prisma_migrations"
        " WHERE migration_name = (SELECT max(migration_name) FROM _prisma_migrations)",
    ),
    Broken(
        "newer",
        "database-newer",
        "1 migration that the active release does not know, such as 29991231000000_later",
        "sudo litellmctl upgrade",
        damage="INSERT INTO _prisma_migrations (id, checksum, migration_name, finished_at)"
        " VALUES ('later', '', '29991231000000_later', now())",
        warning=True,
    ),
    Broken(
        "no salt key",
        "database-salt",
        "LITELLM_SALT_KEY is not set",
        "sudo litellmctl install --installed",
        environment={"LITELLM_SALT_KEY": ""},
    ),
    Broken(
        "lock",
        "database-blocked",
        "(litellm, other) (idle in transaction) blocks 1 session of LiteLLM",
        "pg_terminate_backend(",
        holds=("BEGIN", 'LOCK TABLE "LiteLLM_TeamTable"'),
    ),
    Broken(
        "open transaction",
        "database-slow",
        "(litellm, other) (idle in transaction) for",
        "pg_terminate_backend(",
        holds=("BEGIN", "SELECT 'a secret'"),
        warning=True,
    ),
)


def find(root: Path, url: str, environment: Mapping[str, str]) -> list[Finding]:
    """What doctor finds about the database of this URL. Only a locked table may be left unread."""
    values = {**BASE, "LITELLM_SALT_KEY": SALT_KEY, "DATABASE_URL": url, **environment}
    diagnosis = diagnose_part(check_database, root, {name: value for name, value in values.items() if value})
    for run in diagnosis.runs:
        assert not run.details or "database-blocked" in map(attrgetter("cause.id"), diagnosis.causes), run
    return list(diagnosis.causes)


@pytest.fixture
def migrated(database: Database) -> Database:
    """A database with the history of its migrations, as an install leaves it."""
    parsed, schema = find_database({"DATABASE_URL": database.url})
    package = own_package()
    with open_schema(parsed, schema) as connection:
        apply_migrations(connection, parsed, schema, read_migrations(package), package / SCHEMA, 0)
    return database


@contextmanager
def session(database: Database, statements: tuple[LiteralString, ...]) -> Iterator[None]:
    """A session that has run the statements, and another one that waits if they lock a table."""

    def connect() -> Connection[tuple[Any, ...]]:
        login = make_conninfo(database.socket_url, application_name="other")
        return psycopg.connect(login, autocommit=True)

    if not statements:
        yield
        return
    with connect() as holder, connect() as waiter, ThreadPoolExecutor() as pool:
        for statement in statements:
            holder.execute(statement)
        if "LOCK" in statements[-1]:
            pool.submit(waiter.execute, 'TABLE "LiteLLM_TeamTable"')
        else:
            waiter.close()
        time.sleep(_LIMIT)
        try:
            yield
        finally:
            holder.execute("ROLLBACK")


@pytest.mark.parametrize("broken", BROKEN, ids=lambda each: str(each.id))
def test_causes(broken: Broken, tmp_path: Path, migrated: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each damage is one finding, with its evidence and a remedy that has no password in it."""
    for name in ("_BLOCKED", "_IDLE"):
        monkeypatch.setattr(check_database, name, _LIMIT)
    url = migrated.socket_url if broken.on_socket else migrated.url
    before, after = (each.replace("PORT", str(migrated.cluster.port)) for each in broken.replace)
    url = url.replace(before, after) if before else url + after
    with session(migrated, broken.holds):
        migrated.execute(broken.damage)
        try:
            (found,) = find(tmp_path, url, broken.environment)
        finally:
            migrated.execute(broken.undo)
    assert found.cause.id == broken.cause
    assert broken.evidence in found.evidence
    assert broken.remedy in found.remedy
    assert found.outcome is (Outcome.WARNING if broken.warning else Outcome.FAILED)
    assert PASSWORD not in found.evidence + found.remedy


def test_healthy(tmp_path: Path, migrated: Database) -> None:
    """A healthy database has no finding, over TCP and over the UNIX socket, also without a history of migrations."""
    assert find(tmp_path, migrated.url, {}) == []
    migrated.execute("DROP TABLE _prisma_migrations")
    assert find(tmp_path, migrated.socket_url, {}) == []


def test_salt_key_of_another_host(tmp_path: Path, migrated: Database) -> None:
    """Stored values that the salt key does not decrypt are counted, also if the master key decrypts them."""
    for key in (BASE["LITELLM_MASTER_KEY"], "sk-of-another-host"):
        stored = b64encode(SecretBox(sha256(key.encode()).digest()).encrypt(b"AKIA")).decode()
        with psycopg.connect(migrated.url) as connection:
            connection.execute('DELETE FROM "LiteLLM_CredentialsTable"')
            connection.execute(
                'INSERT INTO "LiteLLM_CredentialsTable" (credential_id, credential_name, credential_values,'
                " created_by, updated_by, updated_at) VALUES ('x', 'x', %s, 'x', 'x', now())",
                (json.dumps({"api_key": stored}),),
            )
        (found,) = find(tmp_path, migrated.url, {})
        assert found.cause.id == "database-salt"
        assert "decrypts none of 1 encrypted value in the database" in found.evidence
        assert ("LITELLM_MASTER_KEY decrypts 1" in found.evidence) is (key == BASE["LITELLM_MASTER_KEY"])


def test_full_disk(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little free space for the data of a PostgreSQL of this host is a finding, with the command that shows it."""
    data = str(database.cluster.folder)
    own = postgres.Cluster(database.cluster.port, "postgresql@15-main.service", True, data)
    monkeypatch.setattr(postgres, "find_cluster", lambda port: own if port == own.port else None)
    monkeypatch.setattr(check_database, "_DISK", (2**60, 2**61))
    (found,) = find(tmp_path, database.url, {})
    assert (found.cause.id, found.outcome) == ("database-disk", Outcome.FAILED)
    assert f"{data} has " in found.evidence
    assert f"du -xh --max-depth=2 {data}" in found.remedy


def test_old_server(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is too old is a finding with its version."""
    monkeypatch.setattr(check_database, "_OLDEST", 990_000)
    (found,) = find(tmp_path, database.url, {})
    assert found.cause.id == "database-version"
    assert re.fullmatch(r"PostgreSQL \d+\.\d+", found.evidence)


def test_service_without_a_usable_database(tmp_path: Path, database: Database) -> None:
    """A service that cannot use a database that answers is a finding, once it had the time to connect again."""
    values = {**BASE, "LITELLM_SALT_KEY": SALT_KEY, "DATABASE_URL": database.url}
    assert find_unused(check_database.detect_database_unused, tmp_path, values, "database") == [0, 1]
