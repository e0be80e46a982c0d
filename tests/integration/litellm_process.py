"""A real LiteLLM process, started with its own command line on a free port, for tests of the configurations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from litellm_systemd.contract import OFFLINE_VARIABLES
from tests.ports import free_port

KEY = "sk-litellm-test-key"  # the workshop's: the seed's commands use it

#: No call leaves this machine: neither for price maps at import nor for credentials.
OFFLINE = {
    "AWS_EC2_METADATA_DISABLED": "true",
    # Where a test allows it, on loopback. botocore's one second may be too short on a busy machine.
    "AWS_METADATA_SERVICE_TIMEOUT": "20",
    **OFFLINE_VARIABLES,
}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Gateway:
    """A gateway on loopback. `pid`: of its process."""

    port: int
    pid: int

    def get(self, path: str) -> Answer:
        return self._request("GET", path, None)

    def chat(self, body: Mapping[str, Any], path: str = "/v1/chat/completions") -> Answer:
        return self._request("POST", path, json.dumps(body))

    def _request(self, method: str, path: str, body: str | None) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, received, response.read().decode())
        finally:
            connection.close()


@contextmanager
def run_litellm(config: Path, environ: Mapping[str, str], *options: str) -> Iterator[Gateway]:
    """Run a gateway until the block ends. Fails with LiteLLM's own output if it does not start.

    `options` are added to LiteLLM's command line.
    """
    port = free_port()
    command = (sys.executable, "-m", "litellm.proxy.proxy_cli", "--config", str(config))
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        process = subprocess.Popen(
            (*command, "--host", "127.0.0.1", "--port", str(port), *options),
            env={"PATH": os.environ["PATH"], "HOME": folder, "LITELLM_MASTER_KEY": KEY, **OFFLINE, **environ},
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            gateway = Gateway(port, process.pid)
            _wait_until_ready(process, gateway, Path(log.name))
            yield gateway
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], gateway: Gateway, log: Path) -> None:
    deadline = time.monotonic() + 180
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if gateway.get("/health/readiness").status == 200:
                return
        except (OSError, HTTPException):
            pass
        time.sleep(0.1)
    raise AssertionError(f"LiteLLM didn't become ready (exit code {process.poll()}):\n{log.read_text()[-4000:]}")
