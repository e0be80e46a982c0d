"""Kill litellmctl at one step after the other, run it again, and see whether the end is the same.

    python kill_at_each_step.py TASK

TASK is JSON: `ways`, the command lines that lead to one state and back; `warm`, one that only looks; `trees`, the
folders to compare, and in them the paths that don't count, `without`; `stride`, to strike at every so manieth step,
and `first`, the first of them.

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
from collections.abc import Iterable, Iterator, Sequence
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


def run(arguments: Sequence[str], at: int = 0) -> tuple[int | None, int]:
    """Run litellmctl in a fork: its exit code, None if it was killed; and how many steps it took to its end."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code, strike = 70, Strike(at)
        try:
            code = _litellmctl(arguments, strike)
            os.write(writer, str(strike.count).encode())
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as stream:
        steps = int(stream.read() or 0)
    status = os.waitpid(pid, 0)[1]
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status), steps


def _litellmctl(arguments: Sequence[str], strike: Strike) -> int:
    from litellm_systemd.cli import run_command

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
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
    for path in sorted(_below(paths, tuple(without))):
        status = path.lstat()
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path)] = [oct(status.st_mode), f"{status.st_uid}:{status.st_gid}", content]
    return found


def _below(paths: Iterable[str], without: tuple[str, ...]) -> Iterator[Path]:
    for path in map(Path, paths):
        # What doesn't count isn't walked either: a release has 30,000 files.
        if str(path).startswith(without) or not (path.is_symlink() or path.exists()):
            continue
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _below(map(str, path.iterdir()), without)


def strike_all(plan: dict[str, Any]) -> dict[str, Any]:
    """Go to and fro between two states, `ways` being the command lines that lead there, each killed at every
    `stride`-th step and then run again to its end.

    Returns for each way: the steps that it has, how many kills there were, and each time that the end was another one
    than without a kill.
    """
    for way in plan["ways"]:  # the first time round leaves what any change leaves behind
        _must(way)
    results = [
        {"way": way, "steps": _must(way), "kills": 0, "wrong": [], "right": tree(plan["trees"], plan["without"])}
        for way in plan["ways"]
    ]
    for at in range(plan["first"], max(result["steps"] for result in results) + 1, plan["stride"]):
        for result in results:
            _strike(plan, result, at)
    return {"results": [{name: found for name, found in each.items() if name != "right"} for each in results]}


def _strike(plan: dict[str, Any], result: dict[str, Any], at: int) -> None:
    if run(result["way"], at)[0] is None:
        result["kills"] += 1
    code, _ = run(result["way"])
    now, right = tree(plan["trees"], plan["without"]), result["right"]
    differing = sorted(path for path in right.keys() | now.keys() if right.get(path) != now.get(path))[:40]
    if code != 0 or differing:
        result["wrong"].append({"at": at, "code": code, "differing": differing})


def _must(way: Sequence[str]) -> int:
    code, steps = run(way)
    if code != 0:
        raise SystemExit(f"a run that nobody killed ended with {code}")
    return steps


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    task = json.loads(sys.argv[1])
    # A look changes nothing, and imports what every fork would import again.
    from litellm_systemd.cli import run_command

    with contextlib.redirect_stdout(io.StringIO()):
        run_command(task["warm"])
    sys.stdout.write(json.dumps(strike_all(task)))
