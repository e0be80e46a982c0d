"""Modules that the fast commands of the runtime do not import, and usage errors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("command", [("port", "127.0.0.1:1"), ("reload",), ("stopped",), ("--help",)])
def test_fast_commands_import_little(command: tuple[str, ...], tmp_path: Path) -> None:
    """Commands that run during a start, reload or stop import only the standard library."""
    program = (
        "import sys, atexit\n"
        "from litellm_systemd.runtime.__main__ import main\n"
        "heavy = ('litellm', 'uvicorn', 'uvloop', 'yaml', 'sdnotify', 'asyncio', 'click')\n"
        "atexit.register(lambda: print('heavy:', [name for name in heavy if name in sys.modules]))\n"
        f"main({command!r})\n"
    )
    environment = {"PATH": str(tmp_path)}  # a folder without systemctl
    argv = (sys.executable, "-I", "-c", program)
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert done.stdout.endswith("heavy: []\n"), done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_usage_error() -> None:
    """An invalid command line exits with 64 (EX_USAGE)."""
    argv = (sys.executable, "-m", "litellm_systemd.runtime", "unknown")
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 64
    assert "invalid choice" in done.stderr


def test_the_upgrade_of_an_earlier_version_finds_the_adapter() -> None:
    """Version 0.1.0 tries a new release by importing `preload` from the name that its own module has."""
    argv = (sys.executable, "-I", "-c", "from litellm_systemd.runtime.seam import preload; print(callable(preload))")
    assert subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout == "True\n"


@pytest.mark.parametrize("module", ["httptools", "yaml"])
def test_a_library_that_cannot_be_loaded_is_an_error_in_the_journal(module: str, tmp_path: Path) -> None:
    """A service whose imports fail, as on a file system that is mounted with noexec, logs this with a priority."""
    message = f"{module}.so: failed to map segment from shared object"
    (tmp_path / f"{module}.py").write_text(f"raise ImportError({message!r})\n")
    with (tmp_path / "log").open("w+") as log:
        status = os.fstat(log.fileno())
        environment = {"PYTHONPATH": str(tmp_path), "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        argv = (sys.executable, "-m", "litellm_systemd.runtime")
        done = subprocess.run(argv, stderr=log, env=environment, check=False, timeout=60)
    assert done.returncode == 1
    assert (tmp_path / "log").read_text().endswith(f"\n<2>ImportError: {message}\n")
