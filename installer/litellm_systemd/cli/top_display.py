"""Render a snapshot of `top` for a width and a height.

Columns that do not fit are left out, the least important first; then rows, those at the end of the longest table.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from litellm_systemd.commands.figures import Ends, Figures, Latency, ModelFigures, Rate
from litellm_systemd.commands.status import render_age
from litellm_systemd.commands.top import Snapshot
from litellm_systemd.env.aws import render_left
from litellm_systemd.logs.events import ERROR
from litellm_systemd.report.report import printable, render_count

#: Spaces between columns, and how short a name may become before a column is left out.
_GAP, _SHORTEST_NAME = 2, 14
#: Columns of the names of facts.
_INDENT = 10
#: How many kinds of errors, and models that end next, are shown.
_ERRORS, _NEXT_ENDS = 5, 3
#: Stands for an unknown figure.
_UNKNOWN = "-"
_STYLES = {"active": "green", "serving": "green", "failed": "red", "inactive": "red"}
#: For the wrapping of texts, which depends on no terminal.
_PLAIN = Console(color_system=None)
#: Columns of an output that has no width, such as a pipe.
_ENDLESS = 160


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of a table: of those that do not fit, the one with the highest `rank` is left out first."""

    title: str
    rank: int
    cells: tuple[str, ...]
    style: str = ""


def render_once(snapshot: Snapshot) -> str:
    """The whole snapshot as text, with colors on a terminal."""
    console = Console(highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _ENDLESS
    with console.capture() as capture:
        console.print(build_screen(snapshot, console.width))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def build_screen(snapshot: Snapshot, width: int, height: int | None = None) -> Text:
    """The snapshot on a screen of that size; without a `height`, all of it."""
    head = [*_title(snapshot, width), *_facts(snapshot, width)]
    tables = [
        _table(_model_columns(snapshot.figures.models or ()), width),
        _table(_worker_columns(snapshot), width),
        _errors(snapshot, width),
    ]
    notes = [line for note in snapshot.notes for line in _wrap(Text(printable(note), "yellow"), width)]
    if height is not None:
        _shorten(tables, height - len(head) - len(notes) - 1)
    parts = [part for part in (head, *tables, notes) if part]
    return Text("\n\n").join(Text("\n").join(part) for part in parts)


def _shorten(tables: list[list[Text]], height: int) -> None:
    """Replace rows at the end of tables by their number until all fit, with an empty line before each table.

    Where two lines of each do not fit, the last tables are left out.
    """
    sizes = [len(table) for table in tables]

    def is_too_long() -> bool:
        return sum(size + 1 for size in sizes if size) > height

    while is_too_long() and max(sizes) > 2:
        # The models are first, and keep more rows than the others.
        longest = max((size * (1 if number == 0 else 2), number) for number, size in enumerate(sizes) if size > 2)[1]
        sizes[longest] -= 1
    for number in reversed(range(1, len(sizes))):
        sizes[number] = 0 if is_too_long() else sizes[number]
    for table, size in zip(tables, sizes, strict=True):
        if size < len(table):
            table[max(size - 1, 0) :] = [Text(f"… {len(table) - size + 1} more", "dim")] if size else []


def _wrap(text: Text, width: int) -> list[Text]:
    return list(text.wrap(_PLAIN, max(width, _INDENT)))


def _title(snapshot: Snapshot, width: int) -> list[Text]:
    moment = time.strftime("%H:%M:%S", time.localtime(snapshot.at))
    style = _STYLES.get(snapshot.service["active"], "yellow")
    lines = _wrap(Text(printable(snapshot.title), f"bold {style}"), width)
    if len(lines) == 1 and cell_len(lines[0].plain) + _GAP + len(moment) <= width:
        return [lines[0].copy().append(moment.rjust(width - cell_len(lines[0].plain)), "dim")]
    return [Text(moment, "dim"), *lines]


def _facts(snapshot: Snapshot, width: int) -> Iterator[Text]:
    for name, value in _name_facts(snapshot):
        first, *others = _wrap(value, width - _INDENT)
        yield Text(f"{name:<{_INDENT}}", "bold").append_text(first)
        yield from (Text(" " * _INDENT).append_text(line) for line in others)


def _name_facts(snapshot: Snapshot) -> Iterator[tuple[str, Text]]:
    figures = snapshot.figures
    if figures.worker_states and not snapshot.workers:
        yield (
            "workers",
            Text(", ".join(f"{number} {state}" for state, number in figures.worker_states.items() if number)),
        )
    if figures.requests is not None:
        yield "requests", Text(", ".join((_rate(figures.requests), *_describe_load(figures))))
    if figures.statuses:
        yield "statuses", Text(", ").join(_status(*each) for each in figures.statuses.items())
    if figures.input_tokens is not None and figures.output_tokens is not None:
        tokens = ((figures.input_tokens, "in"), (figures.output_tokens, "out"))
        yield "tokens", Text(", ".join(f"{what} {_rate(rate)}" for rate, what in tokens))
    if figures.cost is not None:
        hourly = figures.cost.per_second
        yield "cost", Text(_cost(figures.cost.total) + ("" if hourly is None else f", {_cost(hourly * 3600)}/h"))
    if changes := ", ".join(_describe_changes(snapshot)):
        is_failed = snapshot.last_reload is not None and not snapshot.last_reload["ok"]
        yield "changes", Text(printable(changes), "red" if is_failed else "")
    if ends := ", ".join(_describe_ends(figures.ends, snapshot.at)):
        yield "ends", Text(printable(ends))


def _describe_load(figures: Figures) -> Iterator[str]:
    if figures.inflight is not None:
        yield f"{figures.inflight} in flight"
    if figures.connections is not None:
        yield render_count(figures.connections, "connection")
    if figures.backlog:
        yield f"{figures.backlog} waiting"


def _status(status: str, rate: Rate) -> Text:
    style = {"4": "yellow", "5": "red"}.get(status[:1], "") if rate.total else ""
    return Text(f"{printable(status)}: {_rate(rate)}", style)


def _describe_changes(snapshot: Snapshot) -> Iterator[str]:
    """Restarts of workers, and reloads."""
    if (replaced := snapshot.figures.restarts) is not None:
        yield f"{render_count(replaced, 'worker')} replaced"
    if (last := snapshot.last_reload) is not None:
        seconds = f"{last['seconds']:.1f} s"
        yield f"last reload {'done' if last['ok'] else 'failed'} in {seconds}"
        if not last["ok"]:
            yield last["error"].rstrip(".")
    if failed := (snapshot.figures.reloads or {}).get("failure"):
        yield f"{render_count(failed, 'reload')} failed"


def _describe_ends(ends: Ends, now: float) -> Iterator[str]:
    nearest = sorted(ends.models.items(), key=lambda each: each[1])[:_NEXT_ENDS]
    for name, end in (("certificate", ends.certificate), ("credentials", ends.credentials), *nearest):
        if end is not None:
            yield f"{name} ended" if end <= now else f"{name} in {render_left(timedelta(seconds=end - now))}"


def _model_columns(models: tuple[ModelFigures, ...]) -> tuple[_Column, ...]:
    return (
        _Column("model", 0, tuple(each.model or _UNKNOWN for each in models)),
        _Column("req/s", 1, tuple(_per_second(each.requests) for each in models)),
        _Column("requests", 5, tuple(_count(each.requests.total) for each in models)),
        _Column("errors", 2, tuple(_count(each.errors.total) for each in models), "red"),
        _Column("first token", 4, tuple(_seconds(each.first_token, 50) for each in models)),
        _Column("95 %", 9, tuple(_seconds(each.first_token, 95) for each in models)),
        _Column("latency", 3, tuple(_seconds(each.latency, 50) for each in models)),
        _Column("95 %", 10, tuple(_seconds(each.latency, 95) for each in models)),
        _Column("in/s", 8, tuple(_per_second(each.input_tokens) for each in models)),
        _Column("out/s", 7, tuple(_per_second(each.output_tokens) for each in models)),
        _Column("cost", 6, tuple(_cost(each.cost) for each in models)),
    )


def _worker_columns(snapshot: Snapshot) -> tuple[_Column, ...]:
    workers = snapshot.workers
    return (
        _Column("worker", 0, tuple(str(each["worker"]) for each in workers)),
        _Column("pid", 4, tuple(str(each["pid"]) for each in workers)),
        _Column("state", 1, tuple(printable(each["state"]) for each in workers)),
        _Column("generation", 7, tuple(str(each.get("generation", _UNKNOWN)) for each in workers)),
        _Column("memory", 2, tuple(_memory(each["pss_mib"]) for each in workers)),
        _Column("in flight", 3, tuple(str(each["inflight"]) for each in workers)),
        _Column("connections", 6, tuple(str(each.get("connections", _UNKNOWN)) for each in workers)),
        _Column("requests", 5, tuple(_count(each["requests"]) for each in workers)),
        _Column("age", 8, tuple(render_age(each["age"]) for each in workers)),
    )


def _table(columns: tuple[_Column, ...], width: int) -> list[Text]:
    """A header and a line for each row; nothing without a row."""
    if not columns[0].cells:
        return []
    names = max(map(cell_len, (columns[0].title, *columns[0].cells)))
    shown = list(columns)
    while len(shown) > 1 and _width(shown[1:]) + min(names, _SHORTEST_NAME) > width:
        shown.remove(max(shown, key=lambda column: column.rank))
    names = min(names, width - _width(shown[1:]))
    lines = [Text(set_cell_size(shown[0].title, names), "bold")]
    lines += [Text(_cut(cell, names)) for cell in shown[0].cells]
    for column in shown[1:]:
        size = _width([column])
        lines[0].append(column.title.rjust(size), "bold")
        for line, cell in zip(lines[1:], column.cells, strict=True):
            style = _STYLES.get(cell, "") or (column.style if cell not in ("0", _UNKNOWN) else "")
            line.append(" " * (size - cell_len(cell)) + cell, style)
    return lines


def _width(columns: Iterable[_Column]) -> int:
    """The width of columns with the gap before each."""
    return sum(max(map(cell_len, (each.title, *each.cells))) + _GAP for each in columns)


def _cut(text: str, width: int) -> str:
    text = printable(text).replace("\n", " ")
    return set_cell_size(text if cell_len(text) <= width else f"{set_cell_size(text, width - 1)}…", width)


def _errors(snapshot: Snapshot, width: int) -> list[Text]:
    if snapshot.errors is None:
        return []
    if not snapshot.errors:
        return [Text("no warning and no error in the last hour", "dim")]
    lines = [Text("warnings and errors of the last hour", "bold")]
    for group in snapshot.errors[:_ERRORS]:
        moment = time.strftime("%H:%M:%S", time.localtime(group["last"]))
        kind = f"{group['kind']}: " if group["kind"] else ""
        text = f"{moment} {group['count']:>3}x {kind}{group['sample']}"
        lines.append(Text(_cut(text, width).rstrip(), "red" if group["priority"] <= ERROR else "yellow"))
    return lines


def _rate(rate: Rate) -> str:
    """How much a counter grows in a second, and its value."""
    total = _count(rate.total)
    return total if rate.per_second is None else f"{_per_second(rate)}/s ({total})"


def _per_second(rate: Rate) -> str:
    if rate.per_second is None:
        return _UNKNOWN
    # A small rate is not shown as none.
    digits = 0 if rate.per_second >= 99.5 or rate.per_second == 0 else 1 if rate.per_second >= 0.95 else 2
    return f"{rate.per_second:,.{digits}f}"


def _count(number: float) -> str:
    for least, unit in ((1e9, "G"), (1e6, "M")):
        if number >= least:
            return f"{number / least:,.1f} {unit}"
    return f"{number:,.0f}"


def _cost(dollars: float) -> str:
    return f"${dollars:,.2f}" if dollars >= 0.1 or dollars == 0 else f"${dollars:.4f}"


def _memory(mib: int | None) -> str:
    return _UNKNOWN if mib is None else f"{mib} MiB"


def _seconds(latency: Latency | None, percentile: int) -> str:
    if latency is None:
        return _UNKNOWN
    seconds = latency.p50 if percentile == 50 else latency.p95
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds:.0f} s"
