"""The report: its exit code and its JSON."""

from __future__ import annotations

import json

import pytest

from litellm_systemd.contract import ExitCode
from litellm_systemd.report.report import Check, Outcome, Report


def report(*outcomes: Outcome, code: ExitCode | None = None) -> Report:
    return Report("title", tuple(Check(f"check {n}", outcome) for n, outcome in enumerate(outcomes)), code=code)


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ((), ExitCode.OK),
        ((Outcome.OK, Outcome.CHANGED, Outcome.WARNING, Outcome.SKIPPED), ExitCode.OK),
        ((Outcome.OK, Outcome.FAILED, Outcome.SKIPPED), ExitCode.FAILED),
    ],
)
def test_only_a_failed_check_makes_a_report_fail(outcomes: tuple[Outcome, ...], code: ExitCode) -> None:
    """A warning or a skipped check alone leaves the exit code at 0."""
    assert report(*outcomes).exit_code is code


def test_explicit_code_wins() -> None:
    """An explicit exit code overrides the one that follows from the checks."""
    assert report(Outcome.OK, code=ExitCode.UNAVAILABLE).exit_code is ExitCode.UNAVAILABLE
    assert report(Outcome.FAILED, code=ExitCode.OK).exit_code is ExitCode.OK


@pytest.mark.parametrize(
    ("code", "ok"),
    [(ExitCode.OK, True), (ExitCode.CHANGES, True), (ExitCode.FAILED, False), (ExitCode.CONFIG, False)],
)
def test_planned_changes_are_not_a_failure(code: ExitCode, ok: bool) -> None:
    """`ok` is true for a dry run with planned changes, and false for a failed run."""
    assert report(code=code).as_dict()["ok"] is ok


def test_json_has_every_field_in_plain_types() -> None:
    """The JSON has the whole report, with outcomes as text, rounded times and unescaped characters."""
    made = Report(
        "prüft",
        (Check("a", Outcome.WARNING, "detail", "hint", 0.123456, {"tokens": 3}), Check("b", Outcome.SKIPPED)),
        notes=("note",),
        diffs=("-a",),
        data={"models": ["m"], "port": 4000},
    )
    assert "prüft" in made.as_json()
    assert json.loads(made.as_json()) == {
        "title": "prüft",
        "ok": True,
        "exit_code": 0,
        "checks": [
            {
                "name": "a",
                "outcome": "warning",
                "detail": "detail",
                "hint": "hint",
                "seconds": 0.1235,
                "data": {"tokens": 3},
            },
            {"name": "b", "outcome": "skipped", "detail": "", "hint": "", "seconds": None, "data": {}},
        ],
        "notes": ["note"],
        "diffs": ["-a"],
        "data": {"models": ["m"], "port": 4000},
    }
