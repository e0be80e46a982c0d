"""The check that a port is free, and the process that it names if not."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from litellm_systemd.errors import InputError, Unavailable
from litellm_systemd.runtime.systemd import port as module
from litellm_systemd.runtime.systemd.port import (
    Inherited,
    Listener,
    bind,
    find_listeners,
    main,
    parse_address,
    render_address,
    take_metrics_listener,
)

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
def test_find_listeners(tmp_path: Path, table: str) -> None:
    """The process that listens on an IPv4 or IPv6 address is found."""
    assert find_listeners(4000, make_proc(tmp_path, table=table)) == (Listener(71, "nginx"),)


@pytest.mark.parametrize("changed", [{"port": 4001}, {"state": "01"}])
def test_other_sockets_are_ignored(tmp_path: Path, changed: dict[str, object]) -> None:
    """A listener on another port or a socket that does not listen is not reported."""
    assert find_listeners(4000, make_proc(tmp_path, **changed)) == ()  # type: ignore[arg-type]


def test_without_tables(tmp_path: Path) -> None:
    """In a sandbox without /proc/net no process is found and no error is raised."""
    assert find_listeners(4000, tmp_path) == ()


def test_render_listener() -> None:
    """PID 1 is described as a socket unit, with the command that lists socket units."""
    assert str(Listener(71, "nginx")) == "nginx (pid 71)"
    assert "systemctl list-sockets" in str(Listener(1, "systemd"))


def test_bind_names_the_listener() -> None:
    """The error about an occupied port names the process that listens there and a remedy."""
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(Unavailable) as caught:
        bind("127.0.0.1", other.getsockname()[1])
    assert f"(pid {os.getpid()})" in caught.value.message
    assert "another PORT" in caught.value.hint


def test_port_of_the_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    """The error about an occupied address of METRICS names METRICS, and says that the gateway serves."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert module.main(f"127.0.0.1:{other.getsockname()[1]}", is_metrics=True) == 69
    error = capsys.readouterr().err
    assert error.startswith("METRICS: cannot listen on ")
    assert error.endswith("Stop it, or set another METRICS. The gateway serves without metrics.\n")


def test_many_listeners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many listening processes the error names the first two and the number of the others."""
    listeners = (Listener(1, "systemd"), Listener(71, "nginx"), Listener(72, "nginx"), Listener(73, "nginx"))
    monkeypatch.setattr(module, "find_listeners", lambda _: listeners)
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(Unavailable) as caught:
        bind("127.0.0.1", other.getsockname()[1])
    assert "(systemctl list-sockets) and nginx (pid 71) (2 more) are listening there" in caught.value.message


def test_bind_without_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    """If another user's process listens on the port, the error says that only root can identify it."""
    monkeypatch.setattr(module, "find_listeners", lambda _: ())
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(Unavailable) as caught:
        bind("127.0.0.1", other.getsockname()[1])
    assert "another process, which only root can identify, is listening there" in caught.value.message


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_bind_unknown_address(host: str) -> None:
    """An address that this machine does not have is an error in the settings, not an occupied port."""
    with pytest.raises(InputError, match="cannot listen on"):
        bind(host, 4000)


def test_bind_localhost() -> None:
    """`localhost` works with and without IPv6."""
    for each in bind("localhost", 0):
        assert each.getsockname()[0] in ("127.0.0.1", "::1")
        each.close()


@pytest.mark.parametrize(
    ("text", "address"), [("127.0.0.1:4000", ("127.0.0.1", 4000)), ("[::1]:80", ("::1", 80)), ("4000", ("::", 4000))]
)
def test_parse_address(text: str, address: tuple[str, int]) -> None:
    """Addresses have the format of ListenStream=."""
    assert parse_address(text) == address
    assert render_address(*address).endswith(text)


@pytest.mark.parametrize("text", ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "x:y"])
def test_invalid_address(text: str) -> None:
    """An invalid address is a usage error."""
    with pytest.raises(InputError):
        parse_address(text)
    assert main(text) == 64


def test_other_errors_are_ignored() -> None:
    """The check passes if only systemd can bind the address, such as one that does not exist yet."""
    assert main("192.0.2.1:4000") == 0


def test_metrics_listener_without_systemd(tmp_path: Path) -> None:
    """Without systemd the service listens at METRICS itself: a socket that was left behind is replaced, but no other
    file, and no socket of another process.
    """
    path = tmp_path / "metrics.sock"
    for _ in range(2):
        listener = take_metrics_listener(Inherited(), str(path))
        assert listener is not None
        with listener, socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    path.unlink()
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_UNIX, kind) as foreign:
            foreign.bind(str(path))
            if kind == socket.SOCK_STREAM:
                foreign.listen()
            with pytest.raises(Unavailable, match="another process is listening there"):
                take_metrics_listener(Inherited(), str(path))
            assert main(str(path), is_metrics=True) == 69
            assert path.is_socket()
        assert main(str(path), is_metrics=True) == 0
        path.unlink()
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(Unavailable, match=r"cannot listen at .*metrics\.sock"):
        take_metrics_listener(Inherited(), str(path))
    assert path.read_text(encoding="utf-8") == "mine"
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(Unavailable) as caught:
        take_metrics_listener(Inherited(), f"127.0.0.1:{other.getsockname()[1]}")
    assert caught.value.hint == "Stop it, or set another METRICS."


def test_metrics_listener_of_systemd() -> None:
    """The listener of systemd is used if METRICS is on, and closed if it is off. Without it none is bound."""
    with socket.create_server(("127.0.0.1", 0)) as port:
        assert take_metrics_listener(Inherited((port,)), "127.0.0.1:9400") is None
        for address in ("127.0.0.1:9400", None):
            metrics = socket.create_server(("127.0.0.1", 0))
            taken = take_metrics_listener(Inherited((port,), metrics), address)
            assert (taken is None) == (address is None) == (metrics.fileno() < 0)
            metrics.close()
