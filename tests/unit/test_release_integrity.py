"""The record of a release's files, and the damage that it shows."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from litellm_systemd.doctor.check_release import damage_findings
from litellm_systemd.errors import MissingError
from litellm_systemd.host.layout import Layout
from litellm_systemd.releases import build
from litellm_systemd.releases.integrity import (
    FILES,
    Verification,
    find_damage,
    restore_access,
    verify_release,
    write_record,
)
from litellm_systemd.releases.inventory import Release
from litellm_systemd.report.report import Outcome

NAME = "0.1.0-abc"
MODULE, COMPILED, LIBRARY = "lib/m.py", "lib/__pycache__/m.cpython-311.pyc", "lib/core.so"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A host with one release, built an hour ago and not changed since."""
    layout = Layout(root=tmp_path)
    folder = layout.real(layout.release(NAME))
    for name in (MODULE, COMPILED, LIBRARY, "bin/litellmctl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} " * 100, encoding="utf-8")
    (folder / "bin/python").symlink_to("/usr/bin/python3")
    _finish(folder, files=write_record(folder))
    return layout


def _finish(folder: Path, files: str = "") -> None:
    hour_ago = time.time() - 3600
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(hour_ago))
    for path in folder.rglob("*.*"):
        os.utime(path, (hour_ago - 9, hour_ago - 9))
    (folder / "release.json").write_text(Release(NAME, "0.1.0", made=made, files=files).as_mark(), encoding="utf-8")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def _replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], object], Verification]] = {
    "library gone": (lambda folder: (folder / LIBRARY).unlink(), Verification(missing=(LIBRARY,))),
    "package gone": (lambda folder: shutil.rmtree(folder / "lib"), Verification(missing=(COMPILED, LIBRARY, MODULE))),
    "folder in place of a file": (
        lambda folder: _replace_by_folder(folder / LIBRARY),
        Verification(missing=(LIBRARY,)),
    ),
    "module emptied": (lambda folder: (folder / MODULE).write_text(""), Verification(changed=(MODULE,))),
    "compiled file cut": (lambda folder: os.truncate(folder / COMPILED, 40), Verification(changed=(COMPILED,))),
    "bit flip": (lambda folder: _flip(folder / LIBRARY), Verification(changed=(LIBRARY,))),
    "record cut": (lambda folder: os.truncate(folder / FILES, 40), Verification(changed=(FILES,))),
    "release.json cut": (
        lambda folder: os.truncate(folder / "release.json", 40),
        Verification(changed=("release.json",)),
    ),
    "mode": (lambda folder: (folder / MODULE).chmod(0o600), Verification(unreadable=(MODULE,))),
    "mode of a folder": (lambda folder: (folder / "lib").chmod(0o750), Verification(unreadable=("lib",))),
}


@pytest.mark.parametrize("is_thorough", [True, False], ids=["all", "quick"])
@pytest.mark.parametrize("name", DAMAGES)
def test_damage(layout: Layout, name: str, is_thorough: bool) -> None:
    """Each kind of damage is named by its file, also without reading the content of all files."""
    damage, expected = DAMAGES[name]
    damage(layout.real(layout.release(NAME)))
    found = verify_release(layout, NAME, is_thorough=is_thorough)
    assert (found.missing, found.changed, found.unreadable, found.added) == (
        expected.missing,
        expected.changed,
        expected.unreadable,
        (),
    )
    assert found.is_damaged


def _compile_again(folder: Path) -> None:
    (folder / MODULE).touch()
    (folder / COMPILED).write_text("compiled again", encoding="utf-8")


def _copy(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("copy"), symlinks=True)
    shutil.rmtree(folder)
    folder.with_name("copy").rename(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda _folder: None,
        _compile_again,
        lambda folder: (folder / "lib/__pycache__/m.cpython-311.opt-1.pyc").write_text("for python -O"),
        lambda folder: (folder / "bin/python").unlink(),
        _copy,
    ],
    ids=["none", "compiled again", "another optimization", "link", "copied"],
)
def test_no_damage(layout: Layout, change: Callable[[Path], object]) -> None:
    """What root's Python compiles, the Python of the system, and a copy of the release are no damage."""
    change(layout.real(layout.release(NAME)))
    assert verify_release(layout, NAME).render() == ""
    assert verify_release(layout, NAME).added == ()


@pytest.mark.parametrize(("names", "is_slow"), [((COMPILED,), True), ((COMPILED, MODULE), False), ((), False)])
def test_compiled_files_that_were_cleaned_up(layout: Layout, names: tuple[str, ...], is_slow: bool) -> None:
    """A release without compiled files starts more slowly: a warning. Without their modules, it is a failure."""
    for name in names:
        (layout.real(layout.release(NAME)) / name).unlink()
    found = verify_release(layout, NAME)
    assert found.is_slow is is_slow
    outcome = Outcome.WARNING if is_slow else Outcome.FAILED
    findings = tuple(damage_findings(layout, NAME, found, is_active=True))
    assert [each.outcome for each in findings] == [outcome] * bool(names)


def test_added_file(layout: Layout) -> None:
    """A file that was installed by hand is named, and is no damage."""
    (layout.real(layout.release(NAME)) / "lib/mine.py").write_text("", encoding="utf-8")
    found = verify_release(layout, NAME)
    assert (found.added, found.is_damaged) == (("lib/mine.py",), False)


def test_packages_that_pip_or_uv_changed() -> None:
    """A package that was replaced or removed by hand is named with its versions before the files."""

    def metadata(*packages: str) -> tuple[str, ...]:
        return tuple(f"lib/python3.11/site-packages/{each}.dist-info/METADATA" for each in packages)

    found = Verification(
        missing=metadata("litellm-1.108.7", "h11-0.16.0"), added=metadata("litellm-1.106.2", "mine-1.0")
    )
    assert found.render().startswith(
        "litellm 1.108.7 was replaced by 1.106.2; h11 0.16.0 is no longer installed; lib/python3.11/"
    )
    assert "replaced" not in Verification(missing=("lib/m.py",), added=metadata("mine-1.0")).render()


def test_no_record(layout: Layout) -> None:
    """A release of an earlier version cannot be verified, which is no damage."""
    folder = layout.real(layout.release(NAME))
    (folder / FILES).unlink()
    _finish(folder)
    with pytest.raises(MissingError, match="an earlier litellm-systemd made it"):
        verify_release(layout, NAME)
    assert find_damage(layout, NAME) == ""


def test_restored_modes(layout: Layout) -> None:
    """Modes are restored without a new build."""
    folder = layout.real(layout.release(NAME))
    (folder / MODULE).chmod(0o600)
    (folder / "lib").chmod(0o700)
    restore_access(layout, NAME)
    assert find_damage(layout, NAME) == ""
    assert (folder / MODULE).stat().st_mode & 0o777 == 0o644


def test_record_is_one_of_sha256sum(layout: Layout) -> None:
    """The command that litellmctl prints compares a release without its Python."""
    folder = layout.real(layout.release(NAME))
    script = f"cd {folder} && sed 's/ [0-9]*  /  /' {FILES} | sha256sum --quiet --check"
    assert subprocess.run(("sh", "-c", script), check=False, capture_output=True).returncode == 0
    _flip(folder / MODULE)
    done = subprocess.run(("sh", "-c", script), check=False, capture_output=True, text=True)
    assert done.stdout.splitlines() == [f"{MODULE}: FAILED"]


def test_undamaged_release_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build of a release that exists undamaged reads its 700 MB once, and changes nothing."""
    read: list[str] = []

    def find_damage(_layout: Layout, name: str) -> str:
        read.append(name)
        return ""

    monkeypatch.setattr(build, "find_damage", find_damage)
    monkeypatch.setattr(build, "restore_access", lambda *_: pytest.fail("nothing is to be restored"))
    assert build._repair_access(Layout(), "1") == ""
    assert read == ["1"]
