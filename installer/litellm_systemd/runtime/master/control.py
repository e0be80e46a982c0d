"""The control socket of the main process: queries of its status, and reloads that wait for their result.

A request is one JSON object in one line, {"command": "status"} or {"command": "reload"}, and so is the answer. With
{"command": "reload", "certificate": PEM, "key": PEM} the service serves this certificate from the reload on: systemd
gives a process that runs no new credentials.

SIGHUP alone cannot report how a reload ended. Type=notify-reload needs systemd 253, and with it a failed reload still
counts as successful.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from litellm_systemd.contract import CONTROL_SOCKET, RUNTIME_DIRECTORY, ExitCode
from litellm_systemd.env.tls import MAX_SIZE, TlsPair, find_files, read_pair
from litellm_systemd.errors import InputError, InvalidAnswer
from litellm_systemd.runtime.master.event_loop import EventLoop

if TYPE_CHECKING:
    from litellm_systemd.runtime.journal import Journal


class ReloadClient(Protocol):
    """A client that has requested a reload and waits for the result."""

    def answer(self, reply: Mapping[str, Any]) -> None:
        """Send the result."""


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """The result of a reload: when it ended (Unix time), the generation that serves, its duration, and any error."""

    at: float
    generation: int
    seconds: float
    error: str


class Reloads:
    """Runs one reload at a time.

    All requests that arrive during a reload share the next one, because the file may have changed in the meantime.
    """

    def __init__(self) -> None:
        self.last: ReloadResult | None = None
        self.running = False
        #: The new certificate and key of the running reload; None to keep those that are served.
        self.pair: TlsPair | None = None
        self._next_pair: TlsPair | None = None
        self._started_at = 0.0
        self._waiting: list[ReloadClient] = []
        self._next: list[ReloadClient] | None = None

    def request(self, *clients: ReloadClient, pair: TlsPair | None = None) -> None:
        """Request a reload on behalf of any number of clients. `begin` starts it. The last `pair` counts."""
        self._next = [*(self._next or []), *clients]
        self._next_pair = pair or self._next_pair

    def begin(self) -> bool:
        """Start the requested reload. Returns False if there is no request or a reload is running."""
        if self.running or self._next is None:
            return False
        self._waiting, self._next = self._next, None
        self.pair, self._next_pair = self._next_pair, None
        self._started_at = time.monotonic()
        self.running = True
        return True

    def finish(self, generation: int, error: str) -> ReloadResult:
        """Record the end of the running reload. `notify` sends the result to the clients."""
        self.last = ReloadResult(time.time(), generation, time.monotonic() - self._started_at, error)
        self.running, self.pair = False, None
        return self.last

    def notify(self, result: ReloadResult) -> None:
        """Send the result to every client of the reload that has ended."""
        for client in self._waiting:
            client.answer({"ok": not result.error, "error": result.error, "generation": result.generation})
        self._waiting = []

    def cancel(self, error: str) -> None:
        """Drop the running and the requested reload, and send `error` to all their clients."""
        for client in (*self._waiting, *(self._next or [])):
            client.answer({"ok": False, "error": error})
        self._waiting, self._next, self.running = [], None, False


#: Bytes. A certificate and its key are the largest request.
_MAX_REQUEST_SIZE = 4 * MAX_SIZE
#: Bytes: room for the status of a thousand workers.
_MAX_ANSWER_SIZE = 1024 * 1024
_READ_SIZE = 65536

Handler = Callable[[str, "ControlClient", "TlsPair | None"], None]


class ControlClient:
    """A connection to the control socket. It gets one answer, at once or later, and is closed."""

    def __init__(self, connection: socket.socket, drop: Callable[[ControlClient], None]) -> None:
        connection.setblocking(False)
        self.connection = connection
        self.request = b""
        self._drop = drop

    def fileno(self) -> int:
        return self.connection.fileno()

    @property
    def is_waiting(self) -> bool:
        """Whether the client has not ended the connection."""
        try:
            return self.connection.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def answer(self, reply: Mapping[str, Any]) -> None:
        """Send one line and close. A client that has gone or does not read gets no answer."""
        with contextlib.suppress(OSError):
            self.connection.send(json.dumps(reply).encode() + b"\n")
        self._drop(self)


class ControlSocket:
    """Listens at `path`, for root and the user of the service. It never blocks the main process."""

    def __init__(self, path: Path, events: EventLoop, handler: Handler) -> None:
        self._path = path
        self._events = events
        self._handler = handler
        self._clients: set[ControlClient] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        path.unlink(missing_ok=True)  # a main process that was killed leaves it behind
        before = os.umask(0o177)
        try:
            self._listener.bind(str(path))
        finally:
            os.umask(before)
        self._listener.listen(16)
        events.watch(self._listener, self._on_connection)

    def close(self) -> None:
        """Stop listening and remove the file."""
        self.close_descriptors()
        self._path.unlink(missing_ok=True)

    def close_descriptors(self) -> None:
        """Close the descriptors and keep the file. For a forked child."""
        for each in (self._listener, *(client.connection for client in self._clients)):
            each.close()

    def _on_connection(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            client = ControlClient(connection, self._drop)
            self._clients.add(client)
            self._events.watch(client, lambda: self._on_data(client))

    def _on_data(self, client: ControlClient) -> None:
        try:
            data = client.connection.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        client.request += data
        if not data or len(client.request) > _MAX_REQUEST_SIZE:
            self._drop(client)
        elif client.request.endswith(b"\n"):
            self._handle(client)

    def _handle(self, client: ControlClient) -> None:
        try:
            fields = json.loads(client.request)
            command = str(fields["command"])
            pair = TlsPair(str(fields["certificate"]), str(fields["key"])) if "certificate" in fields else None
        except (ValueError, KeyError, TypeError, RecursionError):
            client.answer({"ok": False, "error": 'expected {"command": "status"} or {"command": "reload"}'})
            return
        client.request = b""
        self._handler(command, client, pair)

    def _drop(self, client: ControlClient) -> None:
        if client in self._clients:
            self._clients.discard(client)
            self._events.unwatch(client)
            client.connection.close()


def query(path: Path, command: str, timeout: float | None, **fields: str) -> dict[str, Any]:
    """Send one command with its other fields, and return the answer.

    The other side is not trusted: root asks, and a compromised service could answer without an end, byte by byte, or
    put a link to another program's socket in the place of its own.

    Raises:
        OSError: no process listens at `path`, or the answer takes longer than `timeout` seconds.
        InvalidAnswer: that is not the socket of the service, or the answer is too long or not a JSON object.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    answer, part = bytearray(), b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        _connect(connection, path)
        connection.sendall(json.dumps({"command": command, **fields}).encode() + b"\n")
        while b"\n" not in part:
            if deadline is not None:
                if (left := deadline - time.monotonic()) <= 0:
                    raise TimeoutError(f"no complete answer within {timeout:g} s")
                connection.settimeout(left)
            part = connection.recv(_READ_SIZE)
            if not part:
                break
            answer += part
            if len(answer) > _MAX_ANSWER_SIZE:
                raise InvalidAnswer(f"the answer at {path} is longer than {_MAX_ANSWER_SIZE // 1024} KiB")
    if not answer:
        raise ConnectionResetError("the service closed the connection without an answer")
    try:
        found = json.loads(answer.partition(b"\n")[0])
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InvalidAnswer(f"the answer at {path} is not a JSON object")
    return found


def _connect(connection: socket.socket, path: Path) -> None:
    """Connect to the socket file itself: not through a link, and only if it belongs to the owner of its folder."""
    handle = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        if not stat.S_ISSOCK(found.st_mode) or found.st_uid != path.parent.stat().st_uid:
            raise InvalidAnswer(f"{path} is not the socket of the service")
        # What was checked, whatever is at the path by now.
        connection.connect(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)


def reload_main(pid: int | None, environ: Mapping[str, str]) -> int:
    """Reload the running service, and pass it the files of TLS_CERT_FILE and TLS_KEY_FILE as they are now.

    Returns 0 when the new configuration serves; else prints the reason, returns 1.
    """
    directory = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    if not directory:
        return _report_error("RUNTIME_DIRECTORY is not set. This command is for ExecReload= of the unit.")
    path = Path(directory) / CONTROL_SOCKET
    try:
        if pid is not None and (answering := query(path, "status", 10).get("pid")) != pid:
            return _report_error(f"process {answering} answers at {path}, not {pid}. Restart the service.")
        files = find_files(environ)
        fields = {} if files is None else asdict(read_pair(files))
        # No timeout here: the service enforces START_TIMEOUT itself, and systemd limits this command.
        result = query(path, "reload", None, **fields)
    except InputError as error:
        _open_journal(environ).error(f"reload failed, the previous certificate stays active: {error.render()}")
        return ExitCode.FAILED
    except OSError as error:
        return _report_error(f"cannot connect to the service at {path}: {error.strerror or error}. Is it running?")
    except InvalidAnswer as error:
        return _report_error(error.render())
    if result.get("ok") is True:
        return ExitCode.OK
    if _open_journal(environ).prefixed:
        return ExitCode.FAILED  # the service itself has logged the reason
    return _report_error(f"reload failed: {result.get('error')}")


def _open_journal(environ: Mapping[str, str]) -> Journal:
    from litellm_systemd.runtime.journal import open_journal  # imported here because it imports asyncio

    return open_journal(environ)


def status_main(environ: Mapping[str, str]) -> int:
    """Print the status of the running service as a line of JSON.

    Returns 1 and prints the reason if the service does not answer, PROTOCOL if its answer is invalid.
    """
    path = Path(environ.get("RUNTIME_DIRECTORY", RUNTIME_DIRECTORY)) / CONTROL_SOCKET
    try:
        print(json.dumps(query(path, "status", 10)))  # noqa: T201 - the output of a command
    except OSError as error:
        return _report_error(f"cannot connect to the service at {path}: {error.strerror or error}. Is it running?")
    except InvalidAnswer as error:
        _report_error(error.message)
        return error.code
    return ExitCode.OK


def _report_error(message: str) -> int:
    print(message, file=sys.stderr)  # noqa: T201 - the output of a command
    return ExitCode.FAILED
