"""`python -m tests.bench.database`: what a database costs a request, and how much memory it takes (docs/database.md).

Plain `litellm` and this service, each without a database and with one (PostgreSQL on this machine, a virtual key),
with one worker and LiteLLM's mocked model. All times are processor time of the service with its query engine, which
is the stand-in of the tests: the native engine takes less memory. PostgreSQL itself does not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.bench.profile_request import say
from tests.database import Cluster, why_no_database
from tests.integration.runtime_service import CONFIG, DEADLINE, KEY, environment
from tests.ports import free_port
from tests.processes import descendants, processor, proportional_memory

_PLAIN, _OURS = "litellm", "litellm-systemd"
#: Seconds: LiteLLM writes spend every 10 to 15.
_WRITES = 16
_WARM_UP = 50


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.database", description=__doc__)
    parser.add_argument("--requests", type=int, default=400, metavar="N", help="in a round")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    options = parser.parse_args(argv)
    if (reason := why_no_database()) is not None:
        sys.exit(str(reason))
    found: dict[tuple[str, bool], list[dict[str, float]]] = {}
    with Cluster() as cluster:
        for _ in range(options.rounds):
            for program in (_PLAIN, _OURS):
                for has_database in (False, True):
                    variables = cluster.create_database().variables() if has_database else {}
                    figures = _measure(program, variables, options.requests)
                    found.setdefault((program, has_database), []).append(figures)
    for name, unit in (("request", "ms"), ("memory", "MB"), ("engine", "MB"), ("start", "s")):
        for (program, has_database), rounds in found.items():
            values = sorted(each[name] for each in rounds)
            base = statistics.median(each[name] for each in found[program, False])
            ratio = f"x {statistics.median(values) / base:.2f}" if has_database and base else ""
            label = f"{program}, with a database" if has_database else program
            middle = statistics.median(values)
            say(f"{name:8} {label:33} {middle:8.1f} {unit:2}  ({values[0]:.1f} to {values[-1]:.1f}) {ratio}")
    return 0


def _measure(program: str, variables: Mapping[str, str], requests: int) -> dict[str, float]:
    """Of one process tree: ms of processor time for a request, MB of memory, and s of processor time of the start."""
    with tempfile.TemporaryDirectory() as folder:
        config, port = Path(folder) / "config.yaml", free_port()
        config.write_text(CONFIG % "hello")
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                _command(program, config, port),
                env=environment(NUM_WORKERS="1", PORT=str(port), LITELLM_MODE="PRODUCTION", **variables),
                cwd=folder,
                stdout=output,
                stderr=output,
            )
        try:
            _await_ready(process, port, log)
            start = processor(descendants(process.pid))
            connection = HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
            key = _post(connection, "/key/generate", {}, KEY)["key"] if variables else KEY
            _chat(connection, key, _WARM_UP)
            before = processor(descendants(process.pid))
            _chat(connection, key, requests)
            time.sleep(_WRITES)
            pids = descendants(process.pid)
            milliseconds = (processor(pids) - before) / requests * 1000
            engines = [pid for pid in pids if b"prisma_engine" in Path(f"/proc/{pid}/cmdline").read_bytes()]
            return {
                "request": milliseconds,
                "memory": sum(map(proportional_memory, set(pids) - set(engines))),
                "engine": sum(map(proportional_memory, engines)),
                "start": start,
            }
        finally:
            process.terminate()
            process.wait(DEADLINE)


def _command(program: str, config: Path, port: int) -> tuple[str, ...]:
    if program == _OURS:
        return (sys.executable, "-m", "litellm_systemd.runtime", "--config", str(config))
    cli = "from litellm.proxy.proxy_cli import run_server; run_server()"
    return (sys.executable, "-c", cli, "--config", str(config), "--host", "127.0.0.1", "--port", str(port))


def _await_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health/readiness")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"the service is not ready:\n{log.read_text()[-2000:]}")
        time.sleep(0.2)


def _chat(connection: HTTPConnection, key: str, requests: int) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}
    for _ in range(requests):
        _post(connection, "/v1/chat/completions", body, key)


def _post(connection: HTTPConnection, path: str, body: Mapping[str, Any], key: str) -> Any:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status == 200, text
    return json.loads(text)


if __name__ == "__main__":
    sys.exit(main())
