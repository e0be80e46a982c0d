"""The list of releases, the selection of one for a rollback, and the ones that are in use."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from litellm_systemd.command import interruptible
from litellm_systemd.commands import releases as verbs
from litellm_systemd.commands.additions import choose_release
from litellm_systemd.errors import InputError, Interrupted, Unavailable, UsageError
from litellm_systemd.gateway.config import parse_config
from litellm_systemd.host.layout import Layout
from litellm_systemd.releases.inventory import (
    Release,
    choose_rollback,
    current_release,
    list_releases,
    missing_python,
    read_release,
    releases_in_use,
)


def add(layout: Layout, identifier: str, made: str, python: str = "/usr/bin/python3") -> None:
    folder = layout.real(layout.release(identifier))
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to(python)
    mark = Release(identifier, "0.1.0", "1.106.2", python, "3.11.2", "f" * 64, made, "uv", 600 << 20)
    (folder / "release.json").write_text(mark.as_mark(), encoding="utf-8")


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Four releases, the third of them current."""
    found = Layout(root=tmp_path)
    for day, name in enumerate(("0.1.0-aaa", "0.1.0-bbb", "0.1.1-ccc", "0.1.2-ddd"), start=1):
        add(found, name, f"2026-11-0{day}T00:00:00Z")
    found.real(found.current).symlink_to("releases/0.1.1-ccc")
    return found


def test_newest_first(layout: Layout) -> None:
    """Releases are listed by creation time, without incomplete ones."""
    (layout.real(layout.releases) / ".staging-0.1.3-eee" / "venv").mkdir(parents=True)
    (layout.real(layout.releases) / "0.1.3-fff").mkdir()
    names = [release.identifier for release in list_releases(layout)]
    assert names == ["0.1.2-ddd", "0.1.1-ccc", "0.1.0-bbb", "0.1.0-aaa"]
    assert current_release(layout) == "0.1.1-ccc"


def test_mark_of_a_release(layout: Layout) -> None:
    """The mark of a release is read as it was written; one of an earlier version has the fields that it has."""
    assert read_release(layout, "0.1.0-bbb").litellm == "1.106.2"
    assert read_release(layout, "0.1.0-bbb").size == 600 << 20
    mark = layout.real(layout.release("0.1.0-aaa")) / "release.json"
    mark.write_text('{"version": "0.0.9", "python": "/usr/bin/python3"}', encoding="utf-8")
    assert read_release(layout, "0.1.0-aaa") == Release("0.1.0-aaa", "0.0.9", python="/usr/bin/python3")
    mark.write_text("half a li", encoding="utf-8")
    assert read_release(layout, "0.1.0-aaa") == Release("0.1.0-aaa")


@pytest.mark.parametrize(
    ("asked", "chosen"), [(None, "0.1.2-ddd"), ("0.1.0-bbb", "0.1.0-bbb"), ("0.1.2", "0.1.2-ddd")]
)
def test_rollback_to(layout: Layout, asked: str | None, chosen: str) -> None:
    """Without a name a rollback selects another release than the current one; the beginning of a name is enough."""
    assert choose_rollback(layout, asked).identifier == chosen


@pytest.mark.parametrize(
    ("asked", "said"),
    [("0.1.0", "0.1.0 is not unique"), ("0.2", "0.2 doesn't exist"), ("0.1.1-ccc", "in use already")],
)
def test_no_rollback_to(layout: Layout, asked: str, said: str) -> None:
    """A name that matches no release, several, or the current one is refused with the reason."""
    with pytest.raises(UsageError, match=said) as caught:
        choose_rollback(layout, asked)
    assert "releases list" in caught.value.hint


MODEL = "model_list: [{model_name: a, litellm_params: {model: openai/x, api_key: none}}]\n"


def test_no_rollback_to_a_compromised_litellm(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rollback to a release with a compromised LiteLLM is refused, and so is an install from such a release."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("0.1.2-ddd", "0.1.1-ccc"):
        (layout.real(layout.release(name)) / "lib/python3.11/site-packages/litellm-1.82.8.dist-info").mkdir(
            parents=True
        )
    with pytest.raises(InputError, match=r"LiteLLM 1\.82\.8 is refused"):
        verbs.rollback(layout)
    monkeypatch.setattr(sys, "prefix", str(layout.real(layout.release("0.1.1-ccc"))))
    with pytest.raises(InputError, match=r"LiteLLM 1\.82\.8 is refused"):
        choose_release(layout, parse_config(MODEL, "f.yml"))


def test_rollback_with_one_release(tmp_path: Path) -> None:
    """With only one release a rollback is refused."""
    layout = Layout(root=tmp_path)
    add(layout, "0.1.0-aaa", "")
    layout.real(layout.current).symlink_to("releases/0.1.0-aaa")
    with pytest.raises(UsageError, match="no other release"):
        choose_rollback(layout, None)


def test_missing_python(layout: Layout) -> None:
    """A release whose Python is missing is reported with the path of that Python."""
    add(layout, "0.1.3-eee", "", "/usr/bin/python3.99")
    assert missing_python(layout, "0.1.3-eee") == "/usr/bin/python3.99"
    python = layout.real("/usr/bin/python3.99")
    python.parent.mkdir(parents=True, exist_ok=True)
    python.touch(0o755)
    assert missing_python(layout, "0.1.3-eee") == f"{layout.release('0.1.3-eee')}/bin/python"
    assert missing_python(layout, "0.1.0-aaa") is None


def process(proc: Path, pid: int, *, maps: str = "", cmdline: str = "") -> None:
    (proc / str(pid)).mkdir(parents=True)
    (proc / str(pid) / "maps").write_text(maps, encoding="utf-8")
    (proc / str(pid) / "cmdline").write_text(cmdline, encoding="utf-8")


def test_releases_in_use(layout: Layout, tmp_path: Path) -> None:
    """A release is in use if a process has mapped a file of it or was started from it, whatever `current`
    points to.
    """
    releases, proc = layout.real(layout.releases).resolve(), tmp_path / "proc"
    process(proc, 10, maps=f"7f00-7f01 r-xp 0 fe:00 1 {releases}/0.1.0-aaa/lib/python3.11/site-packages/x.so\n")
    process(proc, 11, cmdline=f"{releases}/0.1.0-bbb/bin/python\0-I\0")
    process(proc, 12, maps=f"7f00-7f01 r-xp 0 fe:00 1 {releases}/gone/lib/x.so\n", cmdline="sleep\0")
    (proc / "13").mkdir()
    assert releases_in_use(layout, proc) == {"0.1.0-aaa", "0.1.0-bbb"}


@pytest.mark.skipif(os.geteuid() != 0, reason="removing releases takes root")
def test_prune(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """prune keeps the current release, those in use and the newest others; a second run removes nothing."""
    monkeypatch.setattr(verbs, "require_root", lambda _what: None)
    monkeypatch.setattr(verbs, "releases_in_use", lambda _layout: frozenset({"0.1.0-aaa"}))
    report = verbs.prune(layout, 1)
    assert report.data["removed"] == ["0.1.0-bbb"]
    assert {path.name for path in layout.real(layout.releases).iterdir()} == {"0.1.0-aaa", "0.1.1-ccc", "0.1.2-ddd"}
    assert verbs.prune(layout, 1).data["changed"] is False
    assert verbs.prune(layout, 0).data["removed"] == ["0.1.2-ddd"]
    rows = verbs.list_all(layout).data["releases"]
    assert [(row["identifier"], row["current"], row["in_use"]) for row in rows] == [
        ("0.1.1-ccc", True, False),
        ("0.1.0-aaa", False, True),
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="removing releases takes root")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_prune(layout: Layout, monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    """A signal ends a prune with its exit code and leaves no half release. The next run removes the rest."""

    def interrupt(path: Path, **_options: object) -> None:
        if path.exists():  # it is called before the rename too
            os.kill(os.getpid(), number)

    monkeypatch.setattr(verbs, "require_root", lambda _what: None)
    with monkeypatch.context() as patch, interruptible():
        patch.setattr(shutil, "rmtree", interrupt)
        with pytest.raises(Interrupted) as caught:
            verbs.prune(layout, 0)
    assert (int(caught.value.code), caught.value.hint) == (code, "The next run removes the rest.")
    assert {each.identifier for each in list_releases(layout)} == {"0.1.0-aaa", "0.1.0-bbb", "0.1.1-ccc"}
    assert set(verbs.prune(layout, 0).data["removed"]) == {"0.1.0-aaa", "0.1.0-bbb"}
    assert [path.name for path in layout.real(layout.releases).iterdir()] == ["0.1.1-ccc"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('LITELLM_MASTER_KEY="aws-ssm:/litellm/key"', "does not know secrets in AWS"),
        ('TLS_CERT_FILE="/etc/gateway.pem"', "would serve plain HTTP"),
        ('METRICS="127.0.0.1:9400"', "does not know METRICS"),
        ('DATABASE_URL="postgresql://litellm@localhost/litellm"', "does not know a database"),
        ('PORT="4000"', None),
    ],
)
def test_release_that_lacks_a_feature_in_use(
    layout: Layout, line: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """rollback refuses a release that would read the environment differently."""
    path = layout.real(layout.environment_file)
    path.parent.mkdir(parents=True)
    path.write_text(f"{line}\n", encoding="utf-8")
    started: list[tuple[str, ...]] = []
    monkeypatch.setattr(verbs, "replace_process", started.append)
    monkeypatch.setattr(verbs, "require_root", lambda *_: None)
    with pytest.raises(AssertionError if said is None else Unavailable, match=said or "exec"):
        verbs.rollback(layout, None, say=lambda _: None)
    assert bool(started) is (said is None)
