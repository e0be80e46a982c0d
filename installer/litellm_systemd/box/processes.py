"""Processes outside and inside of a box: commands, units, the journal and files in a running box, and waiting."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

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


class Guest:
    """The operations on a running box. `Box`, the subclass that boots it, provides the pid of its init."""

    name: str
    environment: Mapping[str, str]

    @property
    def leader(self) -> int:
        """The pid, on the host, of PID 1 in the box. Raises BoxError if the box is powered off."""
        raise NotImplementedError

    @property
    def running(self) -> bool:
        raise NotImplementedError

    def console(self) -> str:
        """The console output of PID 1 and systemd-nspawn since the last boot."""
        raise NotImplementedError

    # --- commands ---

    def argv(self, argv: Sequence[str], *, user: str | None = None, cwd: str = "/") -> tuple[str, ...]:
        """The command that runs `argv` in the box, with the environment of that command.

        setpriv makes the kernel kill `argv` when nsenter exits, which waits for it outside. `user` and `cwd` are
        those of the box.
        """
        name, _, group = (user or "").partition(":")
        become = ("setpriv", f"--reuid={name}", f"--regid={group or name}", "--init-groups", "--") if name else ()
        return (
            "nsenter", "--target", str(self.leader), "--all", "--",
            "setpriv", "--pdeathsig", "KILL", "--", "env", "-C", cwd, *become, *argv,
        )  # fmt: skip

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        input: str | None = None,
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: str = "/",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the box and capture its output.

        `env` is added to `CLEAN_ENVIRONMENT`. `user` is `name` or `name:group`. `timeout` is in seconds. Raises
        BoxError if the command exceeds the timeout, in which case it is killed, or exits with another code than 0 and
        `check` is true.
        """
        process = self.popen(argv, stdin=subprocess.PIPE, env=env, user=user, cwd=cwd)
        try:
            stdout, stderr = process.communicate(input or "", timeout=timeout)
        except BaseException as error:
            end(process)
            stdout, stderr = read_remaining_output(process)
            if isinstance(error, subprocess.TimeoutExpired):
                reason = f"still running after {timeout:g} s"
                raise BoxError(describe_failure(argv, reason, stdout, stderr)) from None
            raise
        if check and process.returncode != 0:
            raise BoxError(describe_failure(argv, f"exit code {process.returncode}", stdout, stderr))
        return subprocess.CompletedProcess(list(argv), process.returncode, stdout, stderr)

    def follow(
        self,
        argv: Sequence[str],
        on_line: Callable[[str], None],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the box without a timeout, and call `on_line` with each line of its standard error."""
        errors: list[str] = []
        # A file, because a pipe that is not read in the meantime could fill up.
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            process = self.popen(argv, stdout=output, env=env, cwd=cwd)
            try:
                for line in process.stderr or ():
                    errors.append(line)
                    on_line(line.rstrip("\n"))
                process.wait()
            except BaseException:
                end(process)
                raise
            output.seek(0)
            return subprocess.CompletedProcess(list(argv), process.returncode, output.read(), "".join(errors))

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.PIPE,
        stderr: int | IO[Any] | None = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: str = "/",
    ) -> subprocess.Popen[str]:
        """Start a command in the box. The pid is that of nsenter, so stop the command with `end(process)`."""
        return subprocess.Popen(
            self.argv(argv, user=user, cwd=cwd),
            env={**CLEAN_ENVIRONMENT, **({} if user else self.environment), **(env or {})},
            stdin=stdin, stdout=stdout, stderr=stderr, text=True, errors="replace",
        )  # fmt: skip

    def systemctl(self, *args: str, check: bool = True, timeout: float = 240) -> str:
        """Run `systemctl ARGS`. Returns its output without the last newline."""
        return self.run(("systemctl", "--no-pager", *args), check=check, timeout=timeout).stdout.rstrip("\n")

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """The named properties of a unit, or all of them, with the values that `systemctl show` prints."""
        selection = (f"--property={','.join(properties)}",) if properties else ()
        lines = self.systemctl("show", *selection, "--", unit).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def journal(self, unit: str | None = None, *args: str) -> str:
        """The journal messages of one unit or of all units, one per line (`-o` in `args` overrides the format)."""
        selection = () if unit is None else ("--unit", unit)
        argv = ("journalctl", "--no-pager", "--quiet", "--output=cat", *selection, *args)
        self.run(("journalctl", "--sync"), check=False)
        return self.run(argv, check=False).stdout

    def wait_until(self, predicate: Callable[[], T], deadline: float, what: str) -> T:
        """`wait_until` of this module. Here the BoxError also contains the end of the journal."""
        try:
            return wait_until(predicate, deadline, what)
        except BoxError as error:
            tail = self.journal(None, "--lines=50", "--output=short") if self.running else self.console()
            raise BoxError(f"{error}\n--- journal of {self.name} ---\n{tail}") from None

    # --- files ---

    def write(self, path: str | Path, content: str, mode: int = 0o644, owner: str = "root:root") -> None:
        """Write a file in the box, and create its parent folders."""
        script = 'mkdir -p "${1%/*}" && umask 077 && cat >"$1" && chown "$3" "$1" && chmod "$2" "$1"'
        self.run(("sh", "-c", script, "write", str(path), f"{mode:o}", owner), input=content)

    def read(self, path: str | Path) -> str:
        """The content of a file in the box."""
        return self.run(("cat", str(path))).stdout

    def exists(self, path: str | Path) -> bool:
        """Whether a path exists in the box, even as a dangling link."""
        return self.run(("sh", "-c", '[ -e "$1" ] || [ -L "$1" ]', "exists", str(path)), check=False).returncode == 0
