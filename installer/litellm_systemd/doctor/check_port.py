"""The port: who holds it, and whether it is the one that was asked for."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator

from litellm_systemd import contract
from litellm_systemd.doctor.cause import Cause, Finding, looks_for
from litellm_systemd.doctor.check_exit import GROUND
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.host.layout import UNITS
from litellm_systemd.instances.runtime_calls import port_trouble
from litellm_systemd.report.report import Outcome

_NEEDS = ("host-systemd-absent", "host-systemd-silent", "files-not-installed", "unit-masked")

TAKEN = Cause(
    "port-taken",
    "Another program listens on the port, so that litellm.socket can't. The service never moves to another port by"
    " itself.",
    "stop that program (ss -ltnp 'sport = :{port}' shows it), then: sudo litellmctl start"
    "    # or another PORT in .env, and: sudo litellmctl install",
    needs=_NEEDS,
)


@looks_for(TAKEN)
def taken(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether somebody else holds the port, when our socket doesn't and should."""
    addresses = listen_addresses(snapshot.socket.get("Listen", ""))
    units = [snapshot.unit(name) for name in UNITS]
    is_out_of_use = all(unit.active == "inactive" and not unit.is_enabled for unit in units)
    if snapshot.unit(contract.SOCKET).is_active or is_out_of_use:
        return
    for listen in addresses:
        if trouble := port_trouble(listen):
            yield TAKEN.found(trouble, port=listen.rpartition(":")[2])


def listen_addresses(listen: str) -> tuple[str, ...]:
    """The TCP addresses in the property Listen of a socket unit: `127.0.0.1:4000 (Stream)`."""
    return tuple(re.findall(r"(\S+:\d+) \(Stream\)", listen))


SOCKET = Cause(
    "port-socket-failed",
    "litellm.socket has failed, so that nobody listens on the port.",
    "sudo systemctl reset-failed litellm.socket litellm.service && sudo litellmctl start",
    needs=_NEEDS,
    follows=(*GROUND, "unit-start-limit"),
)


@looks_for(SOCKET)
def socket_failed(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the socket unit has failed, for want of its address say, or since it was triggered too often."""
    if snapshot.unit(contract.SOCKET).active == "failed":
        yield SOCKET.found(f"{contract.SOCKET}: Result={snapshot.socket.get('Result', '')}")


CLOSED = Cause(
    "port-closed",
    "The service runs without its socket unit: somebody stopped that one alone. The next restart finds no port.",
    "sudo systemctl restart litellm.socket litellm.service",
    needs=_NEEDS,
    follows=("port-socket-failed",),
)


@looks_for(CLOSED)
def closed(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the socket is there while the service runs."""
    state = snapshot.unit(contract.SOCKET)
    if snapshot.is_active and state.load == "loaded" and not state.is_active:
        yield CLOSED.found(f"{contract.SERVICE} is active and {contract.SOCKET} is {state.active}")


MISMATCH = Cause(
    "port-mismatch",
    "HOST or PORT was changed in the environment file, and the socket unit still has the former one, which counts.",
    "sudo litellmctl install --installed    # makes the unit anew",
    outcome=Outcome.WARNING,
    needs=(*_NEEDS, "environment-unusable"),
)


@looks_for(MISMATCH)
def mismatch(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the socket listens where the environment says."""
    wanted, addresses = snapshot.settings.listen, listen_addresses(snapshot.socket.get("Listen", ""))
    if addresses and wanted not in addresses:
        seen = f"{snapshot.layout.environment_file} says {wanted}, {contract.SOCKET} has {', '.join(addresses)}"
        yield MISMATCH.found(seen)


ADDRESS = Cause(
    "port-address",
    "HOST is no address of this machine, so that nothing can reach the service there.",
    "ip -brief address    # shows those of this machine; put one as HOST in .env, and: sudo litellmctl install",
    needs=("environment-unusable",),
)


@looks_for(ADDRESS)
def address(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the address is one of this machine. systemd listens there all the same (FreeBind=)."""
    host = snapshot.settings.host
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.bind((host, 0))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                raise
            yield ADDRESS.found(f"{snapshot.layout.environment_file}: HOST={host}")
