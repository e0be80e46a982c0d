"""The master's control socket: facts for `litellmctl status`, and reloads that wait for their outcome.

One JSON object a line: {"command": "status"} or {"command": "reload"}; one line comes back. HUP alone can't say how
a reload ended, and systemd before 253 has no Type=notify-reload; after it, a failed reload still counts as done.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from litellm_systemd.contract import CONTROL_SOCKET, RUNTIME_DIRECTORY, ExitCode
from litellm_systemd.runtime.master.event_loop import Events

_LIMIT = 4096

Handler = Callable[[str, "Client"], None]


class Client:
    """A connection that asked something. It is answered once, now or later, and closed."""

    def __init__(self, connection: socket.socket, forget: Callable[[Client], None]) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.request = b""
        self._forget = forget

    def fileno(self) -> int:
        """For the event loop."""
        return self.connection.fileno()

    def answer(self, reply: Mapping[str, Any]) -> None:
        """Send one line and close. Whoever doesn't read or is gone goes without."""
        with contextlib.suppress(OSError):
            self.connection.send(json.dumps(reply).encode() + b"\n")
        self._forget(self)


class Control:
    """Listens at `path` for root and the service's user. Never blocks the master."""

    def __init__(self, path: Path, events: Events, handler: Handler) -> None:
        self._path = path
        self._events = events
        self._handler = handler
        self._clients: set[Client] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        path.unlink(missing_ok=True)  # left by a master that was killed
        before = os.umask(0o177)
        try:
            self._listener.bind(str(path))
        finally:
            os.umask(before)
        self._listener.listen(16)
        events.watch(self._listener, self._on_connection)

    def close(self) -> None:
        """Stop listening and take the file away."""
        self.release()
        self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Close the descriptors alone; for a forked child."""
        for each in (self._listener, *(client.connection for client in self._clients)):
            each.close()

    def _on_connection(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            client = Client(connection, self._drop)
            self._clients.add(client)
            self._events.watch(client, lambda: self._on_data(client))

    def _on_data(self, client: Client) -> None:
        try:
            data = client.connection.recv(_LIMIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.request += data
        if not data or len(client.request) > _LIMIT:
            self._drop(client)
        elif client.request.endswith(b"\n"):
            self._handle(client)

    def _handle(self, client: Client) -> None:
        try:
            command = json.loads(client.request)["command"]
        except (ValueError, KeyError, TypeError):
            client.answer({"ok": False, "error": 'expected {"command": "status"} or {"command": "reload"}'})
            return
        client.request = b""
        self._handler(str(command), client)

    def _drop(self, client: Client) -> None:
        if client in self._clients:
            self._clients.discard(client)
            self._events.forget(client)
            client.connection.close()


def ask(path: Path, command: str, timeout: float | None) -> dict[str, Any]:
    """One question, one answer. Raises OSError if nobody listens, or gives none within `timeout` seconds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        connection.sendall(json.dumps({"command": command}).encode() + b"\n")
        with connection.makefile("rb") as answers:
            line = answers.readline()
    if not line:
        raise ConnectionResetError("the service went away without an answer")
    answer: dict[str, Any] = json.loads(line)
    return answer


def reload_main(pid: int | None, environ: Mapping[str, str]) -> int:
    """Ask the running service to reload; exit 0 when the new configuration is live, else 1 and the reason."""
    directory = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if not directory:
        return _complain("RUNTIME_DIRECTORY is not set. This command is for the unit's ExecReload=.")
    path = Path(directory) / CONTROL_SOCKET
    try:
        if pid is not None and (answering := ask(path, "status", 10)["pid"]) != pid:
            return _complain(f"process {answering} answers at {path}, not {pid}. Restart the service.")
        # No limit here: the service keeps START_TIMEOUT itself, and systemd limits this command.
        outcome = ask(path, "reload", None)
    except OSError as error:
        return _complain(f"can't reach the service at {path}: {error.strerror or error}. Is it running?")
    if outcome["ok"]:
        return ExitCode.OK
    from litellm_systemd.runtime.journal import open_journal  # here, since it brings asyncio along

    if open_journal(environ).prefixed:
        return ExitCode.FAILED  # in the journal, the service itself has said it
    return _complain(f"reload failed: {outcome['error']}")


def status_main(environ: Mapping[str, str]) -> int:
    """Print the running service's facts as a line of JSON; exit 1 and the reason if it doesn't tell them."""
    path = Path(environ.get("RUNTIME_DIRECTORY", RUNTIME_DIRECTORY)) / CONTROL_SOCKET
    try:
        print(json.dumps(ask(path, "status", 10)))  # noqa: T201 - a command of its own
    except OSError as error:
        return _complain(f"can't reach the service at {path}: {error.strerror or error}. Is it running?")
    return ExitCode.OK


def _complain(message: str) -> int:
    print(message, file=sys.stderr)  # noqa: T201 - a command of its own
    return ExitCode.FAILED
