"""verify --fallbacks without systemd: a throwaway process of the real LiteLLM, and its cleanup."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

KEY = "sk-canary-fallbacks-7c1e"
#: `broken` has a provider that does not exist, so as a target it must fail.
CONFIG = """
model_list:
  - model_name: first
    litellm_params: {model: openai/a, api_key: none, mock_response: from first}
  - model_name: second
    litellm_params: {model: openai/b, api_key: none, mock_response: from second}
  - model_name: third
    litellm_params: {model: openai/c, api_key: none, mock_response: from third}
  - model_name: broken
    litellm_params: {model: openai/d, api_key: none, mock_response: litellm.InternalServerError}
  - model_name: spare
    litellm_params: {model: openai/e, api_key: none, mock_response: from spare}
  - model_name: words
    litellm_params: {model: openai/text-embedding-3-small, api_key: none, mock_response: [0.1, 0.2]}
  - model_name: more-words
    litellm_params: {model: openai/text-embedding-3-large, api_key: none, mock_response: [0.3, 0.4]}
router_settings:
  num_retries: 0
  model_group_alias: {old-name: first, old-second: second}
  fallbacks:
    - first: [second, third]
    - old-name: [third, old-second]
    - second: [broken]
    - broken: [first]
    - third: [broken, first]
    - words: [more-words]
  context_window_fallbacks: [{first: [third, second]}]
  content_policy_fallbacks: [{first: [second, third]}]
litellm_settings:
  default_fallbacks: [first, second]
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
"""


def start(folder: Path, config: str = CONFIG) -> subprocess.Popen[str]:
    """Start litellmctl in a folder with that configuration and a .env, with its throwaway files below that folder."""
    (folder / "mine.yml").write_text(config)
    (folder / ".env").write_text(f"LITELLM_MASTER_KEY={KEY}\nAWS_REGION_NAME=us-east-1\n")
    (folder / "tmp").mkdir()
    argv = (
        sys.executable,
        "-m",
        "litellm_systemd",
        "verify",
        "--fallbacks",
        "--env-file",
        ".env",
        "-c",
        "./mine.yml",
    )
    return subprocess.Popen(
        (*argv, "--json"),
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "tmp"), "AWS_EC2_METADATA_DISABLED": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(what: str, done: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def processes(folder: Path) -> list[str]:
    """The command lines of processes that contain a folder's name."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line:
            found.append(line)
    return found


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose name leaves room for a UNIX socket's, which has 107 bytes (unix(7)); pytest's may not."""
    with tempfile.TemporaryDirectory(prefix="lf-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    with short_folder() as folder:
        process = start(folder)
        out, err = process.communicate(timeout=180)
        assert process.returncode == 1, err + out
        assert list((folder / "tmp").iterdir()) == []
        # They have been killed; the kernel may take a moment to remove them.
        wait_for("no process is left", lambda: not processes(folder))
    assert KEY not in out + err
    found: dict[str, Any] = json.loads(out)
    return found


def outcomes(report: dict[str, Any], outcome: str) -> list[str]:
    return [check["name"] for check in report["checks"] if check["outcome"] == outcome]


def test_every_link_of_every_chain_is_tested(report: dict[str, Any]) -> None:
    """For each link, LiteLLM's headers name the expected target: first and later links, of each kind of chain, under
    aliases, for embeddings as for chats, and for models that have only the default chain.
    """
    assert outcomes(report, "ok") == [
        "fallback 1 of first: second",
        "fallback 2 of first: third",
        "fallback 1 of old-name: third",
        "fallback 2 of old-name: old-second",
        "fallback 1 of broken: first",
        "fallback 2 of third: first",
        "fallback 1 of words: more-words",
        "context window fallback 1 of first: third",
        "context window fallback 2 of first: second",
        "content policy fallback 1 of first: second",
        "content policy fallback 2 of first: third",
        "default fallback 1 of *: first",
        "default fallback 2 of *: second",
    ], json.dumps(report, indent=1)
    second = next(check for check in report["checks"] if check["name"] == "fallback 2 of first: third")
    assert second["detail"] == "third answered for first"
    assert second["data"]["answered"] == "third"
    assert second["data"]["attempted_fallbacks"] >= 1
    assert "without the service's user and sandbox" in report["notes"][0]


def test_a_fallback_that_does_not_answer(report: dict[str, Any]) -> None:
    """A target that fails makes its link fail, although another model would answer the client."""
    assert outcomes(report, "failed") == ["fallback 1 of second: broken", "fallback 1 of third: broken"]
    assert report["title"].endswith("mine.yml: 2 of 15 failed")


@pytest.fixture
def room() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


@pytest.mark.parametrize("seconds", [0.5, 4.0])
def test_a_kill_leaves_nothing(room: Path, seconds: float) -> None:
    """If litellmctl is killed at any point, its throwaway instance exits too and leaves no process or file."""
    process = start(room)
    try:
        wait_for("an instance begins", lambda: processes(room))
        time.sleep(seconds)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_for("no process is left", lambda: not processes(room))
    assert list((room / "tmp").iterdir()) == []


def test_an_instance_that_cannot_start(room: Path) -> None:
    """If the instance cannot start, the error has LiteLLM's reason, and nothing is left."""
    general = "general_settings:\n  litellm_jwtauth: {admin_scop: x}"  # the linter doesn't know the keys of this
    process = start(room, CONFIG.replace("general_settings:", general))
    out, err = process.communicate(timeout=180)
    assert process.returncode == 69, err + out
    assert "the throwaway instance doesn't start: " in json.loads(out)["error"]
    assert "admin_scop" in json.loads(out)["error"]
    assert list((room / "tmp").iterdir()) == []
