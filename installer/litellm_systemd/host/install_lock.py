"""The install lock: one change at a time. The kernel releases it when the process exits (flock(2))."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from litellm_systemd.errors import Busy
from litellm_systemd.host.files import make_folder
from litellm_systemd.host.layout import Layout


@contextmanager
def hold_lock(
    layout: Layout, verb: str, *, wait: bool = False, say: Callable[[str], None] = lambda _line: None
) -> Iterator[None]:
    """Hold the install lock of this host or image while the block runs.

    Args:
        layout: the host or image.
        verb: the verb that runs, for other processes to report.
        wait: wait while another process holds the lock.
        say: called with the holder before a wait.

    Raises:
        Busy: another process holds the lock and `wait` is not set.
    """
    path = layout.real(layout.lock)
    make_folder(path.parent)
    handle = _take(path, wait=wait, say=say)
    try:
        os.truncate(handle, 0)
        os.pwrite(handle, json.dumps({"verb": verb, "pid": os.getpid(), "since": time.time()}).encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def find_holder(layout: Layout) -> str | None:
    """A description of the process that holds the lock, or None."""
    try:
        handle = os.open(layout.real(layout.lock), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # no process has created it since it was last removed
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_holder(handle)
    finally:
        os.close(handle)
    return None


def _take(path: Path, *, wait: bool, say: Callable[[str], None]) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            _lock(handle, wait=wait, say=say)
            # The former holder has removed the file: no other process would find this lock.
            if path.exists() and os.path.samestat(path.stat(), os.fstat(handle)):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, *, wait: bool, say: Callable[[str], None]) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _read_holder(handle)
        if not wait:
            raise Busy(holder, "Wait until it ends, or use --wait.") from None
        say(f"{holder}: waiting until it ends")
        fcntl.flock(handle, fcntl.LOCK_EX)


def _read_holder(handle: int) -> str:
    try:
        found = json.loads(os.pread(handle, 4096, 0))
        since = time.strftime("%H:%M:%S", time.localtime(found["since"]))
        return f"litellmctl {found['verb']} (pid {found['pid']}) has been running since {since}"
    except (ValueError, KeyError, TypeError):  # it has just started
        return "another litellmctl is running"
