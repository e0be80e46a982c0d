"""Render the findings of `config check` for CI servers: GitHub's workflow commands, and SARIF 2.1.0. Pure.

Sources: https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions and
https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from litellm_systemd.errors import join_sentences
from litellm_systemd.report.report import Outcome, Report

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"

#: A section of docs/linter.md: the heading is the code, the first word the severity.
_SECTION = re.compile(r"^### ([a-z-]+)\n(.*?)(?=^#{2,3} |\Z)", re.DOTALL | re.MULTILINE)


def render_github(report: Report, root: Path) -> str:
    """One workflow command for each finding, with the path relative to `root`; for the log what was not checked."""
    skipped = (check.detail for check in report.checks if check.outcome is Outcome.SKIPPED)
    commands = (_command(report, finding, root) for finding in report.data["findings"])
    return "\n".join((*commands, *skipped, report.title))


def _command(report: Report, finding: Mapping[str, Any], root: Path) -> str:
    values = {"file": _relative(finding["file"] or report.data["source"], root), "title": finding["code"]}
    values |= {"line": finding["line"], "col": finding["column"]}
    given = ",".join(f"{name}={_escape(str(value), ':,')}" for name, value in values.items() if value is not None)
    return f"::{finding['severity']} {given}::{_escape(_text(finding))}"


def _escape(text: str, more: str = "") -> str:
    """The text as workflow commands take it; in a property `more` characters have a meaning."""
    return re.sub(f"[%\r\n{more}]", lambda found: f"%{ord(found[0]):02X}", text)


def _text(finding: Mapping[str, Any]) -> str:
    return join_sentences(f"{finding['key']} {finding['message']}".lstrip(), finding["remedy"])


def render_sarif(report: Report, root: Path, version: str, docs: str) -> str:
    """A SARIF log with one run. Paths are relative to `root`; `docs` is docs/linter.md, which explains each code."""
    sections = {code: text.strip() for code, text in _SECTION.findall(docs)}
    findings = report.data["findings"]
    codes = list(dict.fromkeys(finding["code"] for finding in findings))
    driver = {
        "name": "litellmctl",
        "version": version,
        "rules": [_rule(code, sections.get(code, "")) for code in codes],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(report, finding, codes.index(finding["code"]), root) for finding in findings],
    }
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2, ensure_ascii=False)


def _rule(code: str, section: str) -> dict[str, Any]:
    if not section:
        return {"id": code}
    # "Error. " or "Error; a warning if … . " before the description.
    paragraph = " ".join(section.partition("\n\n")[0].split())
    text = paragraph.partition(". ")[2] or paragraph
    return {"id": code, "fullDescription": {"text": text}, "help": {"text": text, "markdown": section}}


def _result(report: Report, finding: Mapping[str, Any], rule: int, root: Path) -> dict[str, Any]:
    location: dict[str, Any] = {"artifactLocation": {"uri": _uri(finding["file"] or report.data["source"], root)}}
    if finding["line"] is not None:
        location["region"] = dict(_region(finding))
    return {
        "ruleId": finding["code"],
        "ruleIndex": rule,
        "level": finding["severity"],
        "message": {"text": _text(finding)},
        "locations": [{"physicalLocation": location}],
    }


def _region(finding: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    yield "startLine", finding["line"]
    if finding["column"] is not None:
        yield "startColumn", finding["column"]


def _uri(file: str, root: Path) -> str:
    path = Path(_relative(file, root))
    return path.as_uri() if path.is_absolute() else quote(path.as_posix())


def _relative(file: str, root: Path) -> str:
    """A path below `root` as relative to it; another one as it is."""
    path = Path(file)
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else file
