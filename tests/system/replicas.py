"""PostgreSQL with a streaming standby, on two hosts of a `Lan`, at one address that a failover moves.

That is what a client sees of Amazon RDS, or of Patroni with a virtual address: the URL stays. RDS changes the address
of a name, here an interface with the address moves to the other host.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from box import wait_until
from lan import NETWORK, Lan

_NUMBER = 20
#: The address of the primary.
ADDRESS = f"{NETWORK}.{_NUMBER}"
_USER = "postgres"
_SETTINGS = """
listen_addresses = '*'
fsync = off
shared_buffers = 16MB
max_connections = 100
"""
_ACCESS = f"""
local all all trust
host all all {NETWORK}.0/24 scram-sha-256
host replication {_USER} {NETWORK}.0/24 trust
"""


class Replicas:
    """The two servers. `primary` is the host of the one that has the address."""

    def __init__(self, lan: Lan) -> None:
        self.primary, self._standby = "db1", "db2"
        self._lan = lan
        self._folder = Path(tempfile.mkdtemp(prefix="litellm-replicas-"))
        self._bin = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        self._servers: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Replicas:
        self._folder.chmod(0o755)
        for number, host in enumerate((self.primary, self._standby), 1):
            self._lan.add_host(host, _NUMBER + number)
            for folder in (self._data(host), self._socket(host)):
                folder.mkdir(mode=0o700)
                shutil.chown(folder, _USER, _USER)
        self._lan.add_address(self.primary, "virtual", _NUMBER)
        data = self._data(self.primary)
        self._run(self.primary, "initdb", f"--pgdata={data}", "--no-sync", "--encoding=UTF8")
        with (data / "postgresql.conf").open("a", encoding="utf-8") as settings:
            settings.write(_SETTINGS)
        (data / "pg_hba.conf").write_text(_ACCESS, encoding="utf-8")
        self._start(self.primary)
        self.execute("CREATE ROLE litellm LOGIN PASSWORD 'secret'")
        self.execute("CREATE DATABASE litellm OWNER litellm")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self._servers:
            self._kill(host)
        shutil.rmtree(self._folder)

    def restart(self) -> None:
        """Restart the primary as systemd does: it closes its connections."""
        self._run(self.primary, "pg_ctl", "stop", f"--pgdata={self._data(self.primary)}", "--wait", "--mode=fast")
        self._servers[self.primary].wait(timeout=60)
        self._start(self.primary)

    def add_standby(self) -> None:
        """Make the other server a standby that has received all that the primary has."""
        source = (f"--host={NETWORK}.{_NUMBER + 1}", f"--username={_USER}")
        target = (f"--pgdata={self._data(self._standby)}", "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        self._run(self._standby, "pg_basebackup", *source, *target)
        self._start(self._standby)
        wait_until(lambda: self.execute("SELECT state FROM pg_stat_replication") == "streaming", 60, "it streams")

    def fail_over(self) -> None:
        """Kill the primary, promote the standby, and move the address to it."""
        self._kill(self.primary)
        lost, self.primary = self.primary, self._standby
        self._run(self.primary, "pg_ctl", "promote", f"--pgdata={self._data(self.primary)}", "--wait")
        self._lan.move_address("virtual", _NUMBER, lost, self.primary)

    def execute(self, statement: str, database: str = "postgres") -> str:
        """Run a statement on the primary as the superuser. Returns its rows as psql prints them."""
        return self._run(self.primary, *self._psql(self.primary, statement), database).strip()

    def log(self) -> str:
        """The end of the log of each server."""
        return "\n".join(path.read_text(encoding="utf-8")[-4000:] for path in self._folder.glob("*.log"))

    def _start(self, host: str) -> None:
        argv = (*self._lan.prefix(host, _USER), str(self._bin / "postgres"), "-D", str(self._data(host)))
        with (self._folder / f"{host}.log").open("ab") as log:
            # Without our folder: the user of PostgreSQL may not be able to enter it.
            self._servers[host] = subprocess.Popen(
                (*argv, "-k", str(self._socket(host))), cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(lambda: self._call(host, self._psql(host, "SELECT 1")).returncode == 0, 60, f"{host} answers")

    def _kill(self, host: str) -> None:
        """Kill the main process: the others notice, and exit."""
        self._servers[host].kill()
        self._servers[host].wait(timeout=60)

    def _psql(self, host: str, statement: str) -> tuple[str, ...]:
        options = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1")
        return ("psql", *options, f"--host={self._socket(host)}", f"--command={statement}")

    def _run(self, host: str, *argv: str) -> str:
        done = self._call(host, argv)
        assert done.returncode == 0, f"{argv}: {done.stdout}{self.log()}"
        return done.stdout

    def _call(self, host: str, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        command = (*self._lan.prefix(host, _USER), str(self._bin / argv[0]), *argv[1:])
        return subprocess.run(
            command,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )

    def _data(self, host: str) -> Path:
        return self._folder / host

    def _socket(self, host: str) -> Path:
        """Not in its data, which a standby copies with the lock of the socket."""
        return self._folder / f"{host}-socket"
