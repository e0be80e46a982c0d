"""Render the tables of a `Report` for a terminal or a file. Part of the CLI."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from litellm_systemd.report import report as reports
from litellm_systemd.report.report import Check, Outcome, Report, printable

#: Columns of an output that has no width, such as a file or a pipe: enough for every line of a report.
_ENDLESS = 160
#: Columns: with fewer, no line is readable; and what the last column of a table needs, or it goes below the others.
_NARROWEST, _ROOM = 20, 24

_MARKS = {
    Outcome.OK: "[green]ok[/]",
    Outcome.CHANGED: "[cyan]done[/]",
    Outcome.WARNING: "[yellow]warning[/]",
    Outcome.FAILED: "[red bold]FAILED[/]",
    Outcome.SKIPPED: "[dim]-[/]",
}


def render_tables(report: Report) -> str:
    """The table, the facts and the checks of a report as text, with colors on a terminal.

    Where columns do not fit next to each other, they are below each other: nothing is cut.
    """
    out = Console(highlight=False, width=_width())
    with out.capture() as capture:
        if report.table is not None:
            for row in _table(report.table, out):
                out.print(Padding(row, (0, 0, 1, 2)))
        if report.facts:
            out.print(_facts(report.facts, out))
        if report.checks:
            out.print(_checks(report.checks, out))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _width() -> int | None:
    """The number of columns; None for that of the terminal. A variable that is set overrides both."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return max(int(given), _NARROWEST)
    return None if sys.stdout.isatty() else _ENDLESS


def _escape(text: str) -> str:
    return escape(printable(text))


def _table(found: reports.Table, out: Console) -> Iterator[RenderableType]:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in found.columns:
        table.add_column(column, overflow="fold")
    for row in found.rows:
        table.add_row(*map(_escape, row))
    if Measurement.get(out, out.options, table).minimum + 2 <= out.width:
        yield table
        return
    for first, *others in found.rows:
        yield _stack((_fold(_escape(first)), _pairs(zip(found.columns[1:], others, strict=True))))


def _pairs(pairs: Iterable[tuple[str, str]]) -> Padding:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(f"[bold]{_escape(name)}[/]", _escape(value))
    return Padding(grid, (0, 0, 0, 4))


def _stack(parts: Iterable[RenderableType]) -> Table:
    stack = Table.grid()
    stack.add_column(overflow="fold")
    for part in parts:
        stack.add_row(part)
    return stack


def _fold(markup: str, indent: int = 0) -> Padding:
    return Padding(Text.from_markup(markup, overflow="fold"), (0, 0, 0, indent))


def _longest(texts: Iterable[str]) -> int:
    return max((len(line) for text in texts for line in text.splitlines()), default=0)


def _facts(facts: tuple[tuple[str, str], ...], out: Console) -> Table:
    names, values = zip(*facts, strict=True)
    if out.width - _longest(names) - 5 < min(_ROOM, _longest(values)):
        return _stack(part for name, value in facts for part in (_fold(_escape(name), 2), _fold(_escape(value), 6)))
    table = Table.grid(padding=(0, 3))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(f"  {_escape(name)}", _escape(value))
    return table


def _checks(checks: tuple[Check, ...], out: Console) -> Table:
    """A row for each check: its outcome, its name, its time if one has a time, and the detail with the remedy."""
    timed = any(check.seconds is not None for check in checks)
    rows = [
        (
            f"  {_MARKS[check.outcome]}",
            _escape(check.name),
            *([_seconds(check)] if timed else []),
            _escape(check.detail) + (f"\n[yellow]{_escape(check.hint)}[/]" if check.hint else ""),
        )
        for check in checks
    ]
    others = [
        max(len(Text.from_markup(cell)) for cell in column) + 2 for column in list(zip(*rows, strict=True))[:-1]
    ]
    details = (text for check in checks for text in (check.detail, check.hint))
    if out.width - sum(others) < min(_ROOM, _longest(details)):
        return _stack(
            part
            for *first, detail in rows
            for part in (_fold("  ".join(filter(None, first)), 0), *([_fold(detail, 4)] if detail else []))
        )
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    if timed:
        table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _seconds(check: Check) -> str:
    return "" if check.seconds is None else f"{check.seconds * 1000:.0f} ms"
