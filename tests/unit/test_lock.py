"""One change at a time."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from litellm_systemd.errors import Busy
from litellm_systemd.host.files import write_file
from litellm_systemd.host.install_lock import hold_lock
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import FileState


class Holder:
    """A process that holds the lock until it is told to let go, or killed; it does once this is made."""

    def __init__(self, layout: Layout) -> None:
        holds, holding = os.pipe()
        told, self._tell = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._tell)
            with hold_lock(layout, "install"):
                os.write(holding, b".")
                os.read(told, 1)
            os._exit(0)
        os.read(holds, 1)
        for end in (holds, holding, told):
            os.close(end)

    def let_go(self) -> None:
        os.close(self._tell)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._tell)


def test_second_run_says_who_is_at_work(tmp_path: Path) -> None:
    """A second run is refused, and names the running verb, its process and since when."""
    layout = Layout(root=tmp_path)
    holder = Holder(layout)
    try:
        with pytest.raises(Busy) as refused, hold_lock(layout, "uninstall"):
            pytest.fail("it isn't held")
    finally:
        holder.kill()
    said = rf"litellmctl install \(pid {holder.pid}\) has been running since \d\d:\d\d:\d\d"
    assert re.fullmatch(said, refused.value.message)
    assert "--wait" in refused.value.hint


def test_the_dead_hold_nothing(tmp_path: Path) -> None:
    """The lock of a run that was killed is free at once."""
    layout = Layout(root=tmp_path)
    Holder(layout).kill()
    with hold_lock(layout, "install"):
        pass


def test_nothing_is_left(tmp_path: Path) -> None:
    """A lock that was given up leaves no file behind."""
    layout = Layout(root=tmp_path)
    with hold_lock(layout, "install"):
        assert layout.real(layout.lock).exists()
    assert not layout.real(layout.lock).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="files of root take root")
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_folders_under_any_umask(tmp_path: Path, umask: int) -> None:
    """Folders that a change makes on the way are for all to read and for root to write, whatever the umask is."""
    layout = Layout(root=tmp_path)
    before = os.umask(umask)
    try:
        with hold_lock(layout, "restart"):
            write_file(layout, FileState("/run/systemd/system/litellm-standby.service.d/00-mine.conf"))
    finally:
        os.umask(before)
    folders = [path for path in tmp_path.rglob("*") if path.is_dir()]
    assert {oct(path.stat().st_mode & 0o777) for path in folders} == {"0o755"}


def test_wait(tmp_path: Path) -> None:
    """With --wait the second run says whom it waits for, and goes on when that one is done."""
    layout = Layout(root=tmp_path)
    holder = Holder(layout)
    said: list[str] = []

    def hear(line: str) -> None:
        said.append(line)
        holder.let_go()

    with hold_lock(layout, "uninstall", wait=True, say=hear):
        assert os.waitpid(holder.pid, 0)[1] == 0
    assert len(said) == 1
    assert f"(pid {holder.pid})" in said[0]


def test_a_lock_without_a_holder_s_name(tmp_path: Path) -> None:
    """Whoever has only just taken the lock is another litellmctl, not an error."""
    layout = Layout(root=tmp_path)
    holder = Holder(layout)
    layout.real(layout.lock).write_text("", encoding="utf-8")
    try:
        with pytest.raises(Busy, match="another litellmctl"), hold_lock(layout, "uninstall"):
            pass
    finally:
        holder.kill()
