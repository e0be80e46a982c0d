"""Render a report for other programs: as JUnit XML, and as values for the template of `verify --html`. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from litellm_systemd.contract import ExitCode
from litellm_systemd.report.report import Check, Outcome, Report

#: Characters that XML 1.0 can't represent.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

#: The text label of each outcome, so that color is not the only signal.
_WORDS = {
    Outcome.OK: "ok",
    Outcome.CHANGED: "done",
    Outcome.WARNING: "warning",
    Outcome.FAILED: "failed",
    Outcome.SKIPPED: "skipped",
}
_MARKS = {Outcome.OK.value: "✓", Outcome.WARNING.value: "!", Outcome.FAILED.value: "✗"}


def render_junit(report: Report, suite: str) -> str:
    """The text of the file. A warning is a passed case with the message as its output."""
    failed = sum(check.outcome is Outcome.FAILED for check in report.checks)
    skipped = sum(check.outcome is Outcome.SKIPPED for check in report.checks)
    counts = {"tests": str(len(report.checks)), "failures": str(failed), "errors": "0", "skipped": str(skipped)}
    seconds = _seconds(sum(check.seconds or 0.0 for check in report.checks))
    root = Element("testsuites", {"name": suite, **counts, "time": seconds})
    # The format has no time zone. Its readers expect UTC.
    moment = str(report.data.get("checked_at") or "").removesuffix("Z")
    when = {"timestamp": moment} if moment else {}
    element = SubElement(root, "testsuite", {"name": suite, **counts, "time": seconds, **when})
    properties = SubElement(element, "properties")
    for name, value in _properties(report):
        SubElement(properties, "property", {"name": name, "value": _clean(value)})
    for check in report.checks:
        _add_case(element, check, suite)
    SubElement(element, "system-out").text = _clean("\n".join((report.title, *report.notes)))
    indent(root)
    return tostring(root, encoding="unicode", xml_declaration=False).join(
        ('<?xml version="1.0" encoding="UTF-8"?>\n', "\n")
    )


def _add_case(suite: Element, check: Check, classname: str) -> None:
    case = SubElement(
        suite,
        "testcase",
        {"classname": classname, "name": _clean(check.name), "time": _seconds(check.seconds or 0.0)},
    )
    message = _clean(check.detail)
    if check.outcome is Outcome.FAILED:
        failure = SubElement(case, "failure", {"message": message, "type": check.outcome.value})
        failure.text = _clean("\n".join(filter(None, (check.detail, check.hint))))
    elif check.outcome is Outcome.SKIPPED:
        SubElement(case, "skipped", {"message": message})
    elif text := ": ".join(filter(None, (check.outcome.value, check.detail, check.hint))):
        SubElement(case, "system-out").text = _clean(text)


def _properties(report: Report) -> Iterator[tuple[str, str]]:
    versions, config = report.data.get("versions") or {}, report.data.get("config") or {}
    pairs = (
        ("base_url", report.data.get("base_url")),
        *((f"versions.{name}", value) for name, value in versions.items()),
        *((f"config.{name}", value) for name, value in config.items()),
    )
    yield from ((name, str(value)) for name, value in pairs if value)


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


@dataclass(frozen=True, slots=True)
class Bar:
    """How long a check took: `width` in percent of the longest check, `first` the share before the first token."""

    time: str
    width: float
    first: float


@dataclass(frozen=True, slots=True)
class Row:
    """One check. `state` is the value of its outcome, `word` the label of it."""

    anchor: str
    state: str
    word: str
    name: str
    detail: str
    hint: str
    bar: Bar | None


@dataclass(frozen=True, slots=True)
class Page:
    """All values of the template. `facts` are pairs of a name and a text, `counts` of a state and "3 ok"."""

    title: str
    state: str
    mark: str
    verdict: str
    checked_at: str
    moment: str
    counts: tuple[tuple[str, str], ...]
    facts: tuple[tuple[str, str], ...]
    problems: tuple[Row, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    longest: str
    has_streams: bool


def build_page(report: Report) -> Page:
    longest = max((check.seconds or 0.0 for check in report.checks), default=0.0)
    rows = tuple(_row(number, check, longest) for number, check in enumerate(report.checks, 1))
    state, verdict = _verdict(report)
    checked_at = str(report.data.get("checked_at") or "")
    return Page(
        title=report.title,
        state=state,
        mark=_MARKS[state],
        verdict=verdict,
        checked_at=checked_at,
        moment=checked_at.replace("T", " ").replace("Z", " UTC"),
        counts=tuple(_counts(report)),
        facts=tuple(_facts(report)),
        problems=tuple(
            row for outcome in (Outcome.FAILED, Outcome.WARNING) for row in rows if row.state == outcome.value
        ),
        rows=rows,
        notes=report.notes,
        longest=_time(longest) if longest else "",
        has_streams=any(row.bar is not None and row.bar.first for row in rows),
    )


def _verdict(report: Report) -> tuple[str, str]:
    if report.exit_code is not ExitCode.OK:
        return Outcome.FAILED.value, "Unhealthy"
    if any(check.outcome is Outcome.WARNING for check in report.checks):
        return Outcome.WARNING.value, "Healthy, with a warning"
    return Outcome.OK.value, "Healthy"


def _counts(report: Report) -> Iterator[tuple[str, str]]:
    for outcome, word in _WORDS.items():
        count = sum(check.outcome is outcome for check in report.checks)
        if count:
            yield outcome.value, f"{count} {word}"


def _row(number: int, check: Check, longest: float) -> Row:
    return Row(
        anchor=f"check-{number}",
        state=check.outcome.value,
        word=_WORDS[check.outcome],
        name=check.name,
        detail=check.detail,
        hint=check.hint,
        bar=None if check.seconds is None else _bar(check.seconds, check.data.get("first_token_seconds"), longest),
    )


def _bar(seconds: float, first: float | None, longest: float) -> Bar:
    return Bar(_time(seconds), _percent(seconds, longest), _percent(first or 0.0, seconds))


def _percent(part: float, whole: float) -> float:
    return round(100 * min(part / whole, 1.0), 1) if whole else 0.0


def _time(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    data, versions = report.data, report.data.get("versions") or {}
    config, billed = data.get("config") or {}, data.get("billed") or {}
    pairs = (
        ("Gateway", data.get("base_url")),
        ("LiteLLM", versions.get("litellm") or data.get("litellm_version")),
        ("litellm-systemd", versions.get("litellm_systemd")),
        ("Configuration", _config(config)),
        ("Configuration SHA-256", config.get("sha256")),
        ("Models", _some(data.get("models") or [])),
        ("Billed", _billed(billed) if billed else None),
        *report.facts,
    )
    yield from ((name, str(value)) for name, value in pairs if value)


def _config(config: Mapping[str, Any]) -> str:
    return f"{config.get('name', '')}{', edited after it was loaded' if config.get('edited') else ''}"


def _some(names: list[str]) -> str:
    """The names, or the first 12 if there are more, as with a wildcard."""
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return ", ".join(names[:12]) + more


def _billed(billed: dict[str, int]) -> str:
    if not billed["checks"]:
        return "nothing"
    noun = "check" if billed["checks"] == 1 else "checks"
    return f"{billed['checks']} {noun}: {billed['input_tokens']:,} tokens in, {billed['output_tokens']:,} out"
