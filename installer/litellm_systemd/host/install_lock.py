"""The install lock: one change at a time. The kernel releases it when the process exits (flock(2)).

Root alone can open the file. For flock(2) any descriptor is enough: a file that other users can read is one that they
can lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litellm_systemd.errors import Busy
from litellm_systemd.host.files import make_folder
from litellm_systemd.host.layout import Layout

_HINT = "Wait until it ends, or use --wait."
#: Seconds between two looks at the lock of an earlier version.
_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds the lock, in words, and the command that continues it if it is suspended."""

    text: str
    remedy: str = ""

    def __str__(self) -> str:
        suspended = f", and is suspended, as by Ctrl-Z ({self.remedy} continues it)" if self.remedy else ""
        return f"{self.text}{suspended}"


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
    handle = _take(layout, path, wait=wait, say=say)
    try:
        os.truncate(handle, 0)
        holder = {"verb": verb, "pid": os.getpid(), "start": _start_of(os.getpid()), "since": time.time()}
        os.pwrite(handle, json.dumps(holder).encode(), 0)
        _await_earlier_version(layout, wait=wait, say=say)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
        if layout.is_host:
            with contextlib.suppress(OSError):  # the next process has its file there already
                path.parent.rmdir()


def find_holder(layout: Layout) -> Holder | None:
    """The process that holds the lock; None if no process does, or this user can't know."""
    try:
        handle = os.open(layout.real(layout.lock), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # no process has created it since it was last removed
        return _find_earlier_version(layout)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _describe(_read_holder(handle))
    finally:
        os.close(handle)
    return _find_earlier_version(layout)


def _take(layout: Layout, path: Path, *, wait: bool, say: Callable[[str], None]) -> int:
    while True:
        make_folder(path.parent.parent if layout.is_host else path.parent)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:  # the former holder has just removed the folder
            continue
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
        holder = _describe(_read_holder(handle))
        if not wait:
            raise Busy(str(holder), _HINT) from None
        say(f"{holder}: waiting until it ends")
        fcntl.flock(handle, fcntl.LOCK_EX)


def _await_earlier_version(layout: Layout, *, wait: bool, say: Callable[[str], None]) -> None:
    """Treat a change by an earlier version, which locks another file, like one that holds this lock."""
    holder = _find_earlier_version(layout)
    if holder is not None and not wait:
        raise Busy(str(holder), _HINT)
    if holder is not None:
        say(f"{holder}: waiting until it ends")
    while _find_earlier_version(layout) is not None:
        time.sleep(_PAUSE)
    if layout.is_host:
        layout.real(layout.earlier_lock).unlink(missing_ok=True)


def _find_earlier_version(layout: Layout) -> Holder | None:
    """The process of an earlier version that holds its lock, or None.

    Any user could lock that file. Only root could write it, so a lock counts if the process that it names still runs
    as root.
    """
    if not layout.is_host:
        return None
    try:
        handle = os.open(layout.real(layout.earlier_lock), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = _read_holder(handle)
        with contextlib.suppress(OSError):
            if Path(f"/proc/{holder.get('pid')}").stat().st_uid == 0:
                return Holder(f"an earlier version of litellmctl (pid {holder['pid']}) is running")
    finally:
        os.close(handle)
    return None


def _read_holder(handle: int) -> dict[str, Any]:
    """What the holder wrote about itself; empty if it has not written it yet."""
    try:
        return dict(json.loads(os.pread(handle, 4096, 0)))
    except (ValueError, TypeError):
        return {}


def _describe(holder: dict[str, Any]) -> Holder:
    """The holder for messages. What a killed process left is not repeated: another one has just taken the lock."""
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError, OverflowError):
        pid = holder["pid"]
        if holder["start"] == _start_of(pid):
            since = time.strftime("%H:%M:%S", time.localtime(holder["since"]))
            remedy = f"sudo kill -CONT {pid}" if _status_fields(pid)[0] == b"T" else ""
            return Holder(f"litellmctl {holder['verb']} (pid {pid}) has been running since {since}", remedy)
    return Holder("another litellmctl is running")


def _start_of(pid: int) -> int:
    """When a process started, in clock ticks since boot: field 22 of /proc/PID/stat (proc(5)).

    Raises:
        OSError: there is no such process.
    """
    return int(_status_fields(pid)[19])


def _status_fields(pid: int) -> list[bytes]:
    """The fields of /proc/PID/stat from the third one, the state, on."""
    # The name of the program, in parentheses, may have spaces itself.
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
