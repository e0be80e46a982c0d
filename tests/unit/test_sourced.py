"""The dependency that has no wheel."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from litellm_systemd.errors import InstallerError
from litellm_systemd.releases import wheels


def test_wheel_holds_the_known_code(tmp_path: Path) -> None:
    """The packed wheel is complete, has the module that runs here, and is the same each time."""
    first, second = (wheels.pack_sourced(folder) for folder in (tmp_path, _made(tmp_path / "again")))
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        names = set(archive.namelist())
    assert {"sdnotify/__init__.py", "sdnotify-0.3.2.dist-info/METADATA", "sdnotify-0.3.2.dist-info/RECORD"} <= names
    assert not any(name.endswith((".pyc", "INSTALLER")) for name in names)


def test_other_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy whose code isn't the known one gets into no release."""
    monkeypatch.setattr(wheels, "_DIGEST", "0" * 64)
    with pytest.raises(InstallerError, match=r"isn't sdnotify 0\.3\.2 as it is known"):
        wheels.pack_sourced(tmp_path)
    assert list(tmp_path.iterdir()) == []


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
