"""The scripts explain themselves before they do anything."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("name", ["manage-litellm.sh", "quickstart.sh", "release.sh", "setup_env.sh", "test.sh"])
def test_help(name: str, option: str, tmp_path: Path) -> None:
    """--help prints how to call the script, from any folder, and changes nothing."""
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    argv = (str(tmp_path / "scripts" / name), option)
    done = subprocess.run(argv, cwd="/", capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{name} [" in done.stdout or f"{name}  " in done.stdout
    assert not done.stdout.startswith("#")
    assert [path.name for path in tmp_path.iterdir()] == ["scripts"]
