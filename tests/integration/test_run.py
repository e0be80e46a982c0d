"""`litellmctl run`: the gateway in the foreground, without systemd and without root."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.ports import free_port


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start `litellmctl run` in that folder, with a home of its own."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LITELLM_"))},
        "HOME": str(folder),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    env.pop("SUDO_USER", None)
    argv = (sys.executable, "-m", "litellm_systemd", "run", *arguments)
    return subprocess.Popen(argv, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def answers(url: str, process: subprocess.Popen[str], deadline: float = 90) -> bytes:
    """Wait for a response of the URL while the process runs."""
    end = time.monotonic() + deadline
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                body: bytes = response.read()
                return body
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    process.kill()
    pytest.fail(f"no answer from {url}: {process.communicate()[0]}")


def test_run_serves_until_it_is_stopped(tmp_path: Path) -> None:
    """`run` serves with the .env of the current folder in the foreground, and exits with 0 when it is stopped."""
    port = free_port()
    (tmp_path / ".env").write_text(f"PORT={port}\nNUM_WORKERS=1\nCONFIG_FILE=demo.yml\n", encoding="utf-8")
    process = start(tmp_path)
    try:
        assert b"healthy" in answers(f"http://127.0.0.1:{port}/health/readiness", process)
    finally:
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 0
    assert f"serving on 127.0.0.1:{port}" in output
    assert "LITELLM_MASTER_KEY=sk-" in output


def test_run_checks_the_given_file(tmp_path: Path) -> None:
    """`run -c ./my.yml` refuses an invalid file with its line, before anything starts."""
    (tmp_path / "my.yml").write_text("model_list: [\n", encoding="utf-8")
    process = start(tmp_path, "-c", "./my.yml")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 78
    assert "my.yml:2:1" in output
