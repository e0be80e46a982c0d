"""`python -m tests.corpus FOLDER`: what config check, models and iam-policy say about each file of a folder.

The folder holds configurations (*.yaml, *.yml) and environments (*.env), such as those of public projects; how they
get there is up to the caller. A configuration is checked with a value for each variable that it refers to, so that
only its own mistakes count; an environment with the configuration demo.yml. Nothing is sent.

With --details each finding is printed. The exit code is 1 if a verb raised something that it should not.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from litellm_systemd.commands import bedrock, config_check
from litellm_systemd.commands.resolve import Request
from litellm_systemd.errors import InstallerError
from litellm_systemd.host.layout import Layout
from litellm_systemd.report.report import Report

_REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
_SECRET = "sk-u8Wq3Zt6Yb1Nc4Xr7Lm0Kp9Vs2Hd5Jf"
#: Values of variables, by a part of the name: the first that fits.
_VALUES = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "AWS_ROLE": "arn:aws:iam::123456789012:role/gateway",
    "REGION": "us-east-1",
    "LOCATION": "us-east1",
    "PORT": "6379",
    "URL": "http://localhost:1",
    "BASE": "http://localhost:1",
    "MODEL": "openai/gpt-4o",
    "": _SECRET,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the verbs said about one file: findings as (severity, code, text), and the other verbs in a word."""

    name: str
    findings: tuple[tuple[str, str, str], ...]
    verbs: tuple[str, ...]


def main(argv: Sequence[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.corpus")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--details", action="store_true", help="print each finding")
    arguments = parser.parse_args(argv)
    files = sorted(path for path in arguments.folder.iterdir() if path.suffix in (".yaml", ".yml", ".env"))
    with tempfile.TemporaryDirectory() as scratch:
        outcomes = [_try(path.resolve(), Path(scratch)) for path in files]
    _print(outcomes, details=arguments.details)
    return 1 if any("CRASH" in word for each in outcomes for word in (*each.verbs, *_codes(each))) else 0


def _try(path: Path, scratch: Path) -> Outcome:
    environment, config = scratch / ".env", str(path)
    if path.suffix == ".env":
        environment, config = path, "demo.yml"
    else:
        environment.write_text("".join(_lines(path)), encoding="utf-8")
    request = Request(
        Layout(scratch / "root"), environment, config, cwd=scratch / "root", ask_instance=False, today=date.today()
    )
    report = _run(lambda: config_check.check_config(request))
    findings = tuple(_findings(report))
    if path.suffix == ".env":
        return Outcome(path.name, findings, ())
    verbs = (
        _run(lambda: bedrock.models(request, date.today(), offline=True)),
        _run(lambda: bedrock.iam_policy(request, offline=True)),
    )
    return Outcome(path.name, findings, tuple("ok" if isinstance(each, Report) else each for each in verbs))


def _lines(path: Path) -> Iterator[str]:
    """A value for each variable that the configuration refers to."""
    for name in sorted({"LITELLM_MASTER_KEY", *_REFERENCE.findall(path.read_text(encoding="utf-8"))}):
        yield f"{name}={next(value for part, value in _VALUES.items() if part in name)}\n"


def _run(verb: Callable[[], Report]) -> Report | str:
    try:
        return verb()
    except InstallerError as error:
        return f"{type(error).__name__}: {error}"
    except Exception:  # what this program is for
        traceback.print_exc()
        return "CRASH"


def _findings(report: Report | str) -> Iterator[tuple[str, str, str]]:
    if isinstance(report, str):
        yield "error", report.partition(":")[0], report
        return
    for each in report.data["findings"]:
        yield each["severity"], each["code"], f"{each['line'] or ''}: {each['key']} {each['message']} | {each['remedy']}"
    for note in report.notes:
        yield "note", "note", note


def _codes(outcome: Outcome) -> Iterator[str]:
    return (code for _, code, _ in outcome.findings)


def _print(outcomes: Sequence[Outcome], *, details: bool) -> None:
    total, files = Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for each in outcomes:
        counts = Counter((severity, code) for severity, code, _ in each.findings)
        total, files = total + counts, files + Counter(counts.keys())
        codes = ", ".join(f"{code} {number}" if number > 1 else code for (_, code), number in sorted(counts.items()))
        verbs = "".join(f" | {word[:60]}" for word in each.verbs)
        sys.stdout.write(f"{each.name:34} {codes or 'no problems'}{verbs}\n")
        for severity, code, text in each.findings if details else ():
            sys.stdout.write(f"    {severity} [{code}] {text}\n")
    sys.stdout.write(f"\n{len(outcomes)} files, {sum(not each.findings for each in outcomes)} without a finding\n\n")
    sys.stdout.write("| severity | code | findings | files |\n|---|---|---|---|\n")
    for (severity, code), number in sorted(total.items()):
        sys.stdout.write(f"| {severity} | `{code}` | {number} | {files[severity, code]} |\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
