"""Processes on either side of a box's walls, and waiting for what they do."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from litellm_systemd.errors import Unavailable

T = TypeVar("T")

#: What `Box.run` hands to a command, and nothing else: results must not depend on the caller's shell.
CLEAN_ENVIRONMENT: Mapping[str, str] = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "SYSTEMD_PAGER": "",
    "SYSTEMD_COLORS": "0",
}
_POLL_SECONDS = 0.02


class BoxError(Unavailable):
    """Something about a box went wrong; the message holds what is needed to see why."""


def wait_until(predicate: Callable[[], T], deadline: float, what: str) -> T:
    """Call `predicate` until it returns something true, and return that.

    `deadline` is in seconds from now. Raises BoxError, naming `what`, when it passes.
    """
    end = time.monotonic() + deadline
    while True:
        result = predicate()
        if result:
            return result
        if time.monotonic() > end:
            raise BoxError(f"not within {deadline:g} s: {what}")
        time.sleep(_POLL_SECONDS)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a command that `Box.popen` started, with all that came of it, by pid.

    The deepest go first, and nsenter itself is left to reap its child: a zombie orphaned by it would hang on the
    host's init, and would hold up the box's shutdown for ten seconds if that one is slow to reap.
    """
    descendants = children(process.pid)
    for pid in descendants:
        descendants.extend(children(pid))
    for pid in reversed(descendants):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def pid_inside(pid: int) -> int:
    """What a process is called in its own PID namespace, 0 if it has gone (proc_pid_status(5), NSpid)."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return 0


def program(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/exe").readlink())
    except (FileNotFoundError, ProcessLookupError):
        return ""


def drain(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a killed process had written. A daemon that it left behind may keep the pipes open: don't wait for it."""
    try:
        return process.communicate(timeout=5)
    except (subprocess.TimeoutExpired, ValueError):
        return "", ""


def describe(argv: Sequence[str], reason: str, stdout: str, stderr: str) -> str:
    parts = [f"in the box: {' '.join(argv)}: {reason}"]
    parts += [f"--- {name} ---\n{text[-8000:]}" for name, text in (("stdout", stdout), ("stderr", stderr)) if text]
    return "\n".join(parts)
