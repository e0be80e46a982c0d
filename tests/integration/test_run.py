"""`litellmctl run`: the gateway in the foreground, without systemd and without root."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.database import Cluster, why_no_database
from tests.ports import free_port
from tests.skipping import refuse

KEY = "sk-of-a-container-0123456789abcdef"


def start(
    folder: Path, *arguments: str, variables: Mapping[str, str] | None = None, prefix: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    """Start `litellmctl run` in that folder, with a home of its own."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "LITELLM_"))},
        "HOME": str(folder),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    env.pop("SUDO_USER", None)
    env |= variables or {}
    argv = (*prefix, sys.executable, "-m", "litellm_systemd", "run", *arguments)
    return subprocess.Popen(argv, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def answers(url: str, process: subprocess.Popen[str], deadline: float = 180) -> bytes:
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


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "LITELLM_MASTER_KEY is not set"),
        ({"LITELLM_MASTER_KEY": KEY, "PORT": "http"}, "the environment: PORT=http is not a whole number"),
        ({"LITELLM_MASTER_KEY": KEY, "CONFIG_FILE": "none.yml"}, "none.yml"),
    ],
)
def test_run_checks_the_variables_of_a_container(tmp_path: Path, variables: dict[str, str], message: str) -> None:
    """With --no-env-file, `run` refuses variables of the process as it refuses those of a .env, generates no key and
    reads no .env.
    """
    (tmp_path / ".env").write_text(f"LITELLM_MASTER_KEY={KEY}\nPORT=4000\n", encoding="utf-8")
    process = start(tmp_path, "--no-env-file", variables={"CONFIG_FILE": "demo.yml", **variables})
    output = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert message in output


def test_a_container_is_stopped_while_it_starts(tmp_path: Path) -> None:
    """SIGTERM ends a process with PID 1 while it imports LiteLLM, although the kernel drops what PID 1 does not
    handle.
    """
    if os.geteuid() != 0:
        refuse("only root can make a PID namespace")
    variables = {"CONFIG_FILE": "demo.yml", "LITELLM_MASTER_KEY": KEY, "PORT": str(free_port())}
    prefix = ("unshare", "--pid", "--fork", "--kill-child", "--")
    process = start(tmp_path, "--no-env-file", variables=variables, prefix=prefix)
    try:
        os.kill(wait_for_runtime(process.pid), signal.SIGTERM)
        output = process.communicate(timeout=60)[0]
    finally:
        process.kill()
    assert (process.returncode, "serving on" in output) == (0, False)


def wait_for_runtime(parent: int) -> int:
    """The child of a process, once it is the runtime and handles SIGTERM."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text(encoding="ascii").split():
            caught = re.search(r"^SigCgt:\s*(\w+)$", Path(f"/proc/{child}/status").read_text(encoding="ascii"), re.M)
            is_runtime = b"litellm_systemd.runtime" in Path(f"/proc/{child}/cmdline").read_bytes()
            if is_runtime and caught and int(caught[1], 16) & 1 << signal.SIGTERM - 1:
                return int(child)
        time.sleep(0.05)
    pytest.fail("the runtime does not start")


def test_run_checks_the_given_file(tmp_path: Path) -> None:
    """`run -c ./my.yml` refuses an invalid file with its line, before anything starts."""
    (tmp_path / "my.yml").write_text("model_list: [\n", encoding="utf-8")
    process = start(tmp_path, "-c", "./my.yml")
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 78
    assert "my.yml:2:1" in output


def test_migrations_of_a_container(tmp_path: Path) -> None:
    """A container does not serve on a database without the migrations of its LiteLLM, and applies them on request."""
    if (missing := why_no_database()) is not None:
        refuse(missing)
    with Cluster() as cluster:
        database = cluster.create_database(empty=True)
        variables = {"LITELLM_MASTER_KEY": KEY, "CONFIG_FILE": "demo.yml", "DATABASE_URL": database.url}

        def run(*options: str) -> str:
            process = start(tmp_path, "--no-env-file", *options, variables=variables)
            output = process.communicate(timeout=120)[0]
            # That of the checkout has no Prisma's client, which is checked later.
            assert process.returncode == 78, output
            return output

        refused = run()
        assert re.search(r"the database lacks \d+ migrations of this release, such as \d+_", refused)
        assert "add --migrate" in refused
        assert "applying " in run("--migrate")
        assert database.execute('SELECT count(*) FROM "LiteLLM_VerificationToken"') == [(0,)]
        assert "Prisma's client" in run()
