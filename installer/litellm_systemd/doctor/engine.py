"""Run checks in parallel, each with a deadline; then separate causes from consequences."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from litellm_systemd.doctor.cause import Cause, DoctorCheck, Finding
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import InstallerError
from litellm_systemd.report.report import Outcome

#: Seconds for one check, and for all of them.
CHECK_TIMEOUT, TOTAL_TIMEOUT = 3.0, 4.5


@dataclass(frozen=True, slots=True)
class CheckRun:
    """The result of one check.

    `skip_reason` says why the check was not made or did not finish; empty if it finished. `details` are observations
    that are not problems.
    """

    cause: Cause
    findings: tuple[Finding, ...] = ()
    skip_reason: str = ""
    seconds: float = 0.0
    details: tuple[str, ...] = ()

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

    def _explained(self) -> Iterator[tuple[Finding, str]]:
        failed = {run.cause.id for run in self.runs if run.failed}
        for run in self.runs:
            cause = next((name for name in run.cause.caused_by if name in failed), "")
            yield from ((finding, cause) for finding in run.findings)


def run_checks(
    snapshot: Snapshot,
    checks: Iterable[DoctorCheck],
    *,
    check_timeout: float = CHECK_TIMEOUT,
    total_timeout: float = TOTAL_TIMEOUT,
) -> Diagnosis:
    """Run every check whose requirements are met, each in its own thread, for `total_timeout` seconds at most.

    A check that hangs is abandoned: its thread ends with the process.
    """
    order = tuple(checks)
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
                done[check.cause.id] = CheckRun(check.cause, skip_reason=skip_reason)
            else:
                running[check.cause.id] = check, min(time.monotonic() + check_timeout, end)
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
    try:
        for found in check.detect(snapshot):
            if isinstance(found, Finding):
                findings.append(found)
            else:
                details.append(found)
    except InstallerError as error:
        skip_reason = error.message
    except OSError as error:
        skip_reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    except Exception as error:  # one defective check must not stop the others
        skip_reason = f"this check has a defect: {type(error).__name__}: {error}"
    results.put(CheckRun(check.cause, tuple(findings), skip_reason, time.monotonic() - began, tuple(details)))


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
                done[name] = CheckRun(check.cause, skip_reason="the check did not finish in time")
