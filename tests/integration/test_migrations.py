"""The migrations of LiteLLM and dumps, on a real PostgreSQL."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import psycopg
import pytest

from litellm_systemd.contract import ExitCode
from litellm_systemd.database import dump, migrations, steps
from litellm_systemd.database.migration_files import Migration, read_migrations
from litellm_systemd.database.migrations import (
    LOCKS,
    Status,
    apply_migrations,
    find_database,
    open_schema,
    read_status,
)
from litellm_systemd.errors import Busy, DatabaseError, InputError, InstallerError, ProgramError, Unavailable
from litellm_systemd.host.layout import Layout
from tests.database import Cluster, Database
from tests.integration.runtime_service import wait_for
from tests.postgres import PASSWORD

EXTRAS = Path(str(files("litellm_proxy_extras")))
PROGRAM = (sys.executable, "-I", "-m", "litellm_systemd.database.migrations")
SHIPPED = read_migrations(EXTRAS)
FIRST = Migration("20300101000000_first", b'CREATE TABLE "LiteLLM_First" ("id" TEXT); -- a comment\nSELECT 1;')
SECOND = Migration("20300102000000_second", b'ALTER TABLE "LiteLLM_First" ADD COLUMN "note" TEXT')
#: What LiteLLM's job builds after the migrations, and pauses for.
INDEXES = (
    'CREATE INDEX "LiteLLM_SpendLogs_api_key_startTime_idx" ON "LiteLLM_SpendLogs" ("api_key", "startTime")',
    'CREATE INDEX "LiteLLM_SpendLogs_litellm_call_id_idx" ON "LiteLLM_SpendLogs" ("litellm_call_id")',
)


@pytest.fixture
def empty(cluster: Cluster) -> Iterator[Database]:
    database = cluster.create_database(empty=True)
    yield database
    cluster.drop_database(database)


@pytest.fixture
def connection(empty: Database) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with open_schema(*find_database({"DATABASE_URL": empty.url})) as opened:
        yield opened


def apply(database: Database, *migrations: Migration, wait: float = 0) -> Status:
    """Apply the migrations as the program does, but in this process and without LiteLLM's indexes."""
    found, schema = find_database({"DATABASE_URL": database.url})
    with open_schema(found, schema) as opened:
        return apply_migrations(opened, found, schema, migrations, EXTRAS / "schema.prisma", wait)


def columns(database: Database, table: str) -> list[str]:
    rows = database.execute(
        "SELECT table_name::text, column_name::text FROM information_schema.columns ORDER BY ordinal_position"
    )
    return [column for name, column in rows if name == table]


def test_empty_database(empty: Database) -> None:
    """An empty database gets all migrations and a ledger as Prisma writes it; a second run has nothing to do."""
    before = apply(empty, *SHIPPED)
    assert before.pending == tuple(each.name for each in SHIPPED)
    assert (before.applied, before.size, before.notes) == ((), 0, ())
    rows = empty.execute(
        "SELECT migration_name, checksum, applied_steps_count, started_at <= finished_at, rolled_back_at, logs"
        " FROM _prisma_migrations ORDER BY migration_name"
    )
    wanted = [(each.name, hashlib.sha256(each.script).hexdigest(), 1, True, None, None) for each in SHIPPED]
    assert rows == sorted(wanted)
    assert empty.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]
    after = apply(empty, *SHIPPED)
    assert after.pending == ()
    assert after.size > 0


def test_failing_migration(empty: Database) -> None:
    """A migration that fails is named with PostgreSQL's error. Nothing of it stays, and the next run repeats it."""
    wrong = replace(SECOND, script=SECOND.script + b'; ALTER TABLE "missing" ADD COLUMN "a" TEXT')
    with pytest.raises(ProgramError, match=r"20300102000000_second \(2 of 2\) failed: 42P01 .*missing") as raised:
        apply(empty, FIRST, wrong)
    assert "run the command again" in raised.value.hint or "own the tables" in raised.value.hint
    assert columns(empty, "LiteLLM_First") == ["id"]
    assert apply(empty, FIRST, SECOND).pending == (SECOND.name,)
    assert columns(empty, "LiteLLM_First") == ["id", "note"]
    lines = empty.execute(
        "SELECT migration_name, finished_at IS NULL, logs LIKE '%missing%' FROM _prisma_migrations"
        " ORDER BY started_at"
    )
    assert lines == [(FIRST.name, False, None), (SECOND.name, True, True), (SECOND.name, False, None)]


def test_concurrent_index(empty: Database) -> None:
    """An index that PostgreSQL does not build in a transaction is built."""
    index = Migration("20300102000000_index", b'-- why\nCREATE INDEX CONCURRENTLY "i" ON "LiteLLM_First" ("id");')
    apply(empty, FIRST, index)
    assert empty.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass") == [(True,)]


def test_unfinished_migration(empty: Database) -> None:
    """A migration that Prisma began and did not finish stops the run, with its error and both remedies."""
    apply(empty, FIRST)
    empty.execute("UPDATE _prisma_migrations SET finished_at = NULL, logs = 'disk full', applied_steps_count = 0")
    with pytest.raises(InputError, match=r"20300101000000_first .* did not finish: disk full") as raised:
        apply(empty, FIRST, SECOND)
    assert "SET rolled_back_at = now() WHERE migration_name = '20300101000000_first'" in raised.value.hint
    assert "SET finished_at = now()" in raised.value.hint
    assert columns(empty, "LiteLLM_First") == ["id"]


def test_finished_without_record(empty: Database) -> None:
    """As in LiteLLM, a migration whose only step succeeded counts as applied if a crash prevented the record."""
    apply(empty, FIRST)
    empty.execute("UPDATE _prisma_migrations SET finished_at = NULL")
    assert apply(empty, FIRST, SECOND).pending == (SECOND.name,)
    assert empty.execute("SELECT count(*) FROM _prisma_migrations WHERE finished_at IS NULL") == [(0,)]


@pytest.mark.parametrize("key", LOCKS)
def test_another_host(empty: Database, key: int) -> None:
    """While another host migrates, with LiteLLM or Prisma, the run waits, and at the limit it names the other."""
    with psycopg.connect(empty.url, application_name="other host", autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (key,))
        with pytest.raises(Busy, match=r"is being migrated by other host from 127\.0\.0\.1"):
            apply(empty, FIRST)
        threading.Timer(0.5, other.execute, ("SELECT pg_advisory_unlock(%s)", (key,))).start()
        assert apply(empty, FIRST, wait=20).pending == (FIRST.name,)
    locks = empty.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    assert locks == [(0,)]


def test_locked_table(empty: Database) -> None:
    """A migration that waits for a table gives up and tries again, so that the service reads the table meanwhile."""
    apply(empty, FIRST)
    with psycopg.connect(empty.url) as other, closing(psycopg.connect(empty.url, autocommit=True)) as service:
        other.execute('SELECT * FROM "LiteLLM_First"')
        runner = threading.Thread(target=apply, args=(empty, FIRST, SECOND))
        runner.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'ALTER%'"
        wait_for("a waiting migration", lambda: empty.execute(waiting) == [(1,)])
        began = time.monotonic()
        service.execute('SELECT * FROM "LiteLLM_First"')
        # Until the rollback, if the migration did not give up.
        assert time.monotonic() - began < 30
        other.rollback()
        runner.join(180)
    assert columns(empty, "LiteLLM_First") == ["id", "note"]


def test_without_ledger(database: Database) -> None:
    """Tables of `prisma db push` get a ledger if they are those of this release. Others are refused, and named.

    The indexes that LiteLLM builds after the migrations are built.
    """
    database.execute(INDEXES[0])
    environment = {**os.environ, "DATABASE_URL": database.socket_url}
    done = subprocess.run(PROGRAM, env=environment, capture_output=True, text=True, check=True)
    (note,) = json.loads(done.stdout)["notes"]
    assert "no history of migrations" in note
    rows = database.execute("SELECT count(*), count(finished_at) FROM _prisma_migrations")
    assert rows == [(len(SHIPPED),) * 2]
    built = database.execute(
        "SELECT count(*) FROM pg_indexes WHERE indexname = 'LiteLLM_SpendLogs_litellm_call_id_idx'"
    )
    assert built == [(1,)]
    database.execute('DROP TABLE _prisma_migrations; ALTER TABLE "LiteLLM_UserTable" DROP COLUMN "user_alias"')
    refused = subprocess.run(PROGRAM, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == ExitCode.CONFIG
    answer = json.loads(refused.stdout)
    assert "1 columns differ: LiteLLM_UserTable.user_alias is missing, and must be text" in answer["error"]
    assert "new database" in answer["hint"]


def test_newer_database(empty: Database, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Migrations of a newer LiteLLM in the database are reported, and are no error."""
    apply(empty, FIRST, SECOND)
    found = read_status(connection, "public", (FIRST,), EXTRAS / "schema.prisma")
    assert (found.applied, found.pending) == ((FIRST.name, SECOND.name), ())
    assert f"does not know 1 of the applied migrations, such as {SECOND.name}" in found.notes[0]


def test_password_in_no_message(empty: Database) -> None:
    """An error of the connection names server and user, and never the password."""
    url = empty.url.replace(PASSWORD, "very-wrong-1234")
    wanted = "refuses the password of the user litellm"
    with pytest.raises(DatabaseError, match=wanted) as raised, open_schema(*find_database({"DATABASE_URL": url})):
        pass
    assert "very-wrong-1234" not in raised.value.render()


class Release:
    """A release with LiteLLM's migrations and further ones, in a folder of an image."""

    def __init__(self, layout: Layout, name: str, *further: Migration) -> None:
        self.folder = layout.release(name)
        real = layout.real(self.folder)
        packages = real / "lib/python3/site-packages"
        package = packages / "litellm_proxy_extras"
        shutil.copytree(EXTRAS, package, ignore=shutil.ignore_patterns("migrations", "__pycache__"))
        (package / "migrations").mkdir()
        for path in (EXTRAS / "migrations").glob("*/"):
            (package / "migrations" / path.name).symlink_to(path)
        for each in further:
            (package / "migrations" / each.name).mkdir()
            (package / "migrations" / each.name / "migration.sql").write_bytes(each.script)
        python = real / "bin/python"
        python.parent.mkdir()
        # Without -I, so that it imports the package above.
        python.write_text(f'#!/bin/sh\nshift\nPYTHONPATH={packages} exec {sys.executable} "$@"\n')
        python.chmod(0o755)


@pytest.fixture
def migrated(database: Database, tmp_path: Path) -> tuple[Layout, dict[str, str]]:
    """An image, and the environment of a service, whose release has migrated the database."""
    layout, environment = Layout(root=tmp_path), {"DATABASE_URL": database.url}
    for statement in INDEXES:
        database.execute(statement)
    apply(database, *SHIPPED)
    database.execute(
        "INSERT INTO \"LiteLLM_BudgetTable\" (budget_id, max_budget, created_by, updated_by) VALUES ('b', 5, '', '')"
    )
    return layout, environment


def test_two_hosts_at_once(empty: Database, tmp_path: Path) -> None:
    """Instances that are installed at the same time on an empty database take turns: each migration is applied once,
    no install fails, and the indexes are built.
    """
    notes: list[str] = []

    def migrate(name: str) -> None:
        layout = Layout(root=tmp_path / name)
        steps.migrate(layout, Release(layout, "r").folder, {"DATABASE_URL": empty.url}, notes.append)

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(migrate, ("one", "two", "three"))) == [None] * 3
    ledger = empty.execute("SELECT migration_name FROM _prisma_migrations")
    assert sorted(ledger) == sorted((each.name,) for each in SHIPPED)
    assert empty.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]
    waits, dumps = "the database is being migrated by ", "the database was dumped to "
    assert all(note.startswith((waits, dumps)) for note in notes), notes


def test_connection_that_ends_after_the_migrations(
    empty: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A connection that a firewall drops while indexes are built is no failure of the migrations."""

    def finish(_database: object) -> tuple[str, ...]:
        empty.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        return ("built",)

    monkeypatch.setattr(migrations, "finish", finish)
    assert migrations.main((), {"DATABASE_URL": empty.url}) == 0
    assert json.loads(capsys.readouterr().out)["notes"] == ["built"]


ADDITIVE = Migration(
    "20300101000000_add",
    b'ALTER TABLE "LiteLLM_BudgetTable" ADD COLUMN "c" TEXT; CREATE TABLE "LiteLLM_New" ("id" TEXT)',
)
BREAKING = Migration("20300102000000_drop", b'ALTER TABLE "LiteLLM_BudgetTable" DROP COLUMN "max_budget"')
FAILING = Migration("20300103000000_fail", b'ALTER TABLE "LiteLLM_BudgetTable" ADD COLUMN "d" TEXT; SELECT 1/0')
UPDATE = "UPDATE \"LiteLLM_BudgetTable\" SET created_by = 'later'"


def test_additive_undone(migrated: tuple[Layout, dict[str, str]], database: Database) -> None:
    """If additive migrations are undone, nothing is restored: what was written since is kept.

    The undo waits for a migration that the server still runs.
    """
    layout, environment = migrated
    lines: list[str] = []
    release = Release(layout, "new", ADDITIVE, FAILING).folder
    with pytest.raises(InstallerError, match=r"20300103000000_fail \(2 of 2\) failed: 22012 division by zero"):
        steps.migrate(layout, release, environment, lambda _line: None)
    database.execute(UPDATE)
    with psycopg.connect(database.url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (LOCKS[0],))
        began = time.monotonic()
        threading.Timer(0.5, other.execute, ("SELECT pg_advisory_unlock_all()",)).start()
        steps.undo_migration(layout, release, environment, lines.append)
    assert time.monotonic() - began > 0.4
    assert database.execute('SELECT max_budget, created_by FROM "LiteLLM_BudgetTable"') == [(5.0, "later")]
    assert "additive and stay" in lines[-1]
    assert "d" not in columns(database, "LiteLLM_BudgetTable")


def test_breaking_undone(migrated: tuple[Layout, dict[str, str]], database: Database) -> None:
    """If a breaking migration is undone, LiteLLM's tables and views are as in the dump, and others are left alone."""
    layout, environment = migrated
    lines: list[str] = []
    database.execute("CREATE TABLE other AS SELECT 1 AS a")
    database.execute('CREATE VIEW "MonthlyGlobalSpend" AS SELECT spend FROM "LiteLLM_SpendLogs"')
    release = Release(layout, "new", ADDITIVE, BREAKING, FAILING).folder
    with pytest.raises(InstallerError, match="division by zero"):
        steps.migrate(layout, release, environment, lambda _line: None)
    assert "max_budget" not in columns(database, "LiteLLM_BudgetTable")
    database.execute("INSERT INTO other VALUES (2)")
    steps.undo_migration(layout, release, environment, lines.append)
    assert "restoring the database as of" in lines[-1]
    assert database.execute('SELECT budget_id, max_budget FROM "LiteLLM_BudgetTable"') == [("b", 5.0)]
    assert columns(database, "LiteLLM_New") == []
    assert columns(database, "MonthlyGlobalSpend") == ["spend"]
    assert database.execute("SELECT count(*) FROM other") == [(2,)]
    assert steps.read_database(layout, release, environment).pending == (ADDITIVE.name, BREAKING.name, FAILING.name)


def test_view_of_the_user(migrated: tuple[Layout, dict[str, str]], database: Database) -> None:
    """A restore that would drop a view of the user changes nothing, and names the view."""
    layout, environment = migrated
    database.execute('CREATE VIEW mine AS SELECT max_budget FROM "LiteLLM_BudgetTable"')
    found = Status(150_000, 1)
    made = steps.dump_tables(layout, "old", environment, found)
    with pytest.raises(InstallerError, match=r"psql of .* failed: .*other objects depend on"):
        steps.restore(layout, environment, made, found)
    assert columns(database, "LiteLLM_BudgetTable")
    assert database.execute("SELECT * FROM mine") == [(5.0,)]


def test_dumps(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root may read a dump; the last three are kept, and the newest one that fits a release is found."""
    layout, environment = Layout(root=tmp_path), {"DATABASE_URL": database.url}
    for number in range(4):
        monkeypatch.setattr(time, "time", lambda number=number: 1_900_000_000 + number)
        status = Status(150_000, 1, applied=tuple(map(str, range(number + 1))))
        steps.dump_tables(layout, "new", environment, status)
    kept = steps.list_dumps(layout)
    assert [each.made for each in kept] == [1_900_000_003, 1_900_000_002, 1_900_000_001]
    paths = [layout.real(each.path) for each in kept]
    assert sorted(layout.real(layout.dumps).glob("*.dump")) == sorted(paths)
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    assert stat.S_IMODE(layout.real(layout.dumps).stat().st_mode) == 0o700
    found = steps.find_dump(layout, environment, frozenset("012"))
    assert found is not None
    assert found.made == 1_900_000_002
    assert steps.find_dump(layout, environment, frozenset("0")) is None
    for other in ("2", f"{'&' if '?' in database.url else '?'}schema=other"):
        assert steps.find_dump(layout, {"DATABASE_URL": database.url + other}, frozenset("0123")) is None


def test_old_pg_dump() -> None:
    """A pg_dump that is older than the server is reported, with the package to install."""
    with pytest.raises(Unavailable, match=r"runs PostgreSQL 99, and pg_dump \d+ of this host") as raised:
        dump.require_tools(990_000)
    assert "apt install postgresql-client-99" in raised.value.hint


def test_no_room(tmp_path: Path) -> None:
    """A dump that has no room is refused."""
    with pytest.raises(Unavailable, match="needs up to 1073741824 MiB"):
        dump.require_space(Layout(root=tmp_path), 1 << 50)


def test_killed(migrated: tuple[Layout, dict[str, str]], database: Database) -> None:
    """After a SIGKILL in the middle of a migration nothing of it is there, and the next run applies it."""
    layout, environment = migrated
    slow = replace(ADDITIVE, script=ADDITIVE.script + b"; SELECT pg_sleep(30)")
    release = Release(layout, "new", slow).folder
    python = str(layout.real(release) / "bin/python")
    process = subprocess.Popen((python, *PROGRAM[1:]), env={**os.environ, **environment})
    sleeping = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    wait_for("the migration", lambda: bool(database.execute(sleeping)))
    process.send_signal(signal.SIGKILL)
    process.wait()
    database.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    wait_for("its end", lambda: not database.execute(sleeping))
    assert "c" not in columns(database, "LiteLLM_BudgetTable")
    status = steps.read_database(layout, release, environment)
    assert status.pending == (ADDITIVE.name,)


def test_whole_database(database: Database, empty: Database, tmp_path: Path) -> None:
    """A dump of a whole database is restored into an empty one, with types and functions."""
    layout, path = Layout(root=tmp_path), tmp_path / "dumps" / "x.dump"
    source, target = (find_database({"DATABASE_URL": each.url})[0] for each in (database, empty))
    dump.write_dump(layout, source, path, server=150_000)
    dump.restore_dump(layout, target, path, server=150_000)
    counts = [
        each.execute("SELECT count(*) FROM pg_class WHERE relname LIKE 'LiteLLM%'") for each in (database, empty)
    ]
    assert counts[0] == counts[1]
    assert counts[0][0][0] > 100
