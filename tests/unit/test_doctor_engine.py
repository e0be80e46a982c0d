"""How checks are run, and how causes are told from consequences."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from litellm_systemd.commands.doctor import build_report
from litellm_systemd.contract import ExitCode
from litellm_systemd.doctor.cause import Cause, Finding, Probe
from litellm_systemd.doctor.docs_table import replace_tables
from litellm_systemd.doctor.engine import examine
from litellm_systemd.doctor.registry import PROBES
from litellm_systemd.doctor.remarks import find_remarks
from litellm_systemd.doctor.snapshot import Observed, Snapshot
from litellm_systemd.errors import InstallerError, PermissionDenied
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import Action, Record, Verb
from litellm_systemd.report.report import Outcome

SCENE = Snapshot(Layout())
PAGE = Path(__file__).resolve().parents[2] / "docs/troubleshooting.md"


def cause(
    name: str, outcome: Outcome = Outcome.FAILED, needs: tuple[str, ...] = (), follows: tuple[str, ...] = ()
) -> Cause:
    return Cause(name, "It is bad.", "mend {what}", outcome, needs=needs, follows=follows)


def bad(made: Cause) -> Probe:
    def look(_scene: Snapshot) -> Iterator[Finding]:
        yield made.found(f"{made.id} was seen", what=made.id)

    return Probe(made, look)


def good(made: Cause) -> Probe:
    return Probe(made, lambda _scene: iter(()))


def failing(made: Cause, error: Exception) -> Probe:
    def look(_scene: Snapshot) -> Iterator[Finding]:
        raise error
        yield

    return Probe(made, look)


def test_order() -> None:
    """Failures are told before warnings, and what lies further down before what rests on it."""
    probes = [bad(cause("a-1", Outcome.WARNING)), bad(cause("b-1")), bad(cause("c-1")), good(cause("d-1"))]
    found = examine(SCENE, probes).causes
    assert [finding.cause.id for finding in found] == ["b-1", "c-1", "a-1"]
    assert found[0].mend == "mend b-1"


def test_what_is_not_wrong() -> None:
    """What a check saw and isn't wrong is no finding: programs get it, and people aren't bothered."""
    made = cause("a-1")
    seen = Probe(made, lambda _scene: iter(("the service is a user",)))
    report = build_report(examine(SCENE, [seen]), ())
    assert (report.exit_code, report.checks) == (ExitCode.OK, ())
    (check,) = report.data["checks"]
    assert (check["outcome"], check["details"]) == ("ok", ["the service is a user"])


def test_what_a_failure_makes_moot_is_not_checked() -> None:
    """A check that needs what has failed isn't made, nor one that needs that check; both name the first failure."""
    probes = [
        bad(cause("dns-dead")),
        bad(cause("aws-identity", needs=("dns-dead",))),
        bad(cause("aws-model", needs=("aws-identity",))),
        bad(cause("disk-full", needs=("clock-off",))),
    ]
    diagnosis = examine(SCENE, probes)
    assert [finding.cause.id for finding in diagnosis.causes] == ["dns-dead", "disk-full"]
    assert {each.cause.id: each.because for each in diagnosis.unchecked} == {
        "aws-identity": "dns-dead has to be mended first",
        "aws-model": "dns-dead has to be mended first",
    }


def test_a_look_is_spared_only_by_what_was_found() -> None:
    """A check that another one spares is made where that one couldn't tell, and isn't where it has failed."""
    for first, made in ((bad(cause("aws-key")), False), (failing(cause("aws-key"), OSError("silence")), True)):
        model = bad(Cause("aws-model", "It is bad.", "mend {what}", spared_by=("aws-key",)))
        diagnosis = examine(SCENE, [first, model])
        assert ("aws-model" in [finding.cause.id for finding in diagnosis.causes]) is made
        assert [each.because for each in diagnosis.unchecked] == [
            "silence" if made else "aws-key has to be mended first"
        ]


def test_a_warning_makes_nothing_moot() -> None:
    """What needs a check that only warns is looked at all the same."""
    probes = [bad(cause("a-1", Outcome.WARNING)), bad(cause("b-1", needs=("a-1",), follows=("a-1",)))]
    diagnosis = examine(SCENE, probes)
    assert [finding.cause.id for finding in diagnosis.causes] == ["b-1", "a-1"]


def test_consequences_are_not_counted() -> None:
    """What follows from a failure is named beside it and is no cause; without that failure it is one."""
    symptom = bad(cause("service-down", follows=("config-typo",)))
    diagnosis = examine(SCENE, [symptom, bad(cause("config-typo"))])
    assert [finding.cause.id for finding in diagnosis.causes] == ["config-typo"]
    assert [(finding.cause.id, name) for finding, name in diagnosis.consequences] == [("service-down", "config-typo")]
    alone = examine(SCENE, [symptom, good(cause("config-typo"))])
    assert [finding.cause.id for finding in alone.causes] == ["service-down"]


def test_a_check_that_cannot_see_says_why() -> None:
    """An error of a check is the reason that it wasn't made, a defect of it too; the others are made."""
    probes = [
        failing(cause("a-1"), PermissionDenied("only root may look")),
        failing(cause("b-1"), FileNotFoundError(2, "No such file", "/x")),
        failing(cause("c-1"), KeyError("oops")),
        bad(cause("d-1")),
    ]
    diagnosis = examine(SCENE, probes)
    assert [each.because for each in diagnosis.unchecked] == [
        "only root may look",
        "/x: No such file",
        "a defect of this check: KeyError: 'oops'",
    ]
    assert [finding.cause.id for finding in diagnosis.causes] == ["d-1"]


class Clock:
    """Stands still until it is moved."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_check_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that doesn't come to an end is given up, and with it what needs it; all others are made."""
    clock, release = Clock(), threading.Event()
    monkeypatch.setattr("litellm_systemd.doctor.engine.time", clock)

    def hang(_scene: Snapshot) -> Iterator[Finding]:
        release.wait(60)
        return iter(())

    def let_time_pass(_scene: Snapshot) -> Iterator[Finding]:
        clock.now = 10.0
        return iter(())

    hanging = Probe(cause("a-1"), hang)
    # Time is over when the others are made, however long a busy machine takes for them.
    later = Probe(cause("d-1", needs=("c-1",)), let_time_pass)
    probes = [hanging, bad(cause("b-1", needs=("a-1",))), bad(cause("c-1", Outcome.WARNING)), later]
    diagnosis = examine(SCENE, probes, each=0.2, total=0.4)
    release.set()
    assert {each.cause.id: each.because for each in diagnosis.unchecked if each.cause.id != "d-1"} == {
        "a-1": "it didn't come to an end in time",
        "b-1": "it didn't come to an end in time",
    }
    assert [finding.cause.id for finding in diagnosis.causes] == ["c-1"]


def test_a_remark_that_hangs_is_left_out(tmp_path: Path) -> None:
    """What isn't wrong is told only if it is seen at once: a host whose systemd hangs has its report all the same."""
    snapshot, begun, release = Snapshot(Layout(root=tmp_path)), threading.Event(), threading.Event()

    def hang() -> dict[str, Record]:
        begun.set()
        release.wait(60)
        return {}

    threading.Thread(target=snapshot.once, args=("manifest", hang), daemon=True).start()
    begun.wait(60)
    assert find_remarks(snapshot, seconds=0.2) == ()
    release.set()


class Counting(Snapshot):
    """A snapshot that counts how often it is looked at."""

    def __init__(self) -> None:
        super().__init__(Layout())
        self.looks = 0

    @Observed
    def thing(self) -> str:
        """Something that can't be seen."""
        self.looks += 1
        raise InstallerError("it can't be seen")


def test_a_scene_is_looked_at_once() -> None:
    """However many checks ask for the same thing at once, it is observed once, and its error told to each."""
    snapshot = Counting()
    probes = [Probe(cause(f"a-{number}"), lambda seen: iter(seen.thing)) for number in range(20)]  # type: ignore[attr-defined]
    diagnosis = examine(snapshot, probes)
    assert {each.because for each in diagnosis.unchecked} == {"it can't be seen"}
    assert snapshot.looks == 1


# --- the report ---


def test_report() -> None:
    """A report has a line for each cause, one for each reason of not looking, and exit code 1 for a failure."""
    probes = [
        bad(cause("a-1")),
        *(bad(cause(f"b-{number}", needs=("a-1",))) for number in (1, 2)),
        bad(cause("c-1", follows=("a-1",))),
        bad(cause("d-1", Outcome.WARNING)),
    ]
    report = build_report(examine(SCENE, probes), ("By the way.",))
    assert [(check.name, check.outcome) for check in report.checks] == [
        ("a-1", Outcome.FAILED),
        ("d-1", Outcome.WARNING),
        ("not checked", Outcome.SKIPPED),
    ]
    assert report.checks[0].detail == "a-1 was seen\nIt is bad."
    assert report.checks[0].hint == "mend a-1\ndocs/troubleshooting.md#a-1"
    assert report.checks[2].detail == "a-1 has to be mended first: b-1, b-2"
    assert report.notes == ("Follows from a-1, and isn't counted: c-1.", "By the way.")
    assert report.title == "1 failure, 1 warning: 3 checks, 2 not made"
    assert report.exit_code is ExitCode.FAILED
    assert [each["outcome"] for each in report.data["checks"]] == [
        "failed",
        "skipped",
        "skipped",
        "failed",
        "warning",
    ]


def test_report_of_warnings_and_of_nothing() -> None:
    """Warnings alone leave the exit code 0, and so does a sound host, whose report has no line at all."""
    warned = build_report(examine(SCENE, [bad(cause("a-1", Outcome.WARNING))]), ())
    assert (warned.exit_code, warned.title) == (ExitCode.OK, "1 warning: 1 checks")
    sound = build_report(examine(SCENE, [good(cause("a-1"))]), ())
    assert (sound.exit_code, sound.checks, sound.title) == (ExitCode.OK, (), "nothing is wrong: 1 checks")


def test_report_of_what_was_mended() -> None:
    """What --fix has mended is told as done, and what is still there as a failure, not as both."""
    step = (Action(Verb.DAEMON_RELOAD, "systemd"),)
    mended = cause("a-1").found("seen", actions=step, what="a")
    stays = cause("b-1").found("b-1 was seen", actions=step, what="b-1")
    report = build_report(examine(SCENE, [good(cause("a-1")), bad(cause("b-1"))]), (), (mended, stays))
    assert [(check.name, check.outcome) for check in report.checks] == [
        ("a-1", Outcome.CHANGED),
        ("b-1", Outcome.FAILED),
    ]


# --- the definitions ---


def test_definitions_fit_together() -> None:
    """Each id is there once, each reference leads to a check, none goes in a circle, and there are about forty."""
    causes = {probe.cause.id: probe.cause for probe in PROBES}
    assert len(causes) == len(PROBES) >= 40
    for each in causes.values():
        assert {*each.needs, *each.spared_by, *each.follows} <= set(causes), each.id
        assert each.id not in (*each.needs, *each.spared_by, *each.follows)
        assert each.means.endswith("."), each.id
    waits = {name: {*each.needs, *each.spared_by} for name, each in causes.items()}
    assert list(TopologicalSorter(waits).static_order())


def test_documentation_is_made_from_the_definitions() -> None:
    """The tables in docs/troubleshooting.md are what `python -m litellm_systemd.doctor FILE` makes of the code."""
    text = PAGE.read_text(encoding="utf-8")
    assert replace_tables(text, (probe.cause for probe in PROBES)) == text
