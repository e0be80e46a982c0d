"""The install lock allows one change at a time."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import stat
from pathlib import Path

import pytest

from litellm_systemd.doctor.check_files import detect_files_suspended
from litellm_systemd.doctor.engine import Finding
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import Busy
from litellm_systemd.host.files import write_file
from litellm_systemd.host.install_lock import find_holder, hold_lock
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import FileState


class Holder:
    """A process that holds the lock until `release` or `kill`. It holds the lock when the constructor returns."""

    def __init__(self, layout: Layout) -> None:
        holds, holding = os.pipe()
        released, self._release = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._release)
            with hold_lock(layout, "install"):
                os.write(holding, b".")
                os.read(released, 1)
            os._exit(0)
        os.read(holds, 1)
        for end in (holds, holding, released):
            os.close(end)

    def release(self) -> None:
        os.close(self._release)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._release)


def test_second_run_is_refused(tmp_path: Path) -> None:
    """A second run is refused with the running verb, its process and its start time."""
    layout = Layout(root=tmp_path)
    holder = Holder(layout)
    try:
        with pytest.raises(Busy) as refused, hold_lock(layout, "uninstall"):
            pytest.fail("the lock was free")
    finally:
        holder.kill()
    said = rf"litellmctl install \(pid {holder.pid}\) has been running since \d\d:\d\d:\d\d"
    assert re.fullmatch(said, refused.value.message)
    assert "--wait" in refused.value.hint


def test_suspended_run(tmp_path: Path) -> None:
    """A run that Ctrl-Z suspended is named as such, with the command that continues it: it would never end.

    doctor reports it, since no other remedy works while it holds the lock.
    """
    layout = Layout(root=tmp_path)
    snapshot = Snapshot(layout)
    snapshot.is_root = True
    holder = Holder(layout)
    try:
        os.kill(holder.pid, signal.SIGSTOP)
        os.waitpid(holder.pid, os.WUNTRACED)
        found = find_holder(layout)
        (finding,) = detect_files_suspended.detect(snapshot)
    finally:
        holder.kill()
    assert isinstance(finding, Finding)
    assert (finding.evidence, finding.remedy) == (str(found), f"sudo kill -CONT {holder.pid}")
    assert finding.evidence.endswith(f"is suspended, as by Ctrl-Z (sudo kill -CONT {holder.pid} continues it)")


def test_lock_of_a_killed_process(tmp_path: Path) -> None:
    """The lock of a killed run is free immediately."""
    layout = Layout(root=tmp_path)
    Holder(layout).kill()
    with hold_lock(layout, "install"):
        pass


def test_no_file_is_left(tmp_path: Path) -> None:
    """A released lock leaves no file."""
    layout = Layout(root=tmp_path)
    with hold_lock(layout, "install"):
        assert layout.real(layout.lock).exists()
    assert not layout.real(layout.lock).exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="files of root take root")
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_folders_under_any_umask(tmp_path: Path, umask: int) -> None:
    """All users can read the folders that a change creates, and only root can write them, with any umask."""
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
    """With --wait, the second run names the first one and continues when it has finished."""
    layout = Layout(root=tmp_path)
    holder = Holder(layout)
    said: list[str] = []

    def listen(line: str) -> None:
        said.append(line)
        holder.release()

    with hold_lock(layout, "uninstall", wait=True, say=listen):
        assert os.waitpid(holder.pid, 0)[1] == 0
    assert len(said) == 1
    assert f"(pid {holder.pid})" in said[0]


def test_lock_without_details(tmp_path: Path) -> None:
    """A lock without details yet is reported as another litellmctl."""
    layout = Layout(root=tmp_path)
    holder = Holder(layout)
    layout.real(layout.lock).write_text("", encoding="utf-8")
    try:
        with pytest.raises(Busy, match="another litellmctl"), hold_lock(layout, "uninstall"):
            pass
    finally:
        holder.kill()


def test_other_users_cannot_hold_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root can open the lock, in a folder of root's alone; neither is left."""
    monkeypatch.setattr(Layout, "is_host", True)
    layout = Layout(root=tmp_path)
    path = layout.real(layout.lock)
    with hold_lock(layout, "install"):
        modes = [stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path)]
    assert modes == [0o700, 0o600]
    assert not path.parent.exists()


def test_dead_holder_is_not_named(tmp_path: Path) -> None:
    """A lock that another process holds is not reported as that of the run that was killed."""
    layout = Layout(root=tmp_path)
    holder = Holder(layout)
    holder.kill()
    with layout.real(layout.lock).open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Busy) as refused, hold_lock(layout, "uninstall"):
            pass
        assert str(find_holder(layout)) == refused.value.message == "another litellmctl is running"


@pytest.mark.skipif(os.geteuid() != 0, reason="the holder is a process of root")
@pytest.mark.parametrize("is_alive", [True, False])
def test_lock_of_an_earlier_version(*, is_alive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change by an earlier version is waited for. Its file, which any user can lock, blocks nothing without it."""
    monkeypatch.setattr(Layout, "is_host", True)
    layout = Layout(root=tmp_path)
    pid = os.getpid()
    if not is_alive:
        holder = Holder(Layout(root=tmp_path / "other"))
        holder.kill()
        pid = holder.pid
    earlier = layout.real(layout.earlier_lock)
    earlier.parent.mkdir()
    earlier.write_text(json.dumps({"verb": "install", "pid": pid, "since": 1.0}), encoding="utf-8")
    with earlier.open() as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        if is_alive:
            with (
                pytest.raises(Busy, match=rf"earlier version of litellmctl \(pid {pid}\)"),
                hold_lock(layout, "install"),
            ):
                pass
            return
        assert find_holder(layout) is None
        with hold_lock(layout, "install"):
            assert not earlier.exists()
