"""Run programs. Outside of `box` and `runtime`, no other module uses subprocess."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from litellm_systemd.contract import RUNTIME
from litellm_systemd.errors import CommandError, Interrupted, MissingError

#: Bytes of the output of a program. Some print what the service wrote, which may be endless.
_MAX_OUTPUT = 64 * 1024 * 1024
_READ_SIZE = 65536
#: The exit code that stands for a program that did not exit in time, as in timeout(1).
TIMED_OUT = 124
#: The signals that end a command: Ctrl-C, kill(1), and a terminal that is closed.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interruptible() -> AbstractContextManager[None]:
    """Raise `Interrupted` on SIGINT, SIGTERM or SIGHUP. What the caller ignores stays ignored, as with nohup(1)."""

    def raise_interrupted(number: int, _frame: object) -> None:
        raise Interrupted(number)

    return _on_signals(
        raise_interrupted, [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    )


def uninterruptible() -> AbstractContextManager[None]:
    """Ignore SIGINT, SIGTERM and SIGHUP: an interrupted undo would leave neither the old nor the new state."""
    return _on_signals(signal.SIG_IGN, _SIGNALS)


@contextmanager
def _on_signals(handler: Any, numbers: Iterable[signal.Signals]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


@dataclass(frozen=True, slots=True)
class Result:
    """The exit code, standard output and standard error of a program, decoded.

    `is_cut`: it printed more than was to be kept, and was killed.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: str = field(default="", repr=False)
    stderr: str = field(default="", repr=False)
    is_cut: bool = False


def module_argv(module: str, *arguments: str, python: str = sys.executable) -> tuple[str, ...]:
    """The command line that runs a module of this package, isolated from the user's environment and folder (-I)."""
    return (python, "-I", "-m", module, *arguments)


def runtime_argv(*arguments: str, python: str = sys.executable) -> tuple[str, ...]:
    """The command line of the runtime, which commands only ever run as a program (docs/adr/0002)."""
    return module_argv(RUNTIME, *arguments, python=python)


def minimal_environment() -> dict[str, str]:
    """The environment for a system tool: a PATH, and English, since some output is parsed."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "SYSTEMD_PAGER": "",
        "SYSTEMD_COLORS": "0",
    }


def inherited_environment() -> dict[str, str]:
    """The caller's environment, for tools that the user configures with it (pip and uv)."""
    return dict(os.environ)


def run(
    argv: tuple[str, ...],
    *,
    check: bool = True,
    environment: Mapping[str, str] | None = None,
    timeout: float | None = 120,
    hint: str = "",
    limit: int = _MAX_OUTPUT,
    may_cut: bool = False,
    text: str = "",
    source: BinaryIO | None = None,
    target: BinaryIO | None = None,
) -> Result:
    """Run a program and wait until it exits.

    Args:
        argv: the program and its arguments; never a shell.
        check: whether an exit code other than 0 is an error.
        environment: the whole environment; `minimal_environment` if None.
        timeout: seconds; None for no limit.
        hint: the remedy in the error.
        limit: bytes of its output that are kept. A program that prints more is killed.
        may_cut: whether that is no error.
        text: what the program reads from its standard input.
        source: an open file that it reads instead.
        target: an open file that gets its standard output, which is not in the result.

    Raises:
        CommandError: it failed and `check` is set, it did not exit in time, or it printed too much.
        MissingError: the program is not installed.
    """
    env = minimal_environment() if environment is None else dict(environment)
    try:
        given = contextlib.nullcontext(source or subprocess.DEVNULL) if not text else _input_file(text)
        with given as stdin:
            done = _capture(argv, env, timeout, limit, stdin, target)
    except FileNotFoundError:
        raise MissingError(f"{argv[0]} is not installed", hint or f"Install {argv[0]}.") from None
    except subprocess.TimeoutExpired:
        raise CommandError(argv, TIMED_OUT, f"it did not exit within {timeout:.0f} s", hint) from None
    if done.is_cut and not may_cut:
        raise CommandError(argv, done.returncode, f"it printed more than {limit >> 20} MiB", hint)
    if check and done.returncode != 0 and not done.is_cut:
        raise CommandError(argv, done.returncode, done.stderr or done.stdout, hint)
    return done


def _capture(
    argv: tuple[str, ...],
    env: Mapping[str, str],
    timeout: float | None,
    limit: int,
    stdin: BinaryIO | int,
    target: BinaryIO | None,
) -> Result:
    """Run a program and keep at most `limit` bytes of what it prints. It is killed if it prints more.

    Raises:
        FileNotFoundError: it is not installed.
        subprocess.TimeoutExpired: it did not exit in time.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    outputs: dict[int, bytearray] = {}
    is_cut = False

    def left() -> float | None:
        rest = None if deadline is None else deadline - time.monotonic()
        if rest is not None and rest <= 0:
            raise subprocess.TimeoutExpired(argv, timeout or 0)
        return rest

    pipe = subprocess.PIPE
    with (
        subprocess.Popen(argv, env=env, stdin=stdin, stdout=target or pipe, stderr=pipe) as process,
        selectors.DefaultSelector() as selector,
    ):
        try:
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    outputs[stream.fileno()] = bytearray()
                    selector.register(stream, selectors.EVENT_READ)
            while selector.get_map() and not is_cut:
                for key, _ in selector.select(left()):
                    part = os.read(key.fd, _READ_SIZE)
                    outputs[key.fd] += part[: max(limit - len(outputs[key.fd]), 0)]
                    is_cut = is_cut or len(outputs[key.fd]) >= limit
                    if not part:
                        selector.unregister(key.fileobj)
            if is_cut:
                process.kill()
            process.wait(left())
        except BaseException:
            process.kill()
            raise
    *out, err = (_decode(output) for output in outputs.values())
    return Result(argv, process.returncode, "".join(out), err, is_cut)


def _input_file(text: str) -> BinaryIO:
    """A file in memory with that text. Unlike a pipe it never fills up, and unlike a disk it keeps no secret."""
    file = os.fdopen(os.memfd_create("input"), "w+b")
    file.write(text.encode())
    file.seek(0)
    return file


def _decode(output: bytearray) -> str:
    return output.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def replace_process(argv: tuple[str, ...], environment: Mapping[str, str] | None = None) -> None:
    """Replace this process with another program (execvpe(3)).

    Raises:
        MissingError: the program is not installed.
    """
    env = inherited_environment() if environment is None else dict(environment)
    exec_program: Callable[[str, tuple[str, ...], dict[str, str]], None] = os.execvpe
    try:
        exec_program(argv[0], argv, env)
    except FileNotFoundError:
        raise MissingError(f"{argv[0]} is not installed", f"Install {argv[0]}.") from None


def pass_on(argv: tuple[str, ...], write: Callable[[bytes], bool]) -> int:
    """Run a program, pass its output on as it arrives, and return its exit code; 0 once `write` returns False.

    Raises:
        MissingError: the program is not installed.
    """
    try:
        child = subprocess.Popen(argv, stdout=subprocess.PIPE)
    except FileNotFoundError:
        raise MissingError(f"{argv[0]} is not installed", f"Install {argv[0]}.") from None
    with child:
        try:
            while data := child.stdout.read1(_READ_SIZE) if child.stdout else b"":  # type: ignore[attr-defined]
                if not write(data):
                    return 0
            return child.wait()
        finally:
            child.terminate()


class Companion:
    """A child process that exits when its standard input is closed: by `close`, or when this process exits.

    The kernel closes the pipe however this process ends, so that the companion can clean up after a SIGKILL. It has
    its own session: signals to our process group do not reach it.

    Raises:
        MissingError: the program is not installed.
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
            raise MissingError(f"{argv[0]} is not installed", f"Install {argv[0]}.") from None

    def close(self) -> int:
        """Close its standard input, wait until it exits, and return its exit code."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        return self._process.wait()


class Child:
    """A program that runs next to us in a session of its own, with its output in a file of its owner's alone.

    Raises:
        MissingError: there is no such program.
        OSError: the file can't be written.
    """

    def __init__(self, argv: tuple[str, ...], environment: Mapping[str, str], folder: Path, output: Path) -> None:
        output.unlink(missing_ok=True)
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._process = subprocess.Popen(
                argv,
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise MissingError(f"{argv[0]} isn't installed", f"Install {argv[0]}.") from None
        finally:
            os.close(handle)

    def exit_code(self) -> int | None:
        """Its exit code, a signal as a negative number; None while it runs."""
        # Only `kill` reaps it: until then no other process group can get its number.
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def terminate(self) -> None:
        """Send a SIGTERM to it, not to processes that it started."""
        # Not by Popen, which would reap it if it has just exited.
        os.kill(self._process.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill it and all of its process group, and reap it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
