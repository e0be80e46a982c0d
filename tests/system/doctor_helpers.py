"""`litellmctl doctor` in a box, and what its report has to be of a broken host."""

from __future__ import annotations

import json
import sys
from typing import Any

from box import Box
from broken_hosts import Broken

#: The litellmctl of the venv that runs the tests: it works when that of the release can't.
OURS = f"{sys.prefix}/bin/litellmctl"
INSTALLED = "/usr/local/bin/litellmctl"


#: What is said of a check for which doctor's seconds were not enough.
_CUT_SHORT = "it didn't come to an end in time"


def doctor(box: Box, *arguments: str, program: str = OURS, user: str | None = None) -> dict[str, Any]:
    """The report of `litellmctl doctor --json`; of another look if a busy machine had no time for all checks."""
    for _ in range(3):
        report = _look(box, *arguments, program=program, user=user)
        cut_short = any(each["because"] == _CUT_SHORT for each in report["data"]["checks"])
        if not cut_short or report["data"]["fixed"]:
            break
    return report


def _look(box: Box, *arguments: str, program: str, user: str | None) -> dict[str, Any]:
    done = box.run((program, "doctor", "--json", *arguments), check=False, timeout=120, user=user)
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == report["exit_code"], done.stderr
    return report


def ids(report: dict[str, Any]) -> list[str]:
    return [finding["id"] for finding in report["data"]["findings"]]


def sh(box: Box, script: str) -> None:
    box.run(("bash", "-c", script), timeout=300)


def assert_told(report: dict[str, Any], broken: Broken) -> dict[str, Any]:
    """The cause is told first and alone, with what was seen, a remedy and where to read on; gives that finding."""
    assert ids(report), report["data"]["checks"]
    first: dict[str, Any] = report["data"]["findings"][0]
    assert (first["id"], first["outcome"]) == (broken.cause, broken.outcome), first
    assert broken.seen in first["seen"], first["seen"]
    assert first["mend"]
    assert first["docs"].endswith(f"#{broken.cause}")
    assert sorted(ids(report)) == sorted((broken.cause, *broken.also))
    assert report["exit_code"] == (broken.outcome == "failed")
    return first
