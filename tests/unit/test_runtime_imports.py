"""What the quick commands of the runtime may not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("command", [("port", "127.0.0.1:1"), ("reload",), ("stopped",), ("--help",)])
def test_quick_commands_are_light(command: tuple[str, ...], tmp_path: Path) -> None:
    """What runs beside a start, or at each stop, imports the standard library alone."""
    program = (
        "import sys, atexit\n"
        "from litellm_systemd.runtime.cli import main\n"
        "heavy = ('litellm', 'uvicorn', 'uvloop', 'yaml', 'sdnotify', 'asyncio', 'click')\n"
        "atexit.register(lambda: print('heavy:', [name for name in heavy if name in sys.modules]))\n"
        f"main({command!r})\n"
    )
    environment = {"PATH": str(tmp_path)}  # where there is no systemctl
    argv = (sys.executable, "-I", "-c", program)
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert done.stdout.endswith("heavy: []\n"), done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr


def test_usage_error() -> None:
    """A wrong command line ends in 64, which no unit takes for something else."""
    argv = (sys.executable, "-m", "litellm_systemd.runtime", "fly")
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 64
    assert "invalid choice" in done.stderr
