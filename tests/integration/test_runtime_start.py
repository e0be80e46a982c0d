"""Starts that fail, and the errors that they report."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from tests.integration.runtime_service import CONFIG, KEY, Service, run_runtime
from tests.ports import free_port

#: The linter accepts it, because the module is there.
BROKEN = CONFIG % "x" + "litellm_settings: {callbacks: litellm.proxy.proxy_cli.absent}\n"
CAUSE = "litellm_settings.callbacks: AttributeError: module 'litellm.proxy.proxy_cli' has no attribute 'absent'"


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model_list: [", ("config.yaml",)),
        ("model_list: []", ("model_list",)),
        (CONFIG.replace("none", "os.environ/NO_SUCH_VARIABLE"), ("NO_SUCH_VARIABLE", "config.yaml:4")),
        (None, ("config.yaml", "doesn't exist")),
    ],
)
def test_bad_configuration(tmp_path: Path, text: str | None, words: tuple[str, ...]) -> None:
    """An invalid configuration ends the service with 78 and one line about the error."""
    path = write(tmp_path, text) if text is not None else tmp_path / "config.yaml"
    done = run_runtime("--config", str(path), PORT=str(free_port()))
    assert done.returncode == 78, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert all(word in done.stderr for word in words), done.stderr


@pytest.mark.parametrize("variable", ["PORT", "NUM_WORKERS", "DRAIN_TIMEOUT"])
def test_bad_variable(tmp_path: Path, variable: str) -> None:
    """An invalid variable ends the service with 78 and an error that names it."""
    done = run_runtime("--config", str(write(tmp_path, CONFIG % "x")), **{variable: "many"})
    assert done.returncode == 78
    assert done.stderr.startswith(f"{variable}=many is not a ")


def test_ca_file_without_certificates(tmp_path: Path) -> None:
    """A CA file without a certificate ends the service with 78 and one line, not with a traceback of LiteLLM."""
    path = write(tmp_path, CONFIG % "x")
    done = run_runtime("--config", str(path), PORT=str(free_port()), SSL_CERT_FILE=str(path))
    assert done.returncode == 78
    assert done.stderr.startswith(f"SSL_CERT_FILE={path}: the file has no usable certificate")
    assert len(done.stderr.splitlines()) == 1


def test_port_taken(tmp_path: Path) -> None:
    """An occupied port ends the service with 69 and an error that names the process that listens there."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = run_runtime("--config", str(write(tmp_path, CONFIG % "x")), PORT=str(port))
    assert done.returncode == 69
    command = Path("/proc/self/comm").read_text().strip()
    assert f"cannot listen on 127.0.0.1:{port}: {command} (pid {os.getpid()}) is listening there" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_port_command() -> None:
    """`port` names the process that listens on the port, and prints nothing if the port is free."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    with socket.create_server(("127.0.0.1", port)):
        taken = run_runtime("port", address)
    assert (taken.returncode, str(os.getpid()) in taken.stderr) == (69, True)
    free = run_runtime("port", address)
    assert (free.returncode, free.stderr) == (0, "")


def test_litellm_rejects_configuration(tmp_path: Path) -> None:
    """A configuration that LiteLLM rejects ends the service with 78 before READY=1. The last line is the cause."""
    with Service(tmp_path, BROKEN) as service:
        assert service.process.wait(60) == 78, service.log()
    last = service.log().splitlines()[-1]
    assert last == f"<3>LiteLLM rejects {service.config}: {CAUSE}"
    assert "READY=1" not in service.read_notices()
    assert service.statuses()[-1] == last.removeprefix("<3>")


def test_check(tmp_path: Path) -> None:
    """`check` of a valid configuration returns 0 and prints nothing."""
    done = run_runtime("check", "--config", str(write(tmp_path, CONFIG % "x")))
    assert done.returncode == 0, done.stderr
    assert KEY not in done.stderr


def test_check_of_rejected_configuration(tmp_path: Path) -> None:
    """`check` of a configuration that LiteLLM rejects returns 78 and prints the cause as the last line."""
    done = run_runtime("check", "--config", str(write(tmp_path, BROKEN)))
    assert done.returncode == 78
    assert done.stderr.splitlines()[-1].endswith(CAUSE)


def test_reload_without_a_service(tmp_path: Path) -> None:
    """`reload` fails with an error if no service runs."""
    done = run_runtime("reload", RUNTIME_DIRECTORY=str(tmp_path))
    assert done.returncode == 1
    assert "Is it running?" in done.stderr
