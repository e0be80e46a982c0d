"""The control socket."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from litellm_systemd.contract import CONTROL_SOCKET
from litellm_systemd.runtime.master.control import ControlClient, ControlSocket, query, reload_main, status_main
from litellm_systemd.runtime.master.event_loop import EventLoop


class Master:
    """Answers in a thread, as the main process does in its event loop."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / CONTROL_SOCKET
        self.events = EventLoop()
        self.result: dict[str, object] = {"ok": True, "error": ""}
        self.control = ControlSocket(self.path, self.events, self._handle)
        self._closed = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _handle(self, command: str, client: ControlClient) -> None:
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


@pytest.mark.parametrize("request_line", [b"hello\n", b"{}\n", b"[]\n", b"7\n", b"\xff\n"])
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
            long.sendall(b"x" * 5000)
            assert long.recv(1) == b""
        assert query(master.path, "status", 10) == {"pid": 71}
        slow.sendall(b': "status"}\n')
        assert json.loads(slow.makefile().readline()) == {"pid": 71}


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
