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
from litellm_systemd.runtime.master.control import Client, Control, ask, reload_main, status_main
from litellm_systemd.runtime.master.event_loop import Events


class Master:
    """Answers in a thread of its own, as the master does in its loop."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / CONTROL_SOCKET
        self.events = Events()
        self.outcome: dict[str, object] = {"ok": True, "error": ""}
        self.control = Control(self.path, self.events, self._handle)
        self._over = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _handle(self, command: str, client: Client) -> None:
        client.answer({"pid": 71} if command == "status" else self.outcome)

    def _run(self) -> None:
        while not self._over:
            self.events.wait(0.05)

    def close(self) -> None:
        self._over = True
        self._thread.join()
        self.control.close()
        self.events.close()


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    master = Master(tmp_path)
    yield master
    master.close()
    assert not master.path.exists()


def test_only_the_owner_may_ask(master: Master) -> None:
    """The socket is readable and writable for its owner alone, from the moment it is there."""
    assert stat.S_IMODE(master.path.stat().st_mode) == 0o600
    assert os.umask(os.umask(0o022)) != 0o177


def test_questions_are_answered(master: Master) -> None:
    """A command gets one line of JSON."""
    assert ask(master.path, "status", 10) == {"pid": 71}


@pytest.mark.parametrize("request_line", [b"hello\n", b"{}\n", b"[]\n", b"7\n", b"\xff\n"])
def test_nonsense_is_answered(master: Master, request_line: bytes) -> None:
    """Something that is no question gets an answer that says so."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(master.path))
        connection.sendall(request_line)
        assert json.loads(connection.makefile().readline())["ok"] is False


def test_bad_clients_do_no_harm(master: Master) -> None:
    """Who leaves early, says too much, or speaks slowly is no trouble for others."""
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
        assert ask(master.path, "status", 10) == {"pid": 71}
        slow.sendall(b': "status"}\n')
        assert json.loads(slow.makefile().readline()) == {"pid": 71}


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    """What a killed master left behind is no obstacle for the next."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / CONTROL_SOCKET))
    master = Master(tmp_path)
    assert ask(master.path, "status", 10) == {"pid": 71}
    master.close()


def test_reload_succeeds(master: Master, capsys: pytest.CaptureFixture[str]) -> None:
    """ExecReload= ends with 0 and no word when the new configuration is live."""
    assert reload_main(71, {"RUNTIME_DIRECTORY": str(master.path.parent)}) == 0
    assert capsys.readouterr() == ("", "")


def test_reload_fails(master: Master, capsys: pytest.CaptureFixture[str]) -> None:
    """ExecReload= ends with 1 and the reason when it isn't."""
    master.outcome = {"ok": False, "error": "no model_list"}
    assert reload_main(None, {"RUNTIME_DIRECTORY": f"{master.path.parent}:/x"}) == 1
    assert capsys.readouterr().err == "reload failed: no model_list\n"


def test_reload_of_another_process(master: Master, capsys: pytest.CaptureFixture[str]) -> None:
    """ExecReload= refuses when somebody else answers than systemd's main process."""
    assert reload_main(72, {"RUNTIME_DIRECTORY": str(master.path.parent)}) == 1
    assert "71 answers" in capsys.readouterr().err


@pytest.mark.parametrize("variables", [{}, {"RUNTIME_DIRECTORY": "/nonexistent"}])
def test_reload_of_nothing(variables: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """ExecReload= says what is missing when there is nobody to ask."""
    assert reload_main(None, variables) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_status_is_printed(master: Master, capsys: pytest.CaptureFixture[str]) -> None:
    """The status command prints what the service says, as one line of JSON; without a service, why not."""
    assert status_main({"RUNTIME_DIRECTORY": str(master.path.parent)}) == 0
    assert json.loads(capsys.readouterr().out) == {"pid": 71}
    assert status_main({"RUNTIME_DIRECTORY": "/nonexistent"}) == 1
    assert "can't reach the service" in capsys.readouterr().err
