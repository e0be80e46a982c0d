"""`python -m tests.bench.profile_request`: the time of a request in LiteLLM and in our code (docs/profile.md).

Our share is too small to measure in a whole request, so it is measured with an application that does nothing. All
times are processor time, which a busy machine hardly affects.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from litellm_systemd.runtime.http.access_log import AccessLog
from litellm_systemd.runtime.http.cut_requests import CutRequests
from litellm_systemd.runtime.http.health_checks import READINESS
from litellm_systemd.runtime.journal import open_journal
from litellm_systemd.runtime.worker import litellm_adapter, worker
from litellm_systemd.runtime.worker.draining_server import Server, build_config, get_status
from litellm_systemd.runtime.worker.garbage_collection import Collector
from tests.integration.runtime_service import CONFIG, KEY

_SCOPE: dict[str, Any] = {
    "type": "http",
    "method": "POST",
    "path": "/v1/chat/completions",
    "raw_path": b"/v1/chat/completions",
    "server": ("127.0.0.1", 4000),
    "client": ("127.0.0.1", 50000),
    "headers": [],
}
_CHUNKS = 12
_CHEAP = 20_000


def collect_from_event_loop() -> None:
    """Collect garbage as the workers do."""
    gc.disable()
    Collector().start(asyncio.get_running_loop())


#: How the garbage collector runs, to compare.
_COLLECTORS: dict[str, Callable[[], None]] = {
    "automatic": lambda: None,
    "50000,20,100": lambda: gc.set_threshold(50_000, 20, 100),
    "from the event loop": collect_from_event_loop,
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile_request", description=__doc__)
    parser.add_argument("--requests", type=int, default=300, metavar="N", help="in a round")
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    options = parser.parse_args(argv)
    os.environ.update(LITELLM_MASTER_KEY=KEY, AWS_EC2_METADATA_DISABLED="true")
    litellm_adapter.preload(os.environ)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in _COLLECTORS}
    for _ in range(options.rounds):
        for name, collector in _COLLECTORS.items():  # in turn
            rounds[name].append(in_child(partial(measure_requests, options.requests, collector)))
    base = rounds["automatic"]
    for kind, messages in (("json", 2), ("sse", 1 + _CHUNKS)):
        _show(kind, statistics.median(each[kind] for each in base), in_child(partial(_measure_ours, messages)))
    for name, found in rounds.items():
        for what, unit in (("json", "ms"), ("sse", "ms"), ("p99", "ms"), ("memory", "MB")):
            values = sorted(each[what] for each in found)
            middle = statistics.median(values)
            say(f"{name:20} {what:6} {middle:8.2f} {unit}  ({values[0]:.2f} to {values[-1]:.2f})")
    return 0


def _show(kind: str, litellm: float, ours: dict[str, float]) -> None:
    say(f"{kind}: {litellm:.2f} ms of processor time in a whole request; overhead of our code:")
    for name, microseconds in ours.items():
        say(f"  {name:20} {microseconds:6.1f} us  {microseconds / litellm / 10:5.2f} %")


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def in_child(measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Run `measure` in a forked process, as workers are."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.write(write, json.dumps(measure()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    found: dict[str, float] = json.loads(text)
    return found


# --- LiteLLM, with uvicorn, through a socket ---


def measure_requests(
    requests: int, collector: Callable[[], None], wrap: Callable[[Any], Any] = lambda application: application
) -> dict[str, float]:
    """Processor milliseconds of a request (json) and of a stream (sse), the 99th percentile, and memory in MB."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(CONFIG % " ".join(["word"] * _CHUNKS))
        with litellm_adapter.suppress_stdout():
            litellm_adapter.set_up(config, {}, 1)
        application = wrap(CutRequests(litellm_adapter.application()))
        server = Server(build_config(application, 65), (), lame_duck_timeout=0, drain_timeout=0)
        found: dict[str, float] = {}
        worker.asyncio_run(_drive(server, requests, collector, found))
    return found


async def _drive(server: Server, requests: int, collector: Callable[[], None], found: dict[str, float]) -> None:
    with litellm_adapter.suppress_stdout():
        serving = asyncio.get_running_loop().create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        await get_status(server.connect, READINESS, 60)
    collector()
    for kind in ("sse", "json"):
        await _ask_often(server, kind == "sse", requests // 5)  # warm
        begin = time.process_time()
        took = await _ask_often(server, kind == "sse", requests)
        found[kind] = (time.process_time() - begin) * 1000 / requests
        found["p99"] = sorted(took)[int(len(took) * 0.99)] * 1000
    found["memory"] = _private_memory()
    server.force_close(0)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def _private_memory() -> float:
    """The memory that is not shared with the main process, in MB (Private_Dirty of proc_pid_smaps_rollup(5))."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty:")) * 1024 / 1e6


async def _ask_often(server: Server, stream: bool, times: int) -> list[float]:
    """The processor seconds of each request."""
    body = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "hi"}], "stream": stream})
    head = f"Host: localhost\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\nConnection: close"
    request = f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    took = []
    for _ in range(times):
        begin = time.process_time()
        answer = await _exchange(server, request)
        took.append(time.process_time() - begin)
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer[:200])
    return took


async def _exchange(server: Server, request: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with ours:
        ours.setblocking(False)
        theirs.setblocking(False)
        await server.connect(theirs)
        await loop.sock_sendall(ours, request)
        answer = b""
        while chunk := await loop.sock_recv(ours, 65536):
            answer += chunk
    return answer


# --- ours, around nothing ---


def _measure_ours(messages: int) -> dict[str, float]:
    """The microseconds that each wrapper adds to a response with this number of messages."""
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
    body = {"type": "http.response.body", "body": b"x", "more_body": True}
    answer = [start, *[body] * (messages - 2), {**body, "more_body": False}]

    async def application(scope: Any, receive: Any, send: Any) -> None:
        for message in answer:
            await send(message)

    def dispatch(scope: Any, receive: Any, send: Any) -> Any:  # as _Application in worker.py
        return (lambda: cutting)()(scope, receive, send)

    cutting = CutRequests(application)
    with Path(os.devnull).open("w") as sink:
        os.dup2(sink.fileno(), 2)
        access = AccessLog(cutting, open_journal({}))
    bare = _time(application)
    return {"access log off": _time(dispatch) - bare, "access log on": _time(access) - bare}


def _time(application: Any) -> float:
    async def send(message: Any) -> None:
        pass

    async def run() -> float:
        begin = time.process_time()
        for _ in range(_CHEAP):
            await application(_SCOPE, None, send)
        return (time.process_time() - begin) * 1e6 / _CHEAP

    return statistics.median(asyncio.run(run()) for _ in range(5))


if __name__ == "__main__":
    sys.exit(main())
