"""The database mode of the runtime: parts of the release, pools, and Prisma's types."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from litellm_systemd.errors import InputError
from litellm_systemd.runtime.worker import litellm_database as database


def test_missing_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release without Prisma's client or engine is one error that names the part and the command to install it.

    Without systemd, as in a container, there is nothing to install.
    """
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "prisma", raising=False)
    with pytest.raises(InputError, match=r"no Prisma's client$") as error:
        database.check_parts({"INVOCATION_ID": "1"}, tmp_path)
    assert error.value.hint.endswith("sudo litellmctl install")
    package = tmp_path / "prisma"
    package.mkdir()
    for name in ("__init__.py", "client.py"):
        (package / name).touch()
    engine = Path(database.engine_path(tmp_path))
    with pytest.raises(InputError, match=f"no Prisma's query engine \\({engine}\\)$") as error:
        database.check_parts({}, tmp_path)
    assert error.value.hint == "Use a release or an image with both, or unset DATABASE_URL."
    engine.parent.mkdir(parents=True)
    engine.touch(mode=0o755)
    database.check_parts({}, tmp_path)


@given(st.integers(1, 5000), st.integers(1, 200))
def test_pools_fit_into_the_database(usable: int, workers: int) -> None:
    """All engines together have fewer connections than the database accepts, unless there are too many workers."""
    size = database.pool_size(usable, workers)
    assert 1 <= size <= 10
    assert size == 1 or size * database.most_engines(workers) <= usable - 10


def test_configured_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable goes before the configuration, and that before what fits. The rest of a URL stays as it is."""
    monkeypatch.setattr(database, "_read_connections", lambda _: 97)
    url = "postgresql://u:p%40@h:5432/db?sslmode=require&options=-c%20x%3D1&connection_limit=10"

    def limit(configured: int | None, **more: str) -> str:
        environ = {"DATABASE_URL": url, "DATABASE_URL_READ_REPLICA": url, **more}
        database.limit_pools(environ, configured, 8)
        assert environ["DATABASE_URL"] == environ["DATABASE_URL_READ_REPLICA"]
        start, _, found = environ["DATABASE_URL"].rpartition("=")
        assert start.replace("+", "%20") == url.rpartition("=")[0]
        return found

    assert limit(4, DATABASE_CONNECTION_LIMIT="5") == "5"
    assert limit(4) == "4"
    assert limit(None) == "3"
