"""Errors that a user can fix: what happened, and the remedy."""

from __future__ import annotations

import errno
import signal

from litellm_systemd.contract import ExitCode

#: Restores an installed file from its copy, after what is in its place was moved away.
RESTORE = "sudo mv {path} {path}.bad && sudo litellmctl doctor --fix"
#: For a release that can no longer run: litellmctl is one of its programs. units/litellmctl.j2 prints it as well.
REINSTALL = (
    "/usr/bin/python3 -m venv DIR && DIR/bin/pip install litellm-systemd"
    " && sudo DIR/bin/litellmctl install --installed    # or, in a checkout: sudo ./scripts/quickstart.sh"
)


class InstallerError(Exception):
    """A failure in one sentence, with a `hint` that says what to do.

    `code` is the exit code; only `cli` exits with it.
    `others` are further problems of the same file, one sentence each.
    """

    code: ExitCode = ExitCode.FAILED
    others: tuple[str, ...] = ()

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def render(self) -> str:
        """The failure and what to do, in one line."""
        return join_sentences(self.message, self.hint)


def join_sentences(message: str, remedy: str) -> str:
    """Both in one line. Only a message without a full stop or question mark at its end gets one."""
    stop = "" if message.endswith((".", "?")) else "."
    return f"{message}{stop} {remedy}" if remedy else message


def remedy_of(error: OSError) -> str:
    """What to do about an error of the kernel. For root, EPERM means an immutable file."""
    if error.errno == errno.EPERM:
        return "If 'lsattr' shows that the file is immutable, run 'sudo chattr -i' on it. Then run the command again."
    return "Fix this and run the command again."


class UsageError(InstallerError):
    """The command line has an unknown argument, or options that cannot be combined."""

    code = ExitCode.USAGE


class InputError(InstallerError):
    """A file of the user is invalid: `.env` or a LiteLLM configuration."""

    code = ExitCode.CONFIG


class MissingError(InstallerError):
    """A required file does not exist. `path`: where it was looked for, if the message names it in another way."""

    code = ExitCode.NO_INPUT

    def __init__(self, message: str, hint: str = "", path: str = "") -> None:
        super().__init__(message, hint)
        self.path = path


class NotInstalled(MissingError):
    """The verb needs an installed service, and there is none."""

    def __init__(self, hint: str = "To install the service, run: sudo litellmctl install") -> None:
        super().__init__("nothing is installed here", hint)


class PermissionDenied(InstallerError):
    """The user lacks a permission: root, or access to a file."""

    code = ExitCode.NO_PERMISSION


class Unavailable(InstallerError):
    """Something outside is unavailable: systemd, the port, the service."""

    code = ExitCode.UNAVAILABLE


class DatabaseError(InstallerError):
    """The database of LiteLLM cannot be reached or used."""

    code = ExitCode.DATABASE


class DatabaseDown(DatabaseError):
    """No server answers, or it is starting or stopping."""


class DatabaseFull(DatabaseError):
    """The server accepts no further connection."""


class RedisError(InstallerError):
    """The Redis of LiteLLM cannot be reached or used."""

    code = ExitCode.REDIS


class InvalidAnswer(InstallerError):
    """A running service answers what it should not: another program answers, or the service is compromised."""

    code = ExitCode.PROTOCOL

    def __init__(
        self,
        message: str,
        hint: str = "Restart the service, and examine the host if that does not help: sudo litellmctl restart",
    ) -> None:
        super().__init__(message, hint)


class Busy(InstallerError):
    """Another process is changing the same host."""

    code = ExitCode.TEMPORARY


class CannotCreate(InstallerError):
    """Something else exists at a path that must be written."""

    code = ExitCode.CANT_CREATE


class OutputError(InstallerError):
    """Something cannot be written: the output of a verb, or a file on a full or a damaged disk."""

    code = ExitCode.IO_ERROR


class Interrupted(BaseException):
    """A signal interrupts this run. Not an InstallerError, so that no handler treats it as a failed step."""

    def __init__(self, number: int) -> None:
        name = signal.Signals(number).name
        super().__init__(name)
        self.message = f"interrupted by {name}"
        self.hint = ""
        self.code = ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.TERMINATED


class ProgramError(InstallerError):
    """A program failed; the message has the cause."""

    code = ExitCode.OS_ERROR


class CommandError(ProgramError):
    """A program failed, with this `argv`, `returncode` and `stderr`."""

    def __init__(self, argv: tuple[str, ...], returncode: int, stderr: str, hint: str = "") -> None:
        last = stderr.strip().splitlines()[-1:] or ["it gave no reason"]
        super().__init__(f"{' '.join(argv)} failed with exit code {returncode}: {last[0]}", hint)
        self.argv = argv
        self.returncode = returncode
        self.stderr = stderr
