"""The only user of subprocess: run a program, from an argv, and say what came of it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from litellm_systemd.errors import CommandError, Interrupted, MissingError


def interruptible() -> AbstractContextManager[None]:
    """Have it raise `Interrupted`, so that what was begun is undone."""

    def raise_interrupted(number: int, _frame: object) -> None:
        raise Interrupted(number)

    return _on_signals(raise_interrupted)


def uninterruptible() -> AbstractContextManager[None]:
    """Have it do nothing: whoever interrupts now would get neither the old state nor the new one."""
    return _on_signals(signal.SIG_IGN)


@contextmanager
def _on_signals(handler: Any) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@dataclass(frozen=True, slots=True)
class Result:
    """What a program left: its exit code, standard output and standard error, decoded."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str = field(default="", repr=False)
    stderr: str = field(default="", repr=False)


def minimal_environment() -> dict[str, str]:
    """What a system tool needs: a path, and English, since some answers are parsed."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "SYSTEMD_PAGER": "",
        "SYSTEMD_COLORS": "0",
    }


def inherited_environment() -> dict[str, str]:
    """All of the caller's environment, for tools that the user configures by it (pip and uv)."""
    return dict(os.environ)


def run(
    argv: tuple[str, ...],
    *,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
    timeout: float | None = 120,
    hint: str = "",
) -> Result:
    """Run a program to its end.

    Args:
        argv: the program and its arguments; never a shell.
        check: whether an exit code other than 0 is an error.
        environment: all of its environment; `minimal_environment` if None.
        timeout: seconds; None for no limit.
        hint: the remedy that a failure carries.

    Raises:
        CommandError: it failed and `check` is set, or it didn't end in time.
        MissingError: there is no such program.
    """
    env = minimal_environment() if environment is None else dict(environment)
    try:
        done = subprocess.run(
            argv, env=env, timeout=timeout, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
    except FileNotFoundError:
        raise MissingError(f"{argv[0]} isn't installed", hint or f"Install {argv[0]}.") from None
    except subprocess.TimeoutExpired:
        raise CommandError(argv, 124, f"it didn't end within {timeout:.0f} s", hint) from None
    if check and done.returncode != 0:
        raise CommandError(argv, done.returncode, done.stderr or done.stdout, hint)
    return Result(argv, done.returncode, done.stdout, done.stderr)


def replace_process(argv: tuple[str, ...], environment: Mapping[str, str] | None = None) -> None:
    """Become another program (execvpe(3)): for a verb that only hands over, such as `logs`.

    Raises:
        MissingError: there is no such program.
    """
    env = inherited_environment() if environment is None else dict(environment)
    exec_program: Callable[[str, tuple[str, ...], dict[str, str]], None] = os.execvpe
    try:
        exec_program(argv[0], argv, env)
    except FileNotFoundError:
        raise MissingError(f"{argv[0]} isn't installed", f"Install {argv[0]}.") from None


class Companion:
    """A program that runs beside us and ends by itself once its standard input does: by `close`, or when we die.

    The kernel closes the pipe whatever ends us, so that the companion can clean up after a SIGKILL. It has a session
    of its own: what is sent to our process group doesn't reach it.

    Raises:
        MissingError: there is no such program.
    """

    def __init__(self, argv: tuple[str, ...], environment: Mapping[str, str] | None = None) -> None:
        env = minimal_environment() if environment is None else dict(environment)
        try:
            self._process = subprocess.Popen(
                argv,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise MissingError(f"{argv[0]} isn't installed", f"Install {argv[0]}.") from None

    def close(self) -> int:
        """End its standard input and wait for it; its exit code."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        return self._process.wait()
