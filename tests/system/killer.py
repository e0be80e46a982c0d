"""Kill litellmctl at one step after the other, run it again, and see whether the end is the same.

    python killer.py TASK

TASK is JSON: `ways`, the command lines that lead to one state and back; `warm`, one that only looks; `trees`, the
folders to compare, and in them the paths that don't count, `without`; `stride`, to strike at every so manieth step.

A step is whatever changes something or makes it last: a write, rename, link, removal, chmod, chown, fsync, and the
start of a program such as systemctl. Python reports most of them by itself (sys.addaudithook). Each run of litellmctl
is a fork of this process, which saves the imports. Prints what came of it as JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_EVENTS = frozenset(
    {
        *("os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.chown"),
        *("os.truncate", "subprocess.Popen"),
    }
)
_WRITES = os.O_WRONLY | os.O_RDWR


class Strike:
    """Ends this process by SIGKILL before its step number `at`."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Look at an audit event."""
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if event in _EVENTS or opens:
            self.step()

    def step(self) -> None:
        """One more step is about to be taken."""
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


def run(arguments: Sequence[str], at: int) -> int | None:
    """Run litellmctl in a fork; its exit code, None if it was killed before it came to its end."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = _litellmctl(arguments, at)
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def _litellmctl(arguments: Sequence[str], at: int) -> int:
    from litellm_systemd.cli import run_command

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    strike = Strike(at)
    fsync = os.fsync

    def counted_fsync(handle: Any) -> None:
        strike.step()
        fsync(handle)

    os.fsync = counted_fsync  # type: ignore[assignment]
    sys.addaudithook(strike)
    return run_command(list(arguments))


def tree(paths: Sequence[str], without: Sequence[str]) -> dict[str, list[str]]:
    """Each path below `paths` but those that begin with one of `without`: kind, mode, owner and content."""
    found: dict[str, list[str]] = {}
    for path in sorted(_below(paths)):
        if str(path).startswith(tuple(without)):
            continue
        status = path.lstat()
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path)] = [oct(status.st_mode), f"{status.st_uid}:{status.st_gid}", content]
    return found


def _below(paths: Sequence[str]) -> Iterator[Path]:
    for path in map(Path, paths):
        if path.is_symlink() or path.exists():
            yield path
            yield from path.rglob("*")


def strike_all(plan: dict[str, Any]) -> dict[str, Any]:
    """Go to and fro between two states, `ways` being the command lines that lead there, each killed at every
    `stride`-th step and then run again to its end.

    Returns for each way: how many kills there were, and each time that the end was another one than without a kill.
    """
    wanted = []
    for way in (*plan["ways"], *plan["ways"]):  # the first time round leaves what any change leaves behind
        _must(run(way, 0))
        wanted.append(tree(plan["trees"], plan["without"]))
    results: list[dict[str, Any]] = [{"way": way, "kills": 0, "wrong": []} for way in plan["ways"]]
    for at in range(1, 10_000, plan["stride"]):
        killed = [_strike(plan, way, at, result) for way, result in zip(plan["ways"], results, strict=True)]
        for result, now, right in zip(results, killed, wanted[2:], strict=True):
            differing = sorted(path for path in right.keys() | now.keys() if right.get(path) != now.get(path))
            if differing:
                result["wrong"].append({"at": at, "differing": differing})
        if max(result["kills"] for result in results) * plan["stride"] < at:
            break
    return {"results": results}


def _strike(plan: dict[str, Any], way: Sequence[str], at: int, result: dict[str, Any]) -> dict[str, list[str]]:
    if run(way, at) is None:
        result["kills"] += 1
    if (code := run(way, 0)) != 0:
        result["wrong"].append({"at": at, "code": code})
    return tree(plan["trees"], plan["without"])


def _must(code: int | None) -> None:
    if code != 0:
        raise SystemExit(f"a run that nobody killed ended with {code}")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    task = json.loads(sys.argv[1])
    # A look changes nothing, and imports what every fork would import again.
    from litellm_systemd.cli import run_command

    with contextlib.redirect_stdout(io.StringIO()):
        run_command(task["warm"])
    sys.stdout.write(json.dumps(strike_all(task)))
