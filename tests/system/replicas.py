"""PostgreSQL with a streaming standby, on two hosts of a `Lan`, at one address that a failover moves.

That is what a client sees of Amazon RDS, or of Patroni with a virtual address: the URL stays. RDS changes the address
of a name, here an interface with the address moves to the other host.
"""

from __future__ import annotations

from types import TracebackType

from box import wait_until
from lan import NETWORK, Lan
from tests.postgres import ROLE, SUPERUSER, Server

_NUMBER = 20
#: The address of the primary.
ADDRESS = f"{NETWORK}.{_NUMBER}"
_PORT = 5432
_ACCESS = f"""\
host all all {NETWORK}.0/24 scram-sha-256
host replication {SUPERUSER} {NETWORK}.0/24 trust"""


class Replicas:
    """The two servers. `primary` is the host of the one that has the address."""

    def __init__(self, lan: Lan) -> None:
        self.primary, self._standby = "db1", "db2"
        self._lan = lan
        self._servers: dict[str, Server] = {}

    def __enter__(self) -> Replicas:
        for number, host in enumerate((self.primary, self._standby), 1):
            self._lan.add_host(host, _NUMBER + number)
            prefix = self._lan.prefix(host, SUPERUSER)
            self._servers[host] = Server(_PORT, listen="*", access=_ACCESS, prefix=prefix)
        self._lan.add_address(self.primary, "virtual", _NUMBER)
        server = self._servers[self.primary]
        server.create()
        server.execute(f"CREATE DATABASE {ROLE} OWNER {ROLE}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers.values():
            server.close()

    def count_migrations(self) -> int:
        """The migrations of LiteLLM that the database has."""
        statement = "SELECT count(*) FROM _prisma_migrations WHERE finished_at IS NOT NULL"
        return int(self._servers[self.primary].execute(statement, ROLE)[0][0])

    def restart(self) -> None:
        """Restart the primary as systemd does: it closes its connections."""
        self._servers[self.primary].stop()
        self._servers[self.primary].start()

    def add_standby(self) -> None:
        """Make the other server a standby that has received all that the primary has."""
        primary, standby = self._servers[self.primary], self._servers[self._standby]
        source = (f"--host={NETWORK}.{_NUMBER + 1}", f"--username={SUPERUSER}")
        target = (f"--pgdata={standby.data}", "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        standby.run("pg_basebackup", *source, *target)
        standby.start()
        states = "SELECT state FROM pg_stat_replication"
        wait_until(lambda: primary.execute(states) == [("streaming",)], 60, "it streams")

    def fail_over(self) -> None:
        """Kill the primary, promote the standby, and move the address to it."""
        self._servers[self.primary].kill()
        lost, self.primary = self.primary, self._standby
        server = self._servers[self.primary]
        server.run("pg_ctl", "promote", f"--pgdata={server.data}", "--wait")
        self._lan.move_address("virtual", _NUMBER, lost, self.primary)
