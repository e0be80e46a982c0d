"""Run `litellmctl doctor` in a box, and assert its report of a broken host."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from box import Box
from broken_hosts import BrokenHost

#: The litellmctl of the venv that runs the tests: it works when that of the release can't.
OURS = f"{sys.prefix}/bin/litellmctl"
INSTALLED = "/usr/local/bin/litellmctl"


#: The skip reasons of a check that exceeded its time limit, or whose program did.
_TIMED_OUT = ("the check did not finish in time", " it did not exit within ")


def doctor(
    box: Box,
    *arguments: str,
    program: str = OURS,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The report of `litellmctl doctor --json`, repeated if a check timed out on a busy machine."""
    for _ in range(3):
        report = _run(box, *arguments, program=program, user=user, environment=environment)
        reasons = [each["because"] for each in report["data"]["checks"]]
        timed_out = any(text in reason for text in _TIMED_OUT for reason in reasons)
        if not timed_out or report["data"]["fixed"]:
            break
    return report


def _run(
    box: Box, *arguments: str, program: str, user: str | None, environment: Mapping[str, str] | None
) -> dict[str, Any]:
    argv = (program, "doctor", "--json", *arguments)
    done = box.run(argv, check=False, timeout=300, user=user, env=environment)
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == report["exit_code"], done.stderr
    return report


def ids(report: dict[str, Any]) -> list[str]:
    return [finding["id"] for finding in report["data"]["findings"]]


def sh(box: Box, script: str) -> None:
    box.run(("bash", "-c", script), timeout=300)


def assert_reported(report: dict[str, Any], broken: BrokenHost) -> dict[str, Any]:
    """The cause is reported first and alone, with evidence, remedy and link; returns that finding."""
    assert ids(report), report["data"]["checks"]
    first: dict[str, Any] = report["data"]["findings"][0]
    assert (first["id"], first["outcome"]) == (broken.cause, broken.outcome), first
    assert broken.evidence in first["seen"], first["seen"]
    assert first["mend"]
    assert first["docs"].endswith(f"#{broken.cause}")
    assert sorted(ids(report)) == sorted((broken.cause, *broken.also)), report["data"]["findings"]
    assert report["exit_code"] == (broken.outcome == "failed")
    return first
