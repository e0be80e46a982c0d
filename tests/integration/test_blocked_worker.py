"""Requests whose code keeps the event loop of a worker busy: the worker is killed only if nothing proceeds in it."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.integration.runtime_service import KEY, Service, post_chat, wait_for
from tests.integration.test_runtime_stop import Upstream, run_upstream

#: The last word of a conversation is a command to this callback.
CALLBACK = """
import asyncio, os, signal, sys, time
from litellm.integrations.custom_logger import CustomLogger

signal.signal(signal.SIGTERM, signal.SIG_IGN)

released = asyncio.Event()

def hold_the_gil():
    sum(range(10**14))

def compute(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass

def break_health_checks():
    from litellm.proxy.proxy_server import app
    whole = app.middleware_stack

    async def broken(scope, receive, send):
        if scope.get("path") == "/health/liveliness":
            await asyncio.sleep(3600)
        await whole(scope, receive, send)

    app.middleware_stack = broken

class Mine(CustomLogger):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        command, _, seconds = str(data["messages"][-1]["content"]).partition(" ")
        if command == "sleep":
            time.sleep(float(seconds))
        elif command == "hold":
            hold_the_gil()
        elif command == "wait":
            await released.wait()
            compute(float(seconds))
        elif command == "release":
            released.set()
        elif command == "poll":
            while not os.path.exists(__file__ + ".end"):
                await asyncio.sleep(0.1)
        elif command == "raise":
            raise KeyError("tenant")
        elif command == "break":
            break_health_checks()
        elif command == "leave":
            os._exit(3)

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        if kwargs["messages"][-1]["content"] == "exit":
            sys.exit("no tenant")

handler = Mine()
"""
CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages?api_key=sk-in-the-query"
#: Seconds. A worker is hung after half of it, and a block is worth a line after a quarter.
WATCHDOG = 8.0


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with run_upstream() as server:
        yield server


def start(folder: Path, upstream: Upstream, **variables: str) -> Service:
    (folder / "mine.py").write_text(CALLBACK)
    return Service(folder, upstream.config + "litellm_settings: {callbacks: mine.handler}\n", **variables)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, upstream: Upstream) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("blocked")
    with start(folder, upstream, NUM_WORKERS="3", WATCHDOG_TIMEOUT=f"{WATCHDOG:g}") as running:
        running.await_ready()
        yield running


class Client(threading.Thread):
    """A request with a command to the callback. `outcome` is the status code, or the error."""

    def __init__(self, service: Service, command: str, path: str = CHAT) -> None:
        super().__init__()
        self.outcome: int | str = ""
        self._connection = service.connect()
        self._path = path
        self._body = {"model": "demo", "max_tokens": 9, "messages": [{"role": "user", "content": command}]}
        self.start()

    def run(self) -> None:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        try:
            self._connection.request("POST", self._path, json.dumps(self._body), headers)
            response = self._connection.getresponse()
            response.read()
            self.outcome = response.status
        except (OSError, HTTPException) as error:
            self.outcome = repr(error)

    def finish(self) -> int | str:
        self.join()
        return self.outcome


@pytest.fixture(scope="module", autouse=True)
def waiting(service: Service) -> Client:
    """A request that waits in the callback during the first tests."""
    return Client(service, "poll", MESSAGES)


class Stream(threading.Thread):
    """A stream that the upstream ends. `longest_wait` is the longest time without a chunk, in seconds."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.text = b""
        self.longest_wait = 0.0
        self._response = post_chat(service.connect(), "slow", stream=True)
        self.start()

    def run(self) -> None:
        last = time.monotonic()
        try:
            while line := self._response.readline():
                self.text += line
                self.longest_wait = max(self.longest_wait, time.monotonic() - last)
                last = time.monotonic()
        except (OSError, HTTPException):
            return

    @property
    def is_whole(self) -> bool:
        return self.text.rstrip().endswith(b"data: [DONE]")


def has_streams(service: Service, number: int) -> bool:
    """Whether this many streams run, and some of them in each worker."""
    counts = [each["inflight"] for each in service.query("status")["workers"]]
    return sum(counts) >= number and all(counts)


def test_slow_worker_is_not_killed(service: Service) -> None:
    """A worker with so many expensive requests that its health check is late by far serves them all."""
    before = service.workers()
    # Of three workers one has twelve of these at least. Released together, they fill one iteration of its event loop.
    clients = [Client(service, "wait 0.4") for _ in range(36)]
    wait_for(
        "all requests", lambda: sum(each["inflight"] for each in service.query("status")["workers"]) >= len(clients)
    )
    start = time.monotonic()
    while any(client.is_alive() for client in clients):
        clients.append(Client(service, "release"))  # to a worker that is not busy
        time.sleep(0.5)
    assert {client.finish() for client in clients} == {200}
    assert time.monotonic() - start > WATCHDOG / 2
    assert service.workers() == before


def test_short_block_is_reported(service: Service) -> None:
    """A request that blocks a worker for seconds is answered, and a warning names the request and the function."""
    before = service.workers()
    assert Client(service, f"sleep {WATCHDOG / 4 + 0.5}").finish() == 200
    line = service.await_log("Its other requests waited")
    assert line.startswith("<4>worker ")
    assert " was blocked for " in line
    assert " in POST /v1/chat/completions (mine.py:" in line
    assert " async_pre_call_hook < " in line
    assert service.workers() == before


def test_repeated_short_blocks_are_reported(service: Service) -> None:
    """Code that blocks a worker again and again, each time for less than a quarter of WATCHDOG_TIMEOUT, is named with
    its file, its line and what it calls: in the journal and in the status.
    """
    before = service.workers()
    where = f"{service.folder}/mine.py:{line_of('time.sleep')} in async_pre_call_hook"
    pattern = (
        rf"^<4>{re.escape(where)}, time.sleep, blocks the event loop of a worker: (\d+) times so far, for up to "
    )

    def is_reported() -> re.Match[str] | None:
        # On a busy machine a block may take too long, or be noticed too late, to be a short one. Another follows.
        assert Client(service, f"sleep {WATCHDOG / 4 - 0.1}").finish() == 200
        return re.search(pattern, service.log(), re.MULTILINE)

    found: re.Match[str] = wait_for("the warning", is_reported)
    assert int(found[1]) >= 3
    block = service.query("status")["blocks"][0]
    assert (block["where"], block["call"], block["killed"]) == (where, "time.sleep", 0)
    assert f"{where} has blocked workers" in service.query("status")["status"]
    assert service.workers() == before


def line_of(text: str) -> int:
    """The line of the callback that has this text."""
    return next(number for number, line in enumerate(CALLBACK.splitlines(), start=1) if text in line)


def test_callback_that_waits_is_reported(service: Service, waiting: Client) -> None:
    """A request that waits in a callback has a warning with file and line, without the query and the prompt."""
    line = service.await_log("has been waiting here for more than 20 s")
    where = f"{service.folder}/mine.py:{line_of('asyncio.sleep(0.1)')} in async_pre_call_hook"
    assert line == f"<4>{where}: POST /v1/messages has been waiting here for more than 20 s"
    (service.folder / "mine.py.end").touch()
    assert waiting.finish() == 200


def test_failed_calls_are_counted(service: Service) -> None:
    """The status has the number of requests that called a model, and of those that a callback failed."""

    def count() -> tuple[int, int]:
        workers = service.query("status")["workers"]
        return sum(each["calls"] for each in workers), sum(each["failed_calls"] for each in workers)

    calls, failed = count()  # a heartbeat may still bring some of earlier tests
    assert [Client(service, command).finish() for command in ("raise", "hello")] == [500, 200]
    wait_for("the counts", lambda: count()[0] >= calls + 2 and count()[1] == failed + 1)


@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("exit", "exited with code 1: SystemExit: no tenant ({folder}/mine.py:{line}), replaced in "),
        ("leave", "exited with code 3 in POST /v1/chat/completions, replaced in "),
    ],
)
def test_exits_are_explained(service: Service, command: str, how: str) -> None:
    """A worker that its callback ends is replaced, and a warning names the line or the request."""
    before = service.workers()
    Client(service, command).finish()
    line = service.await_log(how.format(folder=service.folder, line=line_of("sys.exit")))
    assert line.startswith("<4>worker ")
    service.await_workers(count=3)
    assert len(set(before) - set(service.workers())) == 1


def test_signal_handler_of_a_callback(service: Service) -> None:
    """A callback that ignores SIGTERM does not keep a worker from its drain."""
    victim = service.workers()[0]
    os.kill(victim, signal.SIGTERM)
    service.await_workers(without=victim)
    service.await_log(f"(pid {victim}) exited with code 0, replaced in ")


def test_paused_service_continues(service: Service) -> None:
    """A pause of all processes, as of a virtual machine that is moved, costs no worker."""
    workers = sorted(service.workers())
    everything = (service.process.pid, *workers)
    for pid in everything:
        os.kill(pid, signal.SIGSTOP)
    for pid in workers:
        os.kill(pid, signal.SIGALRM)  # that of the kernel, four times WATCHDOG_TIMEOUT after the last heartbeat
    time.sleep(WATCHDOG * 0.75)
    for pid in everything:
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.3)  # the main process may run first, and then sees no heartbeat
    assert Client(service, "hello").finish() == 200
    time.sleep(1.5)
    assert sorted(service.workers()) == workers


def test_hung_workers_are_replaced(service: Service, upstream: Upstream) -> None:
    """Workers that one request hangs, even in C code that holds the GIL, are killed with a line that names the
    request, without its query, and the function. Streams of another worker do not even pause.
    """
    before = service.workers()
    streams = [Stream(service) for _ in range(9)]
    wait_for("a stream in each worker", lambda: has_streams(service, len(streams)))
    hanging = Client(service, "sleep 600")
    time.sleep(1)
    holding = Client(service, "hold", MESSAGES)
    sleeping = await_killed(service, "/v1/chat/completions", r"mine\.py:\d+ async_pre_call_hook < .+")
    computing = await_killed(
        service, "/v1/messages", r"mine\.py:\d+ hold_the_gil < mine\.py:\d+ async_pre_call_hook < .+"
    )
    assert isinstance(hanging.finish(), str)
    assert isinstance(holding.finish(), str)
    after = service.await_workers(count=3)
    assert set(before) - set(after) == {sleeping, computing}
    for pid, path, line, what in (
        (sleeping, "/v1/chat/completions", line_of("time.sleep"), "async_pre_call_hook, time.sleep,"),
        (computing, "/v1/messages", line_of("sum(range"), "hold_the_gil, sum,"),
    ):
        error = service.await_log(f"(pid {pid}) hangs in POST {path} and is killed after ")
        assert error.startswith("<3>worker ")
        assert error.endswith(f": {service.folder}/mine.py:{line} in {what} blocks the event loop of a worker")

    upstream.finish.set()
    for stream in streams:
        stream.join()
    whole = [stream for stream in streams if stream.is_whole]
    assert 0 < len(whole) < len(streams)
    # The other workers hung for longer than that.
    assert max(stream.longest_wait for stream in whole) < WATCHDOG / 2
    assert "in-the-query" not in service.log()
    # The stacks of all threads. They mix with no other line, so that each line has its priority.
    for pid in (sleeping, computing):
        assert re.search(
            rf"^<6>worker \d \(pid {pid}\): Fatal Python error: Aborted\n<6>", service.log(), re.MULTILINE
        )
    assert f'<6>  File "{service.folder}/mine.py", line' in service.log()


def await_killed(service: Service, path: str, stack: str) -> int:
    """Wait for the line about the worker that a request to `path` has hung. Returns the pid."""
    request = re.escape(f"POST {path}")
    line = rf"^<4>worker \d \(pid (\d+)\) was blocked for \d+ s in {request} \({stack}\) and was killed, replaced in "
    found: re.Match[str] = wait_for(line, lambda: re.search(line, service.log(), re.MULTILINE))
    return int(found[1])


def test_worker_that_fails_its_health_check(tmp_path: Path, upstream: Upstream) -> None:
    """A worker whose event loop runs, but that no longer answers its health check, is recycled."""
    with start(tmp_path, upstream, NUM_WORKERS="1", WATCHDOG_TIMEOUT="4", DRAIN_TIMEOUT="0") as service:
        service.await_ready()
        [broken] = service.workers()
        assert Client(service, "break").finish() == 200
        line = service.await_log(f"(pid {broken}) recycled after failing its health check for ")
        assert line.startswith("<5>worker 1 ")
        assert service.await_workers(count=1, without=broken)
        assert service.stop() == 0
