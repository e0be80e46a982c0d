"""doctor: what is wrong, why, and what mends it; with `fix`, mend what can be mended without risk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from litellm_systemd.aws.client import load
from litellm_systemd.commands.transaction import Say, changing, require_root
from litellm_systemd.doctor.cause import Finding
from litellm_systemd.doctor.engine import CheckRun, Diagnosis, examine
from litellm_systemd.doctor.registry import PROBES
from litellm_systemd.doctor.remarks import find_remarks
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import InputError, InstallerError
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import find_layout, observe_host
from litellm_systemd.host.state import Action, DesiredState, Plan, Running
from litellm_systemd.install.apply import apply_install
from litellm_systemd.install.plan import in_order
from litellm_systemd.install.steps import Executor
from litellm_systemd.releases.inventory import current_release
from litellm_systemd.report.report import Check, Outcome, Report

#: So many checks that weren't made for the same reason are named to people; programs get all.
_NAMED = 5


@dataclass(frozen=True, slots=True)
class _Repaired:
    """What `--fix` has done, and what went wrong with it."""

    findings: tuple[Finding, ...] = ()
    trouble: str = ""


def doctor(*, fix: bool = False, say: Say = lambda _line: None) -> Report:
    """Examine this host; with `fix`, take the safe steps and examine it again.

    The exit code is FAILED if something is wrong, OK if there are warnings at most.

    Raises:
        PermissionDenied: `fix` is set, and this isn't root.
    """
    load()
    layout = find_any_layout()
    snapshot = Snapshot(layout)
    diagnosis, mended = examine(snapshot, PROBES), _Repaired()
    if fix:
        require_root("litellmctl doctor --fix")
        mended = _mend(layout, diagnosis, say)
        if mended.findings:
            snapshot = Snapshot(find_any_layout())
            diagnosis = examine(snapshot, PROBES)
    return build_report(diagnosis, find_remarks(snapshot), mended.findings, mended.trouble)


def find_any_layout() -> Layout:
    """The layout of the installation here; the default one where its manifest can't tell."""
    try:
        return find_layout(Path("/"), None)
    except InputError:
        return Layout()


def _mend(layout: Layout, diagnosis: Diagnosis, say: Say) -> _Repaired:
    """Take the steps of all causes that can be mended, as one change: all of them or none."""
    mendable = tuple(each for each in diagnosis.causes if each.cause.fix and (each.actions or _by_recovery(each)))
    if not mendable:
        return _Repaired()
    for finding in mendable:
        say(f"{finding.cause.id}: {finding.seen}")
        say(f"  --fix {finding.cause.fix}")
    try:
        with changing(layout, "doctor --fix", say) as executor:
            _apply(executor, tuple(action for finding in mendable for action in finding.actions))
    except InstallerError as error:
        return _Repaired(trouble=f"--fix failed: {error.message}. {error.hint}")
    return _Repaired(mendable)


def _by_recovery(finding: Finding) -> bool:
    """Whether taking the lock is all that mends it: what was cut short is put right then."""
    return finding.cause.id == "files-unfinished"


def _apply(executor: Executor, actions: tuple[Action, ...]) -> None:
    layout = executor.layout
    host = observe_host(layout, executor.systemctl, (action.target for action in actions))
    desired = DesiredState(current_release(layout) or "", enabled=False, running=Running.UNTOUCHED)
    apply_install(executor, Plan(in_order(layout, dict.fromkeys(actions))), desired, host)


def build_report(
    diagnosis: Diagnosis, remarks: tuple[str, ...], mended: tuple[Finding, ...] = (), trouble: str = ""
) -> Report:
    """The report of a diagnosis: what was mended, causes, checks that weren't made, and what follows from what."""
    causes = diagnosis.causes
    left = {(each.cause.id, each.seen) for each in causes}
    fixed = tuple(each for each in mended if (each.cause.id, each.seen) not in left)
    checks = (
        *(Check(each.cause.id, Outcome.CHANGED, f"mended: {each.seen}") for each in fixed),
        *(Check(each.cause.id, each.outcome, f"{each.seen}\n{each.cause.means}", _hint(each)) for each in causes),
        *_unchecked(diagnosis.unchecked),
    )
    return Report(
        _title(diagnosis),
        checks,
        notes=(*([trouble] if trouble else []), *_following(diagnosis), *remarks),
        data={
            "findings": [_finding(each) for each in causes],
            "consequences": [{**_finding(each), "of": cause} for each, cause in diagnosis.consequences],
            "fixed": [_finding(each) for each in fixed],
            "checks": [_examined(each) for each in diagnosis.examined],
            "remarks": list(remarks),
        },
    )


def _hint(finding: Finding) -> str:
    does_it = finding.cause.fix and finding.actions and "--fix" not in finding.mend
    fix = "\nor: sudo litellmctl doctor --fix" if does_it else ""
    return f"{finding.mend}{fix}\n{finding.cause.link}"


def _unchecked(examined: Iterable[CheckRun]) -> Iterable[Check]:
    """A line for each reason, not for each check."""
    rows = sorted(examined, key=lambda each: each.because)
    for because, group in groupby(rows, lambda each: each.because):
        names = [each.cause.id for each in group]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield Check("not checked", Outcome.SKIPPED, f"{because}: {', '.join(names[:_NAMED])}{more}")


def _following(diagnosis: Diagnosis) -> Iterable[str]:
    rows = sorted(diagnosis.consequences, key=lambda pair: pair[1])
    for cause, group in groupby(rows, lambda pair: pair[1]):
        names = dict.fromkeys(finding.cause.id for finding, _ in group)
        yield f"Follows from {cause}, and isn't counted: {', '.join(names)}."


def _title(diagnosis: Diagnosis) -> str:
    made = len(diagnosis.examined) - len(diagnosis.unchecked)
    failures = sum(each.outcome is Outcome.FAILED for each in diagnosis.causes)
    warnings = len(diagnosis.causes) - failures
    found = ", ".join(
        f"{number} {noun}{'s' if number > 1 else ''}"
        for number, noun in ((failures, "failure"), (warnings, "warning"))
        if number
    )
    left_out = f", {len(diagnosis.unchecked)} not made" if diagnosis.unchecked else ""
    return f"{found or 'nothing is wrong'}: {made} checks{left_out}"


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.cause.id,
        "group": finding.cause.group,
        "outcome": finding.outcome.value,
        "seen": finding.seen,
        "means": finding.cause.means,
        "mend": finding.mend,
        "fixable": bool(finding.cause.fix and (finding.actions or _by_recovery(finding))),
        "docs": finding.cause.link,
    }


def _examined(examined: CheckRun) -> dict[str, Any]:
    outcomes = {finding.outcome for finding in examined.findings}
    worst = next((each for each in (Outcome.FAILED, Outcome.WARNING) if each in outcomes), Outcome.OK)
    return {
        "id": examined.cause.id,
        "group": examined.cause.group,
        "outcome": Outcome.SKIPPED.value if examined.because and worst is Outcome.OK else worst.value,
        "because": examined.because,
        "details": list(examined.details),
        "seconds": round(examined.seconds, 3),
    }
