"""Helpers for processes inside and outside of a box, and for waiting."""

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

#: The environment of commands that `Box.run` starts, so that results do not depend on the caller's shell.
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
    """An operation on a box failed. The message contains the output that shows the cause."""


def wait_until(predicate: Callable[[], T], deadline: float, what: str) -> T:
    """Call `predicate` until it returns a true value, and return that value.

    `deadline` is in seconds from now. When it passes, it raises BoxError with the description `what`.
    """
    end = time.monotonic() + deadline
    while True:
        result = predicate()
        if result:
            return result
        if time.monotonic() > end:
            raise BoxError(f"timed out after {deadline:g} s: {what}")
        time.sleep(_POLL_SECONDS)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a command that `Box.popen` started, with all its descendants, by pid.

    The descendants are killed from the bottom up, so that nsenter can reap its child and exit. If nsenter were killed
    first, the init of the host would inherit a zombie, and could delay the shutdown of the box for ten seconds.
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
    """The pids of the children of a process. Empty if it has exited."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def pid_inside(pid: int) -> int:
    """The pid of a process in its own PID namespace (NSpid in proc_pid_status(5)), or 0 if it has exited."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return 0


def executable(pid: int) -> str:
    """The path of the program that a process runs. Empty if it has exited."""
    try:
        return str(Path(f"/proc/{pid}/exe").readlink())
    except (FileNotFoundError, ProcessLookupError):
        return ""


def read_remaining_output(process: subprocess.Popen[str]) -> tuple[str, str]:
    """The remaining output of a killed process. Waits briefly, because a daemon may keep the pipes open."""
    try:
        return process.communicate(timeout=5)
    except (subprocess.TimeoutExpired, ValueError):
        return "", ""


def describe_failure(argv: Sequence[str], reason: str, stdout: str, stderr: str) -> str:
    """The command in the box, the reason of its failure, and the end of its output."""
    parts = [f"in the box: {' '.join(argv)}: {reason}"]
    parts += [f"--- {name} ---\n{text[-8000:]}" for name, text in (("stdout", stdout), ("stderr", stderr)) if text]
    return "\n".join(parts)
