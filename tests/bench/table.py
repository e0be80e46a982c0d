"""Render the results as Markdown for a terminal and for docs/benchmark.md."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .figures import EVENTS, KILL_WORKER, Summary, Target, judge, ratio
from .peers import OURS, PEERS, PLAIN, TWO

_KINDS = {"json": "JSON", "sse": "SSE"}
Rows = list[list[str]]


def render(results: dict[str, Any]) -> str:
    """Render all tables after a line with date and machine."""
    summaries = results["summary"]
    parts = [_machine(results), "### Targets\n", _targets(judge(summaries))]
    parts += ["### Side by side\n", _side_by_side(summaries)]
    parts += ["### When something happens, under 16 clients\n", _failures(summaries)]
    return "\n".join(parts)


def write_between_markers(path: Path, text: str, name: str = "results") -> None:
    """Replace the text between the markers of that name in a page."""
    begin, end = f"<!-- {name}: written by the command above -->", f"<!-- end of {name} -->"
    before, _, rest = path.read_text(encoding="utf-8").partition(begin)
    _, _, after = rest.partition(end)
    path.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def here_and_now() -> str:
    """The date and the machine."""
    day, python = time.strftime("%Y-%m-%d", time.gmtime()), platform.python_version()
    return f"{day}, Python {python}, Linux {platform.release()}, {os.cpu_count()} processors"


def spread(seconds: Sequence[float]) -> list[str]:
    """The median, the minimum and the maximum for three cells of a row."""
    return [f"{value:.2f} s" for value in (statistics.median(seconds), min(seconds), max(seconds))]


def _machine(results: dict[str, Any]) -> str:
    machine, scale = results["machine"], results["scale"]
    return (
        f"{machine['date']}, LiteLLM {machine['litellm']}, Python {machine['python']}, Linux {machine['kernel']}, "
        f"{machine['processors']} × {machine['processor']}; {scale['rounds']} round(s), each load "
        f"{scale['seconds']:g} s; {results['minutes']:g} minutes in all. "
        f"Load of the machine before: {machine['busy_before']:g}.\n"
    )


def _targets(targets: list[Target]) -> str:
    rows: Rows = [["target", "wanted", "measured", ""]]
    for each in targets:
        sign = "≥" if each.at_least else "≤"
        value = "–" if each.value is None else f"{each.value:.3g} {each.unit}"
        verdict = each.verdict if each.reached else f"**{each.verdict}**"
        rows.append([each.name, f"{sign} {each.limit:g} {each.unit}", value, verdict])
    return as_markdown(rows)


def _side_by_side(summaries: dict[str, Summary]) -> str:
    rows: Rows = [["", *(peer.title for peer in PEERS), "ours to plain", "ours to two workers"]]

    def add(name: str, value: Callable[[Summary], float | None], form: str, compared: bool = True) -> None:
        found = {peer.name: value(summaries[peer.name]) for peer in PEERS}
        ratios = [ratio(found[OURS.name], found[base.name]) if compared else None for base in (PLAIN, TWO)]
        rows.append(
            [name, *(_number(each, form) for each in found.values()), *(_number(each, "{:.2f} x") for each in ratios)]
        )

    add("start to ready", lambda each: each["start_ready"], "{:.1f} s")
    add("`systemctl start` returns", lambda each: each["start_returned"], "{:.1f} s", compared=False)
    add("memory (PSS)", lambda each: each["pss"], "{:.0f} MiB")
    add("failed under load", _failed_under_load, "{:.0f}", compared=False)
    for kind, levels in summaries[OURS.name]["load"].items():
        for level in levels:
            _add_load(add, kind, level)
    return as_markdown(rows)


def _failed_under_load(summary: Summary) -> float:
    return float(sum(level["failed"] for levels in summary["load"].values() for level in levels.values()))


def _add_load(add: Callable[[str, Callable[[Summary], float | None], str], None], kind: str, level: str) -> None:
    clients = f"{_KINDS[kind]}, {level} client{'s' if level != '1' else ''}"
    for what, title, form in (
        ("rate", "answers a second", "{:.0f}"),
        ("p50", "p50", "{:.0f} ms"),
        ("p99", "p99", "{:.0f} ms"),
    ):

        def value(summary: Summary, what: str = what) -> float | None:
            found: float | None = summary["load"][kind][level][what]
            return found

        add(f"{clients}: {title}", value, form)


def _failures(summaries: dict[str, Summary]) -> str:
    rows: Rows = [["", *(peer.title for peer in PEERS)]]
    for event in EVENTS:
        found = [summaries[peer.name]["events"].get(event) for peer in PEERS]
        rows.append([f"{event}: failed requests", *map(_failed, found)])
        for what, title in (("longest_wait", "longest request"), ("longest_gap", "longest time without an answer")):
            rows.append([f"{event}: {title}", *(_number(each and each[what], "{:.2f} s") for each in found)])
    rows.append(
        ["a new configuration is live", *(_number(summaries[peer.name]["live"], "{:.2f} s") for peer in PEERS)]
    )
    stale = [str(summaries[peer.name]["stale"]) if peer.reloads else "–" for peer in PEERS]
    rows.append(["old answers to requests after the command had returned", *stale])
    replaced = summaries[OURS.name]["events"].get(KILL_WORKER)
    rows.append(["a dead worker is replaced", "–", "–", "–", _number(replaced and replaced["recovered"], "{:.2f} s")])
    for name, title in (("twenty_reloads", "reloads"), ("ten_restarts", "restarts")):
        many = summaries[OURS.name][name]
        rows.append([f"{many['times']} {title}: failed requests", "–", "–", "–", _failed(many)])
    return as_markdown(rows)


def _failed(event: Summary | None) -> str:
    """Format the failed requests, all requests and the number of events."""
    if not event:
        return "–"
    total = event["failed"] + event["answered"]
    return f"{event['failed']:,} of {total:,} over {event['times']}"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def as_markdown(rows: Rows) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"
