"""One change at a time."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from litellm_systemd.errors import Busy
from litellm_systemd.layout import Layout
from litellm_systemd.lock import hold_lock


def hold_in_a_fork(layout: Layout, seconds: float) -> int:
    """A process that holds the lock for so long; its id once it does."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        with hold_lock(layout, "install"):
            os.write(writing, b".")
            time.sleep(seconds)
        os._exit(0)
    os.read(reading, 1)
    os.close(reading)
    os.close(writing)
    return pid


def test_second_run_says_who_is_at_work(tmp_path: Path) -> None:
    """A second run is refused, and says which run is at work, with its process and since when."""
    layout = Layout(root=tmp_path)
    pid = hold_in_a_fork(layout, 60)
    try:
        with pytest.raises(Busy) as refused, hold_lock(layout, "uninstall"):
            pytest.fail("it isn't held")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert re.fullmatch(rf"litellmctl install \(pid {pid}\) is at work since \d\d:\d\d:\d\d", refused.value.message)
    assert "--wait" in refused.value.hint


def test_the_dead_hold_nothing(tmp_path: Path) -> None:
    """The lock of a run that was killed is free at once."""
    layout = Layout(root=tmp_path)
    pid = hold_in_a_fork(layout, 60)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with hold_lock(layout, "install"):
        pass


def test_nothing_is_left(tmp_path: Path) -> None:
    """A lock that was given up leaves no file behind."""
    layout = Layout(root=tmp_path)
    with hold_lock(layout, "install"):
        assert layout.real(layout.lock).exists()
    assert not layout.real(layout.lock).exists()


def test_wait(tmp_path: Path) -> None:
    """With --wait the second run says whom it waits for, and goes on when that one is done."""
    layout = Layout(root=tmp_path)
    pid = hold_in_a_fork(layout, 0.5)
    said: list[str] = []
    with hold_lock(layout, "uninstall", wait=True, say=said.append):
        assert os.waitpid(pid, 0)[1] == 0
    assert len(said) == 1
    assert f"(pid {pid})" in said[0]


def test_a_lock_without_a_holder_s_name(tmp_path: Path) -> None:
    """Whoever has only just taken the lock is another litellmctl, not an error."""
    layout = Layout(root=tmp_path)
    pid = hold_in_a_fork(layout, 60)
    layout.real(layout.lock).write_text("", encoding="utf-8")
    try:
        with pytest.raises(Busy, match="another litellmctl"), hold_lock(layout, "uninstall"):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
