"""The output of verify: time, versions and configuration in the report, and its HTML and JUnit files."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from litellm_systemd.commands.status import edited_notes, observe_loaded
from litellm_systemd.commands.verify import Files, VerifyTarget, describe_target, find_changes
from litellm_systemd.contract import ExitCode
from litellm_systemd.errors import CannotCreate, UsageError
from litellm_systemd.host.layout import Layout
from litellm_systemd.install.render import render_page
from litellm_systemd.report.exports import build_page, render_junit
from litellm_systemd.report.report import Check, Outcome, Report

NOON = datetime(2026, 3, 1, 13, tzinfo=timezone(timedelta(hours=1)))
CONFIG = b"model_list: []\n"
OURS, ELSEWHERE = VerifyTarget(is_own=True), VerifyTarget(is_own=False)


def install(root: Path) -> Layout:
    """A root with a release and an active configuration."""
    layout = Layout(root=root)
    release = layout.real(layout.release("0.1.0-abc"))
    release.mkdir(parents=True)
    (release / "release.json").write_text('{"litellm": "1.106.2"}', encoding="utf-8")
    layout.real(layout.current).symlink_to("releases/0.1.0-abc")
    folder = layout.real(layout.configs)
    folder.mkdir(parents=True)
    (folder / "own.yml").write_bytes(CONFIG)
    layout.real(layout.config_link).symlink_to("configs/own.yml")
    return layout


def report(*outcomes: Outcome, **data: object) -> Report:
    return Report("title", tuple(Check(f"check {n}", outcome) for n, outcome in enumerate(outcomes)), data=data)


def test_report_describes_its_target(tmp_path: Path) -> None:
    """The report has the time in UTC, the LiteLLM of the release, the configuration and its hash."""
    data = describe_target(report(litellm_version=None), install(tmp_path), NOON, OURS).data
    assert data["checked_at"] == "2026-03-01T12:00:00Z"
    assert data["versions"]["litellm"] == "1.106.2"
    assert data["config"] == {"name": "own.yml", "sha256": hashlib.sha256(CONFIG).hexdigest(), "edited": None}


def test_configuration_that_the_service_has_loaded(tmp_path: Path) -> None:
    """The report names the configuration that the service has loaded, and notes a later edit or switch."""
    layout, digest = install(tmp_path), hashlib.sha256(CONFIG).hexdigest()
    path = layout.real(layout.config_link)
    same = observe_loaded(layout, {"sha256": digest, "config_name": "own.yml"})
    assert same is not None
    assert (same.edited, edited_notes(layout, same)) == (False, ())
    for text in ("model_list: [] # mine\n", "model_list: [\n"):
        path.write_text(text, encoding="utf-8")
        edited = observe_loaded(layout, {"sha256": digest, "config_name": "own.yml"})
        assert edited is not None
        assert (edited.name, edited.sha256, edited.edited) == ("own.yml", digest, True)
        (note,) = edited_notes(layout, edited)
        assert note == "own.yml was edited since the service loaded it: sudo systemctl reload litellm"
    other = observe_loaded(layout, {"sha256": digest, "config_name": "demo.yml"})
    (note,) = edited_notes(layout, other)
    assert note.startswith("own.yml is the active configuration, but the service has loaded demo.yml: ")


@pytest.mark.parametrize("option", ["junit", "html"])
def test_unwritable_file_is_refused_first(tmp_path: Path, option: str) -> None:
    """A missing or unwritable folder, or one file for both formats, is refused at the start and leaves no file."""
    (tmp_path / "file").touch()
    for path, said in (
        (tmp_path / "none" / "x", "there is no folder"),
        (tmp_path / "file" / "x", "there is no folder"),
        (Path("/proc/x"), "/proc/x: "),
    ):
        with pytest.raises(CannotCreate, match=said):
            Files(**{option: path}).require_places()
    with pytest.raises(UsageError, match="the same file"):
        Files(tmp_path / "x", tmp_path / "x").require_places()
    Files(**{option: tmp_path / "good"}).require_places()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_file_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of another user in a sticky folder like /tmp is refused at the start."""
    tmp_path.chmod(0o1777)
    (tmp_path / "page.html").touch()
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 54321)
    with pytest.raises(CannotCreate, match=r"page\.html: Permission denied"):
        Files(html=tmp_path / "page.html").require_places()


def test_version_from_the_gateway(tmp_path: Path) -> None:
    """The version in the response overrides the release. The report of a remote gateway has no data of this host."""
    layout = install(tmp_path)
    assert describe_target(report(litellm_version="1.2.3"), layout, NOON, OURS).data["versions"] == {
        **describe_target(report(), layout, NOON, ELSEWHERE).data["versions"],
        "litellm": "1.2.3",
    }
    elsewhere = describe_target(report(), layout, NOON, ELSEWHERE).data
    assert (elsewhere["config"], elsewhere["versions"]["litellm"]) == (None, None)


def test_without_an_installation(tmp_path: Path) -> None:
    """Without an installation, the report has no configuration."""
    assert describe_target(report(), Layout(root=tmp_path), NOON, OURS).data["config"] is None


def test_page_lists_failures_first() -> None:
    """The verdict follows from the exit code, and failures are listed before warnings."""
    ok, warning, failed = Outcome.OK, Outcome.WARNING, Outcome.FAILED
    assert build_page(report(ok)).verdict == "Healthy"
    assert build_page(report(ok, warning)).verdict == "Healthy, with a warning"
    page = build_page(report(warning, ok, failed, Outcome.SKIPPED))
    assert (page.verdict, page.counts[0]) == ("Unhealthy", ("ok", "1 ok"))
    assert [row.name for row in page.problems] == ["check 2", "check 0"]
    assert build_page(Report("title", code=ExitCode.UNAVAILABLE)).verdict == "Unhealthy"
    assert "Healthy: title" in render_page(Report("title"))


def test_page_shortens_a_long_list_of_models() -> None:
    """The page shows the first 12 models and the number of the others."""
    facts = dict(build_page(report(models=[f"m{n}" for n in range(300)])).facts)
    assert facts["Models"].endswith("m11 and 288 more")


def test_bars_are_to_scale() -> None:
    """The bar of the longest check has the full width, and the time to the first token is a share of its own bar."""
    checks = (
        Check("quick", Outcome.OK, seconds=0.5),
        Check("streamed", Outcome.OK, seconds=2.0, data={"first_token_seconds": 0.5}),
        Check("slow", Outcome.OK, seconds=12.0),
    )
    bars = [row.bar for row in build_page(Report("title", checks)).rows]
    assert [(bar.time, bar.width, bar.first) for bar in bars if bar] == [
        ("500 ms", 4.2, 0.0),
        ("2,000 ms", 16.7, 25.0),
        ("12.0 s", 100.0, 0.0),
    ]


def test_junit() -> None:
    """A warning is a passed case with its message. Time and hash are included. Invalid characters are replaced."""
    check = Check("chat", Outcome.WARNING, "bell \x07 <rang>", "Look.", 1.25)
    made = Report("title", (check,), data={"checked_at": "2026-03-01T12:00:00Z", "config": {"sha256": "ab"}})
    text = render_junit(made, "suite")
    assert "warning: bell \ufffd &lt;rang&gt;: Look." in text
    assert 'timestamp="2026-03-01T12:00:00"' in text
    assert 'time="1.250"' in text
    assert '<property name="config.sha256" value="ab" />' in text


def test_changes_between_rounds() -> None:
    """A skipped check is not a change. A check is a change if its outcome differs from its last run."""
    before = {f"check {n}": Outcome.OK for n in range(3)}
    down = find_changes(before, report(Outcome.FAILED, Outcome.SKIPPED, Outcome.SKIPPED))
    assert [change.as_line() for change in down] == ["check 0: ok → FAILED"]
    assert find_changes(before, report(Outcome.OK, Outcome.SKIPPED, Outcome.OK)) == ()
    assert find_changes({}, report(Outcome.WARNING))[0].as_dict("now")["before"] is None
