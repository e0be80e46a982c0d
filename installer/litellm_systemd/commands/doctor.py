"""doctor: find problems, their causes and remedies; with `fix`, apply the safe fixes.

doctor --bundle: one archive for a bug report, without secrets.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from litellm_systemd import contract
from litellm_systemd.aws.client import load
from litellm_systemd.contract import ExitCode
from litellm_systemd.doctor.check_release import DAMAGED, damage_findings
from litellm_systemd.doctor.engine import CheckRun, Diagnosis, Finding, run_checks
from litellm_systemd.doctor.registry import CHECKS, collect_remarks
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.environment_file import parse_environment_file
from litellm_systemd.env.secrets import Scrubber, is_secret_variable
from litellm_systemd.errors import CannotCreate, InstallerError, MissingError
from litellm_systemd.host.effective import find_drop_ins, is_service_variable, read_environ
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import find_any_layout, observe_host, observe_releases, require_root
from litellm_systemd.host.state import Action, DesiredState, Plan, Running, Verb
from litellm_systemd.host.stored_secrets import with_stored_secrets
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.install.apply import Executor, Say, apply_install, changing, copy_name
from litellm_systemd.install.plan import in_order
from litellm_systemd.logs.events import message_text
from litellm_systemd.releases.integrity import verify_release
from litellm_systemd.releases.inventory import current_release
from litellm_systemd.releases.source import release_source
from litellm_systemd.report.report import Check, Outcome, Report, render_count
from litellm_systemd.user_files import require_output, write_output

#: At most this many checks that were skipped for the same reason are named to people; JSON lists all of them.
_NAMED = 5

#: The part of the journal: since when, and at most how many lines.
_SINCE, _LINES = "-2d", 5000
_NAME = "litellm-bug-report"


@dataclass(frozen=True, slots=True)
class _FixResult:
    """The findings that `--fix` acted on, and its error message; empty if there was none."""

    findings: tuple[Finding, ...] = ()
    error: str = ""


def doctor(*, fix: bool = False, say: Say = lambda _line: None) -> Report:
    """Check this host; with `fix`, apply the safe fixes and check again.

    The exit code is FAILED if there is a failure, NO_PERMISSION if there is none, but some checks need root or did
    not finish in time, otherwise OK.

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
        # What was fixed may show what it hid: with a new group, the files still have the old one.
        if result.findings and _has_new(diagnosis, result.findings):
            more = _fix(layout, diagnosis, say)
            result = _FixResult((*result.findings, *more.findings), more.error)
            snapshot = Snapshot(find_any_layout())
            diagnosis = run_checks(snapshot, CHECKS)
    return build_report(diagnosis, collect_remarks(snapshot), result.findings, result.error)


def _has_new(diagnosis: Diagnosis, fixed: tuple[Finding, ...]) -> bool:
    """Whether there is something to fix of another kind than before."""
    known = {finding.cause for finding in fixed}
    return any(_is_fixable(finding) and finding.cause not in known for finding in diagnosis.causes)


def _fix(layout: Layout, diagnosis: Diagnosis, say: Say) -> _FixResult:
    """Take the steps for all causes that have a safe fix, as one change: all of them or none.

    A damaged release is built again before. If that fails, as without a network, the other causes are fixed.
    """
    fixable = tuple(finding for finding in diagnosis.causes if _is_fixable(finding))
    if not fixable or any(run.cause is DAMAGED for run in diagnosis.unchecked):
        fixable = (*_unseen_damage(layout), *fixable)
    if not fixable:
        return _FixResult()
    for finding in fixable:
        say(f"{finding.cause.id}: {finding.evidence}")
        say(f"  --fix {finding.cause.fix}")
    fixed, errors = list[Finding](), list[str]()
    releases = tuple(finding for finding in fixable if finding.cause is DAMAGED)
    others = tuple(finding for finding in fixable if finding.cause is not DAMAGED)
    try:
        with changing(layout, "doctor --fix", say) as executor:
            for group in filter(None, (releases, others)):
                actions = (action for finding in group for action in finding.actions)
                try:
                    _apply(executor, tuple(action for action in actions if action.verb is not Verb.START))
                    fixed += group
                except InstallerError as failure:
                    errors.append(f"--fix failed: {failure.render()}")
            if fixed:
                errors += filter(None, (_restart_failed(executor),))
    except InstallerError as failure:
        errors.append(f"--fix failed: {failure.render()}")
    return _FixResult(tuple(fixed), " ".join(errors))


def _restart_failed(executor: Executor) -> str:
    """Start a service that had failed, now that what stopped it is fixed. Returns the error if it does not start.

    After the commit, since an undo would break again what was fixed. A service that the user stopped stays stopped.
    """
    systemctl = executor.systemctl
    if not executor.layout.is_host or not has_failed(systemctl.show(contract.SERVICE, *_STATE)):
        return ""
    executor.say(f"starting {contract.SERVICE}, which had failed")
    systemctl.reset_failed(contract.SOCKET)
    try:
        # A start would wait for the pause before the next automatic restart.
        systemctl.restart(contract.SERVICE)
    except InstallerError as error:
        return f"The fixes were made, but the service does not start: {error.render()}"
    return ""


def _unseen_damage(layout: Layout) -> tuple[Finding, ...]:
    """The damage of the release that shows in the content of files alone: to read all of it, a check has no time."""
    current = current_release(layout)
    if current in observe_releases(layout):
        with contextlib.suppress(InstallerError):  # no record, or no systemd
            is_active = Systemctl(layout).unit_state(contract.SERVICE).active == "active"
            return tuple(damage_findings(layout, current, verify_release(layout, current), is_active=is_active))
    return ()


_STATE = ("ActiveState", "SubState", "NRestarts", "UnitFileState", "InactiveExitTimestampMonotonic")


def has_failed(service: Mapping[str, str]) -> bool:
    """Whether a service failed, is in a loop of restarts, or could not be started at boot, by its properties."""
    state, sub_state = service.get("ActiveState"), service.get("SubState", "")
    in_loop = state == "activating" and ("auto-restart" in sub_state or service.get("NRestarts", "0") != "0")
    never = state == "inactive" and service.get("InactiveExitTimestampMonotonic") == "0"
    return state == "failed" or in_loop or (never and service.get("UnitFileState") == "enabled")


def _is_fixable(finding: Finding) -> bool:
    # `changing` itself rolls an interrupted change back and stops a standby that is left.
    return bool(finding.cause.fix and (finding.actions or finding.cause.id in ("files-unfinished", "unit-standby")))


def _apply(executor: Executor, actions: tuple[Action, ...]) -> None:
    layout = executor.layout
    host = observe_host(layout, executor.systemctl, (action.target for action in actions))
    current = current_release(layout) or ""
    desired = DesiredState(current, enabled=False, running=Running.UNTOUCHED)
    if any(action.verb is Verb.BUILD_RELEASE for action in actions):
        executor = replace(executor, source=release_source(layout, current))
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
        notes=(
            *([fix_error] if fix_error else []),
            *_consequences(diagnosis),
            *remarks,
            *_incomplete_notes(diagnosis),
        ),
        data={
            "findings": [_finding_data(finding) for finding in causes],
            "consequences": [{**_finding_data(finding), "of": cause} for finding, cause in diagnosis.consequences],
            "fixed": [_finding_data(finding) for finding in fixed],
            "checks": [_run_data(run) for run in diagnosis.runs],
            "remarks": list(remarks),
        },
        code=_incomplete_code(diagnosis),
    )


def _incomplete_code(diagnosis: Diagnosis) -> ExitCode | None:
    """None if the findings decide: nothing else was found, or all checks could be made."""
    is_failed = any(finding.outcome is Outcome.FAILED for finding in diagnosis.causes)
    return ExitCode.NO_PERMISSION if _is_incomplete(diagnosis) and not is_failed else None


def _is_incomplete(diagnosis: Diagnosis) -> bool:
    """Whether checks are missing that root can make, or that can finish the next time."""
    return bool(diagnosis.refused or diagnosis.late)


def _incomplete_notes(diagnosis: Diagnosis) -> Iterator[str]:
    if diagnosis.refused:
        number = render_count(len(diagnosis.refused), "check")
        yield f"Without root, {number} could not be made. Run: sudo litellmctl doctor"
    if diagnosis.late:
        number = render_count(len(diagnosis.late), "check")
        yield (
            f"{number} did not finish in time; the load of this host is {os.getloadavg()[0]:.0f}. Run it again: sudo"
            " litellmctl doctor"
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
    if _is_incomplete(diagnosis) and not found:
        return f"not all checks could be made: {made} found no problem, {skipped} skipped"
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


def learn_secrets(snapshot: Snapshot) -> Scrubber:
    """A scrubber that knows the secrets of the environment, of configurations, units, drop-ins and the main process.

    The journal of two days may also have secrets of other configurations, and of environments whose start failed. A
    file that can't be read is skipped.
    """
    scrubber, layout = Scrubber(), snapshot.layout
    environment = layout.real(layout.environment_file)
    failed = layout.real(layout.failed).glob(f"*/{copy_name(layout.environment_file)}")
    for path in (environment, *sorted(failed)):
        scrubber.learn_variables(parse_environment_file(_text(path)))
    with contextlib.suppress(InstallerError, OSError):
        scrubber.learn_variables(snapshot.environment)
        scrubber.learn_variables(with_stored_secrets(snapshot.environment, timeout=snapshot.optional_timeout))
    for path in _configurations(snapshot):
        scrubber.learn_yaml(_text(path))
    for path in unit_files(layout):
        scrubber.learn_unit(_text(path))
    # From no file of ours: an EnvironmentFile= of a drop-in, a file that was changed since the start.
    scrubber.learn_variables(_environment_of(snapshot))
    return scrubber


def unit_files(layout: Layout) -> tuple[Path, ...]:
    """The units, then their drop-ins from each folder that systemd reads."""
    metrics = (contract.METRICS_SOCKET,) if layout.real(layout.metrics_socket).exists() else ()
    units = (contract.SERVICE, contract.SOCKET, *metrics)
    paths = [layout.real(f"{layout.units}/{unit}") for unit in units]
    return (*paths, *(path for unit in units for path in find_drop_ins(layout, unit)))


def _configurations(snapshot: Snapshot) -> Iterator[Path]:
    layout = snapshot.layout
    yield layout.real(layout.config_link)
    with contextlib.suppress(InstallerError, OSError):
        yield from snapshot.gateway.other_files
    with contextlib.suppress(PermissionError):
        yield from sorted(path for path in layout.real(layout.configs).rglob("*") if path.is_file())


def _environment_of(snapshot: Snapshot) -> Mapping[str, str]:
    """The variables of the running main process."""
    try:
        found = read_environ(Path(f"/proc/{snapshot.service.get('MainPID', '0')}/environ"))
    except (InstallerError, OSError):
        return {}
    return {name: value for name, value in found.items() if is_service_variable(name)}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def require_place(path: Path) -> None:
    """Raise CannotCreate if the archive can't be written: before the host is examined or repaired, not after it."""
    if os.path.lexists(path):
        raise _exists(path)
    if not path.parent.is_dir():
        raise CannotCreate(f"{path}: there is no folder {path.parent}", "Create it first.")
    try:
        require_output(path)
    except OSError as error:
        raise CannotCreate(f"{path}: {error.strerror}", "Name another path.") from None


def _exists(path: Path) -> CannotCreate:
    return CannotCreate(f"{path} exists already", "Name another path, or remove it.")


def write_bundle(report: Report, path: Path) -> Report:
    """Write a diagnosis and its evidence to a tar.gz that only its owner can read; the report names it.

    Raises:
        CannotCreate: `path` exists already, or its folder does not exist or is not writable.
    """
    snapshot = Snapshot(find_any_layout())
    scrubber, parts, missing = learn_secrets(snapshot), dict[str, str](), list[str]()
    for name, find in (*_parts(snapshot, scrubber), ("findings.json", report.as_json)):
        try:
            parts[name] = find()
        except (InstallerError, OSError) as error:
            missing.append(f"{name}: {error}")
    parts["missing.txt"] = "".join(f"{line}\n" for line in missing)
    # A first round over all texts: a secret that is recognized in the last text may be in the first one.
    for text in parts.values():
        scrubber.scrub(text)
    _write(path, {name: scrubber.scrub(text) for name, text in parts.items()})
    note = (
        f"{path}: {len(parts)} files for a bug report, without the secrets that were recognized. Check it before you"
        " send it."
    )
    return replace(report, notes=(*report.notes, note))


def _write(path: Path, parts: dict[str, str]) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in sorted(parts.items()):
            content = text.encode()
            member = tarfile.TarInfo(f"{_NAME}/{name}")
            member.size, member.mode, member.mtime = len(content), 0o600, int(time.time())
            archive.addfile(member, io.BytesIO(content))
    try:
        write_output(path, packed.getvalue(), 0o600, replace=False)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise CannotCreate(f"{path}: {error.strerror}", "Name another path.") from None


def _parts(snapshot: Snapshot, scrubber: Scrubber) -> Iterator[tuple[str, Callable[[], str]]]:
    """Each file of the archive, and the function that returns its text."""
    config = snapshot.layout.real(snapshot.layout.config_link)
    yield "environment.txt", lambda: _environment(snapshot, scrubber)
    yield "config.yaml", lambda: config.read_text(encoding="utf-8", errors="replace")
    with contextlib.suppress(InstallerError, OSError):
        for path in snapshot.gateway.includes:
            yield f"included/{path.name}", partial(path.read_text, encoding="utf-8", errors="replace")
    yield "units.txt", lambda: _units(snapshot)
    yield "properties.json", lambda: _json(_properties(snapshot))
    yield "runtime.json", lambda: _json(snapshot.runtime)
    yield "versions.json", lambda: _json(_versions(snapshot))
    yield "files.txt", lambda: _files(snapshot)
    yield "journal.txt", lambda: _journal(snapshot)


def _properties(snapshot: Snapshot) -> Mapping[str, Mapping[str, str]]:
    found = {contract.SERVICE: snapshot.service, contract.SOCKET: snapshot.socket}
    if snapshot.unit(contract.METRICS_SOCKET).load == "loaded":
        found[contract.METRICS_SOCKET] = snapshot.metrics_socket
    return found


def _json(found: Any) -> str:
    return json.dumps(found, indent=1, ensure_ascii=False, default=str) + "\n"


def _environment(snapshot: Snapshot, scrubber: Scrubber) -> str:
    """The variables without secret values, those included that are too short to be searched for elsewhere."""
    rows = {
        name: scrubber.placeholder(value) if is_secret_variable(name, value) else value
        for name, value in snapshot.environment.items()
    }
    return "".join(f"{name}={value}\n" for name, value in rows.items())


def _units(snapshot: Snapshot) -> str:
    found = []
    for path in unit_files(snapshot.layout):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            text = f"{error.strerror}\n"
        found.append(f"# {path}\n{text}")
    return "\n".join(found)


def _versions(snapshot: Snapshot) -> dict[str, Any]:
    known: dict[str, Any] = {
        "litellmctl": version("litellm-systemd"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "release": current_release(snapshot.layout),
    }
    release = Path("/etc/os-release")
    known["system"] = release.read_text(encoding="utf-8").splitlines() if release.exists() else None
    packages = snapshot.layout.real(snapshot.layout.current).glob("lib/python*/site-packages/*.dist-info")
    known["packages"] = sorted(path.name.removesuffix(".dist-info") for path in packages)
    try:
        known["systemd"] = snapshot.systemctl.version()
    except InstallerError as error:
        known["systemd"] = error.message
    return known


def _files(snapshot: Snapshot) -> str:
    lines = []
    for path in sorted(snapshot.records):
        found = snapshot.file(path)
        state = f"{found.kind.value} {found.mode:04o} {found.owner}:{found.group}" if found else "gone"
        lines.append(f"{path}: {state}\n")
    return "".join(lines)


def _journal(snapshot: Snapshot) -> str:
    # PermissionDenied ends it: secrets that are not known can't be removed.
    with contextlib.suppress(MissingError):
        _ = snapshot.environment
    entries = snapshot.systemctl.entries(since=_SINCE, timeout=30).entries[-_LINES:]
    return "".join(
        f"{int(each.get('__REALTIME_TIMESTAMP', 0)) / 1e6:.6f} <{each.get('PRIORITY', '')}>"
        f" {each.get('SYSLOG_IDENTIFIER', '')}[{each.get('_PID', '')}]: {message_text(each.get('MESSAGE'))}\n"
        for each in entries
    )
