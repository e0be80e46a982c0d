"""Releases on a real systemd: upgrade, rollback, prune, a release that is no good, a Python that is gone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from box import Bind, Box, BoxError, Image
from load import loaded
from service import chat, ctl, state

MakeBox = Callable[..., Box]
REPOSITORY = Path(__file__).resolve().parents[2]
_BUILT_FROM = ("installer", "units", "configs", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")


def build_wheel(folder: Path, version: str, **changes: str) -> None:
    """Build the wheel of this checkout under another version, with lines put in front of modules of the runtime."""
    source = folder / "source"
    for name in _BUILT_FROM:
        (shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy)(REPOSITORY / name, source / name)
    setup = (source / "setup.cfg").read_text(encoding="utf-8").replace("version = 0.1.0", f"version = {version}", 1)
    (source / "setup.cfg").write_text(setup, encoding="utf-8")
    for name, text in changes.items():
        module = source / f"installer/litellm_systemd/runtime/{name}.py"
        module.write_text(module.read_text(encoding="utf-8") + f"\n{text}\n", encoding="utf-8")
    argv = (f"{sys.prefix}/bin/uv", "build", "--offline", "--quiet", "--wheel", "--out-dir", str(folder), str(source))
    subprocess.run(argv, check=True, timeout=300)
    shutil.rmtree(source)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of wheels: a good 0.1.1, a 0.1.2 that can't be imported and a 0.1.3 that doesn't serve."""
    folder = tmp_path_factory.mktemp("index")
    for version, changes in {
        "0.1.1": {},
        "0.1.2": {"__init__": "raise ImportError('spoiled on purpose')"},
        "0.1.3": {"serve": "def main(*_: object) -> int:\n    return 70"},
    }.items():
        (folder / "build").mkdir()
        build_wheel(folder / "build", version, **changes)
        next((folder / "build").glob("*.whl")).rename(folder / f"litellm_systemd-{version}-py3-none-any.whl")
        shutil.rmtree(folder / "build")
    return folder


@pytest.fixture
def upgrading(install_environment: dict[str, str], index: Path) -> dict[str, str]:
    """Variables with which uv and its cache stand in for a package index, and the folder for that of our package."""
    search = f"{sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {**install_environment, "PATH": search, "PIP_FIND_LINKS": "/srv/index"}


@pytest.fixture
def box_with_index(make_box: MakeBox, installed_image: Image, index: Path) -> Box:
    """A box with the service running, and the wheels in /srv/index."""
    return make_box(installed_image, binds=(Bind(index, Path("/srv/index")),))


def releases(box: Box) -> dict[str, dict[str, Any]]:
    """The releases by their version."""
    found = json.loads(ctl(box, "releases", "list", "--json"))["data"]["releases"]
    return {row["version"]: row for row in found}


def current(box: Box) -> str:
    [version] = [version for version, row in releases(box).items() if row["current"]]
    return version


def test_upgrade_and_rollback_under_load(box_with_index: Box, upgrading: dict[str, str]) -> None:
    """While clients chat without a pause, upgrade switches to a new release and rollback to the old: nobody fails."""
    box = box_with_index
    with loaded(box) as load:
        ctl(box, "upgrade", "0.1.1", env=upgrading)
        upgraded = current(box)
        ctl(box, "rollback")
    assert (upgraded, current(box)) == ("0.1.1", "0.1.0")
    assert load.failed == []
    assert load.answered > 0
    found = releases(box)
    assert found["0.1.1"]["litellm"] == found["0.1.0"]["litellm"]
    # The standby of the rollback may still drain: what a process runs from stays.
    box.wait_until(lambda: not releases(box)["0.1.1"]["in_use"], 60, "the old release is let go")
    removed = json.loads(ctl(box, "releases", "prune", "--keep", "0", "--json"))["data"]["removed"]
    assert removed == [found["0.1.1"]["identifier"]]
    assert (set(releases(box)), chat(box)) == ({"0.1.0"}, 200)
    assert json.loads(ctl(box, "doctor", "--json"))["data"]["findings"] == []


def test_upgrade_to_what_is_there(box_with_index: Box, upgrading: dict[str, str]) -> None:
    """The present version again is nothing to do; a version that isn't to be had is an error, and nothing changes."""
    box, before = box_with_index, state(box_with_index)["MainPID"]
    wheel = "/srv/index/litellm_systemd-0.1.1-py3-none-any.whl"
    assert (
        "takes over"
        in box.run(("/usr/local/bin/litellmctl", "upgrade", "--from", wheel), env=upgrading, timeout=300).stderr
    )
    after = state(box)["MainPID"]
    assert after != before
    report = json.loads(ctl(box, "upgrade", "--from", wheel, "--json", env=upgrading))
    assert report["data"]["changed"] is False
    missing = box.run(("/usr/local/bin/litellmctl", "upgrade", "0.9.9"), env=upgrading, check=False, timeout=300)
    assert (missing.returncode, "PIP_INDEX_URL" in missing.stderr) == (71, True), missing.stderr
    assert state(box)["MainPID"] == after


@pytest.mark.parametrize(
    ("version", "said"),
    [("0.1.2", "spoiled on purpose"), ("0.1.3", "litellm-standby.service")],
    ids=["import", "serve"],
)
def test_bad_release(box_with_index: Box, upgrading: dict[str, str], version: str, said: str) -> None:
    """A release that can't be imported, or that doesn't serve, leaves the old one serving, and nobody fails."""
    box, before = box_with_index, state(box_with_index)["MainPID"]
    with loaded(box, clients=4) as load:
        done = box.run(("/usr/local/bin/litellmctl", "upgrade", version), env=upgrading, check=False, timeout=400)
    assert done.returncode != 0
    assert said in done.stderr, done.stderr
    assert load.failed == []
    assert (current(box), state(box)["ActiveState"], chat(box)) == ("0.1.0", "active", 200)
    if version == "0.1.2":
        assert (set(releases(box)), state(box)["MainPID"]) == ({"0.1.0"}, before)
    # The next good one is not kept from coming by what the bad one left.
    ctl(box, "upgrade", "0.1.1", env=upgrading)
    assert (current(box), chat(box)) == ("0.1.1", 200)


def test_python_is_gone(installed_box: Box) -> None:
    """After an upgrade of the system that took the release's Python away, litellmctl says so, with the remedy."""
    python = "/opt/litellm-systemd/current/bin/python"
    installed_box.run(("ln", "-sfn", "/usr/bin/python3.99", python))
    done = installed_box.run(("/usr/local/bin/litellmctl", "status"), check=False)
    assert (done.returncode, done.stdout) == (69, "")
    assert "/usr/bin/python3.99 isn't there any more" in done.stderr
    assert "litellmctl install" in done.stderr
    elsewhere = installed_box.run((f"{sys.prefix}/bin/litellmctl", "status", "--json"), check=False)
    assert "won't start again" in json.loads(elsewhere.stdout)["notes"][0]
    with pytest.raises(BoxError, match="69"):
        ctl(installed_box, "rollback")
