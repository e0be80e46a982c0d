"""What every verb returns: checks and facts, as values. How they look is the business of `render_text` and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from litellm_systemd.contract import ExitCode


class Outcome(Enum):
    """How a check ended. A `SKIPPED` check was not made, and its detail says why."""

    OK = "ok"
    CHANGED = "changed"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a report: what was looked at or done, how it ended, and the remedy when it failed.

    `seconds` is the wall time that it took, None where time means nothing. `data` are its numbers, for programs.
    """

    name: str
    outcome: Outcome
    detail: str = ""
    hint: str = ""
    seconds: float | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of text below the names of their columns."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a verb.

    `title` says in one sentence what was done, `checks` how each part went, `facts` are pairs of a name and a text
    for people, `table` more of them, `notes` what the user must know (each printed on a line of its own), `diffs` are
    unified diffs without secrets, `data` the facts for programs: JSON types only.
    `code` is worked out from the checks unless it is given. `plain` has each check printed as lines of text, which
    an editor can follow, and not as a row of a table.
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
        """`code` if it was given, else FAILED when a check failed, else OK."""
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

    def as_json(self) -> str:
        """`as_dict` as indented JSON, without a newline at the end."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False)
