"""A network of network namespaces, for boxes and for the programs that they reach. No part of the host's network.

Its mount points are inside the namespaces of the boxes (`Namespaces`), so they end with those, even if the tests are
killed.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from box import Namespaces, NetworkAccess, outside_path

#: The first three numbers of all addresses.
NETWORK = "10.77.0"
#: The namespace with the bridge, and its address.
OUTSIDE, OUTSIDE_ADDRESS = "outside", f"{NETWORK}.1"


class Lan(NetworkAccess):
    """A bridge in the namespace `OUTSIDE`, and one further namespace for each host, by a name of up to 8 letters.

    Connections from the test are made in `OUTSIDE`.
    """

    def __init__(self, namespaces: Namespaces) -> None:
        self._namespaces = namespaces
        self._prefix = namespaces.new_name("lan")
        self._hosts: list[str] = []

    def __enter__(self) -> Lan:
        self._add_namespace(OUTSIDE)
        self.ip(OUTSIDE, "link", "add", "bridge", "type", "bridge")
        self.ip(OUTSIDE, "address", "add", f"{OUTSIDE_ADDRESS}/24", "dev", "bridge")
        self.ip(OUTSIDE, "link", "set", "bridge", "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self._hosts:
            self._call("ip", "netns", "delete", self._name(host))

    @property
    def network_namespace(self) -> Path:
        return self._outer_path(OUTSIDE)

    def add_host(self, host: str, number: int) -> Path:
        """Add a namespace with the address `NETWORK`.`number`. Returns its path for `Box(network=...)`."""
        self._add_namespace(host)
        self.add_address(host, "eth0", number)
        return self.path(host)

    def add_address(self, host: str, interface: str, number: int) -> None:
        """Connect a host to the bridge by one more interface, whose name is unique among those of one host."""
        # The end at the bridge has a name of its own, since all of them are in one namespace.
        port = f"{host}{interface}"
        peer = ("peer", "name", interface, "netns", self._name(host))
        self.ip(OUTSIDE, "link", "add", port, "type", "veth", *peer)
        self.ip(OUTSIDE, "link", "set", port, "master", "bridge", "up")
        self._configure(host, interface, number)

    def move_address(self, interface: str, number: int, host: str, to: str) -> None:
        """Move an interface with its address to another host, as a virtual address at a failover."""
        self.ip(host, "link", "set", interface, "netns", self._name(to))
        self._configure(to, interface, number)

    def path(self, host: str) -> Path:
        """The path of a namespace, inside `Namespaces`."""
        return Path("/run/netns") / self._name(host)

    # --- programs ---

    def ip(self, host: str, *arguments: str) -> None:
        """Run ip(8) for a host."""
        self._call("ip", "-n", self._name(host), *arguments)

    def prefix(self, host: str, user: str = "root") -> tuple[str, ...]:
        """The start of a command that runs on a host, with the files and processes of the machine.

        The program has the pid of the command. The kernel kills it when the tests end.
        """
        become = () if user == "root" else (f"--reuid={user}", f"--regid={user}", "--init-groups")
        return ("nsenter", f"--net={self._outer_path(host)}", "--", "setpriv", "--pdeathsig=KILL", *become, "--")

    # --- implementation ---

    def _call(self, *argv: str) -> None:
        self._namespaces.call(*argv)

    def _outer_path(self, host: str) -> Path:
        return outside_path(self._namespaces, self.path(host))

    def _name(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def _add_namespace(self, host: str) -> None:
        self._call("ip", "netns", "add", self._name(host))
        self._hosts.append(host)
        self.ip(host, "link", "set", "lo", "up")

    def _configure(self, host: str, interface: str, number: int) -> None:
        self.ip(host, "address", "add", f"{NETWORK}.{number}/24", "dev", interface)
        self.ip(host, "link", "set", interface, "up")
