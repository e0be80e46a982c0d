"""One change at a time: a lock that the kernel takes from whoever dies (flock(2))."""

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
    """Hold the lock of this host, or image, while the block runs.

    Args:
        layout: where.
        verb: what is about to be done, for others to read.
        wait: wait for as long as somebody else holds it.
        say: told, before it waits, for whom.

    Raises:
        Busy: somebody else holds it, and `wait` isn't set.
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
    """Who holds the lock just now, in words; None if nobody does."""
    try:
        handle = os.open(layout.real(layout.lock), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # nobody has made it since it was last removed
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
            # Whoever held it has removed the file: then this lock is of a file that nobody else will find.
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
            raise Busy(holder, "Wait until it is done, or run this with --wait.") from None
        say(f"{holder}: waiting for its end")
        fcntl.flock(handle, fcntl.LOCK_EX)


def _read_holder(handle: int) -> str:
    try:
        found = json.loads(os.pread(handle, 4096, 0))
        since = time.strftime("%H:%M:%S", time.localtime(found["since"]))
        return f"litellmctl {found['verb']} (pid {found['pid']}) is at work since {since}"
    except (ValueError, KeyError, TypeError):  # it has just begun
        return "another litellmctl is at work"
