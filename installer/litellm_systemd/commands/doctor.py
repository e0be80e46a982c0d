"""doctor: find problems, their causes and remedies; with `fix`, apply the safe fixes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from litellm_systemd.aws.client import load
from litellm_systemd.doctor.engine import CheckRun, Diagnosis, Finding, run_checks
from litellm_systemd.doctor.registry import CHECKS, collect_remarks
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import InputError, InstallerError
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import find_layout, observe_host, require_root
from litellm_systemd.host.state import Action, DesiredState, Plan, Running
from litellm_systemd.install.apply import Executor, Say, apply_install, changing
from litellm_systemd.install.plan import in_order
from litellm_systemd.releases.inventory import current_release
from litellm_systemd.report.report import Check, Outcome, Report, render_count

#: At most this many checks that were skipped for the same reason are named to people; JSON lists all of them.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class _FixResult:
    """The findings that `--fix` acted on, and its error message; empty if there was none."""

    findings: tuple[Finding, ...] = ()
    error: str = ""


def doctor(*, fix: bool = False, say: Say = lambda _line: None) -> Report:
    """Check this host; with `fix`, apply the safe fixes and check again.

    The exit code is FAILED if there is a failure, OK if there are only warnings or nothing.

    Raises:
        PermissionDenied: `fix` is set and this process is not root.
    """
    load()
    layout = find_any_layout()
    snapshot = Snapshot(layout)
    diagnosis, result = run_checks(snapshot, CHECKS), _FixResult()
    if fix:
        require_root("litellmctl doctor --fix")
        result = _fix(layout, diagnosis, say)
        if result.findings:
            snapshot = Snapshot(find_any_layout())
            diagnosis = run_checks(snapshot, CHECKS)
    return build_report(diagnosis, collect_remarks(snapshot), result.findings, result.error)


def find_any_layout() -> Layout:
    """The layout of the installation; the default layout if its manifest cannot be read."""
    try:
        return find_layout(Path("/"), None)
    except InputError:
        return Layout()


def _fix(layout: Layout, diagnosis: Diagnosis, say: Say) -> _FixResult:
    """Take the steps for all causes that have a safe fix, as one change: all of them or none."""
    fixable = tuple(finding for finding in diagnosis.causes if _is_fixable(finding))
    if not fixable:
        return _FixResult()
    for finding in fixable:
        say(f"{finding.cause.id}: {finding.evidence}")
        say(f"  --fix {finding.cause.fix}")
    try:
        with changing(layout, "doctor --fix", say) as executor:
            _apply(executor, tuple(action for finding in fixable for action in finding.actions))
    except InstallerError as error:
        return _FixResult(error=f"--fix failed: {error.message}. {error.hint}")
    return _FixResult(fixable)


def _is_fixable(finding: Finding) -> bool:
    # Taking the install lock rolls an interrupted change back, so that fix needs no action of its own.
    return bool(finding.cause.fix and (finding.actions or finding.cause.id == "files-unfinished"))


def _apply(executor: Executor, actions: tuple[Action, ...]) -> None:
    layout = executor.layout
    host = observe_host(layout, executor.systemctl, (action.target for action in actions))
    desired = DesiredState(current_release(layout) or "", enabled=False, running=Running.UNTOUCHED)
    apply_install(executor, Plan(in_order(layout, dict.fromkeys(actions))), desired, host)


def build_report(
    diagnosis: Diagnosis, remarks: tuple[str, ...], fixed: tuple[Finding, ...] = (), fix_error: str = ""
) -> Report:
    """The report of a diagnosis: what was fixed, causes, skipped checks, and consequences.

    `fixed` are the findings that `--fix` acted on; those that are still there are reported as causes.
    """
    causes = diagnosis.causes
    remaining = {(finding.cause.id, finding.evidence) for finding in causes}
    fixed = tuple(finding for finding in fixed if (finding.cause.id, finding.evidence) not in remaining)
    checks = (
        *(Check(finding.cause.id, Outcome.CHANGED, f"fixed: {finding.evidence}") for finding in fixed),
        *(Check(each.cause.id, each.outcome, _detail(each), _hint(each)) for each in causes),
        *_skipped(diagnosis.unchecked),
    )
    return Report(
        _title(diagnosis),
        checks,
        notes=(*([fix_error] if fix_error else []), *_consequences(diagnosis), *remarks),
        data={
            "findings": [_finding_data(finding) for finding in causes],
            "consequences": [{**_finding_data(finding), "of": cause} for finding, cause in diagnosis.consequences],
            "fixed": [_finding_data(finding) for finding in fixed],
            "checks": [_run_data(run) for run in diagnosis.runs],
            "remarks": list(remarks),
        },
    )


def _detail(finding: Finding) -> str:
    return f"{finding.evidence}\n{finding.cause.explanation}"


def _hint(finding: Finding) -> str:
    offers_fix = finding.cause.fix and finding.actions and "--fix" not in finding.remedy
    fix = "\nor: sudo litellmctl doctor --fix" if offers_fix else ""
    return f"{finding.remedy}{fix}\n{finding.cause.link}"


def _skipped(runs: Iterable[CheckRun]) -> Iterable[Check]:
    """One line for each reason, not one for each check."""
    rows = sorted(runs, key=lambda run: run.skip_reason)
    for skip_reason, group in groupby(rows, lambda run: run.skip_reason):
        names = [run.cause.id for run in group]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield Check("not checked", Outcome.SKIPPED, f"{skip_reason}: {', '.join(names[:_NAMED])}{more}")


def _consequences(diagnosis: Diagnosis) -> Iterable[str]:
    rows = sorted(diagnosis.consequences, key=lambda pair: pair[1])
    for cause, group in groupby(rows, lambda pair: pair[1]):
        names = dict.fromkeys(finding.cause.id for finding, _ in group)
        yield f"Caused by {cause} and not counted: {', '.join(names)}."


def _title(diagnosis: Diagnosis) -> str:
    failures = sum(finding.outcome is Outcome.FAILED for finding in diagnosis.causes)
    warnings = len(diagnosis.causes) - failures
    found = ", ".join(
        render_count(number, noun) for number, noun in ((failures, "failure"), (warnings, "warning")) if number
    )
    skipped = len(diagnosis.unchecked)
    made = render_count(len(diagnosis.runs) - skipped, "check")
    return f"{found or 'no problems found'}: {made}" + (f", {skipped} skipped" if skipped else "")


def _finding_data(finding: Finding) -> dict[str, Any]:
    """The finding for programs. Its keys are public and keep their names."""
    return {
        "id": finding.cause.id,
        "group": finding.cause.group,
        "outcome": finding.outcome.value,
        "seen": finding.evidence,
        "means": finding.cause.explanation,
        "mend": finding.remedy,
        "fixable": _is_fixable(finding),
        "docs": finding.cause.link,
    }


def _run_data(run: CheckRun) -> dict[str, Any]:
    """The check for programs. Its keys are public and keep their names."""
    outcomes = {finding.outcome for finding in run.findings}
    worst = next((each for each in (Outcome.FAILED, Outcome.WARNING) if each in outcomes), Outcome.OK)
    return {
        "id": run.cause.id,
        "group": run.cause.group,
        "outcome": Outcome.SKIPPED.value if run.skip_reason and worst is Outcome.OK else worst.value,
        "because": run.skip_reason,
        "details": list(run.details),
        "seconds": round(run.seconds, 3),
    }
