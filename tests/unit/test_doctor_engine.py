"""How doctor runs checks, separates causes from consequences, and reports them."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from litellm_systemd.command import TIMED_OUT
from litellm_systemd.commands.doctor import build_report
from litellm_systemd.contract import ExitCode
from litellm_systemd.doctor.__main__ import replace_tables
from litellm_systemd.doctor.engine import Cause, Diagnosis, DoctorCheck, Finding, run_checks
from litellm_systemd.doctor.registry import CHECKS, collect_remarks
from litellm_systemd.doctor.snapshot import ObservedOnce, Snapshot
from litellm_systemd.errors import CommandError, InstallerError, PermissionDenied
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import Action, Record, Verb
from litellm_systemd.report.report import Outcome

SNAPSHOT = Snapshot(Layout())
PAGE = Path(__file__).resolve().parents[2] / "docs/troubleshooting.md"


def cause(
    name: str, outcome: Outcome = Outcome.FAILED, requires: tuple[str, ...] = (), caused_by: tuple[str, ...] = ()
) -> Cause:
    return Cause(name, "It is broken.", "fix {what}", outcome, requires=requires, caused_by=caused_by)


def failing(made: Cause) -> DoctorCheck:
    def detect(_snapshot: Snapshot) -> Iterator[Finding]:
        yield made.finding(f"evidence of {made.id}", what=made.id)

    return DoctorCheck(made, detect)


def passing(made: Cause) -> DoctorCheck:
    return DoctorCheck(made, lambda _snapshot: iter(()))


def raising(made: Cause, error: Exception) -> DoctorCheck:
    def detect(_snapshot: Snapshot) -> Iterator[Finding]:
        raise error
        yield

    return DoctorCheck(made, detect)


def cause_ids(diagnosis: Diagnosis) -> list[str]:
    return [finding.cause.id for finding in diagnosis.causes]


def skip_reasons(diagnosis: Diagnosis) -> dict[str, str]:
    return {run.cause.id: run.skip_reason for run in diagnosis.unchecked}


def test_causes_are_ordered_by_severity_then_by_check() -> None:
    """Failures come before warnings; otherwise findings have the order of the checks."""
    checks = [failing(cause("a-1", Outcome.WARNING)), failing(cause("b-1")), failing(cause("c-1"))]
    diagnosis = run_checks(SNAPSHOT, [*checks, passing(cause("d-1"))])
    assert cause_ids(diagnosis) == ["b-1", "c-1", "a-1"]
    assert diagnosis.causes[0].remedy == "fix b-1"


@pytest.mark.parametrize(("load", "found"), [(0, []), (1000, ["a-1"])])
def test_checks_may_take_longer_on_a_busy_host(
    load: float, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy host a check has five times as long, so that the cause is found before its consequences."""
    slow, release = cause("a-1"), threading.Event()

    def detect(_snapshot: Snapshot) -> Iterator[Finding]:
        # Longer than its time on an idle host, and there it does not end before the report.
        release.wait(0.4 if load else 60)
        yield slow.finding("late", what="it")

    monkeypatch.setattr("os.getloadavg", lambda: (load, load, load))
    diagnosis = run_checks(Snapshot(Layout()), [DoctorCheck(slow, detect)], check_timeout=0.2, total_timeout=60)
    release.set()
    assert cause_ids(diagnosis) == found


def test_an_observation_is_not_a_finding() -> None:
    """Observations of a check that are not problems appear in the JSON report only."""
    check = DoctorCheck(cause("a-1"), lambda _snapshot: iter(("the service is a user",)))
    report = build_report(run_checks(SNAPSHOT, [check]), ())
    assert (report.exit_code, report.checks) == (ExitCode.OK, ())
    (data,) = report.data["checks"]
    assert (data["outcome"], data["details"]) == ("ok", ["the service is a user"])


def test_a_check_is_skipped_if_a_requirement_failed() -> None:
    """A check that requires a failed one is skipped, and so is one that requires the skipped one; both name the
    failure.
    """
    checks = [
        failing(cause("dns-dead")),
        failing(cause("aws-identity", requires=("dns-dead",))),
        failing(cause("aws-model", requires=("aws-identity",))),
        failing(cause("disk-full", requires=("clock-off",))),
    ]
    diagnosis = run_checks(SNAPSHOT, checks)
    assert cause_ids(diagnosis) == ["dns-dead", "disk-full"]
    assert skip_reasons(diagnosis) == {
        "aws-identity": "dns-dead must be fixed first",
        "aws-model": "dns-dead must be fixed first",
    }


def test_skipped_if_applies_to_failures_only() -> None:
    """A check with `skipped_if` is skipped if that cause is found, and made if that cause could not be checked."""
    for first, is_made in ((failing(cause("aws-key")), False), (raising(cause("aws-key"), OSError("silence")), True)):
        model = failing(Cause("aws-model", "It is broken.", "fix {what}", skipped_if=("aws-key",)))
        diagnosis = run_checks(SNAPSHOT, [first, model])
        assert ("aws-model" in cause_ids(diagnosis)) is is_made
        assert list(skip_reasons(diagnosis).values()) == ["silence" if is_made else "aws-key must be fixed first"]


def test_a_warning_skips_no_check() -> None:
    """A check that requires one that only warns is made, and its finding is a cause of its own."""
    checks = [failing(cause("a-1", Outcome.WARNING)), failing(cause("b-1", requires=("a-1",), caused_by=("a-1",)))]
    assert cause_ids(run_checks(SNAPSHOT, checks)) == ["b-1", "a-1"]


def test_two_warnings_about_one_problem() -> None:
    """A warning that another one explains is its consequence if both are about the same problem, and only then."""

    def about(made: Cause, *subjects: str) -> DoctorCheck:
        return DoctorCheck(made, lambda _: (made.finding("e", what="w", subject=each) for each in subjects))

    now = about(cause("aws-now", Outcome.WARNING), "throttled", "")
    log = about(cause("journal-aws", Outcome.WARNING, caused_by=("aws-now",)), "throttled", "denied", "")
    other = about(cause("other-log", Outcome.WARNING), "throttled")
    diagnosis = run_checks(SNAPSHOT, (now, log, other))
    assert [(found.subject, name) for found, name in diagnosis.consequences] == [("throttled", "aws-now")]
    assert cause_ids(diagnosis) == ["aws-now", "aws-now", "journal-aws", "journal-aws", "other-log"]


def test_a_failure_explains_what_repeats_it() -> None:
    """A failure explains the findings of a check that repeat it, those about the same problem, and no others."""
    refused, repeats = cause("aws-refused"), replace(cause("config-doubt"), repeats=("aws-refused",))
    failed = DoctorCheck(refused, lambda _: iter([refused.finding("e", what="w", subject="unknown")]))
    doubt = DoctorCheck(
        repeats, lambda _: (repeats.finding("e", what="w", subject=each) for each in ("unknown", "old", ""))
    )
    diagnosis = run_checks(SNAPSHOT, (failed, doubt))
    assert [(found.subject, name) for found, name in diagnosis.consequences] == [("unknown", "aws-refused")]
    assert cause_ids(diagnosis) == ["aws-refused", "config-doubt", "config-doubt"]


def test_consequences_are_not_causes() -> None:
    """A finding that a failure explains is a consequence; without that failure it is a cause."""
    symptom = failing(cause("service-down", caused_by=("config-typo",)))
    diagnosis = run_checks(SNAPSHOT, [symptom, failing(cause("config-typo"))])
    assert cause_ids(diagnosis) == ["config-typo"]
    assert [(finding.cause.id, name) for finding, name in diagnosis.consequences] == [("service-down", "config-typo")]
    assert cause_ids(run_checks(SNAPSHOT, [symptom, passing(cause("config-typo"))])) == ["service-down"]


def test_a_consequence_of_a_consequence_has_the_first_cause() -> None:
    """Of a chain of failures only the first is a cause, and the others are reported under it."""
    chain = (cause("a-1"), cause("b-1", caused_by=("a-1",)), cause("c-1", caused_by=("b-1",)))
    diagnosis = run_checks(SNAPSHOT, [failing(each) for each in chain])
    assert cause_ids(diagnosis) == ["a-1"]
    assert [(finding.cause.id, name) for finding, name in diagnosis.consequences] == [("b-1", "a-1"), ("c-1", "a-1")]


def test_an_error_of_a_check_is_its_skip_reason() -> None:
    """A check that raises, even by a defect of its own, is reported as not checked; the others are made."""
    checks = [
        raising(cause("a-1"), PermissionDenied("only root can look")),
        raising(cause("b-1"), FileNotFoundError(2, "No such file", "/x")),
        raising(cause("c-1"), KeyError("oops")),
        failing(cause("d-1")),
    ]
    diagnosis = run_checks(SNAPSHOT, checks)
    assert list(skip_reasons(diagnosis).values()) == [
        "only root can look",
        "/x: No such file",
        "this check has a defect: KeyError: 'oops'",
    ]
    assert cause_ids(diagnosis) == ["d-1"]


class Clock:
    """A clock that moves only when it is set."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_check_that_hangs_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that does not finish is abandoned, and checks that require it are skipped; all others are made."""
    clock, release = Clock(), threading.Event()
    monkeypatch.setattr("litellm_systemd.doctor.engine.time", clock)

    def hang(_snapshot: Snapshot) -> Iterator[Finding]:
        release.wait(60)
        return iter(())

    def let_time_pass(_snapshot: Snapshot) -> Iterator[Finding]:
        clock.now = 10.0
        return iter(())

    hanging = DoctorCheck(cause("a-1"), hang)
    # The time is over once the other checks are made, however long a busy machine takes for them.
    later = DoctorCheck(cause("d-1", requires=("c-1",)), let_time_pass)
    checks = [hanging, failing(cause("b-1", requires=("a-1",))), failing(cause("c-1", Outcome.WARNING)), later]
    diagnosis = run_checks(SNAPSHOT, checks, check_timeout=0.2, total_timeout=0.4)
    release.set()
    reasons = skip_reasons(diagnosis)
    reasons.pop("d-1", None)
    assert reasons == {"a-1": "the check did not finish in time", "b-1": "the check did not finish in time"}
    assert cause_ids(diagnosis) == ["c-1"]


def test_a_remark_that_hangs_is_left_out(tmp_path: Path) -> None:
    """A host whose systemd hangs gets its report without the remarks that would have to wait for it."""
    snapshot, begun, release = Snapshot(Layout(root=tmp_path)), threading.Event(), threading.Event()

    def hang() -> dict[str, Record]:
        begun.set()
        release.wait(60)
        return {}

    threading.Thread(target=snapshot.cached, args=("manifest", hang), daemon=True).start()
    begun.wait(60)
    assert collect_remarks(snapshot, seconds=0.2) == ()
    release.set()


class CountingSnapshot(Snapshot):
    """A snapshot that counts how often it observes one of its properties."""

    def __init__(self) -> None:
        super().__init__(Layout())
        self.observations = 0

    @ObservedOnce
    def thing(self) -> str:
        """A property that cannot be observed."""
        self.observations += 1
        raise InstallerError("it is unavailable")


def test_a_property_is_observed_once() -> None:
    """However many checks read a property in parallel, it is observed once, and its error is raised in each."""
    snapshot = CountingSnapshot()
    checks = [
        DoctorCheck(cause(f"a-{number}"), lambda given: iter(given.thing))  # type: ignore[attr-defined]
        for number in range(20)
    ]
    diagnosis = run_checks(snapshot, checks)
    assert set(skip_reasons(diagnosis).values()) == {"it is unavailable"}
    assert snapshot.observations == 1


# --- the report ---


def test_report() -> None:
    """The report has one line for each cause and one for each skip reason, and exit code 1 for a failure."""
    checks = [
        failing(cause("a-1")),
        *(failing(cause(f"b-{number}", requires=("a-1",))) for number in (1, 2)),
        failing(cause("c-1", caused_by=("a-1",))),
        failing(cause("d-1", Outcome.WARNING)),
    ]
    report = build_report(run_checks(SNAPSHOT, checks), ("By the way.",))
    assert [(check.name, check.outcome) for check in report.checks] == [
        ("a-1", Outcome.FAILED),
        ("d-1", Outcome.WARNING),
        ("not checked", Outcome.SKIPPED),
    ]
    assert report.checks[0].detail == "evidence of a-1\nIt is broken."
    assert report.checks[0].hint == "fix a-1\ndocs/troubleshooting.md#a-1"
    assert report.checks[2].detail == "a-1 must be fixed first: b-1, b-2"
    assert report.notes == ("Caused by a-1 and not counted: c-1.", "By the way.")
    assert report.title == "1 failure, 1 warning: 3 checks, 2 skipped"
    assert report.exit_code is ExitCode.FAILED
    outcomes = ["failed", "skipped", "skipped", "failed", "warning"]
    assert [data["outcome"] for data in report.data["checks"]] == outcomes


def test_warnings_do_not_change_the_exit_code() -> None:
    """With warnings only, the exit code is 0, as for a healthy host, whose report has no line at all."""
    warned = build_report(run_checks(SNAPSHOT, [failing(cause("a-1", Outcome.WARNING))]), ())
    assert (warned.exit_code, warned.title) == (ExitCode.OK, "1 warning: 1 check")
    healthy = build_report(run_checks(SNAPSHOT, [passing(cause("a-1"))]), ())
    assert (healthy.exit_code, healthy.checks, healthy.title) == (ExitCode.OK, (), "no problems found: 1 check")


def test_checks_that_this_user_may_not_make() -> None:
    """Without root, a host is not reported as healthy: the exit code is 77 and a note says what to run."""
    refused = raising(cause("b-1"), PermissionDenied("only root can read it"))
    follows = passing(cause("c-1", requires=("b-1",)))
    report = build_report(run_checks(SNAPSHOT, [passing(cause("a-1")), refused, follows]), ())
    assert report.exit_code is ExitCode.NO_PERMISSION
    assert report.notes == ("Without root, 2 checks could not be made. Run: sudo litellmctl doctor",)
    assert report.title == "not all checks could be made: 1 check found no problem, 2 skipped"
    failed = build_report(run_checks(SNAPSHOT, [failing(cause("a-1")), refused]), ())
    assert failed.exit_code is ExitCode.FAILED


@pytest.mark.parametrize("how", ["check", "program"])
def test_checks_that_do_not_finish_in_time(how: str) -> None:
    """If a check, or a program that it runs, takes too long, a host is not reported as healthy: the exit code is 77,
    and a note says to run it again. A failure that was found decides nevertheless.
    """
    release = threading.Event()

    def hang(_snapshot: Snapshot) -> Iterator[Finding]:
        release.wait(60)
        yield from ()

    late = raising(cause("b-1"), CommandError(("sleep", "9"), TIMED_OUT, "it did not exit within 1 s"))
    if how == "check":
        late = DoctorCheck(cause("b-1"), hang, timeout=0.01)
    follows = passing(cause("c-1", requires=("b-1",)))
    try:
        report = build_report(run_checks(SNAPSHOT, [passing(cause("a-1")), late, follows]), ())
        failed = build_report(run_checks(SNAPSHOT, [failing(cause("a-1")), late]), ())
    finally:
        release.set()
    assert report.title == "not all checks could be made: 1 check found no problem, 2 skipped"
    (note,) = report.notes
    assert re.fullmatch(r"2 checks did not finish in time; .* load .* Run it again: sudo litellmctl doctor", note)
    assert (report.exit_code, failed.exit_code) == (ExitCode.NO_PERMISSION, ExitCode.FAILED)
    other = raising(cause("b-1"), CommandError(("false",), 1, "it failed"))
    assert build_report(run_checks(SNAPSHOT, [other]), ()).exit_code is ExitCode.OK


def test_the_json_keys_of_a_finding_are_stable() -> None:
    """Programs that read `doctor --json` find the same keys in every release."""
    report = build_report(run_checks(SNAPSHOT, [failing(cause("a-1"))]), ())
    (finding,) = report.data["findings"]
    assert finding.keys() == {"id", "group", "outcome", "seen", "means", "mend", "fixable", "docs"}
    assert (finding["seen"], finding["means"], finding["mend"]) == ("evidence of a-1", "It is broken.", "fix a-1")
    (check,) = report.data["checks"]
    assert check.keys() == {"id", "group", "outcome", "because", "details", "seconds"}


def test_report_of_fixed_causes() -> None:
    """A cause that `--fix` has fixed is reported as changed; one that is still there as a failure, not as both."""
    step = (Action(Verb.DAEMON_RELOAD, "systemd"),)
    fixed = cause("a-1").finding("evidence", actions=step, what="a")
    remaining = cause("b-1").finding("evidence of b-1", actions=step, what="b-1")
    diagnosis = run_checks(SNAPSHOT, [passing(cause("a-1")), failing(cause("b-1"))])
    report = build_report(diagnosis, (), (fixed, remaining))
    assert [(check.name, check.outcome) for check in report.checks] == [
        ("a-1", Outcome.CHANGED),
        ("b-1", Outcome.FAILED),
    ]


# --- the definitions ---


def test_definitions_are_consistent() -> None:
    """Each id is defined once, each reference names a check, no reference is circular, and there are at least 40."""
    causes = {check.cause.id: check.cause for check in CHECKS}
    assert len(causes) == len(CHECKS) >= 40
    for each in causes.values():
        assert {*each.requires, *each.skipped_if, *each.caused_by, *each.repeats} <= set(causes), each.id
        assert each.id not in (*each.requires, *each.skipped_if, *each.caused_by)
        assert each.explanation.endswith("."), each.id
    dependencies = {name: {*each.requires, *each.skipped_if} for name, each in causes.items()}
    assert list(TopologicalSorter(dependencies).static_order())


def test_documentation_is_generated_from_the_definitions() -> None:
    """The tables in docs/troubleshooting.md are the output of `python -m litellm_systemd.doctor FILE`."""
    text = PAGE.read_text(encoding="utf-8")
    assert replace_tables(text, (check.cause for check in CHECKS)) == text
