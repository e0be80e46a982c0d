"""The listening sockets: passed by systemd, or without systemd bound here."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from pathlib import Path

from litellm_systemd.errors import Unavailable
from litellm_systemd.runtime.systemd.port import bind, render_address

#: The first descriptor that systemd passes (sd_listen_fds(3)).
FIRST_FD = 3


def take_listeners(
    environ: MutableMapping[str, str], host: str, port: int, path: Path | None = None
) -> tuple[socket.socket, ...]:
    """The listening sockets: at `path` if it is given; else those that systemd passes; else bound to HOST:PORT.

    It removes systemd's variables from the environment. It raises Unavailable or InputError like `port.bind`, and
    never chooses another port.
    """
    inherited = _inherit(environ)
    if path is not None:
        return (_listen_at(path),)
    listeners = inherited or bind(host, port)
    for each in listeners:
        each.setblocking(False)
        if not inherited:
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


def _inherit(environ: MutableMapping[str, str]) -> tuple[socket.socket, ...]:
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return ()
    listeners = tuple(socket.socket(fileno=fd) for fd in range(FIRST_FD, FIRST_FD + int(count)))
    for each in listeners:
        os.set_inheritable(each.fileno(), False)  # systemd passes them without FD_CLOEXEC
        if each.type != socket.SOCK_STREAM or not each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise Unavailable(
                f"descriptor {each.fileno()} from systemd is not a listening stream socket", "Use ListenStream=."
            )
    return listeners
