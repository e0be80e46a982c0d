"""The pure functions of a rehearsal: the command line in the clone, its environment, and the report."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from litellm_systemd.box import Image, is_hidden, outermost, require_boxes, why_not
from litellm_systemd.commands.rehearse import (
    Rehearsal,
    RehearseOptions,
    build_environment,
    build_install,
    build_report,
    read_report,
)
from litellm_systemd.commands.resolve import Request
from litellm_systemd.contract import ExitCode
from litellm_systemd.errors import MissingError, PermissionDenied
from litellm_systemd.host.layout import Layout
from litellm_systemd.report.report import Check, Outcome, Report

OPTIONS = RehearseOptions(Request(Layout()))
STEP = {
    "name": "write /etc/litellm/litellm.env",
    "outcome": "skipped",
    "detail": "edited",
    "hint": "",
    "seconds": None,
}
PLAN = {"checks": [STEP], "diffs": ["+A=1"], "notes": ["both"], "data": {"effect": "the service is restarted"}}
KEY_NOTE = "LITELLM_MASTER_KEY=sk-secret was generated for this service"
RESULT = {**Report("verified", (Check("readiness", Outcome.OK, seconds=0.1),), notes=("both", KEY_NOTE)).as_dict()}
FAILURE = {"ok": False, "exit_code": 69, "error": "it didn't start", "hint": "All changes were undone."}
SEEN = Rehearsal(Check("boot a clone", Outcome.OK), PLAN, RESULT, ("last words",), calls_models=True, seconds=1.0)


def test_same_request_in_the_clone() -> None:
    """The install in the clone gets the same request as the rehearsal."""
    request = Request(Layout(), Path("my.env"), "demo.yml", installed_only=True)
    options = RehearseOptions(request, verify=False, take_ours=True, bundle=Path("all.tar"))
    argv = build_install(options, region="eu-west-1", calls_models=False)
    assert argv[1:8] == ("-I", "-m", "litellm_systemd", "install", "--json", "--verbose", "--prefix")
    asked = "--env-file my.env --config demo.yml --installed --bundle all.tar --take-ours --no-verify --no-spend"
    assert " ".join(argv[9:]) == f"{asked} --offline --region eu-west-1"


def test_nothing_is_added_to_the_request() -> None:
    """Without options, install in the clone chooses as it would here, and asks no question about edits."""
    assert build_install(OPTIONS, region=None, calls_models=True)[9:] == ("--keep-mine", "--offline")


def test_database_is_not_rehearsed() -> None:
    """The service of a clone has no database, which it would migrate and write to, and the report says so."""
    options = replace(OPTIONS, request=replace(OPTIONS.request, without_database=True))
    assert build_install(options, region=None, calls_models=True)[-1] == "--without-database"
    names = {check.name for check in build_report(replace(SEEN, has_database=True)).checks}
    assert "not rehearsed: database" in names - {check.name for check in build_report(SEEN).checks}


def test_environment_of_the_clone() -> None:
    """The clone gets the variables of uv and pip, but no secrets or others, and does not wait for a network."""
    found = build_environment({"UV_CACHE_DIR": "/c", "AWS_SECRET_ACCESS_KEY": "x", "PATH": "/p", "TERM": "xterm"})
    assert found["UV_CACHE_DIR"] == "/c"
    assert (found["UV_OFFLINE"], found["AWS_EC2_METADATA_DISABLED"]) == ("1", "true")
    assert found["PATH"].endswith(":/p")
    assert not {"AWS_SECRET_ACCESS_KEY", "TERM"} & set(found)


def test_report_of_a_success() -> None:
    """The report has the steps as done, the table of verify, what was not rehearsed, and each note once."""
    report = build_report(SEEN)
    assert report.exit_code is ExitCode.OK
    names = [check.name for check in report.checks]
    assert names[:4] == ["boot a clone", STEP["name"], "install", "readiness"]
    assert [check.outcome for check in report.checks[:2]] == [Outcome.OK, Outcome.CHANGED]
    assert all(name.startswith("not rehearsed: ") for name in names[4:])
    assert report.notes == ("both",)
    assert "(1 step, the service is restarted)" in report.title


def test_key_of_the_clone_is_not_shown() -> None:
    """The key that was generated in the clone is useless here, and the report does not show it."""
    assert "sk-secret" not in build_report(SEEN).as_json()


def test_report_of_a_failure() -> None:
    """The report has the install's exit code, error and remedy, and the last lines of the journal."""
    report = build_report(replace(SEEN, result=FAILURE))
    assert report.exit_code == 69
    failed = next(check for check in report.checks if check.outcome is Outcome.FAILED)
    assert (failed.detail, failed.hint) == ("it didn't start", "All changes were undone.")
    assert report.notes[-1] == "last words"
    assert "fails here with exit code 69" in report.title


def test_report_of_a_failed_check() -> None:
    """If the install succeeds and its verify fails, the report has verify's exit code."""
    unhealthy = Report("not verified", (Check("models", Outcome.FAILED, "HTTP 500"),)).as_dict()
    report = build_report(replace(SEEN, result=unhealthy, journal=()))
    assert report.exit_code is ExitCode.FAILED
    assert report.notes[-1] == "The service's journal in the clone is empty."


def test_report_of_no_change() -> None:
    """If there is nothing to do, the report says so."""
    report = build_report(replace(SEEN, plan={**PLAN, "checks": []}))
    assert report.title.startswith("rehearsed: there would be nothing to do")


def test_model_calls_are_named() -> None:
    """If models would be called over the network, the report says that they were not."""
    names = {check.name for check in build_report(replace(SEEN, calls_models=False)).checks}
    assert "not rehearsed: calls to models (Amazon Bedrock)" in names


def test_bundle_needs_no_package_index() -> None:
    """Packages from a bundle are rehearsed completely; otherwise the report says that no index was queried."""
    index = "not rehearsed: package index"
    assert index in {check.name for check in build_report(SEEN).checks}
    assert index not in {check.name for check in build_report(replace(SEEN, bundled=True)).checks}


@pytest.mark.parametrize(("stdout", "code"), [('{"title": "x", "checks": []}', 0), ("", 137)])
def test_reading_the_output_of_litellmctl(stdout: str, code: int) -> None:
    """The exit code is that of the process, and no output is an error."""
    found = read_report(CompletedProcess([], code, stdout, "Killed\n"))
    assert found["exit_code"] == code
    assert ("error" in found) == (code != 0)


def test_unknown_exit_code() -> None:
    """An exit code that litellmctl does not define counts as a failure."""
    assert build_report(replace(SEEN, result={**FAILURE, "exit_code": 137})).exit_code is ExitCode.FAILED


# --- boxes ---


def test_clone_keeps_the_service() -> None:
    """The image of a clone keeps the installed service; other images remove it."""
    assert "rm -rf /etc/litellm" in Image().preparation
    assert "rm -rf /etc/litellm" not in Image(keeps_service=True).preparation


def test_hidden_paths() -> None:
    """A box has its own /tmp and /run, and sees the root file system."""
    assert is_hidden(Path("/tmp/x"))
    assert is_hidden(Path("/proc/1"))
    assert not is_hidden(Path("/"))


def test_outermost() -> None:
    """Paths below another one of the paths are omitted."""
    assert outermost([Path("/a/b"), Path("/a"), Path("/c")]) == (Path("/a"), Path("/c"))


def test_missing_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without systemd-nspawn the error names the package for apt-get and dnf."""

    def which(name: str, path: str | None = None) -> Any:
        # A kernel that grants namespaces.
        found = "true" if name == "unshare" else name
        return None if name == "systemd-nspawn" else f"/usr/bin/{found}"

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", which)
    with pytest.raises(MissingError, match="systemd-nspawn") as caught:
        require_boxes()
    assert caught.value.hint == "Run: apt-get install systemd-container, or: dnf install systemd-container"


def test_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root the error says that root is needed."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionDenied, match="need root"):
        require_boxes()
    assert why_not() == "systemd containers need root"


def test_json_of_the_report() -> None:
    """The JSON of the report has the plan, the result and the journal."""
    assert set(json.loads(build_report(SEEN).as_json())["data"]) == {"plan", "result", "journal"}
