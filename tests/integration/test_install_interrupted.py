"""litellmctl is killed at every step of an install into an image, and runs again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of other owners take root")

KILLER = Path(__file__).parents[1] / "system/kill_at_each_step.py"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image with the service installed, and two environments for it."""
    root = tmp_path_factory.mktemp("image")
    (root / "one.env").write_text("PORT=4321\nLITELLM_MASTER_KEY=sk-0123456789abcdef\n", encoding="utf-8")
    (root / "two.env").write_text("PORT=4322\nLITELLM_MASTER_KEY=sk-0123456789abcdef\n", encoding="utf-8")
    subprocess.run(install(root, "one.env"), env=environ(), cwd=root, check=True, capture_output=True, timeout=300)
    return root


def environ() -> dict[str, str]:
    return {**os.environ, "UV_OFFLINE": "1", "AWS_EC2_METADATA_DISABLED": "true"}


def install(root: Path, env: str) -> list[str]:
    return [sys.executable, "-m", "litellm_systemd", *arguments(root, env)]


def arguments(root: Path, env: str) -> list[str]:
    return ["install", "--root", str(root), "--env-file", str(root / env), "-c", "demo.yml", "--json"]


def kill_at_steps(root: Path, commands: list[list[str]], stride: int = 1) -> list[dict[str, Any]]:
    plan = {
        "commands": commands,
        "trees": [str(root)],
        # The last holder of the lock, the backup files of shadow's tools, and the release, which is not rebuilt.
        "ignored": [str(root / name) for name in ("var/lib/litellm-systemd/lock", "opt/litellm-systemd/releases")],
        "warm": [*commands[0], "--dry-run"],
        "stride": stride,
        "first": 1,
    }
    # With the release's own Python nothing is built, so each run takes only the time of its steps.
    python = root / "opt/litellm-systemd/current/bin/python"
    argv = (str(python), str(KILLER), json.dumps(plan))
    done = subprocess.run(argv, env=environ(), cwd=root, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    return results


def test_killed_install_converges(image: Path) -> None:
    """An install that is killed at any step reaches the same final state, byte for byte, when it runs again."""
    results = kill_at_steps(image, [arguments(image, "one.env"), arguments(image, "two.env")])
    assert [result["wrong"] for result in results] == [[], []]
    assert all(result["kills"] > 50 for result in results)
