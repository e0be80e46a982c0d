"""Causes, findings and checks; and how checks run: in parallel, each with a deadline.

Afterwards causes are separated from consequences.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from litellm_systemd.command import TIMED_OUT
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import CommandError, InstallerError, PermissionDenied
from litellm_systemd.host.state import Action
from litellm_systemd.report.report import Outcome

DOCS = "docs/troubleshooting.md"


@dataclass(frozen=True, slots=True)
class Cause:
    """One possible cause of a problem.

    `id` is stable and begins with the group. `explanation` says what it does to the service. `remedy` is the command
    that fixes it, a template for `str.format`. `outcome` is FAILED or WARNING, unless a finding overrides it. `fix`
    describes what `doctor --fix` does; empty if it does nothing.

    Four fields name other causes by id. `requires`: this cause is checked only if those are absent and were checked.
    `skipped_if`: this cause is not checked if one of those is found, but is checked if those could not be checked.
    `caused_by`: if one of those is found, this cause is reported as its consequence. A warning only explains another
    one about the same `subject`. `repeats`: a finding of one of those explains one of this cause about that subject.
    """

    id: str
    explanation: str
    remedy: str
    outcome: Outcome = Outcome.FAILED
    fix: str = ""
    requires: tuple[str, ...] = ()
    skipped_if: tuple[str, ...] = ()
    caused_by: tuple[str, ...] = ()
    repeats: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        """The first word of the id, such as `host`."""
        return self.id.split("-")[0]

    @property
    def link(self) -> str:
        """Path and anchor of its documentation."""
        return f"{DOCS}#{self.id}"

    def finding(
        self,
        evidence: str,
        *,
        outcome: Outcome | None = None,
        actions: tuple[Action, ...] = (),
        subject: str = "",
        instead: str = "",
        **values: str,
    ) -> Finding:
        """A finding of this cause; `values` fill the template of the remedy, or another remedy is given `instead`."""
        remedy = instead or self.remedy.format_map(values)
        return Finding(self, evidence, remedy, outcome or self.outcome, actions, subject)


@dataclass(frozen=True, slots=True)
class Finding:
    """A cause that was detected.

    `evidence` is the line or value that shows it, `remedy` the command that fixes it on this host, and `actions` are
    the steps that `doctor --fix` takes. `subject` is equal for findings of two checks about the same problem.
    """

    cause: Cause
    evidence: str
    remedy: str
    outcome: Outcome
    actions: tuple[Action, ...] = ()
    subject: str = ""


#: Yields findings. A plain string is an observation that is not a problem, for `doctor --json` and bug reports.
Detector = Callable[[Snapshot], Iterator["Finding | str"]]


@dataclass(frozen=True, slots=True)
class DoctorCheck:
    """A cause and the function that detects it, which raises InstallerError or OSError if it cannot check.

    `timeout`: seconds for the check; None for the usual ones.
    """

    cause: Cause
    detect: Detector
    timeout: float | None = None


def detects(cause: Cause, *, timeout: float | None = None) -> Callable[[Detector], DoctorCheck]:
    """Decorator: make a check of the function that detects `cause`."""
    return lambda detect: DoctorCheck(cause, detect, timeout)


#: Seconds for one check, and for all of them that have no timeout of their own.
CHECK_TIMEOUT, TOTAL_TIMEOUT = 3.0, 4.5


@dataclass(frozen=True, slots=True)
class CheckRun:
    """The result of one check.

    `skip_reason` says why the check was not made or did not finish; empty if it finished. `is_refused`: because this
    user lacks a permission. `is_late`: because it, or one that it requires, did not finish in time. `details` are
    observations that are not problems.
    """

    cause: Cause
    findings: tuple[Finding, ...] = ()
    skip_reason: str = ""
    seconds: float = 0.0
    details: tuple[str, ...] = ()
    is_refused: bool = False
    is_late: bool = False

    @property
    def failed(self) -> bool:
        """Whether a finding is worse than a warning."""
        return any(finding.outcome is Outcome.FAILED for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The results of all checks, in the order of the registry."""

    runs: tuple[CheckRun, ...]

    @property
    def causes(self) -> tuple[Finding, ...]:
        """Findings that no other finding explains: failures before warnings, otherwise in the order of the checks."""
        found = [finding for finding, cause in self._explained() if not cause]
        return tuple(sorted(found, key=lambda finding: finding.outcome is not Outcome.FAILED))

    @property
    def consequences(self) -> tuple[tuple[Finding, str], ...]:
        """Findings that another one explains, each with the id of that cause."""
        return tuple((finding, cause) for finding, cause in self._explained() if cause)

    @property
    def unchecked(self) -> tuple[CheckRun, ...]:
        """The checks that were skipped or did not finish."""
        return tuple(run for run in self.runs if run.skip_reason)

    @property
    def refused(self) -> tuple[CheckRun, ...]:
        """Those of them that this user lacks a permission for."""
        return tuple(run for run in self.unchecked if run.is_refused)

    @property
    def late(self) -> tuple[CheckRun, ...]:
        """Those of them that did not finish in time."""
        return tuple(run for run in self.unchecked if run.is_late)

    def _explained(self) -> Iterator[tuple[Finding, str]]:
        failed = {run.cause.id: run.cause for run in self.runs if run.failed}
        about = {(found.cause.id, found.subject) for run in self.runs for found in run.findings if found.subject}
        for run in self.runs:
            cause = _root(run.cause, failed)
            for finding in run.findings:
                others = (*run.cause.caused_by, *run.cause.repeats)
                same = (name for name in others if (name, finding.subject) in about)
                yield finding, cause or next(same, "")


def _root(cause: Cause, failed: Mapping[str, Cause]) -> str:
    """The id of the failure that explains a cause and that no other failure explains; empty if there is none."""
    found = ""
    while name := next((name for name in cause.caused_by if name in failed), ""):
        found, cause = name, failed[name]
    return found


def run_checks(
    snapshot: Snapshot,
    checks: Iterable[DoctorCheck],
    *,
    check_timeout: float = CHECK_TIMEOUT,
    total_timeout: float = TOTAL_TIMEOUT,
) -> Diagnosis:
    """Run every check whose requirements are met, each in its own thread, for `total_timeout` seconds at most.

    A check with a timeout of its own may take longer, and so may all of them on a busy host (`Snapshot.patience`).

    A check that hangs is abandoned: its thread ends with the process.
    """
    order = tuple(checks)
    check_timeout, total_timeout = check_timeout * snapshot.patience, total_timeout * snapshot.patience
    waiting = {check.cause.id: check for check in order}
    known, end = frozenset(waiting), time.monotonic() + total_timeout
    done: dict[str, CheckRun] = {}
    running: dict[str, tuple[DoctorCheck, float]] = {}
    results: queue.SimpleQueue[CheckRun] = queue.SimpleQueue()
    while waiting or running:
        for check in _ready(waiting.values(), known, done):
            del waiting[check.cause.id]
            skip_reason = _skip_reason(check.cause, done)
            if skip_reason:
                required = [done[name] for name in check.cause.requires if name in done]
                done[check.cause.id] = CheckRun(
                    check.cause,
                    skip_reason=skip_reason,
                    is_refused=any(run.is_refused for run in required),
                    is_late=any(run.is_late for run in required),
                )
            else:
                now = time.monotonic()
                own = None if check.timeout is None else check.timeout * snapshot.patience
                deadline = min(now + check_timeout, end) if own is None else now + own
                running[check.cause.id] = check, deadline
                threading.Thread(target=_run, args=(snapshot, check, results), daemon=True).start()
        if running:
            _collect(running, results, done)
    return Diagnosis(tuple(done[check.cause.id] for check in order))


def _ready(
    waiting: Iterable[DoctorCheck], known: frozenset[str], done: Mapping[str, CheckRun]
) -> tuple[DoctorCheck, ...]:
    def is_ready(cause: Cause) -> bool:
        return all(name in done for name in (*cause.requires, *cause.skipped_if) if name in known)

    return tuple(check for check in waiting if is_ready(check.cause))


def _skip_reason(cause: Cause, done: Mapping[str, CheckRun]) -> str:
    """Why the check cannot be made: a requirement failed, or was itself not checked. Empty if it can be made."""
    for name in (*cause.requires, *cause.skipped_if):
        run = done.get(name)
        if run is not None and run.failed:
            return f"{name} must be fixed first"
        if run is not None and run.skip_reason and name in cause.requires:
            return run.skip_reason
    return ""


def _run(snapshot: Snapshot, check: DoctorCheck, results: queue.SimpleQueue[CheckRun]) -> None:
    began, findings, details, skip_reason = time.monotonic(), list[Finding](), list[str](), ""
    is_refused = is_late = False
    try:
        for found in check.detect(snapshot):
            if isinstance(found, Finding):
                findings.append(found)
            else:
                details.append(found)
    except InstallerError as error:
        skip_reason, is_refused = error.message, isinstance(error, PermissionDenied)
        is_late = isinstance(error, CommandError) and error.returncode == TIMED_OUT
    except OSError as error:
        is_refused = isinstance(error, PermissionError)
        skip_reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except Exception as error:  # one defective check must not stop the others
        skip_reason = f"this check has a defect: {type(error).__name__}: {error}"
    seconds = time.monotonic() - began
    results.put(CheckRun(check.cause, tuple(findings), skip_reason, seconds, tuple(details), is_refused, is_late))


def _collect(
    running: dict[str, tuple[DoctorCheck, float]], results: queue.SimpleQueue[CheckRun], done: dict[str, CheckRun]
) -> None:
    """Take the next result, or abandon the checks whose deadline has passed."""
    try:
        left = min(deadline for _, deadline in running.values()) - time.monotonic()
        run = results.get(timeout=max(0.0, left))
        # A check that was abandoned may still finish.
        if running.pop(run.cause.id, None):
            done[run.cause.id] = run
    except queue.Empty:
        now = time.monotonic()
        for name, (check, deadline) in list(running.items()):
            if deadline <= now:
                del running[name]
                done[name] = CheckRun(check.cause, skip_reason="the check did not finish in time", is_late=True)
