"""The targets of `upgrade`, with the real uv and pip on folders of wheels."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from litellm_systemd.cli import run_command
from litellm_systemd.commands.releases import NEWEST, UpgradeTarget, upgrade
from litellm_systemd.errors import CommandError, InputError, InstallerError, Unavailable
from litellm_systemd.host.layout import Layout
from litellm_systemd.releases import newest, source
from litellm_systemd.releases.changes import list_changes
from litellm_systemd.releases.inventory import Release
from litellm_systemd.releases.newest import fetch_newest_litellm
from litellm_systemd.releases.requirements_lock import Pin, parse_lock
from litellm_systemd.releases.source import find_source
from litellm_systemd.report.report import Report
from tests.wheels import stand_in

#: Later than each real one that this version supports; the next two need packages that the index lacks.
GOOD, LACKING, GONE, UNSUPPORTED = "1.108.97", "1.108.98", "1.108.99", "99.0"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of empty wheels: every package of the lock, and four LiteLLMs."""
    folder = tmp_path_factory.mktemp("index")
    for pin in parse_lock(find_source().lock):
        if pin.name != "litellm":
            stand_in(folder, pin)
    for version, requires in (
        (GOOD, ()),
        (LACKING, ("litellm-proxy-extras==99",)),
        (GONE, ("removed-package==1",)),
        (UNSUPPORTED, ()),
    ):
        stand_in(folder, Pin("litellm", version, ()), requires)
    return folder


@pytest.fixture(params=["uv", "pip"])
def tool(request: pytest.FixtureRequest, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """uv or pip, with the folder as its only index."""
    for name, value in {
        "PIP_FIND_LINKS": str(index),
        "PIP_NO_INDEX": "1",
        "UV_OFFLINE": "1",
        "UV_CACHE_DIR": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    if request.param == "pip":
        monkeypatch.setattr(source, "find_uv", lambda: None)
        monkeypatch.setattr(newest, "find_uv", lambda: None)
    return str(request.param)


@pytest.mark.slow
def test_newest_litellm(tool: str, index: Path, tmp_path: Path) -> None:
    """Without a number the newest LiteLLM that resolves is locked; each newer one is named with what it lacks.

    The lock has the hash of each file, with pip from a folder too, whose report has none.
    """
    found = fetch_newest_litellm("1.108.7", tmp_path)
    assert found.source is not None
    pins = {pin.name: pin for pin in parse_lock(found.source.lock)}
    assert pins["litellm"].version == GOOD
    [wheel] = index.glob(f"litellm-{GOOD}-*.whl")
    assert pins["litellm"].hashes == (hashlib.sha256(wheel.read_bytes()).hexdigest(),)
    unsupported, gone, lacking = found.skipped
    assert ("works with LiteLLM" in unsupported, UNSUPPORTED in unsupported) == (True, True)
    assert (GONE in gone, "removed-package" in gone) == (True, True), gone
    assert (LACKING in lacking, "litellm-proxy-extras" in lacking) == (True, True), lacking


def host(tmp_path: Path, checkout: str = "") -> Layout:
    """A host whose current release has a LiteLLM that is newer than the usable ones of the index."""
    layout = Layout(root=tmp_path / "host")
    folder = layout.real(layout.release("0.1.0-aaa"))
    folder.mkdir(parents=True)
    mark = Release("0.1.0-aaa", "0.1.0", litellm=GOOD, checkout=checkout).as_mark()
    (folder / "release.json").write_text(mark, encoding="utf-8")
    layout.real(layout.current).symlink_to("releases/0.1.0-aaa")
    return layout


@pytest.fixture
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("litellm_systemd.host.observe.os.geteuid", lambda: 0)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["uv"], indirect=True)
@pytest.mark.usefixtures("as_root", "tool")
def test_no_newer_litellm(tmp_path: Path) -> None:
    """If no newer LiteLLM resolves, `upgrade --litellm` changes nothing, and says why for each newer one."""
    report = upgrade(host(tmp_path), UpgradeTarget(litellm=NEWEST))
    assert report.title == f"nothing to do: no LiteLLM after {GOOD} can be installed"
    assert [version in note for version, note in zip((UNSUPPORTED, GONE, LACKING), report.notes, strict=True)] == [
        True,
        True,
        True,
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("tool")
def test_index_without_litellm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an index the message says what can't be fetched, not which command of uv or pip failed."""
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(CommandError) as caught:
        fetch_newest_litellm("1.108.7", tmp_path)
    assert caught.value.message.startswith("LiteLLM can't be fetched: ")
    assert "--quiet" not in caught.value.message


@pytest.mark.slow
@pytest.mark.usefixtures("tool")
def test_unreachable_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index that cannot be reached is the cause of the failure, not the version that is then not found."""
    for name in ("PIP_NO_INDEX", "UV_OFFLINE", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    for name in ("PIP_INDEX_URL", "UV_INDEX_URL"):
        monkeypatch.setenv(name, "https://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with pytest.raises(CommandError) as caught:
        fetch_newest_litellm("1.108.7", tmp_path)
    assert ("Connection refused" in caught.value.message, "version" in caught.value.message) == (True, False)


@pytest.mark.parametrize(
    ("arguments", "target"),
    [
        (["--litellm"], UpgradeTarget(litellm=NEWEST)),
        (["--litellm", "--json"], UpgradeTarget(litellm=NEWEST)),
        (["--litellm", "1.108.7"], UpgradeTarget(litellm="1.108.7")),
        (["0.2.0"], UpgradeTarget(version="0.2.0")),
    ],
    ids=["newest", "json", "number", "package"],
)
def test_version_of_litellm_is_optional(
    arguments: list[str], target: UpgradeTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--litellm` takes a version, or none for the newest."""
    found: list[UpgradeTarget] = []

    def remember(_layout: Layout, wanted: UpgradeTarget, **_: object) -> Report:
        found.append(wanted)
        return Report("done")

    monkeypatch.setattr("litellm_systemd.commands.releases.upgrade", remember)
    assert run_command(["upgrade", *arguments]) == 0
    assert found == [target]


@pytest.mark.usefixtures("as_root")
def test_upgrade_with_a_lost_key(tmp_path: Path) -> None:
    """An environment file that loses the master key stops an upgrade before a release is fetched or built."""
    layout = host(tmp_path, checkout="/srv/my checkout")
    path = layout.real(layout.environment_file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('A="1\nLITELLM_MASTER_KEY="sk-mine"\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"litellm\.env:1: the value of A .* LITELLM_MASTER_KEY in there is not set"):
        upgrade(layout, UpgradeTarget())


@pytest.mark.usefixtures("as_root")
def test_upgrade_after_an_install_from_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an install from a checkout, `upgrade` gives the commands that upgrade it, and asks no package index.

    With a version it tries the index, and gives them if that fails.
    """
    commands = "cd '/srv/my checkout' && git pull && sudo ./scripts/quickstart.sh"
    layout = host(tmp_path, checkout="/srv/my checkout")
    with pytest.raises(Unavailable) as caught:
        upgrade(layout, UpgradeTarget())
    assert caught.value.render().endswith(commands)
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(CommandError) as failed:
        upgrade(layout, UpgradeTarget(version="0.0.1"))
    assert failed.value.hint.endswith(commands)


@pytest.mark.parametrize(
    ("mark", "text"),
    [("checkout", "/srv/checkout\n"), ("release.json", '{"checkout": "/srv/checkout"}')],
    ids=["quickstart.sh", "release"],
)
def test_checkout_of_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str, text: str) -> None:
    """A release records the checkout that it was installed from, and so do the releases that are made from it."""
    (tmp_path / mark).write_text(text, encoding="utf-8")
    (tmp_path / "requirements.lock").write_text(find_source().lock, encoding="utf-8")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert find_source().checkout == "/srv/checkout"


@pytest.mark.parametrize(
    ("old", "new", "versions"),
    [
        ("1.106.2", "1.108.7", ["1.108.1", "1.108.4", "1.108.7"]),
        ("1.108.7", "1.109.0", ["1.108.16", "1.109.0", "1.109.0", "1.109.0"]),
        ("1.108.7", "1.108.7", []),
        ("1.109.0", "1.106.2", []),
        ("", "1.109.0", []),
    ],
)
def test_changes_of_litellm(old: str, new: str, versions: list[str]) -> None:
    """The changes are those between two versions, in order; there are none to an older or from an unknown one."""
    found = [line.removeprefix("New in LiteLLM ").partition(":")[0] for line in list_changes(old, new)]
    assert found == versions


def test_hashless_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package of an index without hashes is an error with the package and the fix, since a lock needs a hash."""
    item = {
        "metadata": {"name": "x", "version": "1"},
        "download_info": {"url": "https://index.example/x-1.whl", "archive_info": {}},
    }
    with pytest.raises(InstallerError, match="gives no SHA-256 for x 1") as caught:
        source.wheel_hash(item)
    assert "PIP_INDEX_URL" in caught.value.hint
