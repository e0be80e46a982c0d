"""The result of a verb: checks, facts and notes as values. The CLI renders them as text or JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from litellm_systemd.contract import ExitCode


class Outcome(Enum):
    """The result of a check. A `SKIPPED` check did not run, and its detail says why."""

    OK = "ok"
    CHANGED = "changed"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a report: what was checked or done, the outcome, and the remedy if it failed.

    `seconds` is the wall time, None if it has no meaning. `data` has the numbers for programs.
    """

    name: str
    outcome: Outcome
    detail: str = ""
    hint: str = ""
    seconds: float | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """A text of the service or of another program without what a terminal acts on; lines and tabs stay."""
    return _CONTROLS.sub("\N{REPLACEMENT CHARACTER}", text)


def render_count(number: int, noun: str) -> str:
    """A number and its noun, such as "1 step" or "2 steps"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text with column headers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a verb.

    Attributes:
        title: what was done, in one sentence.
        checks: the outcome of each part.
        facts: pairs of a name and a text, for people.
        notes: what the user must know, each printed on its own line.
        diffs: unified diffs without secrets.
        data: the facts for programs, JSON types only.
        code: the exit code. None: it follows from the checks.
        table: rows of text, for people.
        plain: print each check as lines of text, which an editor can parse, instead of a row of a table.
    """

    title: str
    checks: tuple[Check, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    diffs: tuple[str, ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    code: ExitCode | None = None
    table: Table | None = None
    plain: bool = False

    @property
    def exit_code(self) -> ExitCode:
        """`code` if it is set, otherwise FAILED if a check failed, otherwise OK."""
        if self.code is not None:
            return self.code
        failed = any(check.outcome is Outcome.FAILED for check in self.checks)
        return ExitCode.FAILED if failed else ExitCode.OK

    def as_dict(self) -> dict[str, Any]:
        """The report for programs: title, ok, exit_code, checks, notes, diffs, data."""
        return {
            "title": self.title,
            "ok": self.exit_code in (ExitCode.OK, ExitCode.CHANGES),
            "exit_code": int(self.exit_code),
            "checks": [
                {
                    "name": check.name,
                    "outcome": check.outcome.value,
                    "detail": check.detail,
                    "hint": check.hint,
                    "seconds": None if check.seconds is None else round(check.seconds, 4),
                    "data": dict(check.data),
                }
                for check in self.checks
            ],
            "notes": list(self.notes),
            "diffs": list(self.diffs),
            "data": dict(self.data),
        }

    def as_json(self, *, escaped: bool = False) -> str:
        """`as_dict` as indented JSON, without a newline at the end; `escaped` for an output without Unicode."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=escaped)


def without_passed(report: Report) -> Report:
    """The report without the checks that need no attention. Its title has their number."""
    kept = (check for check in report.checks if check.outcome in (Outcome.WARNING, Outcome.FAILED))
    return replace(report, checks=tuple(kept))
