"""What a proof says of itself: when, with what versions, of which configuration; and what its page makes of it."""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from litellm_systemd.commands.loaded_config import edited_notes, observe_loaded
from litellm_systemd.commands.verify_output import Files, VerifyTarget, describe_target, find_changes
from litellm_systemd.contract import ExitCode
from litellm_systemd.errors import CannotCreate, UsageError
from litellm_systemd.host.layout import Layout
from litellm_systemd.install.render import render_page
from litellm_systemd.report.junit import render_junit
from litellm_systemd.report.page import build_page
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


def test_a_proof_names_what_it_is_of(tmp_path: Path) -> None:
    """Of the installed gateway it tells the time in UTC, the release's LiteLLM, the configuration and its hash."""
    told = describe_target(report(litellm_version=None), install(tmp_path), NOON, OURS).data
    assert told["checked_at"] == "2026-03-01T12:00:00Z"
    assert told["versions"]["litellm"] == "1.106.2"
    assert told["config"] == {"name": "own.yml", "sha256": hashlib.sha256(CONFIG).hexdigest(), "edited": None}


def test_what_is_loaded_counts(tmp_path: Path) -> None:
    """A service that says what it has loaded is believed, and told apart from a file that is another one by now."""
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
def test_a_file_is_refused_before_anything_is_spent(tmp_path: Path, option: str) -> None:
    """A folder that isn't there or takes no file, and one file for both, are told at once; nothing is left behind."""
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


def test_a_file_of_somebody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What root left in a folder as /tmp is can't be replaced by a user, who hears of it at once."""
    tmp_path.chmod(0o1777)
    (tmp_path / "page.html").touch()
    monkeypatch.setattr("os.geteuid", lambda: tmp_path.stat().st_uid + 54321)
    with pytest.raises(CannotCreate, match=r"page\.html: Permission denied"):
        Files(html=tmp_path / "page.html").require_places()


def test_what_the_gateway_says_counts(tmp_path: Path) -> None:
    """The version that an answer named is the one that runs; of a gateway elsewhere nothing of this host is told."""
    layout = install(tmp_path)
    assert describe_target(report(litellm_version="1.2.3"), layout, NOON, OURS).data["versions"] == {
        **describe_target(report(), layout, NOON, ELSEWHERE).data["versions"],
        "litellm": "1.2.3",
    }
    elsewhere = describe_target(report(), layout, NOON, ELSEWHERE).data
    assert (elsewhere["config"], elsewhere["versions"]["litellm"]) == (None, None)


def test_nothing_is_installed(tmp_path: Path) -> None:
    """A proof of what isn't installed says so little, and fails at nothing."""
    assert describe_target(report(), Layout(root=tmp_path), NOON, OURS).data["config"] is None


def test_the_page_tells_the_worst_first() -> None:
    """The verdict is that of the exit code; failures stand before warnings; a short report makes a page as well."""
    ok, warning, failed = Outcome.OK, Outcome.WARNING, Outcome.FAILED
    assert build_page(report(ok)).verdict == "Sound"
    assert build_page(report(ok, warning)).verdict == "Sound, with a warning"
    page = build_page(report(warning, ok, failed, Outcome.SKIPPED))
    assert (page.verdict, page.counts[0]) == ("Not sound", ("ok", "1 ok"))
    assert [row.name for row in page.trouble] == ["check 2", "check 0"]
    assert build_page(Report("title", code=ExitCode.UNAVAILABLE)).verdict == "Not sound"
    assert "Sound: title" in render_page(Report("title"))


def test_the_page_names_no_hundred_models() -> None:
    """A wildcard that stands for hundreds of models doesn't fill the page."""
    facts = dict(build_page(report(models=[f"m{n}" for n in range(300)])).facts)
    assert facts["Models"].endswith("m11 and 288 more")


def test_bars_are_to_scale() -> None:
    """The longest check has the whole width; the part until the first token is one of its own bar."""
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


def test_junit_has_a_place_for_warnings() -> None:
    """A warning passes and keeps its words; time and hash are there; what XML can't say is replaced."""
    check = Check("chat", Outcome.WARNING, "bell \x07 <rang>", "Look.", 1.25)
    made = Report("title", (check,), data={"checked_at": "2026-03-01T12:00:00Z", "config": {"sha256": "ab"}})
    text = render_junit(made, "suite")
    assert "warning: bell \ufffd &lt;rang&gt;: Look." in text
    assert 'timestamp="2026-03-01T12:00:00"' in text
    assert 'time="1.250"' in text
    assert '<property name="config.sha256" value="ab" />' in text


def test_an_outage_is_one_change() -> None:
    """A check that isn't made has not changed; it is told again once it ends otherwise than when last made."""
    before = {f"check {n}": Outcome.OK for n in range(3)}
    down = find_changes(before, report(Outcome.FAILED, Outcome.SKIPPED, Outcome.SKIPPED))
    assert [change.as_line() for change in down] == ["check 0: ok → FAILED"]
    assert find_changes(before, report(Outcome.OK, Outcome.SKIPPED, Outcome.OK)) == ()
    assert find_changes({}, report(Outcome.WARNING))[0].as_dict("now")["before"] is None
