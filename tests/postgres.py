"""A PostgreSQL server for tests, with the programs of Debian or Ubuntu."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, LiteralString

import psycopg

#: The role that LiteLLM has, which owns its databases. Passwords matter on TCP, and not on the UNIX socket.
ROLE, PASSWORD = "litellm", "secret"
SUPERUSER = "postgres"
#: PostgreSQL refuses to run as root.
_BECOME = ("setpriv", f"--reuid={SUPERUSER}", f"--regid={SUPERUSER}", "--init-groups", "--")
_SETTINGS = """
listen_addresses = '{listen}'
fsync = off
shared_buffers = 16MB
max_connections = 100
"""


def find_programs() -> Path | None:
    """The folder of the newest PostgreSQL."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


class Server:
    """A server in a folder of its own below /tmp, which has its UNIX socket.

    `listen`: its addresses. `access`: lines of pg_hba.conf(5) for them. `prefix`: the command that runs all programs,
    as the user `SUPERUSER`.
    """

    def __init__(
        self,
        port: int,
        *,
        listen: str = "127.0.0.1",
        access: str = "host all all 127.0.0.1/32 scram-sha-256",
        prefix: Sequence[str] | None = None,
    ) -> None:
        self.port = port
        self.folder = Path(tempfile.mkdtemp(prefix="litellm-postgres-"))
        self.data = self.folder / "data"
        self._listen, self._access = listen, access
        self._prefix = tuple(prefix or (_BECOME if os.geteuid() == 0 else ()))
        self._programs = find_programs() or Path()
        self._process: subprocess.Popen[bytes] | None = None
        self.folder.chmod(0o755)
        if os.geteuid() == 0:
            shutil.chown(self.folder, SUPERUSER, SUPERUSER)

    @property
    def pid(self) -> int:
        """The process id of the running server, whose children are the sessions."""
        assert self._process is not None
        return self._process.pid

    def create(self) -> None:
        """Create its data with the role, and start it."""
        self.run("initdb", f"--pgdata={self.data}", f"--username={SUPERUSER}", "--no-sync", "--encoding=UTF8")
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.write(_SETTINGS.format(listen=self._listen))
        (self.data / "pg_hba.conf").write_text(f"local all all trust\n{self._access}\n")
        self.start()
        self.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD '{PASSWORD}'")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        program = (*self._prefix, str(self._programs / "postgres"), "-D", str(self.data))
        with (self.folder / "log").open("ab") as log:
            # Without our folder: the user of PostgreSQL may not be able to enter it.
            self._process = subprocess.Popen(
                (*program, "-p", str(self.port), "-k", str(self.folder)),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        limit = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, self._log()
            assert time.monotonic() < limit, self._log()
            time.sleep(0.05)

    def stop(self, mode: str = "fast") -> None:
        """Stop it, if it runs. Modes are those of pg_ctl(1)."""
        if self._process is not None:
            self.run("pg_ctl", "stop", f"--pgdata={self.data}", "--wait", f"--mode={mode}")
            self._process.wait(timeout=60)
            self._process = None

    def kill(self) -> None:
        """Kill the main process: the others notice, and exit."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=60)
        self._process = None

    def close(self) -> None:
        """Stop it, and remove its folder."""
        self.stop("immediate")
        shutil.rmtree(self.folder)

    def execute(self, statement: LiteralString, database: str = SUPERUSER) -> list[tuple[Any, ...]]:
        """Run a statement as the superuser, and return its rows."""
        with psycopg.connect(
            host=str(self.folder), port=self.port, user=SUPERUSER, dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            (*self._prefix, str(self._programs / program), *arguments),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{program} {arguments}: {done.stdout}{self._log()}"

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError):
            self.execute("SELECT 1")
            return True
        return False

    def _log(self) -> str:
        """The end of its log."""
        path = self.folder / "log"
        return path.read_text(encoding="utf-8")[-4000:] if path.exists() else ""
