"""`python -m tests.corpus FOLDER`: what config check, models and iam-policy say about each file of a folder.

The folder holds configurations (*.yaml, *.yml) and environments (*.env), such as those of public projects. A
configuration is checked with a value for each variable that it refers to, so that only its own mistakes count; an
environment is checked with the configuration demo.yml. No request is sent. The exit code is 1 if a verb crashed.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

from litellm_systemd.commands import bedrock, config_check
from litellm_systemd.commands.resolve import Request
from litellm_systemd.errors import InstallerError
from litellm_systemd.host.layout import Layout
from litellm_systemd.report.report import Report

#: Severity, code and text.
_Finding = tuple[str, str, str]
_CRASH = "CRASH"
_REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
#: Values of variables, by a part of the name: the first that fits.
_VALUES = {
    "AWS_ACCESS_KEY_ID": "AKIA" + "QZ7M2XKD" * 2,
    "AWS_SECRET_ACCESS_KEY": "u8Wq3Zt6Yb" * 4,
    "AWS_ROLE": "arn:aws:iam::123456789012:role/gateway",
    "REGION": "us-east-1",
    "PORT": "6379",
    "URL": "http://localhost:1",
    "BASE": "http://localhost:1",
    "MODEL": "openai/gpt-4o",
    "": "sk-u8Wq3Zt6Yb1Nc4Xr7Lm0Kp9Vs2Hd5Jf",
}


class Outcome(NamedTuple):
    name: str
    findings: tuple[_Finding, ...]
    verbs: tuple[str, ...]


def main(argv: Sequence[str]) -> int:
    """Print the outcome of each file, and the number of findings by code."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--details", action="store_true", help="print each finding")
    arguments = parser.parse_args(argv)
    files = sorted(path for path in arguments.folder.resolve().iterdir() if path.suffix in (".yaml", ".yml", ".env"))
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = [check(path, Path(scratch)) for path in files]
    _print(outcomes, details=arguments.details)
    return 1 if any(_CRASH in (*each.verbs, *(found[1] for found in each.findings)) for each in outcomes) else 0


def check(path: Path, scratch: Path) -> Outcome:
    """The outcome of one file; `scratch` takes its environment."""
    environment, is_environment = scratch / ".env", path.suffix == ".env"
    names = {"LITELLM_MASTER_KEY", *_REFERENCE.findall(path.read_text(encoding="utf-8"))}
    lines = (f"{name}={next(value for part, value in _VALUES.items() if part in name)}\n" for name in sorted(names))
    environment.write_text("".join(lines), encoding="utf-8")
    request = Request(
        Layout(scratch / "root"),
        env_file=path if is_environment else environment,
        config="demo.yml" if is_environment else str(path),
        cwd=scratch,
        today=date.today(),
    )
    findings = tuple(_findings(_run(lambda: config_check.check_config(request)), notes=is_environment))
    models = _run(lambda: bedrock.models(request, date.today(), offline=True))
    policy = _run(lambda: bedrock.iam_policy(request, offline=True))
    return Outcome(path.name, findings, tuple(each if isinstance(each, str) else "ok" for each in (models, policy)))


def _run(verb: Callable[[], Report]) -> Report | str:
    try:
        return verb()
    except InstallerError as error:
        return str(error)
    except Exception:
        traceback.print_exc()
        return _CRASH


def _findings(report: Report | str, *, notes: bool) -> Iterator[_Finding]:
    if isinstance(report, str):
        yield "error", _CRASH if report == _CRASH else "refused", report
        return
    for each in report.data["findings"]:
        text = (str(each[part]) for part in ("line", "key", "message", "remedy") if each[part])
        yield each["severity"], each["code"], " ".join(text)
    yield from (("note", "note", note) for note in report.notes if notes)


def _print(outcomes: Sequence[Outcome], *, details: bool) -> None:
    lines, findings, files = [], Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for each in outcomes:
        counts = Counter(found[:2] for found in each.findings)
        findings, files = findings + counts, files + Counter(counts.keys())
        codes = ", ".join(f"{code} {number}" if number > 1 else code for (_, code), number in sorted(counts.items()))
        lines.append(" | ".join((f"{each.name:34} {codes or 'no problems'}", *(verb[-60:] for verb in each.verbs))))
        lines += ("    " + " ".join(found) for found in each.findings if details)
    lines += ["", f"{len(outcomes)} files, {sum(not each.findings for each in outcomes)} without a finding", ""]
    lines += ["| severity | code | findings | files |", "|---|---|---|---|"]
    lines += (f"| {kind[0]} | `{kind[1]}` | {number} | {files[kind]} |" for kind, number in sorted(findings.items()))
    sys.stdout.write("\n".join((*lines, "")))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
