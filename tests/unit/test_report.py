"""The report: its exit code and its JSON."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from litellm_systemd.contract import ExitCode
from litellm_systemd.report.display import render_tables
from litellm_systemd.report.report import Check, Outcome, Report, Table


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


WIDE = Report(
    "title",
    (
        Check("a check with a long name", Outcome.FAILED, "what-it-found/" * 6, "and [what] to do", 0.0123),
        Check("b", Outcome.SKIPPED),
    ),
    facts=(("a-model-with-a-name-of-forty-one-letters", "its target, then another one"), ("b", "c")),
    table=Table(("MODEL", "REGION", "LIFECYCLE"), (("sonnet\n  us.anthropic.claude-sonnet", "us-east-1", "no end"),)),
)


@pytest.mark.parametrize("columns", ["20", "33", "40", "60", "80", "120", "200"])
def test_nothing_is_cut_at_any_width(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few columns, the cells of a row are below each other: no text is cut, and no line is wider."""
    monkeypatch.setenv("COLUMNS", columns)
    text = render_tables(WIDE)
    assert max(map(len, text.splitlines())) <= int(columns)
    cells = ["FAILED", "-", "12 ms", *(part for fact in WIDE.facts for part in fact)]
    cells += [part for check in WIDE.checks for part in (check.name, check.detail, check.hint)]
    cells += [*WIDE.table.columns, *WIDE.table.rows[0]] if WIDE.table else []
    # Cells of a row are next to each other or below each other, and then the first column needs no name.
    before, shown = Counter("".join("".join(cells).split())), Counter("".join(text.split()))
    assert before - shown in (Counter(), Counter("MODEL"))
    assert shown - before == Counter()
