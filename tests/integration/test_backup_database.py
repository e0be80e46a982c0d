"""The database in a backup: all of it comes back in another database, and an undo leaves that one empty."""

from __future__ import annotations

from pathlib import Path

import pytest

from litellm_systemd.database.backup import count_tables, dump_all, empty, load_all
from litellm_systemd.errors import InstallerError
from litellm_systemd.host.layout import Layout
from tests.database import Cluster, Database

_KEY = "INSERT INTO \"LiteLLM_VerificationToken\" (token, key_name, spend) VALUES ('digest', 'sk-...x', 1.25)"
_ROWS = 'SELECT token, key_name, spend FROM "LiteLLM_VerificationToken"'
_LEFT = (
    "SELECT (SELECT count(*) FROM pg_tables WHERE schemaname = 'public'),"
    " (SELECT count(*) FROM pg_type t JOIN pg_namespace n ON n.oid = typnamespace"
    " WHERE nspname = 'public' AND typtype = 'e' AND typname <> 'mine')"
)


def test_dump_load_and_empty(cluster: Cluster, database: Database, tmp_path: Path) -> None:
    """A dump restores tables, rows and types in an empty database; the undo removes them, and no table of the user.
    Afterwards it can be loaded again.
    """
    database.execute(_KEY)
    dump, target = tmp_path / "database.dump", cluster.create_database(empty=True)
    environment = {"DATABASE_URL": target.url}
    assert dump_all(Layout(), {"DATABASE_URL": database.url}, dump) >= 100000
    assert dump.stat().st_mode & 0o077 == 0
    target.execute("CREATE TABLE other (id int)")
    assert count_tables(environment) == 0
    for _ in range(2):
        load_all(Layout(), environment, dump)
        assert target.execute(_ROWS) == [("digest", "sk-...x", 1.25)]
        assert count_tables(environment) == count_tables({"DATABASE_URL": database.url})
        empty(environment)
        assert target.execute(_LEFT) == [(1, 0)]
    cluster.drop_database(target)


def test_damaged_dump_changes_nothing(cluster: Cluster, database: Database, tmp_path: Path) -> None:
    """A dump that ends early is one error without the password, and the database stays empty."""
    dump, target = tmp_path / "database.dump", cluster.create_database(empty=True)
    dump_all(Layout(), {"DATABASE_URL": database.url}, dump)
    dump.write_bytes(dump.read_bytes()[:-2000])
    with pytest.raises(InstallerError) as refused:
        load_all(Layout(), {"DATABASE_URL": target.url}, dump)
    assert "secret" not in refused.value.render()
    assert target.execute(_LEFT) == [(0, 0)]
    cluster.drop_database(target)
