"""Notifications to systemd."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from litellm_systemd.runtime.systemd.notify import Notifier, Watchdog


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield end


def read(systemd: socket.socket) -> list[str]:
    return systemd.recv(65536).decode().split("\n")


def test_messages(systemd: socket.socket) -> None:
    """Each notification is one datagram in the format of sd_notify(3)."""
    notifier = Notifier()
    notifier.status("importing LiteLLM")
    assert read(systemd) == ["STATUS=importing LiteLLM"]
    notifier.ready("serving")
    assert read(systemd) == ["READY=1", "STATUS=serving"]
    notifier.reloading("reloading")
    reloading, since, status = read(systemd)
    assert (reloading, status) == ("RELOADING=1", "STATUS=reloading")
    assert since.removeprefix("MONOTONIC_USEC=").isdigit()
    notifier.stopping("stopping")
    assert read(systemd) == ["STOPPING=1", "STATUS=stopping"]
    notifier.watchdog()
    assert read(systemd) == ["WATCHDOG=1"]
    notifier.extend(2.5)
    assert read(systemd) == ["EXTEND_TIMEOUT_USEC=2500000"]


def test_status_is_sent_once(systemd: socket.socket) -> None:
    """A status is sent when it changes, in UTF-8 and in one line."""
    notifier = Notifier()
    notifier.status("a")
    notifier.status("a")
    notifier.status("né 🚀\nREADY=1")
    assert [read(systemd), read(systemd)] == [["STATUS=a"], ["STATUS=né 🚀 READY=1"]]


def test_variables_are_removed(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of the protocol are removed from the environment."""
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert Notifier().watchdog_interval == 1.0
    assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & set(os.environ)


@pytest.mark.parametrize("variables", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}])
def test_no_watchdog(variables: dict[str, str]) -> None:
    """Without WatchdogSec=, or if it is for another process, there is no watchdog interval."""
    assert Notifier(dict(variables)).watchdog_interval is None


def test_without_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without NOTIFY_SOCKET no notification is sent and no error is raised."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.ready("serving")
    notifier.close()


@pytest.mark.parametrize("address", ["@no-listener", "/no/listener", "unknown:1"])
def test_unreachable_socket(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A NOTIFY_SOCKET without a listener raises no error."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notifier = Notifier()
    notifier.ready("serving")


def test_abstract_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """A NOTIFY_SOCKET that begins with @ is an abstract socket, as a user manager may use."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f"\0litellm-systemd-{os.getpid()}")
        end.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@litellm-systemd-{os.getpid()}")
        Notifier().watchdog()
        assert read(end) == ["WATCHDOG=1"]


def test_hung_systemd(systemd: socket.socket) -> None:
    """If systemd does not read, a status is dropped after a short timeout instead of blocking the service."""
    notifier = Notifier()
    queue_length = int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text())
    for number in range(queue_length + 5):
        notifier.status(str(number))
    assert read(systemd) == ["STATUS=0"]


def test_watchdog_intervals(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """WATCHDOG=1 is sent four times per WatchdogSec= at least, and an extension three times per extension period.

    When systemd begins a new timeout, the next extension is sent at once.
    """
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    watchdog = Watchdog(Notifier())
    for tenth in range(11):
        watchdog.ping(tenth / 10)
    assert [read(systemd) for _ in range(3)] == [["WATCHDOG=1"]] * 3
    for second in range(12):
        watchdog.extend(float(second))
    watchdog.forget_extension()
    watchdog.extend(12.0)
    assert [read(systemd) for _ in range(4)] == [["EXTEND_TIMEOUT_USEC=15000000"]] * 4
    systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.recv(1)
