"""Commands, units, messages and files in a box."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

from litellm_systemd.box.processes import CLEAN_ENVIRONMENT, BoxError, describe, drain, end, wait_until

T = TypeVar("T")


class Guest:
    """What can be done in a box that runs. Whoever boots it says who its PID 1 is."""

    name: str
    environment: Mapping[str, str]

    @property
    def leader(self) -> int:
        """The process of the host that is PID 1 in the box. Raises BoxError while it is powered off."""
        raise NotImplementedError

    @property
    def running(self) -> bool:
        """Whether the box is powered on."""
        raise NotImplementedError

    def console(self) -> str:
        """What PID 1 and systemd-nspawn wrote to the console since the last boot."""
        raise NotImplementedError

    # --- commands ---

    def argv(self, argv: Sequence[str], *, user: str | None = None, cwd: str = "/") -> tuple[str, ...]:
        """The command that the host must run, so that `argv` runs in the box, with the variables it is given.

        setpriv sees to it that the command dies with nsenter, which waits for it outside. `user` and `cwd` are
        looked up in the box.
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
        """Run a command in the box to its end, its output captured.

        `env` comes on top of `CLEAN_ENVIRONMENT`; `user` is `name` or `name:group`; `timeout` is in seconds.
        Raises BoxError when the time is up (the command is killed then), and, unless `check` is false, when the
        exit code isn't 0.
        """
        process = self.popen(argv, stdin=subprocess.PIPE, env=env, user=user, cwd=cwd)
        try:
            stdout, stderr = process.communicate(input or "", timeout=timeout)
        except BaseException as error:
            end(process)
            stdout, stderr = drain(process)
            if isinstance(error, subprocess.TimeoutExpired):
                reason = f"still running after {timeout:g} s"
                raise BoxError(describe(argv, reason, stdout, stderr)) from None
            raise
        if check and process.returncode != 0:
            raise BoxError(describe(argv, f"exit code {process.returncode}", stdout, stderr))
        return subprocess.CompletedProcess(list(argv), process.returncode, stdout, stderr)

    def follow(
        self,
        argv: Sequence[str],
        tell: Callable[[str], None],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the box to its end, without a time limit, and `tell` each line of its standard error."""
        errors: list[str] = []
        # A file, since a pipe that nobody reads meanwhile could fill up.
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
            process = self.popen(argv, stdout=output, env=env, cwd=cwd)
            try:
                for line in process.stderr or ():
                    errors.append(line)
                    tell(line.rstrip("\n"))
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
        """Start a command in the box. Its pid is that of nsenter: end it with `end(process)`."""
        return subprocess.Popen(
            self.argv(argv, user=user, cwd=cwd),
            env={**CLEAN_ENVIRONMENT, **({} if user else self.environment), **(env or {})},
            stdin=stdin, stdout=stdout, stderr=stderr, text=True, errors="replace",
        )  # fmt: skip

    def systemctl(self, *args: str, check: bool = True, timeout: float = 240) -> str:
        """`systemctl ARGS`: its output without the last newline."""
        return self.run(("systemctl", "--no-pager", *args), check=check, timeout=timeout).stdout.rstrip("\n")

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit (all of them when none is named), as `systemctl show` writes them."""
        wanted = (f"--property={','.join(properties)}",) if properties else ()
        lines = self.systemctl("show", *wanted, "--", unit).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def journal(self, unit: str | None = None, *args: str) -> str:
        """Messages of the journal, one a line and nothing else, of one unit or of all (`-o` in `args` overrides)."""
        wanted = () if unit is None else ("--unit", unit)
        argv = ("journalctl", "--no-pager", "--quiet", "--output=cat", *wanted, *args)
        self.run(("journalctl", "--sync"), check=False)
        return self.run(argv, check=False).stdout

    def wait_until(self, predicate: Callable[[], T], deadline: float, what: str) -> T:
        """`wait_until`; when the time is up, BoxError carries the end of the journal too."""
        try:
            return wait_until(predicate, deadline, what)
        except BoxError as error:
            tail = self.journal(None, "--lines=50", "--output=short") if self.running else self.console()
            raise BoxError(f"{error}\n--- journal of {self.name} ---\n{tail}") from None

    # --- files ---

    def write(self, path: str | Path, content: str, mode: int = 0o644, owner: str = "root:root") -> None:
        """Write a file in the box, and the folders that lead to it."""
        script = 'mkdir -p "${1%/*}" && umask 077 && cat >"$1" && chown "$3" "$1" && chmod "$2" "$1"'
        self.run(("sh", "-c", script, "write", str(path), f"{mode:o}", owner), input=content)

    def read(self, path: str | Path) -> str:
        """The content of a file in the box."""
        return self.run(("cat", str(path))).stdout

    def exists(self, path: str | Path) -> bool:
        """Whether there is anything at a path in the box, dangling links included."""
        return self.run(("sh", "-c", '[ -e "$1" ] || [ -L "$1" ]', "exists", str(path)), check=False).returncode == 0
