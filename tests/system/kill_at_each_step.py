"""Kill litellmctl at each step, run it again, and compare the final state with that of an uninterrupted run.

    python kill_at_each_step.py TASK

TASK is JSON: `commands`, command lines that lead to one state and back; `warm`, a read-only one; `trees`, the folders
to compare, except for the paths in `ignored`; `release`, the folder of the current release; `primes`, whether both
command lines run once before; `stride`, the interval of steps to kill at, and `first`, the first one; `alternate`,
whether each of these steps kills one command alone, in turn; `signals`, the numbers of signals to send in turn.
After one that is not SIGKILL, the exit code must be that of the signal and the state the one before, or the command
must be complete.

A step changes something or makes it durable: a write, rename, link, removal, chmod, chown, fsync, and the start of a
program such as systemctl. Python reports most of them with audit events (sys.addaudithook). Each run of litellmctl is
a fork of this process, which saves the imports. Prints the results as JSON.
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


class StepKiller:
    """Sends this process a signal before step number `at`."""

    def __init__(self, at: int, number: int) -> None:
        self.at, self.number = at, number
        self.count = 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Handle an audit event."""
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if event in _EVENTS or opens:
            self.step()

    def step(self) -> None:
        """Count the next step, and kill the process if it is the one."""
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), self.number)


def run(arguments: Sequence[str], at: int = 0, number: int = signal.SIGKILL) -> tuple[int | None, int]:
    """Run litellmctl in a fork. Returns the exit code, None if it was killed, and the number of steps."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code, killer = 70, StepKiller(at, number)
        try:
            code = _litellmctl(arguments, killer)
            os.write(writer, str(killer.count).encode())
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as stream:
        steps = int(stream.read() or 0)
    status = os.waitpid(pid, 0)[1]
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status), steps


def _litellmctl(arguments: Sequence[str], killer: StepKiller) -> int:
    from litellm_systemd.cli import run_command

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    fsync = os.fsync

    def counted_fsync(handle: Any) -> None:
        killer.step()
        fsync(handle)

    os.fsync = counted_fsync  # type: ignore[assignment]
    sys.addaudithook(killer)
    return run_command(list(arguments))


def tree(paths: Sequence[str], ignored: Sequence[str]) -> dict[str, list[str]]:
    """Kind, mode, owner and content of each path below `paths` that does not begin with one of `ignored`."""
    found: dict[str, list[str]] = {}
    for path in sorted(_below(paths, tuple(ignored))):
        status = path.lstat()
        content = ""
        if path.is_symlink():
            content = str(path.readlink())
        elif stat.S_ISREG(status.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path)] = [oct(status.st_mode), f"{status.st_uid}:{status.st_gid}", content]
    return found


def _below(paths: Iterable[str], ignored: tuple[str, ...]) -> Iterator[Path]:
    for path in map(Path, paths):
        # Ignored folders are not read, because a release has 30,000 files.
        if str(path).startswith(ignored) or not (path.is_symlink() or path.exists()):
            continue
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _below(map(str, path.iterdir()), ignored)


def kill_at_each_step(plan: dict[str, Any]) -> dict[str, Any]:
    """Run the commands in turn, kill each at every `stride`-th step, and run it again.

    Returns for each command the number of its steps and kills, and each final state that differs from that of a run
    without a kill.
    """
    if plan["primes"]:
        # The first run creates files that later runs find.
        for command in plan["commands"]:
            _must(command)
    results = [
        {
            "command": command,
            "steps": _must(command),
            "kills": 0,
            "wrong": [],
            "right": tree(plan["trees"], plan["ignored"]),
        }
        for command in plan["commands"]
    ]
    for turn, at in enumerate(range(plan["first"], max(result["steps"] for result in results) + 1, plan["stride"])):
        for result in [results[turn % len(results)]] if plan["alternate"] else results:
            _kill_and_rerun(plan, result, at)
    return {"results": [{name: found for name, found in each.items() if name != "right"} for each in results]}


def _kill_and_rerun(plan: dict[str, Any], result: dict[str, Any], at: int) -> None:
    number = plan["signals"][at // plan["stride"] % len(plan["signals"])]
    before, right = tree(plan["trees"], plan["ignored"]), result["right"]
    code, _ = run(result["command"], at, number)
    if code != 0:
        result["kills"] += 1
    if number != signal.SIGKILL:
        # A signal after the last step that can be undone has no effect.
        interrupted = 130 if number == signal.SIGINT else 143
        now, wanted = tree(plan["trees"], plan["ignored"]), {0: right, interrupted: before}.get(code or 0)
        if now != wanted:
            result["wrong"].append({"at": at, "code": code, "differing": _differing(wanted or {}, now)})
    code, _ = run(result["command"])
    differing = _differing(right, tree(plan["trees"], plan["ignored"]))
    if code != 0 or differing:
        result["wrong"].append({"at": at, "code": code, "differing": differing})


def _differing(wanted: dict[str, list[str]], now: dict[str, list[str]]) -> list[str]:
    return sorted(path for path in wanted.keys() | now.keys() if wanted.get(path) != now.get(path))[:40]


@contextlib.contextmanager
def without_record(release: Path) -> Iterator[None]:
    """Hide the record of a release: each run of litellmctl would look at its 30,000 files."""
    mark = release / "release.json"
    text = mark.read_text(encoding="utf-8")
    mark.write_text(json.dumps({**json.loads(text), "files": ""}), encoding="utf-8")
    try:
        yield
    finally:
        mark.write_text(text, encoding="utf-8")


def _must(command: Sequence[str]) -> int:
    code, steps = run(command)
    if code != 0:
        raise SystemExit(f"a run without a kill exited with {code}")
    return steps


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    task = json.loads(sys.argv[1])
    # A read-only run imports the modules that every fork would import again.
    from litellm_systemd.cli import run_command

    with contextlib.redirect_stdout(io.StringIO()):
        run_command(task["warm"])
    with without_record(Path(task["release"])):
        found = kill_at_each_step(task)
    sys.stdout.write(json.dumps(found))
