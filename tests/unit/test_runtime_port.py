"""Who holds a port."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from litellm_systemd.errors import InputError, Unavailable
from litellm_systemd.runtime.systemd import port as module
from litellm_systemd.runtime.systemd.port import Holder, bind, find_holders, main, parse_address, render_address

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
ROW = "   0: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0  0 {inode} 1 0\n"


def make_proc(folder: Path, *, table: str = "tcp", port: int = 4000, state: str = "0A", pid: int = 71) -> Path:
    """A /proc in which process `pid` has the socket 555 at `port`."""
    (folder / "net").mkdir()
    row = ROW.format(address="0100007F", port=port, state=state, inode=555)
    (folder / "net" / table).write_text(HEADER + row)
    for number, inode in ((pid, 555), (4242, 777)):
        (folder / str(number) / "fd").mkdir(parents=True)
        (folder / str(number) / "fd" / "3").symlink_to(f"socket:[{inode}]")
        (folder / str(number) / "comm").write_text("nginx\n")
    (folder / "self").symlink_to(str(pid))
    return folder


@pytest.mark.parametrize("table", ["tcp", "tcp6"])
def test_holder_is_found(tmp_path: Path, table: str) -> None:
    """A listener of either family is traced to its process."""
    assert find_holders(4000, make_proc(tmp_path, table=table)) == (Holder(71, "nginx"),)


@pytest.mark.parametrize("changed", [{"port": 4001}, {"state": "01"}])
def test_others_are_not_blamed(tmp_path: Path, changed: dict[str, object]) -> None:
    """Another port, or a connection that is no listener, holds nothing."""
    assert find_holders(4000, make_proc(tmp_path, **changed)) == ()  # type: ignore[arg-type]


def test_without_tables(tmp_path: Path) -> None:
    """In a sandbox without /proc/net nobody is found, and nothing fails."""
    assert find_holders(4000, tmp_path) == ()


def test_systemd_is_named_as_such() -> None:
    """A port that PID 1 holds is a socket unit's, and the text says where to look."""
    assert str(Holder(71, "nginx")) == "nginx (pid 71)"
    assert "systemctl list-sockets" in str(Holder(1, "systemd"))


def test_bind_names_the_holder() -> None:
    """A taken port names the process that has it, and the remedy."""
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(Unavailable) as caught:
        bind("127.0.0.1", other.getsockname()[1])
    assert f"(pid {os.getpid()})" in caught.value.message
    assert "another PORT" in caught.value.hint


def test_many_holders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service with many workers is named by its first process."""
    holders = (Holder(1, "systemd"), Holder(71, "nginx"), Holder(72, "nginx"), Holder(73, "nginx"))
    monkeypatch.setattr(module, "find_holders", lambda _: holders)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(Unavailable) as caught:
        bind("127.0.0.1", other.getsockname()[1])
    assert "(systemctl list-sockets) and nginx (pid 71) (2 more)" in caught.value.message


def test_bind_says_when_it_cannot_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's process can't be seen without root, and the text says so."""
    monkeypatch.setattr(module, "find_holders", lambda _: ())
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(Unavailable) as caught:
        bind("127.0.0.1", other.getsockname()[1])
    assert "a process that I can't see" in caught.value.message
    assert "root" in caught.value.hint


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_bind_refuses_a_foreign_address(host: str) -> None:
    """An address that this machine doesn't have is an error in the settings, not an unavailable port."""
    with pytest.raises(InputError, match="can't listen on"):
        bind(host, 4000)


def test_bind_a_name() -> None:
    """`localhost` works whether or not this machine has IPv6."""
    for each in bind("localhost", 0):
        assert each.getsockname()[0] in ("127.0.0.1", "::1")
        each.close()


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:4000", ("127.0.0.1", 4000)), ("[::1]:80", ("::1", 80)), ("4000", ("::", 4000))],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    """Addresses are read as ListenStream= has them."""
    assert parse_address(text) == address
    assert render_address(*address).endswith(text)


@pytest.mark.parametrize("text", ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "x:y"])
def test_no_address(text: str) -> None:
    """Anything else is a mistake on the command line."""
    with pytest.raises(InputError):
        parse_address(text)
    assert main(text) == 64


def test_other_obstacles_are_systemds() -> None:
    """The socket's ExecStartPre leaves alone what systemd can do and it can't, such as an address to come."""
    assert main("192.0.2.1:4000") == 0
