"""Render a report as JUnit XML for CI servers: one test suite, with a test case for each check. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from litellm_systemd.report.report import Check, Outcome, Report

#: Characters that XML 1.0 can't represent.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


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
