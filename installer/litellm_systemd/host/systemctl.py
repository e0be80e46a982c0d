"""Run systemctl and journalctl. No other module builds their command lines."""

from __future__ import annotations

import contextlib
import json
import pwd
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from litellm_systemd import contract
from litellm_systemd.command import run
from litellm_systemd.errors import CommandError, InstallerError, Unavailable
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import UnitState

#: A stop may drain for hours (DRAIN_TIMEOUT). systemd's own timeouts bound each job.
NO_LIMIT = None
#: Exit code of systemctl for a unit that is not loaded (systemctl(1)).
_NOT_LOADED = 5
#: Bytes of journal entries that are read, and the fields that are used. The service writes what it wants.
_MAX_JOURNAL = 16 * 1024 * 1024
_MAX_LINE = 16 * 1024
#: Fields in which a process names the unit that its entry is about (systemd.journal-fields(7)).
#: `--unit` reads UNIT of PID 1 only. The child in which a step of a start fails exits at once, and journald may be
#: too late to see of which unit it was.
_ABOUT_UNIT = ("UNIT", "OBJECT_SYSTEMD_UNIT", "COREDUMP_UNIT")
#: Entries of journald about dropped messages (catalog/systemd.catalog).
_DROPPED = "MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e"
_FIELDS = "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,_PID,_EXE"


@dataclass(frozen=True, slots=True)
class Event:
    """A journal entry of systemd on a unit: Unix time, message, and all fields (systemd.journal-fields(7))."""

    when: float
    message: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Journal:
    """Journal entries, oldest first. `is_cut`: there were too many, and these are the newest."""

    entries: tuple[Mapping[str, Any], ...] = ()
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class Systemctl:
    """systemctl for the running host, or with --root for an image, where units can only be enabled."""

    layout: Layout

    def _argv(self, *arguments: str) -> tuple[str, ...]:
        root = () if self.layout.is_host else ("--root", str(self.layout.root))
        return ("systemctl", "--no-pager", *root, *arguments)

    def version(self) -> int:
        """The version of systemd, such as 252.

        Raises:
            MissingError: systemctl is not installed.
            Unavailable: its output has no version.
        """
        answer = run(("systemctl", "--version")).stdout
        match = re.match(r"systemd (\d+)", answer)
        if match is None:
            raise Unavailable(
                f"systemctl --version printed {answer.splitlines()[:1]}", "Check that systemd is installed."
            )
        return int(match[1])

    def known_version(self) -> int:
        """The version of systemd; 0 if it is unknown."""
        try:
            return self.version()
        except InstallerError:
            return 0

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit as systemd prints them. Unknown properties are missing.

        One that is printed several times, such as EnvironmentFiles, has a line for each.
        """
        answer = run(self._argv("show", unit, "--property", ",".join(properties))).stdout
        found: dict[str, str] = {}
        for name, _, value in (line.partition("=") for line in answer.splitlines() if "=" in line):
            found[name] = f"{found[name]}\n{value}" if name in found else value
        return found

    def manager_environment(self) -> str:
        """The variables that systemd gives to every service: DefaultEnvironment= and `systemctl set-environment`."""
        return run(self._argv("show", "--property", "Environment")).stdout.partition("=")[2].strip()

    def unit_state(self, unit: str) -> UnitState:
        """The state of a unit; in an image, only whether it is enabled."""
        if not self.layout.is_host:
            answer = run(self._argv("is-enabled", unit), check=False)
            return UnitState(unit, enabled=answer.stdout.strip())
        names = ("LoadState", "ActiveState", "UnitFileState", "FragmentPath", "NeedDaemonReload", "InvocationID")
        found = self.show(unit, *names)
        return unit_state_of(unit, found)

    def unmask_command(self, *units: str) -> str:
        """The commands that unmask units, each followed by ` && `; empty if none is masked."""
        states = {}
        for unit in units:
            found = self.show(unit, "UnitFileState", "LoadState")
            # If the mask was removed without a daemon-reload, only LoadState has it, and the command reloads.
            is_known = found.get("UnitFileState", "").startswith("masked")
            states[unit] = found.get("UnitFileState" if is_known else "LoadState")
        kinds = {
            option: " ".join(unit for unit, found in states.items() if found == state)
            for option, state in (("", "masked"), (" --runtime", "masked-runtime"))
        }
        return "".join(f"sudo systemctl unmask{option} {names} && " for option, names in kinds.items() if names)

    def sockets(self) -> tuple[tuple[str, str], ...]:
        """The addresses on which systemd listens, each with its socket unit."""
        lines = run(self._argv("list-sockets", "--no-legend", "--full"), check=False).stdout.splitlines()
        fields = [line.split() for line in lines]
        return tuple((each[0], unit) for each in fields for unit in each if unit.endswith(".socket"))

    def starting_units(self) -> tuple[str, ...]:
        """The units that systemd is starting now; others may wait for them."""
        argv = ("systemctl", "list-jobs", "--no-legend", "--no-pager", "--full")
        lines = run(argv, check=False).stdout.splitlines()
        return tuple(line.split()[1] for line in lines if line.split()[2:] == ["start", "running"])

    def job_state(self, unit: str) -> tuple[str, bool]:
        """ActiveState of a unit, and whether systemd has a job for it, such as its start."""
        found = self.show(unit, "ActiveState", "Job")
        return found.get("ActiveState", "unknown"), found.get("Job", "0") not in ("", "0")

    def status_text(self, unit: str) -> str:
        """What the main process of a unit reports about itself (sd_notify(3), STATUS=); empty without one."""
        return self.show(unit, "StatusText").get("StatusText", "")

    def system_state(self, timeout: float) -> str:
        """The state of the system, such as running or degraded (systemctl(1)).

        Raises:
            Unavailable: systemd does not answer within `timeout` seconds.
        """
        answer = run(("systemctl", "is-system-running"), check=False, timeout=timeout)
        if not answer.stdout.strip() or answer.stdout.strip() in ("offline", "unknown"):
            raise Unavailable(f"systemd does not answer: {answer.stderr.strip() or answer.stdout.strip()}")
        return answer.stdout.strip()

    def verify(self, unit: str, timeout: float = 2.5) -> str:
        """What systemd does not understand in the files of a unit and of those that it refers to, one line each."""
        return run(("systemd-analyze", "--man=no", "verify", unit), check=False, timeout=timeout).stderr

    def events(self, unit: str, lines: int) -> tuple[Event, ...]:
        """Journal entries of systemd on a unit since boot, oldest first, as far as this user can read them."""
        argv = ("journalctl", "--no-pager", "--quiet", "--boot", "--output=json", "--lines", str(lines))
        answer = run((*argv, "_PID=1", f"UNIT={unit}"), check=False, timeout=20)
        return tuple(_event(json.loads(line)) for line in answer.stdout.splitlines() if line.startswith("{"))

    def newest_entry(self) -> int | None:
        """Microseconds from boot (CLOCK_MONOTONIC) to the newest journal entry that this user can read, or None."""
        argv = ("journalctl", "--no-pager", "--quiet", "--boot", "--lines=1", "--output=json")
        answer = run((*argv, "--output-fields=_PID"), check=False, timeout=20).stdout
        return int(json.loads(answer)["__MONOTONIC_TIMESTAMP"]) if answer.startswith("{") else None

    def dropped_messages(self, unit: str) -> int:
        """How many messages of a unit journald has dropped since boot, by its rate limit (journald.conf(5))."""
        argv = ("journalctl", "--no-pager", "--quiet", "--boot", "--output=cat", "--lines=1000", _DROPPED)
        lines = run(argv, check=False, timeout=20).stdout
        return sum(map(int, re.findall(rf"^Suppressed (\d+) messages from {re.escape(unit)}$", lines, re.MULTILINE)))

    def entries(
        self,
        *,
        since: str | None = None,
        boot: str | None = None,
        priority: str | None = None,
        lines: int | None = None,
        timeout: float = 60,
    ) -> Journal:
        """Journal entries of the units, and of systemd on them (systemd.journal-fields(7)); the last `lines`, or all.

        None if this user can't read the journal.

        Raises:
            CommandError: journalctl refuses an argument, or takes longer than `timeout` seconds.
        """
        argv = journal_argv(since=since, boot=boot, priority=priority, lines=lines, quiet=True, output="json")
        # Without --all a field of more than 4 KiB is null.
        options = ("--all", "--reverse", f"--output-fields={_FIELDS}")
        try:
            answer = run((*argv, *options), timeout=timeout, limit=_MAX_JOURNAL, may_cut=True)
        except CommandError as error:
            # Only for a user who has no journal of their own. For the others journalctl is silent.
            if "insufficient permissions" in error.stderr:
                return Journal()
            raise
        # The last line may have been cut.
        entries = [json.loads(line) for line in answer.stdout.split("\n")[:-1] if line.startswith("{")]
        return Journal(tuple(reversed(entries)), answer.is_cut)

    def kernel_lines(self, lines: int) -> tuple[str, ...]:
        """The last lines of the kernel and its audit since boot, as far as this user can read them."""
        argv = ("journalctl", "--no-pager", "--quiet", "--boot", "--output=cat", "--lines", str(lines))
        answer = run((*argv, "_TRANSPORT=kernel", "_TRANSPORT=audit"), check=False, timeout=20)
        return tuple(answer.stdout.splitlines())

    def daemon_reload(self) -> None:
        run(self._argv("daemon-reload"))

    def enable(self, unit: str) -> None:
        """Start the unit at boot."""
        run(self._argv("enable", unit))

    def disable(self, unit: str) -> None:
        """Do not start the unit at boot."""
        run(self._argv("disable", unit))

    def start(self, *units: str) -> None:
        """Start units and wait until they are ready. The count of their restarts is reset."""
        run(self._argv("reset-failed", *units), check=False)
        self._act("start", *units)

    def stop(self, *units: str) -> None:
        """Stop units and wait until they are drained."""
        self._act("stop", *units)

    def reset_failed(self, unit: str) -> None:
        run(self._argv("reset-failed", unit), check=False)

    def stop_later(self, unit: str) -> None:
        """Stop a unit without waiting until it is drained. One that is gone has stopped."""
        try:
            run(self._argv("stop", "--no-block", unit))
        except CommandError as error:
            if error.returncode != _NOT_LOADED:
                raise

    def restart(self, *units: str) -> None:
        """Restart units and wait until they are ready."""
        run(self._argv("reset-failed", *units), check=False)
        self._act("restart", *units)

    def reload(self, *units: str) -> None:
        """Reload units and wait for the outcome."""
        self._act("reload", *units)

    def _act(self, verb: str, *units: str) -> None:
        began = time.time()
        try:
            run(self._argv(verb, *units), timeout=NO_LIMIT)
        except CommandError as error:
            if verb == "stop" and error.returncode == _NOT_LOADED:
                return
            raise _failure(verb, units, error, began) from None


def unit_state_of(unit: str, found: Mapping[str, str]) -> UnitState:
    return UnitState(
        unit,
        load=found.get("LoadState", "not-found"),
        active=found.get("ActiveState", "inactive"),
        enabled=found.get("UnitFileState", ""),
        fragment=found.get("FragmentPath", ""),
        need_reload=found.get("NeedDaemonReload") == "yes",
        invocation=found.get("InvocationID", ""),
    )


def _event(entry: Mapping[str, Any]) -> Event:
    # A field that is not UTF-8 or occurs twice is a list.
    fields = {name: value for name, value in entry.items() if isinstance(value, str)}
    return Event(int(fields.get("__REALTIME_TIMESTAMP", "0")) / 1e6, fields.get("MESSAGE", ""), fields)


def _failure(verb: str, units: tuple[str, ...], error: CommandError, began: float) -> InstallerError:
    """The error for a failed job: the last line at error level from the units' processes since it began."""
    if error.stderr.rstrip().endswith("canceled."):
        return Unavailable(
            f"systemctl {verb} {' '.join(units)} was canceled: another command stopped or restarted it meanwhile",
            "Run it again when the service is in the state that you want: sudo litellmctl status",
        )
    sync_journal(10)
    argv = journal_argv(
        lines=1, priority="err", quiet=True, since=f"@{began:.6f}", output="cat", own_lines=True, more=units
    )
    cause = _line(argv) or error.message
    # A standby that does not start logs as a unit of its own.
    logging = " ".join(f"-u {unit}" for unit in dict.fromkeys((contract.SERVICE, contract.SOCKET, *units)))
    return Unavailable(
        f"systemctl {verb} {' '.join(units)} failed: {cause}", f"More lines: journalctl {logging} -n 50"
    )


def sync_journal(timeout: float) -> None:
    """Wait until the journal has what was logged so far, or for `timeout` seconds; only root can (journalctl(1)).

    On a busy machine journald may lag: the error of a start would be missing, or be that of an earlier one.
    """
    with contextlib.suppress(CommandError):  # journald does not answer
        run(("journalctl", "--sync"), check=False, timeout=timeout)


def _line(argv: tuple[str, ...]) -> str:
    """The line that journalctl prints. A process can write one of any length."""
    return run(argv, check=False, timeout=20, limit=_MAX_LINE, may_cut=True).stdout.strip()


def _trusted_users() -> Iterator[int]:
    """Root, and the user of the service: later steps of a start fail after the change of the user."""
    yield 0
    with contextlib.suppress(KeyError):
        yield pwd.getpwnam(contract.SERVICE_USER).pw_uid


def journal_argv(
    *,
    lines: int | None = None,
    follow: bool = False,
    priority: str | None = None,
    since: str | None = None,
    boot: str | None = None,
    quiet: bool = False,
    output: str | None = None,
    own_lines: bool = False,
    more: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """The journalctl command line for the units of the service, and for `more`.

    `own_lines` excludes systemd's own lines ("Failed with result …") and keeps those of the processes, which name the
    cause. `boot` is an offset such as 0 or -1 (journalctl(1)). All namespaces are read, since a drop-in may set
    LogNamespace=.
    """
    argv = ["journalctl", "--no-pager", "--namespace=*"]
    units = dict.fromkeys((contract.SERVICE, contract.SOCKET, contract.METRICS_SOCKET, contract.STANDBY, *more))
    argv += [f"_SYSTEMD_UNIT={unit}" for unit in units]
    for field in () if own_lines else _ABOUT_UNIT:
        argv += ["+", *(f"_UID={uid}" for uid in _trusted_users()), *(f"{field}={unit}" for unit in units)]
    argv += ["--lines", str(lines)] if lines is not None else []
    argv += ["--follow"] if follow else []
    argv += ["--priority", priority] if priority else []
    argv += ["--since", since] if since else []
    argv += [f"--boot={boot}"] if boot is not None else []
    argv += ["--quiet"] if quiet else []
    argv += ["--output", output] if output else []
    return tuple(argv)
