"""What the runtime may import, and what its quick commands may not."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import litellm_systemd.runtime

FOLDER = Path(litellm_systemd.runtime.__file__).parent
SHARED = {"contract", "errors", "gateway", "mock_testing"}


@pytest.mark.parametrize("module", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_runtime_shares_little(module: Path) -> None:
    """The runtime imports itself, contract, errors, and what reads and changes a configuration (ADR 0002)."""
    for node in ast.walk(ast.parse(module.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("litellm_systemd."):
                assert name.split(".")[1] in {*SHARED, "runtime"}, f"{module.name} imports {name}"


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
