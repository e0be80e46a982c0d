"""/usr/local/bin/litellmctl, run by the shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from litellm_systemd.host.layout import Layout
from litellm_systemd.install.render import render_command


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The script for a prefix below a folder of the test's."""
    path = tmp_path / "litellmctl"
    path.write_text(render_command(Layout(prefix=str(tmp_path / "opt")), "0.1.0"), encoding="utf-8")
    path.chmod(0o755)
    (tmp_path / "opt/releases/0.1.0-abc/bin").mkdir(parents=True)
    (tmp_path / "opt/current").symlink_to("releases/0.1.0-abc")
    return path


def run(script: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run((str(script), *arguments), capture_output=True, text=True, check=False, timeout=60)


def test_script_is_plain_sh(script: Path) -> None:
    """The script is POSIX sh and passes shellcheck."""
    done = subprocess.run((f"{sys.prefix}/bin/shellcheck", str(script)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_script_passes_on_arguments(script: Path, tmp_path: Path) -> None:
    """Arguments, also with spaces, and the name of the called command are passed on unchanged."""
    python = tmp_path / "opt/current/bin/python"
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    lines = run(script, "config", "show", "a b", "").stdout.split("\n")
    assert lines[0] == "-I"
    assert lines[-6:] == [str(script), "config", "show", "a b", "", ""]


def test_script_runs_litellmctl(script: Path, tmp_path: Path) -> None:
    """With a Python that has the package, the script is litellmctl, with its exit code."""
    python = tmp_path / "opt/current/bin/python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    assert run(script, "--version").stdout.startswith("litellmctl ")
    refused = run(script, "frobnicate")
    assert (refused.returncode, refused.stderr[:12]) == (64, "litellmctl: ")


def test_python_that_does_not_start(script: Path, tmp_path: Path) -> None:
    """If Python has lost its standard library, one message names it, the module and the remedy, with exit code 69."""
    python = tmp_path / "opt/current/bin/python"
    python.write_text(
        f'#!/bin/sh\nPYTHONHOME=/none exec "{Path(sys.executable).resolve()}" -c ""\n', encoding="utf-8"
    )
    python.chmod(0o755)
    done = run(script, "status")
    assert (done.returncode, done.stdout) == (69, "")
    assert "does not start: ModuleNotFoundError: No module named 'encodings'" in done.stderr
    assert "Install the packages of that Python again" in done.stderr
    assert "prefix" not in done.stderr  # of Python's own report


def test_damaged_release(script: Path, tmp_path: Path) -> None:
    """If Python cannot import litellmctl, one message names the error and how to install again, with exit code 69."""
    python = tmp_path / "opt/current/bin/python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    done = run(script, "status", "--json")
    assert (done.returncode, done.stdout) == (69, "")
    assert "releases/0.1.0-abc, is damaged: ModuleNotFoundError: No module named 'litellm_systemd'" in done.stderr
    assert "Traceback" not in done.stderr
    assert "quickstart.sh --bundle FILE" in done.stderr


@pytest.mark.parametrize("change", ["??5?????? ", "missing    "])
def test_damaged_standard_library(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    """If a file of the distribution's Python is damaged, an error in it names it and the package to install again.
    Another error is one of the release.
    """
    library = os.path.dirname(os.__file__)  # noqa: PTH120
    for name, text in (
        ("opt/current/bin/python", f'exec "{sys.executable}" -S "$@"'),
        ("dpkg", f'[ "$1" = -S ] && echo "libpython-stdlib:amd64: $2" || echo "{change}  {library}/uuid.py"'),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    done = run(script, "--cannot-import", "ImportError: cannot import name 'uuid4' from 'uuid'")
    assert (done.returncode, done.stdout) == (69, "")
    first, remedy = done.stderr.splitlines()
    assert first.startswith(
        f"litellmctl: {library}/uuid.py, of the Python that the release in use needs, is damaged: "
    )
    assert remedy == "  sudo apt-get install --reinstall libpython-stdlib && sudo litellmctl restart"
    assert "releases/0.1.0-abc, is damaged: " in run(script, "status").stderr


@pytest.mark.parametrize("link", ["/usr/bin/python3.99", "python3"])
def test_missing_python(script: Path, tmp_path: Path, link: str) -> None:
    """If the release's Python is missing, one message names it and the remedy, with exit code 69."""
    (tmp_path / "opt/current/bin/python").symlink_to(link)
    (tmp_path / "opt/current/release.json").write_text(
        '{\n  "format": 1,\n  "python": "/usr/bin/python3.99",\n  "size": 1\n}\n', encoding="utf-8"
    )
    done = run(script, "status")
    assert (done.returncode, done.stdout) == (69, "")
    assert "/usr/bin/python3.99 no longer exists" in done.stderr
    assert "releases/0.1.0-abc" in done.stderr
    assert "litellmctl install" in done.stderr


def test_no_release(script: Path, tmp_path: Path) -> None:
    """Without a release the message says so."""
    (tmp_path / "opt/current").unlink()
    done = run(script)
    assert (done.returncode, "there is no release in" in done.stderr) == (69, True)
    assert not os.path.lexists(tmp_path / "opt/current")
