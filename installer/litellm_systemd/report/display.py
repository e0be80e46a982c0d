"""Render the tables of a `Report` for a terminal or a file. Part of the CLI."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from litellm_systemd.report import report as reports
from litellm_systemd.report.report import Check, Outcome, Report, printable

_MARKS = {
    Outcome.OK: "[green]ok[/]",
    Outcome.CHANGED: "[cyan]done[/]",
    Outcome.WARNING: "[yellow]warning[/]",
    Outcome.FAILED: "[red bold]FAILED[/]",
    Outcome.SKIPPED: "[dim]-[/]",
}


def render_tables(report: Report, console: Console | None = None) -> str:
    """The table, the facts and the checks of a report as text, with colors on a terminal."""
    # A file or a pipe has no width. 160 columns are enough for every line of a report.
    out = console or Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    with out.capture() as capture:
        if report.table is not None:
            out.print(Padding(_table(report.table), (0, 0, 1, 2)))
        if report.facts:
            out.print(_facts(report))
        if report.checks:
            out.print(_checks(report.checks))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _escape(text: str) -> str:
    return escape(printable(text))


def _table(found: reports.Table) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in found.columns:
        table.add_column(column, overflow="fold")
    for row in found.rows:
        table.add_row(*map(_escape, row))
    return table


def _facts(report: Report) -> Table:
    table = Table.grid(padding=(0, 3))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in report.facts:
        table.add_row(f"  {_escape(name)}", _escape(value))
    return table


def _checks(checks: tuple[Check, ...]) -> Table:
    table = Table.grid(padding=(0, 2))
    timed = any(check.seconds is not None for check in checks)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    if timed:
        table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        detail = _escape(check.detail) + (f"\n[yellow]{_escape(check.hint)}[/]" if check.hint else "")
        seconds = [] if not timed else ["" if check.seconds is None else f"{check.seconds * 1000:.0f} ms"]
        table.add_row(f"  {_MARKS[check.outcome]}", _escape(check.name), *seconds, detail)
    return table
