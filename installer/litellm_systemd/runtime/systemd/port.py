"""The port: the listening sockets, and which process listens there.

Systemd passes the sockets; without systemd they are bound here.

The socket unit runs the command `port` before systemd binds the port, because systemd reports only that the address
is in use. This module therefore needs the standard library alone, and finds the process in /proc: proc(5) and
Documentation/networking/proc_net_tcp.rst of the kernel describe the table.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from litellm_systemd.contract import METRICS_LISTENER, ExitCode
from litellm_systemd.errors import InputError, InstallerError, Unavailable

#: The first descriptor that systemd passes (sd_listen_fds(3)).
FIRST_FD = 3
_LISTEN = "0A"
_OTHER_METRICS = "Stop it, or set another METRICS."


@dataclass(frozen=True, slots=True)
class Listener:
    pid: int
    command: str

    def __str__(self) -> str:
        if self.pid == 1:
            return "systemd for a socket unit (systemctl list-sockets)"
        return f"{self.command} (pid {self.pid})"


def find_listeners(port: int, proc: Path = Path("/proc")) -> tuple[Listener, ...]:
    """The processes that listen on a TCP port and that this user may inspect. Root may inspect all."""
    inodes = set(_listening_inodes(port, proc))
    return tuple(_processes_with(inodes, proc)) if inodes else ()


def bind(host: str, port: int, variable: str = "PORT") -> tuple[socket.socket, ...]:
    """Bind a socket to each address of `host`. The sockets do not listen yet. `variable` is where the port is set.

    Raises:
        Unavailable: another process listens on the port. The message names it.
        InputError: `host` is no address of this machine, or the port needs root.
    """
    bound: list[socket.socket] = []
    missing: OSError | None = None
    try:
        for family, address in _addresses(host, port):
            try:
                bound.append(_bind_one(family, address))
            except OSError as error:
                # `localhost` has an IPv6 address even if IPv6 is disabled.
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise
                missing = error
        if missing and not bound:
            raise missing
    except OSError as error:
        for each in bound:
            each.close()
        raise _explain(error, host, port, variable) from error
    return tuple(bound)


def render_address(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_unused(path: Path) -> None:
    """Check that no process listens at the path of METRICS: its socket file would be replaced, also by systemd.

    Raises:
        Unavailable: a process listens there.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        # Of a full queue, and of a socket for datagrams.
        if probe.connect_ex(str(path)) in (0, errno.EAGAIN, errno.EPROTOTYPE):
            raise Unavailable(f"cannot listen at {path}: another process is listening there", _OTHER_METRICS)


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, `[HOST]:PORT` or `PORT` (all addresses, as in ListenStream=)."""
    host, _, port = text.rpartition(":")
    if not port.isdigit() or not 0 < int(port) <= 65535:
        raise InputError(f"{text!r} is not HOST:PORT", "Example: 127.0.0.1:4000")
    return host.removeprefix("[").removesuffix("]") or "::", int(port)


def main(address: str, *, is_metrics: bool = False) -> int:
    """Return 69 and print one line if another process listens on HOST:PORT, else return 0.

    Other errors are ignored: systemd may bind where this process cannot (FreeBind=, ports below 1024). `is_metrics`:
    the address is that of METRICS, or the path of a UNIX socket.
    """
    path = Path(address) if is_metrics and address.startswith("/") else None
    try:
        host, port = parse_address(address) if path is None else ("", 0)
    except InputError as error:
        return _report_error(error, ExitCode.USAGE)
    try:
        if path is not None:
            require_unused(path)
        else:
            for each in bind(host, port, "METRICS" if is_metrics else "PORT"):
                each.close()
    except Unavailable as error:
        if is_metrics:
            error = Unavailable(f"METRICS: {error.message}", f"{error.hint} The gateway serves without metrics.")
        return _report_error(error, ExitCode.UNAVAILABLE)
    except InputError:
        return ExitCode.OK
    return ExitCode.OK


def _report_error(error: InstallerError, code: ExitCode) -> int:
    print(error.render(), file=sys.stderr)  # noqa: T201 - the output of a command
    return code


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    flags = socket.AI_PASSIVE
    found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=flags)
    return list(dict.fromkeys((family, (str(address[0]), port)) for family, _, _, _, address in found))


def _bind_one(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    each = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Binds despite connections in TIME_WAIT. It still fails if another socket listens (socket(7)).
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        each.bind(address)
    except OSError:
        each.close()
        raise
    return each


def _explain(error: OSError, host: str, port: int, variable: str) -> InstallerError:
    address = render_address(host, port)
    hint = f"Stop it, or set another {variable}."
    if error.errno == errno.EADDRINUSE:
        listeners = find_listeners(port)
        if listeners:
            verb = "is" if len(listeners) == 1 else "are"
            names = _render_listeners(listeners)
            return Unavailable(f"cannot listen on {address}: {names} {verb} listening there", hint)
        unknown = "another process, which only root can identify, is listening there"
        return Unavailable(f"cannot listen on {address}: {unknown}", hint)
    if error.errno == errno.EACCES:
        message = f"cannot listen on {address}: ports below 1024 need root"
        return InputError(message, f"Set {variable} to 1024 or higher, or let systemd start the service.")
    reason = error.strerror or str(error)
    setting = "HOST" if variable == "PORT" else variable
    return InputError(f"cannot listen on {address}: {reason}", f"Set {setting} to an address of this machine.")


def _render_listeners(listeners: tuple[Listener, ...]) -> str:
    # The first two are the socket unit and the main process of its service. The others are workers.
    named, more = listeners[:2], len(listeners) - 2
    return " and ".join(str(listener) for listener in named) + (f" ({more} more)" if more > 0 else "")


def _listening_inodes(port: int, proc: Path) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except OSError:  # it does not exist in a sandbox with ProcSubset=pid
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                yield fields[9]


def _processes_with(inodes: set[str], proc: Path) -> Iterator[Listener]:
    links = {f"socket:[{inode}]" for inode in inodes}
    for process in sorted(proc.iterdir(), key=lambda entry: int(entry.name) if entry.name.isdigit() else 0):
        if process.name.isdigit() and not links.isdisjoint(_links(process / "fd")):
            yield Listener(int(process.name), _command(process))


def _links(folder: Path) -> Iterator[str]:
    try:
        for link in folder.iterdir():
            with contextlib.suppress(OSError):  # it was closed in the meantime
                yield str(link.readlink())
    except OSError:  # the process has exited or belongs to another user
        return


def _command(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a process"


@dataclass(frozen=True, slots=True)
class Inherited:
    """The listening sockets that systemd passes: those of the port, and that of METRICS."""

    port: tuple[socket.socket, ...] = ()
    metrics: socket.socket | None = None


def take_listeners(inherited: Inherited, host: str, port: int, path: Path | None = None) -> tuple[socket.socket, ...]:
    """The listening sockets: at `path` if it is given; else those that systemd passes; else bound to HOST:PORT.

    It raises Unavailable or InputError like `bind`, and never chooses another port.
    """
    if path is not None:
        return (_listen_at(path),)
    return _listen(inherited.port or bind(host, port))


def take_metrics_listener(inherited: Inherited, address: str | None) -> socket.socket | None:
    """The listener of METRICS: that of systemd; without systemd, bound to `address`. None if METRICS is off.

    None too if systemd passes the port alone: the socket unit of METRICS is missing, and the sandbox allows no bind.

    Raises:
        InputError, Unavailable: it cannot be bound.
    """
    if address is None:
        if inherited.metrics is not None:
            inherited.metrics.close()
        return None
    if inherited.metrics is not None:
        return _listen((inherited.metrics,))[0]
    if inherited.port:
        return None
    if address.startswith("/"):
        path = Path(address)
        require_unused(path)
        if path.is_socket():  # a process that was killed leaves it behind
            path.unlink()
        return _listen_at(path)
    host, port = parse_address(address)
    return _listen(bind(host, port, "METRICS"))[0]


def _listen(listeners: tuple[socket.socket, ...]) -> tuple[socket.socket, ...]:
    for each in listeners:
        each.setblocking(False)
        if not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            each.listen(socket.SOMAXCONN)
    return listeners


def _listen_at(path: Path) -> socket.socket:
    """A UNIX socket for its owner and root. The caller has created the folder for it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise Unavailable(f"cannot listen at {path}: {error.strerror or error}", "Retry.") from error
    finally:
        os.umask(before)
    listener.setblocking(False)
    listener.listen(socket.SOMAXCONN)
    return listener


def render_listeners(listeners: tuple[socket.socket, ...]) -> str:
    """The addresses of the sockets as text."""
    return ", ".join(render_listener(each) for each in listeners)


def render_listener(listener: socket.socket) -> str:
    """HOST:PORT, or the path of a UNIX socket."""
    name = listener.getsockname()
    return render_address(name[0], name[1]) if isinstance(name, tuple) else str(name)


def inherit(environ: MutableMapping[str, str]) -> Inherited:
    """The sockets that systemd passes. It removes systemd's variables from the environment.

    Raises:
        Unavailable: one is not a listening stream socket.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit():
        return Inherited()
    listeners = tuple(socket.socket(fileno=fd) for fd in range(FIRST_FD, FIRST_FD + int(count)))
    for each in listeners:
        os.set_inheritable(each.fileno(), False)  # systemd passes them without FD_CLOEXEC
        if each.type != socket.SOCK_STREAM or not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise Unavailable(
                f"descriptor {each.fileno()} from systemd is not a listening stream socket", "Use ListenStream=."
            )
    named = dict(zip(names, listeners, strict=False))
    metrics = named.get(METRICS_LISTENER)
    return Inherited(tuple(each for each in listeners if each is not metrics), metrics)
