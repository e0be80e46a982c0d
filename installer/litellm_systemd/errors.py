"""Errors that a user can do something about: what went wrong, and the remedy."""

from __future__ import annotations

import errno
import signal

from litellm_systemd.contract import ExitCode


class InstallerError(Exception):
    """A refusal or a failure, told in one sentence, with a `hint` that says what to do about it.

    `code` is the exit code that `cli` ends with. Nothing else turns an error into an exit code.
    """

    code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def remedy_of(error: OSError) -> str:
    """What to do about a refusal of the kernel's. EPERM is one that root doesn't expect."""
    if error.errno == errno.EPERM:
        return "Is the file immutable ('lsattr' shows it, 'chattr -i' ends it)? Mend that and run it again."
    return "Mend that and run it again."


class UsageError(InstallerError):
    """The command line asks for something that doesn't exist or doesn't go together."""

    code = ExitCode.USAGE


class InputError(InstallerError):
    """A file that the user wrote can't be used: `.env` or a LiteLLM configuration."""

    code = ExitCode.CONFIG


class MissingError(InstallerError):
    """A file that is needed isn't there."""

    code = ExitCode.NO_INPUT


class PermissionDenied(InstallerError):
    """Root, or the right to read or write a file, is needed."""

    code = ExitCode.NO_PERMISSION


class Unavailable(InstallerError):
    """Something outside doesn't answer: systemd, the port, the service."""

    code = ExitCode.UNAVAILABLE


class Busy(InstallerError):
    """Somebody else is changing the same host."""

    code = ExitCode.TEMPORARY


class CannotCreate(InstallerError):
    """Something stands where a file of ours has to stand."""

    code = ExitCode.CANT_CREATE


class Interrupted(BaseException):
    """A signal asked this run to end. Not an InstallerError: nothing on the way may take it for a failed step."""

    def __init__(self, number: int) -> None:
        name = signal.Signals(number).name
        super().__init__(name)
        self.message = f"interrupted by {name}"
        self.hint = ""
        self.code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED


class CommandError(InstallerError):
    """A program that was run failed; `argv`, `returncode` and `stderr` as it left them."""

    code = ExitCode.OS_ERROR

    def __init__(self, argv: tuple[str, ...], returncode: int, stderr: str, hint: str = "") -> None:
        last = stderr.strip().splitlines()[-1:] or ["it gave no reason"]
        super().__init__(f"{' '.join(argv)} failed with exit code {returncode}: {last[0]}", hint)
        self.argv = argv
        self.returncode = returncode
        self.stderr = stderr
