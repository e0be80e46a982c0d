"""Who holds a TCP port: from /proc, with the standard library alone.

The unit of the socket runs this before systemd binds, because systemd says only that the address is in use.
proc(5) and the kernel's Documentation/networking/proc_net_tcp.rst describe the table.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from litellm_systemd.contract import ExitCode
from litellm_systemd.errors import InputError, InstallerError, Unavailable

_LISTEN = "0A"
_HINT = "Stop that service, or give another PORT."


@dataclass(frozen=True, slots=True)
class Holder:
    """A process with a listening socket."""

    pid: int
    command: str

    def __str__(self) -> str:
        if self.pid == 1:
            return "systemd for a socket unit (systemctl list-sockets)"
        return f"{self.command} (pid {self.pid})"


def find_holders(port: int, proc: Path = Path("/proc")) -> tuple[Holder, ...]:
    """The processes that listen on a TCP port, as far as this user may see them: root sees all."""
    inodes = set(_listening_inodes(port, proc))
    return tuple(_processes_with(inodes, proc)) if inodes else ()


def bind(host: str, port: int) -> tuple[socket.socket, ...]:
    """Sockets bound to each address of `host`, not listening yet.

    Raises Unavailable, naming the holder, if the port is taken; InputError if `host` is no address of this machine.
    """
    bound: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in _addresses(host, port):
            try:
                bound.append(_bind_one(family, address))
            except OSError as error:
                # `localhost` has an IPv6 address even where IPv6 is off.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
        if missing and not bound:
            raise missing
    except OSError as error:
        for each in bound:
            each.close()
        raise _explain(error, host, port) from error
    return tuple(bound)


def render_address(host: str, port: int) -> str:
    """HOST:PORT, with brackets where an IPv6 address needs them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `[HOST]:PORT` or `PORT` (every address, as ListenStream= has it)."""
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) <= 65535:
        raise InputError(f"{text!r} is not HOST:PORT", "Give for example 127.0.0.1:4000.")
    return host.removeprefix("[").removesuffix("]") or "::", int(port)


def main(address: str) -> int:
    """Exit 69 and one line if somebody holds HOST:PORT, else 0.

    Any other obstacle is left to systemd: it may bind where this process can't (FreeBind=, ports below 1024).
    """
    try:
        host, port = parse_address(address)
    except InputError as error:
        return _complain(error, ExitCode.USAGE)
    try:
        for each in bind(host, port):
            each.close()
    except Unavailable as error:
        return _complain(error, ExitCode.UNAVAILABLE)
    except InputError:
        return ExitCode.OK
    return ExitCode.OK


def _complain(error: InstallerError, code: ExitCode) -> int:
    print(f"{error.message}. {error.hint}", file=sys.stderr)  # noqa: T201 - a command of its own
    return code


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    flags = socket.AI_PASSIVE
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((family, (str(address[0]), port)) for family, _, _, _, address in found))


def _bind_one(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    each = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Not held up by connections of a former life in TIME_WAIT; a live listener still is in the way (socket(7)).
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        each.bind(address)
    except OSError:
        each.close()
        raise
    return each


def _explain(error: OSError, host: str, port: int) -> InstallerError:
    place = render_address(host, port)
    if error.errno == errno.EADDRINUSE:
        holders = find_holders(port)
        if holders:
            return Unavailable(f"{place} is held by {_render_holders(holders)}", _HINT)
        return Unavailable(f"{place} is held by a process that I can't see", f"Run as root to see it. {_HINT}")
    if error.errno == errno.EACCES:
        return InputError(f"{place} is reserved for root", "Give a PORT from 1024 up, or start it by systemd.")
    reason = error.strerror or str(error)
    return InputError(f"can't listen on {place}: {reason}", "HOST must be an address of this machine.")


def _render_holders(holders: tuple[Holder, ...]) -> str:
    # A socket unit and the main process of its service; the rest are workers.
    named, more = holders[:2], len(holders) - 2
    return " and ".join(str(holder) for holder in named) + (f" ({more} more)" if more > 0 else "")


def _listening_inodes(port: int, proc: Path) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:  # not there in a sandbox with ProcSubset=pid
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _processes_with(inodes: set[str], proc: Path) -> Iterator[Holder]:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in sorted(proc.iterdir(), key=lambda entry: int(entry.name) if entry.name.isdigit() else 0):
        if process.name.isdigit() and not wanted.isdisjoint(_links(process / "fd")):
            yield Holder(int(process.name), _command(process))


def _links(folder: Path) -> Iterator[str]:
    try:
        for link in folder.iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                yield str(link.readlink())
    except OSError:  # gone, or another user's
        return


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"
