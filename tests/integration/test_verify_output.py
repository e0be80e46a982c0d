"""The output of `litellmctl verify` for other programs: JSON, JUnit XML, an HTML page in a real browser, --watch."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from axe_playwright_python.sync_playwright import Axe
from junitparser import Failure, JUnitXml, Skipped, TestSuite
from playwright.sync_api import Browser

from litellm_systemd.cli import run_command
from litellm_systemd.contract import REFUSED_KEY
from tests.integration.stub_gateway import KEY, Answerer, Handler, Stub, healthy, stub

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "verify.schema.json").read_text(encoding="utf-8"))
CHAT = "chat primary (/chat/completions)"
#: A hostile response of a model or a provider.
HOSTILE = '<script>document.title = "taken"</script><img src="http://127.0.0.1:9/x"> & \x1b[31m\x00 end'


def verify(*arguments: str, url: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `litellmctl verify`."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run_command(["verify", "--base-url", url, "--api-key", KEY, *arguments])
    return code, out.getvalue(), err.getvalue()


def say_hostile(handler: Handler) -> None:
    """A response with HTML markup and the key of the request."""
    said = {"content": f"{HOSTILE} {KEY}"}
    handler.reply(200, {"choices": [{"message": said}], "usage": {"prompt_tokens": 9, "completion_tokens": 9}})


def throttle(handler: Handler) -> None:
    """A provider's error with the same content."""
    handler.reply(429, {"error": {"message": f"ThrottlingException: {HOSTILE} {KEY}"}})


@pytest.fixture(scope="module")
def failing_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder with both files, and the report as JSON, of a gateway for which some checks fail."""
    folder = tmp_path_factory.mktemp("kept")
    with stub() as server:
        server.faults = {"/chat/completions": say_hostile, "/v1/responses": throttle}
        files = ("--html", str(folder / "page.html"), "--junit", str(folder / "junit.xml"))
        code, out, err = verify("--json", *files, url=server.url)
    assert code == 1, err
    return folder, json.loads(out)


def check_schema(document: Any) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(document)


def test_json_matches_its_schema(failing_run: tuple[Path, dict[str, Any]]) -> None:
    """Reports of healthy and unhealthy gateways, and refusals, match docs/verify.schema.json."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    documents = [failing_run[1]]
    with stub() as server:
        documents += [json.loads(verify("--json", *more, url=server.url)[1]) for more in ((), ("--no-spend",))]
    documents += [json.loads(verify("--json", url=url)[1]) for url in ("http://127.0.0.1:1", "ftp://nowhere")]
    for document in documents:
        check_schema(document)
    assert [document["exit_code"] for document in documents] == [1, 0, 0, 1, 64]
    assert documents[1]["data"]["versions"]["litellm_systemd"] == version("litellm-systemd")
    # The schema does not accept everything.
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid({**documents[1], "more": 1})
    assert not jsonschema.Draft202012Validator(SCHEMA).is_valid({**documents[1], "data": {}})


def test_junit_has_every_check(failing_run: tuple[Path, dict[str, Any]]) -> None:
    """The file of --junit has the same checks, outcomes, causes and remedies for a CI server."""
    folder, report = failing_run
    [suite] = list(JUnitXml.fromfile(str(folder / "junit.xml")))
    assert isinstance(suite, TestSuite)
    cases = {case.name: case for case in suite}
    assert list(cases) == [check["name"] for check in report["checks"]]
    assert (suite.tests, suite.failures, suite.errors) == (len(cases), count(report, "failed"), 0)
    assert suite.skipped == count(report, "skipped")
    for check in report["checks"]:
        results = [type(result) for result in cases[check["name"]].result]
        assert results == {"failed": [Failure], "skipped": [Skipped]}.get(check["outcome"], []), check
    [failed] = cases["responses primary (/v1/responses)"].result
    assert "ThrottlingException" in (failed.message or "")
    assert "HTTP 429" in (failed.text or "")
    assert len((failed.text or "").splitlines()) == 2, "cause, and remedy"


def count(report: dict[str, Any], outcome: str) -> int:
    return sum(check["outcome"] == outcome for check in report["checks"])


def test_files_are_readable_and_have_no_secret(failing_run: tuple[Path, dict[str, Any]]) -> None:
    """Neither file contains the key, even if a model or a provider sends it back; a web server can read both."""
    folder, report = failing_run
    assert KEY not in json.dumps(report)
    assert sorted(path.name for path in folder.iterdir()) == ["junit.xml", "page.html"]
    for path in folder.iterdir():
        assert KEY not in path.read_text(encoding="utf-8")
        assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_unwritable_files(tmp_path: Path) -> None:
    """A file that cannot be written is one error before the first request, also with --watch; a pipe is written to
    and stays a pipe.
    """
    with stub() as server:
        for option in ("--html", "--junit"):
            for more in ((), ("--watch", "1")):
                code, out, err = verify(option, str(tmp_path / "none" / "page"), *more, url=server.url)
                assert (code, out, "there is no folder" in err) == (73, "", True)
                code, out, err = verify(option, "/proc/page", *more, url=server.url)
                assert (code, out, "/proc/page: " in err) == (73, "", True)
        assert server.seen == []
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        assert verify("--no-spend", "--junit", str(pipe), url=server.url)[0] == 0
    assert os.read(reader, 65536).startswith(b"<?xml ")
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 1100), ("light", 320), ("dark", 320)])
def test_the_page_is_accessible(
    failing_run: tuple[Path, dict[str, Any]], browser: Browser, tmp_path: Path, scheme: Any, width: int
) -> None:
    """On wide and narrow screens, light and dark, axe finds no problem, no text is cut off, and all content is there;
    printed, the page is dark on white with its bars.
    """
    folder, report = failing_run
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    page.goto((folder / "page.html").as_uri())
    page.screenshot(path=tmp_path / "page.png", full_page=True)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#checks + ul > li").count() == len(report["checks"])
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor").strip("rgb()").split(",")
    assert (int(ground[0]) < 64) == (scheme == "dark")
    page.emulate_media(media="print", color_scheme=scheme)
    ink = page.evaluate("getComputedStyle(document.body).color").strip("rgb()").split(",")
    assert int(ink[0]) < 64, "paper is white, whatever the screen is"
    assert page.locator(".bar").first.evaluate("bar => getComputedStyle(bar).printColorAdjust") == "exact"
    context.close()


def test_the_page_loads_nothing(failing_run: tuple[Path, dict[str, Any]], browser: Browser) -> None:
    """The page is one file without scripts or requests, and a model's answer is text in it."""
    folder, report = failing_run
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((folder / "page.html").as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [(folder / "page.html").as_uri()]
    assert page.locator("script").count() == 0
    assert page.title().startswith("Unhealthy: ")
    said = next(check["detail"] for check in report["checks"] if check["name"] == CHAT)
    assert "<script>" in said
    text = page.locator("main").inner_text()
    assert said in text
    for check in report["checks"]:
        assert check["name"] in text
    timed = [check["seconds"] for check in report["checks"] if check["seconds"] is not None]
    assert page.locator(".time").count() == len(timed)
    lengths = page.eval_on_selector_all(".bar", "bars => bars.map(bar => bar.getBoundingClientRect().width)")
    assert lengths.index(max(lengths)) == timed.index(max(timed))
    for fact in (report["data"]["base_url"], report["data"]["versions"]["litellm_systemd"]):
        assert fact in text
    page.locator("#problems + ul a").first.click()
    assert page.url.rsplit("#", maxsplit=1)[-1].startswith("check-")


def fall_silent(handler: Handler) -> None:
    handler.reply(503, {"error": {"message": "no worker"}})


def from_the_next_round(answer: Answerer) -> Answerer:
    """Healthy until a new round begins, then the fault, so that no round is half of each."""
    begun = threading.Event()

    def answer_in_turn(handler: Handler) -> None:
        if handler.path == "/health/liveliness":
            begun.set()
        (answer if begun.is_set() else healthy)(handler)

    return answer_in_turn


@contextmanager
def watching(server: Stub, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run `verify --watch 1` so that Ctrl-C also works if the tests run in the background."""
    asked = ("--base-url", server.url, "--api-key", KEY, "--no-spend", "--watch", "1", *arguments)
    argv = ("env", "--default-signal=INT", sys.executable, "-m", "litellm_systemd", "verify", *asked)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def next_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def end_by_ctrl_c(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=120)[0] == ""
    return process.returncode


def await_rounds(server: Stub, rounds: int, *, healthy: bool) -> None:
    """Wait for this many more rounds: a healthy one ends with the wrong key, an unhealthy one where it begins."""
    begun = len(server.seen)
    deadline = time.monotonic() + 180
    while (
        sum(REFUSED_KEY in (key or "") if healthy else "live" in path for _, path, key in server.seen[begun:])
        < rounds
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_watch_reports_each_change_once(tmp_path: Path) -> None:
    """--watch prints one line for an outage and one for its end, updates the page, and exits with 0 after Ctrl-C if
    the last round passed.
    """
    page = tmp_path / "page.html"
    with stub() as server, watching(server, "--html", str(page)) as process:
        first = list(iter(lambda: next_line(process).rstrip(), f"verified {server.url}: 5 checks passed"))
        assert [line.split()[:2] for line in first][:2] == [["ok", "liveliness"], ["ok", "readiness"]]
        await_rounds(server, 2, healthy=True)
        server.faults["*"] = from_the_next_round(fall_silent)
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  liveliness: ok → FAILED, HTTP 503: no worker.*\n", next_line(process)
        )
        assert "Unhealthy" in page.read_text(encoding="utf-8")
        await_rounds(server, 2, healthy=False)
        del server.faults["*"]
        assert next_line(process)[21:] == "liveliness: failed → ok, I'm alive!\n"
        assert end_by_ctrl_c(process) == 0


def test_watch_as_json() -> None:
    """With --json each change, also each check's first outcome, is a line of JSON of the same schema; Ctrl-C ends it
    with 1 while a check fails.
    """
    with stub() as server, watching(server, "--json") as process:
        changes = [json.loads(next_line(process)) for _ in range(5)]
        server.faults["*"] = from_the_next_round(fall_silent)
        changes.append(json.loads(next_line(process)))
        assert end_by_ctrl_c(process) == 1
    for change in changes:
        check_schema(change)
    assert [(change["check"], change["before"], change["now"]) for change in changes] == [
        ("liveliness", None, "ok"),
        ("readiness", None, "ok"),
        ("models", None, "ok"),
        ("refuses a missing key", None, "ok"),
        ("refuses a wrong key", None, "ok"),
        ("liveliness", "ok", "failed"),
    ]
