"""The port: which process holds it, does the socket unit listen, and is it the address in the environment file?"""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator

from litellm_systemd import contract
from litellm_systemd.doctor.cause import Cause, Finding, detects
from litellm_systemd.doctor.check_exit import STARTUP_BLOCKERS
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.host.layout import UNITS
from litellm_systemd.instances.runtime_calls import port_trouble
from litellm_systemd.report.report import Outcome

_REQUIRES = ("host-systemd-absent", "host-systemd-silent", "files-not-installed", "unit-masked")

TAKEN = Cause(
    "port-taken",
    "Another program listens on the port, so litellm.socket cannot. The service never switches to another port by"
    " itself.",
    "Stop that program (sudo ss -ltnp 'sport = :{port}'), then: sudo litellmctl start"
    "    # or set another PORT in .env, then: sudo litellmctl install",
    requires=_REQUIRES,
)


@detects(TAKEN)
def detect_port_taken(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect another process on the port while litellm.socket should be listening there and is not."""
    addresses = listen_addresses(snapshot.socket.get("Listen", ""))
    units = [snapshot.unit(name) for name in UNITS]
    is_unused = all(unit.active == "inactive" and not unit.is_enabled for unit in units)
    if snapshot.unit(contract.SOCKET).is_active or is_unused:
        return
    for listen in addresses:
        if error := port_trouble(listen):
            yield TAKEN.finding(error, port=listen.rpartition(":")[2])


def listen_addresses(listen: str) -> tuple[str, ...]:
    """The TCP addresses in the property Listen of a socket unit, such as `127.0.0.1:4000 (Stream)`."""
    return tuple(re.findall(r"(\S+:\d+) \(Stream\)", listen))


SOCKET = Cause(
    "port-socket-failed",
    "litellm.socket has failed, so nothing listens on the port.",
    "sudo systemctl reset-failed litellm.socket litellm.service && sudo litellmctl start",
    requires=_REQUIRES,
    caused_by=(*STARTUP_BLOCKERS, "unit-start-limit"),
)


@detects(SOCKET)
def detect_port_socket_failed(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a failed socket unit: it could not bind its address, or was triggered too often."""
    if snapshot.unit(contract.SOCKET).active == "failed":
        yield SOCKET.finding(f"{contract.SOCKET}: Result={snapshot.socket.get('Result', '')}")


CLOSED = Cause(
    "port-closed",
    "The service is running but its socket unit was stopped: the next restart will have no port.",
    "sudo systemctl restart litellm.socket litellm.service",
    requires=_REQUIRES,
    caused_by=("port-socket-failed",),
)


@detects(CLOSED)
def detect_port_closed(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a running service whose socket unit is not active."""
    state = snapshot.unit(contract.SOCKET)
    if snapshot.is_active and state.load == "loaded" and not state.is_active:
        yield CLOSED.finding(f"{contract.SERVICE} is active but {contract.SOCKET} is {state.active}")


MISMATCH = Cause(
    "port-mismatch",
    "HOST or PORT was changed in the environment file, but the socket unit still has the previous address and listens"
    " there.",
    "sudo litellmctl install --installed    # renders the unit again",
    outcome=Outcome.WARNING,
    requires=(*_REQUIRES, "environment-unusable"),
)


@detects(MISMATCH)
def detect_port_mismatch(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a socket unit whose address differs from the environment file."""
    wanted, addresses = snapshot.settings.listen, listen_addresses(snapshot.socket.get("Listen", ""))
    if addresses and wanted not in addresses:
        path = snapshot.layout.environment_file
        yield MISMATCH.finding(f"{path} has {wanted}, {contract.SOCKET} has {', '.join(addresses)}")


ADDRESS = Cause(
    "port-address",
    "HOST is not an address of this machine, so no client can connect to the service.",
    "Set HOST in .env to an address of this machine (ip -brief address), then: sudo litellmctl install",
    requires=("environment-unusable",),
)


@detects(ADDRESS)
def detect_port_address(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a HOST that is not an address of this machine. systemd binds it nevertheless (FreeBind=)."""
    host = snapshot.settings.host
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as check:
        try:
            check.bind((host, 0))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            yield ADDRESS.finding(f"{snapshot.layout.environment_file}: HOST={host}")
