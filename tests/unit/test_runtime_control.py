"""The control socket."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from litellm_systemd.contract import CONTROL_SOCKET, ExitCode
from litellm_systemd.env.tls import TlsPair
from litellm_systemd.errors import InvalidAnswer
from litellm_systemd.runtime.master.control import ControlClient, ControlSocket, query, reload_main, status_main
from litellm_systemd.runtime.master.event_loop import EventLoop


class Master:
    """Answers in a thread, as the main process does in its event loop."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / CONTROL_SOCKET
        self.events = EventLoop()
        self.result: dict[str, object] = {"ok": True, "error": ""}
        self.pairs: list[TlsPair | None] = []
        self.control = ControlSocket(self.path, self.events, self._handle)
        self._closed = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _handle(self, command: str, client: ControlClient, pair: TlsPair | None) -> None:
        self.pairs.append(pair)
        client.answer({"pid": 71} if command == "status" else self.result)

    def _run(self) -> None:
        while not self._closed:
            self.events.wait(0.05)

    def close(self) -> None:
        self._closed = True
        self._thread.join()
        self.control.close()
        self.events.close()


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    master = Master(tmp_path)
    yield master
    master.close()
    assert not master.path.exists()


def test_socket_mode(master: Master) -> None:
    """Only the owner of the socket may connect to it."""
    assert stat.S_IMODE(master.path.stat().st_mode) == 0o600
    assert os.umask(os.umask(0o022)) != 0o177


def test_query(master: Master) -> None:
    """A command gets one line of JSON."""
    assert query(master.path, "status", 10) == {"pid": 71}


@pytest.mark.parametrize("request_line", [b"hello\n", b"{}\n", b"[]\n", b"7\n", b"\xff\n", b"[" * 9999 + b"\n"])
def test_invalid_request(master: Master, request_line: bytes) -> None:
    """An invalid request gets an answer with an error."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(master.path))
        connection.sendall(request_line)
        assert json.loads(connection.makefile().readline())["ok"] is False


def test_misbehaving_clients(master: Master) -> None:
    """A client that disconnects early, sends too much or sends slowly does not affect other clients."""
    with socket.socket(socket.AF_UNIX) as early, socket.socket(socket.AF_UNIX) as slow:
        early.connect(str(master.path))
        early.sendall(b'{"command": "status"}\n')
        early.close()
        slow.connect(str(master.path))
        slow.sendall(b'{"command"')
        with socket.socket(socket.AF_UNIX) as long:
            long.connect(str(master.path))
            with contextlib.suppress(ConnectionError):  # it closes before it has read everything
                long.sendall(b"x" * 300_000)
                assert long.recv(1) == b""
        assert query(master.path, "status", 10) == {"pid": 71}
        slow.sendall(b': "status"}\n')
        assert json.loads(slow.makefile().readline()) == {"pid": 71}


def test_client_that_ends() -> None:
    """The main process knows whether the client of an answer that comes later still waits."""
    here, there = socket.socketpair()
    client = ControlClient(there, lambda _client: there.close())
    assert client.is_waiting
    here.sendall(b"more")
    assert client.is_waiting
    there.recv(4)
    here.close()
    assert not client.is_waiting
    client.answer({})
    assert not client.is_waiting


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    """A socket file of a main process that was killed does not prevent the next start."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / CONTROL_SOCKET))
    master = Master(tmp_path)
    assert query(master.path, "status", 10) == {"pid": 71}
    master.close()


def test_reload_succeeds(master: Master, capsys: pytest.CaptureFixture[str]) -> None:
    """ExecReload= returns 0 and prints nothing when the new configuration serves."""
    assert reload_main(71, {"RUNTIME_DIRECTORY": str(master.path.parent)}) == 0
    assert capsys.readouterr() == ("", "")


def test_reload_fails(master: Master, capsys: pytest.CaptureFixture[str]) -> None:
    """ExecReload= returns 1 and prints the reason when a reload fails."""
    master.result = {"ok": False, "error": "no model_list"}
    assert reload_main(None, {"RUNTIME_DIRECTORY": f"{master.path.parent}:/x"}) == 1
    assert capsys.readouterr().err == "reload failed: no model_list\n"


def test_reload_passes_the_certificate(master: Master, tmp_path: Path) -> None:
    """ExecReload= passes the files as they are now, however long the chain; neither is in its arguments."""
    (tmp_path / "c").write_text("chain\n" * 9_000)
    (tmp_path / "k").write_text("key\n")
    names = {"TLS_CERT_FILE": str(tmp_path / "c"), "TLS_KEY_FILE": str(tmp_path / "k")}
    assert reload_main(71, {"RUNTIME_DIRECTORY": str(master.path.parent), **names}) == 0
    assert master.pairs == [None, TlsPair("chain\n" * 9_000, "key\n")]


def test_reload_without_a_readable_key(master: Master, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If a file is missing, the service is not reloaded, and the reason is one line."""
    names = {"TLS_CERT_FILE": __file__, "TLS_KEY_FILE": str(tmp_path / "none")}
    assert reload_main(None, {"RUNTIME_DIRECTORY": str(master.path.parent), **names}) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"reload failed, the previous certificate stays active: TLS_KEY_FILE={tmp_path}/none: No ")
    assert master.pairs == []


def test_reload_of_another_process(master: Master, capsys: pytest.CaptureFixture[str]) -> None:
    """ExecReload= fails if another process answers than the main process that systemd names."""
    assert reload_main(72, {"RUNTIME_DIRECTORY": str(master.path.parent)}) == 1
    assert "71 answers" in capsys.readouterr().err


@pytest.mark.parametrize("variables", [{}, {"RUNTIME_DIRECTORY": "/nonexistent"}])
def test_reload_without_a_service(variables: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """ExecReload= prints one line about the cause if it cannot reach the service."""
    assert reload_main(None, variables) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_status_is_printed(master: Master, capsys: pytest.CaptureFixture[str]) -> None:
    """The status command prints the status as one line of JSON or, without a service, the reason."""
    assert status_main({"RUNTIME_DIRECTORY": str(master.path.parent)}) == 0
    assert json.loads(capsys.readouterr().out) == {"pid": 71}
    assert status_main({"RUNTIME_DIRECTORY": "/nonexistent"}) == 1
    assert "cannot connect to the service" in capsys.readouterr().err


class Impostor:
    """What a compromised service puts in the place of its control socket. `pour` answers one connection."""

    def __init__(self, folder: Path, pour: Callable[[socket.socket], None]) -> None:
        self.path = folder / CONTROL_SOCKET
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(1)
        self._pour = pour
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            self._pour(connection)

    def close(self) -> None:
        self._listener.close()
        self._thread.join(10)
        assert not self._thread.is_alive()


def pour_without_end(connection: socket.socket) -> None:
    for _ in range(4096):
        connection.sendall(b"x" * 65536)


def drip(connection: socket.socket) -> None:
    for _ in range(500):
        connection.sendall(b" ")
        time.sleep(0.02)


def test_endless_answer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of an answer without an end, root reads a MiB and reports it."""
    impostor = Impostor(tmp_path, pour_without_end)
    tracemalloc.start()
    try:
        assert status_main({"RUNTIME_DIRECTORY": str(tmp_path)}) == ExitCode.PROTOCOL
        assert tracemalloc.get_traced_memory()[1] < 8 * 1024**2
    finally:
        tracemalloc.stop()
    assert "longer than 1024 KiB" in capsys.readouterr().err
    impostor.close()


def test_slow_answer(tmp_path: Path) -> None:
    """An answer that arrives byte by byte is abandoned when the time is over."""
    impostor = Impostor(tmp_path, drip)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        query(impostor.path, "status", 0.3)
    assert time.monotonic() - began < 5
    impostor.close()


@pytest.mark.parametrize(
    "answer",
    [b"hello\n", b"[]\n", b"7\n", b"\xff\n", b"[" * 100_000, b"\n", b'{"a": '],
    ids=lambda answer: str(answer[:9]),
)
def test_answer_that_is_no_object(tmp_path: Path, answer: bytes) -> None:
    """An answer that is not one JSON object is refused in words."""
    impostor = Impostor(tmp_path, lambda connection: connection.sendall(answer))
    with pytest.raises(InvalidAnswer, match="is not a JSON object"):
        query(impostor.path, "status", 10)
    impostor.close()


def test_link_to_another_socket(master: Master, tmp_path: Path) -> None:
    """A link to the socket of another program, or another file, in the place of the control socket is not used."""
    for name in ("link", "file"):
        (tmp_path / name).mkdir()
    link, file = tmp_path / "link" / CONTROL_SOCKET, tmp_path / "file" / CONTROL_SOCKET
    link.symlink_to(master.path)
    file.touch()
    for path in (link, file):
        with pytest.raises(InvalidAnswer, match="is not the socket of the service"):
            query(path, "status", 10)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_socket_of_another_user(master: Master) -> None:
    """A socket of another user than the owner of its folder is not used."""
    os.chown(master.path, 12345, 12345)
    with pytest.raises(InvalidAnswer, match="is not the socket of the service"):
        query(master.path, "status", 10)


@pytest.mark.parametrize("result", [{}, {"ok": "yes"}, {"ok": 1}])
def test_reload_with_an_odd_answer(
    master: Master, result: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    """ExecReload= fails if the answer does not say that the reload succeeded."""
    master.result = result
    assert reload_main(None, {"RUNTIME_DIRECTORY": str(master.path.parent)}) == 1
    assert "reload failed" in capsys.readouterr().err
