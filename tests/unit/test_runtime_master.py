"""The decisions of the main process in any order of events. Hypothesis plays workers, clients and administrator."""

from __future__ import annotations

import collections
import itertools
import signal
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from time import localtime, strftime
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from litellm_systemd.errors import InputError
from litellm_systemd.runtime.activity import STACK_SIGNAL, Activity, Frame
from litellm_systemd.runtime.channel import Drained, Environment, Heartbeat, Message, StartFailed, open_channel
from litellm_systemd.runtime.journal import Journal
from litellm_systemd.runtime.master import master as module
from litellm_systemd.runtime.master import status
from litellm_systemd.runtime.master.gauges import build_constants, build_gauges
from litellm_systemd.runtime.master.master import Master
from litellm_systemd.runtime.master.worker_pool import Generation, Phase, WorkerHandle
from litellm_systemd.runtime.metrics import families
from litellm_systemd.runtime.metrics.store import Gauge
from litellm_systemd.runtime.options import Configuration, Options

PATH = Path("/etc/litellm/config.yaml")
WORKERS = 2
MAX_REQUESTS = 100


class Clock:
    """Both clocks of the time module. They advance only when the test advances them."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic
    strftime, localtime = staticmethod(strftime), staticmethod(localtime)


class Notifier:
    """Records the notifications to systemd."""

    watchdog_interval = 7.5

    def __init__(self) -> None:
        self.sent: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.sent.append(name)


class Client:
    def __init__(self) -> None:
        self.answers: list[Mapping[str, Any]] = []
        self.is_waiting = True

    def answer(self, reply: Mapping[str, Any]) -> None:
        self.answers.append(reply)


class Worker(WorkerHandle):
    """A worker whose behaviour the test decides. `accepting` is whether it takes connections from the kernel."""

    def __init__(self, slot: int, pid: int, now: float) -> None:
        super().__init__(slot, pid, open_channel()[0], Activity(), now)
        self.accepting = False
        self.draining = False
        self.killed = False

    def serve(self) -> None:
        super().serve()
        self.accepting = not self.draining

    def send_signal(self, number: signal.Signals) -> None:
        if number == STACK_SIGNAL:
            return
        self.draining = True
        self.accepting = False
        self.killed = self.killed or number in (signal.SIGKILL, signal.SIGABRT)


class FakeWorkerPool:
    """A worker pool without processes."""

    def __init__(self, clock: Clock, *callbacks: Any) -> None:
        *_, self.on_message, self.on_exit, _ = callbacks
        self.clock = clock
        self.running: list[tuple[Generation, Worker]] = []
        self.count = 0

    @property
    def workers(self) -> list[Worker]:
        return [worker for _, worker in self.running]

    def fork(self, slot: int, generation: Generation) -> Worker:
        self.count += 1
        worker = Worker(slot, self.count, self.clock.now)
        self.running.append((generation, worker))
        return worker

    def move(self, worker: Worker, generation: Generation) -> None:
        self.running = [(generation if each is worker else old, each) for old, each in self.running]

    def reap(self) -> None:
        """Does nothing: the test decides when a worker exits."""

    def send(self, worker: Worker, message: Message) -> None:
        generation = next(generation for generation, each in self.running if each is worker)
        self.on_message(generation, worker, message)

    def exit(self, worker: Worker, status: int) -> None:
        pair = next(pair for pair in self.running if pair[1] is worker)
        self.running.remove(pair)
        self.on_exit(*pair, worker.render_exit(status), status == 0)


class World:
    """A main process with fake workers, clock and notifications."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, delay: float = 0.0, owns_port: bool = False) -> None:
        self.clock = Clock()
        self.notifier = Notifier()
        self.valid = True
        self.clients: list[Client] = []
        monkeypatch.setattr(module, "WorkerPool", lambda *arguments: FakeWorkerPool(self.clock, *arguments))
        for each in (module, status):
            monkeypatch.setattr(each, "time", self.clock)
        for name in ("control", "leave"):
            monkeypatch.setattr(f"litellm_systemd.runtime.master.{name}.time", self.clock)
        self.lines: list[str] = []
        monkeypatch.setattr(Journal, "line", lambda _, priority, text: self.lines.append(f"<{priority}>{text}"))
        self.master = Master(
            Options(config=PATH, workers=WORKERS, max_requests=MAX_REQUESTS, deregistration_delay=delay),
            self.load(),
            (),
            self.load,
            self.notifier,  # type: ignore[arg-type]
            Journal(),
            self.clock.now,
            owns_port=owns_port,
        )
        self.pool: FakeWorkerPool = self.master._pool  # type: ignore[assignment]
        self.master._start(self.load())

    def load(self) -> Configuration:
        if not self.valid:
            raise InputError("bad")
        return Configuration(PATH, "0" * 64, 1, {})

    @property
    def exited(self) -> bool:
        return self.master.stopping and not self.pool.running

    def tick(self, seconds: float = 0.0) -> None:
        self.clock.now += seconds
        self.master._tick(self.clock.now)

    def advance(self, worker: Worker) -> None:
        """Do the next thing that a healthy worker does."""
        generation = next(generation for generation, each in self.pool.running if each is worker)
        if worker.killed:
            self.pool.exit(worker, 9)
        elif worker.draining and not worker.accepting and worker.heartbeat.serving:
            self.pool.send(worker, Heartbeat(serving=False, inflight=1, connections=1, requests=1))
        elif worker.draining:
            self.pool.exit(worker, 0)
        elif generation.environment is None:
            self.pool.send(worker, Environment({}))
        else:
            self.pool.send(worker, Heartbeat(serving=worker.accepting, inflight=0, connections=0, requests=1))

    def reach_request_limit(self, worker: Worker) -> None:
        """Report that the worker has served as many requests as it may."""
        self.pool.send(worker, Heartbeat(serving=worker.accepting, inflight=0, connections=0, requests=MAX_REQUESTS))

    def settle(self) -> None:
        """Let all workers behave as healthy ones until nothing changes any more."""
        for _ in range(12):
            for worker in list(self.pool.workers):
                if worker in self.pool.workers:
                    self.advance(worker)
            self.tick(0.25)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_start_and_stop(world: World) -> None:
    """The service sends READY=1 when all workers serve, and exits with 0 after a stop."""
    assert "ready" not in world.notifier.sent
    world.settle()
    assert world.notifier.sent.count("ready") == 1
    assert [worker.accepting for worker in world.pool.workers] == [True, True]
    world.master._on_stop()
    world.settle()
    assert world.exited
    assert world.master._exit_code == 0


def test_stop_closes_the_listeners(world: World) -> None:
    """After a stop the main process holds no listening socket, so connections during the drain are refused."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        world.master.listeners = (listener,)
        world.master._on_stop()
        assert listener.fileno() == -1
    assert status.build_status(world.master)["listen"] == []


DELAY = 30.0


def ask_to_drain(world: World) -> Client:
    """What ExecStop= sends."""
    client = Client()
    world.master._on_command("drain", client)  # type: ignore[arg-type]
    return client


@pytest.mark.parametrize("owns_port", [True, False])
def test_leave(monkeypatch: pytest.MonkeyPatch, owns_port: bool) -> None:
    """Before a drain an instance leaves for DEREGISTRATION_DELAY, a pause of the service not counted, and serves on.

    With systemd's socket only SIGTERM after the answer of `drain` begins the drain, else the end of the delay does.
    systemd's timeout begins again with SIGTERM, and is extended at once.
    """
    world = World(monkeypatch, delay=DELAY, owns_port=owns_port)
    world.settle()
    client = Client() if owns_port else ask_to_drain(world)
    if owns_port:
        world.master._on_terminate()
    assert world.master.leave.flag
    assert status.build_status(world.master)["state"] == "leaving"
    assert status.build_status(world.master)["leaving_until"] == world.clock.now + DELAY
    world.tick(100)
    assert "extend" in world.notifier.sent
    for _ in range(29):
        for worker in world.pool.workers:
            world.advance(worker)
        world.tick(1)
    assert ([worker.accepting for worker in world.pool.workers], client.answers) == ([True, True], [])
    world.tick(1)
    assert world.master.stopping is owns_port
    if not owns_port:
        assert client.answers == [{"ok": True, "left": True}]
        assert ask_to_drain(world).answers == client.answers
        assert world.master.current is not None
        world.notifier.sent.clear()
        world.master._on_terminate()
        world.tick(0.1)
        assert "extend" in world.notifier.sent
    world.settle()
    assert world.exited
    assert [line for line in world.lines if "again" in line] == []


def test_leave_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM during the delay drains at once, and the SIGTERM of systemd that follows it does not force-close."""
    world = World(monkeypatch, delay=DELAY)
    world.settle()
    client = ask_to_drain(world)
    world.master._on_terminate()
    assert (world.master.stopping, client.answers) == (True, [{"ok": True, "left": True}])
    world.master._on_terminate()
    assert not any("again" in line for line in world.lines)
    world.master._on_terminate()
    assert any("force-closing" in line for line in world.lines)


def test_leave_without_its_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """If ExecStop= is killed during the delay, systemd's SIGTERM drains, and the next one force-closes."""
    world = World(monkeypatch, delay=DELAY)
    world.settle()
    ask_to_drain(world).is_waiting = False
    world.master._on_terminate()
    assert world.master.stopping
    world.master._on_terminate()
    assert any("force-closing" in line for line in world.lines)


@pytest.mark.parametrize(("delay", "is_ready"), [(0.0, True), (DELAY, False)])
def test_nothing_to_leave(monkeypatch: pytest.MonkeyPatch, delay: float, is_ready: bool) -> None:
    """Without a load balancer, and before the first READY=1, `drain` is answered at once, and SIGTERM drains."""
    world = World(monkeypatch, delay=delay, owns_port=True)
    if is_ready:
        world.settle()
    assert ask_to_drain(world).answers == [{"ok": True, "left": False}]
    world.master._on_terminate()
    assert world.master.stopping
    assert ask_to_drain(world).answers == [{"ok": True, "left": False}]


def test_rejected_configuration_at_start(world: World) -> None:
    """A configuration that LiteLLM rejects before READY=1 ends the service with 78 and the cause, without a retry."""
    worker = world.pool.workers[0]
    world.pool.send(worker, StartFailed("no master key is set"))
    world.pool.exit(worker, 256)
    world.settle()
    assert world.exited
    assert world.master._exit_code == 78
    assert world.master._fatal_error == f"LiteLLM rejects {PATH}: no master key is set"
    assert world.pool.count == 1


def test_worker_killed_at_start(world: World) -> None:
    """If the first worker is killed (out of memory), the service exits with 75, so that systemd restarts it."""
    world.pool.exit(world.pool.workers[0], 9)
    world.settle()
    assert world.exited
    assert world.master._exit_code == 75


def test_metrics_of_a_killed_worker(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests in flight of a worker that is killed do not count in Prometheus any more."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    world.settle()
    victim, other = world.pool.workers
    for worker in (victim, other):
        (tmp_path / f"gauge_livesum_{worker.pid}.db").touch()
    world.pool.exit(victim, 9)
    assert [path.name for path in tmp_path.iterdir()] == [f"gauge_livesum_{other.pid}.db"]


def values_of(gauges: list[Gauge]) -> dict[str, float]:
    """Gauges by name and the values of their labels."""
    return {" ".join((name.removeprefix(families.PREFIX), *labels.values())): value for name, labels, value in gauges}


def test_gauges(world: World) -> None:
    """The gauges follow the workers: by state, with their requests, and with what the configuration has."""
    found = values_of(build_gauges(world.master, world.clock.now))
    assert (found["ready"], found["workers starting"], "generation" in found) == (0, 1, False)
    world.settle()
    first, second = world.pool.workers
    for worker, lag in ((first, 0.5), (second, 0.1)):
        beat = Heartbeat(serving=True, inflight=2, connections=3, requests=9, lag=lag)
        world.pool.send(worker, beat)
        world.pool.send(worker, replace(beat, lag=0.0))  # the next scrape sees the delay as well
    assert world.master.current is not None
    world.master.current.configuration = replace(world.load(), ends={"claude": date(2027, 4, 8)})
    found = values_of(build_gauges(world.master, world.clock.now))
    assert found.items() >= {
        ("ready", 1),
        ("generation", 1),
        ("workers starting", 0),
        ("workers ready", 2),
        ("requests_in_flight", 4),
        ("connections", 6),
        ("event_loop_lag_seconds", 0.5),
        ("last_reload_successful", 1),
        ("model_end_of_life_timestamp_seconds claude", 1807142400),
    }
    late = values_of(build_gauges(world.master, world.clock.now + world.master.options.hang_limit))
    assert (late["workers ready"], late["workers hung"]) == (0, 2)
    world.valid = False
    world.master.reloads.request()
    world.settle()
    assert values_of(build_gauges(world.master, world.clock.now))["last_reload_successful"] == 0
    world.master._on_stop()
    assert values_of(build_gauges(world.master, world.clock.now))["workers draining"] == 2


def test_constant_gauges() -> None:
    """The versions are in a metric, and the end of temporary AWS credentials if it is known."""
    environ = {"AWS_SESSION_TOKEN": "x", "AWS_CREDENTIAL_EXPIRATION": "2026-11-29T12:00:00Z"}
    gauges = build_constants(environ, 0.0)
    assert values_of(gauges)["credentials_expiry_timestamp_seconds"] == 1795953600
    assert gauges[0][1].keys() == {"version", "litellm_version", "release"}
    assert "credentials_expiry_timestamp_seconds" not in values_of(build_constants({}, 0.0))


def test_counters(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exits, recycled workers, drains, cut requests and reloads are counted, each once and by its cause."""
    counted: collections.Counter[tuple[str, ...]] = collections.Counter()

    def count(family: families.Family, *labels: str, amount: int = 1) -> None:
        assert all(value in known for value, known in zip(labels, family.labels.values(), strict=True))
        counted[(family.name.removeprefix(families.PREFIX), *labels)] += amount

    monkeypatch.setattr(world.master, "_count", count)
    world.settle()
    killed, recycled = world.pool.workers
    killed.exit_status = signal.SIGKILL
    world.pool.exit(killed, signal.SIGKILL)
    world.settle()
    world.reach_request_limit(recycled)
    world.tick(0.25)
    world.settle()
    for valid in (True, False):
        world.valid = valid
        world.master.reloads.request()
        world.settle()
    last = world.pool.workers[0]
    world.pool.send(last, Drained(cut=3, seconds=1.0))
    assert counted == {
        ("worker_restarts_total", "crash"): 1,
        ("worker_restarts_total", "max_requests"): 1,
        ("reloads_total", "success"): 1,
        ("reloads_total", "failure"): 1,
        ("drains_total", "cut"): 1,
        ("cut_requests_total",): 3,
    }


def test_drained_worker_that_does_not_exit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has drained and hangs in LiteLLM's shutdown is killed after a minute, not after DRAIN_TIMEOUT."""
    world.settle()
    hanging, other = world.pool.workers
    counted: list[tuple[str, ...]] = []
    monkeypatch.setattr(world.master, "_count", lambda family, *labels, **_: counted.append((family.name, *labels)))
    world.master._on_stop()
    world.pool.exit(other, 0)
    world.pool.send(hanging, Drained(cut=0, seconds=3.0))

    def beat(seconds: int) -> None:
        for _ in range(seconds):
            world.pool.send(hanging, Heartbeat(serving=False, inflight=0, connections=0, requests=1))
            world.tick(1)

    beat(59)
    assert not hanging.killed
    beat(2)
    assert hanging.killed
    world.settle()
    assert world.exited
    assert world.lines[-1].endswith(" hung in LiteLLM's shutdown and was killed")
    assert counted == [(families.DRAINS.name, "complete")]


def test_pause_during_a_start(world: World) -> None:
    """A start gets the time of a pause in addition, from systemd too, and one line reports the pause."""
    for seconds in (170, 600):
        world.tick(1)
        world.tick(seconds)
    assert not world.master.stopping
    assert "extend" in world.notifier.sent
    assert world.lines == [
        f"<5>the service was paused for {seconds} s, and its timeouts do not count them" for seconds in (170, 600)
    ]
    for _ in range(181):
        world.tick(1)
    assert "START_TIMEOUT=180" in world.master._fatal_error


def test_start_timeout(world: World) -> None:
    """A start that takes longer than START_TIMEOUT fails with 75."""
    for _ in range(181):
        world.tick(1)
    world.settle()
    assert world.exited
    assert world.master._exit_code == 75
    assert "START_TIMEOUT=180" in world.master._fatal_error


def test_start_that_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status and the error of a start that hangs name the line of the user's code that it waits in."""
    frame = Frame("/etc/litellm/mine.py", 3, "<module>")
    monkeypatch.setattr(Activity, "read_stack", lambda _self: (Frame("<frozen x>", 1, "f"), frame))
    world.tick(1)
    seen = {status.render_status(world.master)}
    for _ in range(181):
        world.tick(1)
        seen.add(status.render_status(world.master))
    world.settle()
    text = "; still running: <module> (/etc/litellm/mine.py:3)"
    assert {"starting 2 workers", f"starting 2 workers{text}"} <= seen
    assert world.master._fatal_error == f"not ready after START_TIMEOUT=180 s{text}"


def test_no_worker_can_start(world: World) -> None:
    """When no worker is left and none can start, the service exits with 78 and the cause instead of retrying."""
    world.settle()
    for _ in range(20):
        for worker in list(world.pool.workers):
            world.pool.send(worker, StartFailed("the file is gone"))
            world.pool.exit(worker, 256)
        world.tick(30)
    assert world.exited
    assert world.master._exit_code == 78
    assert world.master._fatal_error == "no worker can start: the file is gone"


def test_one_remaining_worker(world: World) -> None:
    """As long as one worker serves, the service continues, and its status shows why others cannot start."""
    world.settle()
    survivor = world.pool.workers[1]
    for _ in range(20):
        for worker in [worker for worker in world.pool.workers if worker is not survivor]:
            world.pool.send(worker, StartFailed("no memory"))
            world.pool.exit(worker, 256)
        for _ in range(4):
            world.tick(8)
            world.advance(survivor)
    assert survivor.accepting
    assert not world.master.stopping
    assert "1 of 2 workers" in status.render_status(world.master)
    assert "cannot start a worker: no memory" in status.render_status(world.master)


def test_reload_timeout(world: World) -> None:
    """A new generation that is not ready within START_TIMEOUT is stopped, and the old one continues unchanged."""
    world.settle()
    before = list(world.pool.workers)
    world.master.reloads.request()
    world.tick()
    for _ in range(181):
        for worker in before:
            world.advance(worker)
        world.tick(1)
    assert world.master.reloads.last is not None
    assert "START_TIMEOUT" in world.master.reloads.last.error
    world.settle()
    assert world.pool.workers == before
    assert all(worker.accepting for worker in before)


def test_recycling(world: World) -> None:
    """A recycled worker drains after its successor serves, and it does not count as a restart."""
    world.settle()
    old, other = world.pool.workers
    world.reach_request_limit(old)
    world.tick()
    successor = world.pool.workers[-1]
    assert successor.slot == old.slot
    world.advance(successor)
    assert old.accepting
    assert successor.accepting
    world.advance(successor)
    assert old.phase is Phase.DRAINING
    assert world.master.current is not None
    assert world.master.current.workers == [successor, other]
    world.settle()
    assert world.pool.workers == [other, successor]
    assert world.master.restarts == 0


def test_published_names(world: World) -> None:
    """The names of states in the status stay the same, because other programs read them."""
    world.settle()
    world.master.reloads.request()
    world.tick()
    assert status.build_status(world.master)["state"] == "reloading"
    while not world.master.draining:
        for worker in world.pool.workers:
            world.advance(worker)
    found = {worker["state"] for worker in status.build_status(world.master)["workers"]}
    assert found == {"serving", "retiring"}
    world.settle()
    world.master._on_stop()
    assert status.build_status(world.master)["state"] == "stopping"


def test_one_worker_is_recycled_at_a_time(world: World) -> None:
    """Of two workers due for recycling, the second is replaced after the first has exited."""
    world.settle()
    old = world.pool.workers
    for worker in old:
        world.reach_request_limit(worker)
    for _ in range(4):
        world.tick()
        for worker in world.pool.workers[2:]:
            world.advance(worker)
    assert [worker.phase for worker in old] == [Phase.DRAINING, Phase.SERVING]
    assert len(world.pool.workers) == WORKERS + 1
    world.advance(old[0])
    world.advance(old[0])
    world.tick()
    assert [worker.slot for worker in world.pool.workers] == [2, 1, 2]


def test_recycling_with_failing_successor(world: World) -> None:
    """If a successor cannot start, the old worker continues, the status shows why, and the start is retried."""
    world.settle()
    old = world.pool.workers[0]
    world.reach_request_limit(old)
    world.tick()
    for delay in (1, 2, 4, 8):
        successor = world.pool.workers[-1]
        world.pool.send(successor, StartFailed("no memory"))
        world.pool.exit(successor, 256)
        world.tick(delay - 0.5)
        assert len(world.pool.workers) == WORKERS
        assert "cannot start a worker: no memory" in status.render_status(world.master)
        for worker in world.pool.workers:
            world.reach_request_limit(worker)
        world.tick(0.5)
        assert len(world.pool.workers) == WORKERS + 1
    assert old.accepting
    assert not world.master.stopping
    world.settle()
    assert old not in world.pool.workers
    assert "cannot start" not in status.render_status(world.master)


def test_reload_result_is_sent_last(world: World) -> None:
    """A client gets the result of a reload after the journal line and the status have been written."""
    world.settle()
    found: list[tuple[str, str]] = []
    client = Client()
    client.answer = lambda _: found.append((world.lines[-1], world.notifier.sent[-1]))  # type: ignore[assignment, method-assign]
    for world.valid in (False, True):
        world.master._on_command("reload", client)  # type: ignore[arg-type]
        world.tick()
        world.settle()
    (failed, state), (done, state_again) = found
    assert failed.startswith("<3>reload failed, the previous configuration stays active: ")
    assert done.startswith("<5>reloaded in ")
    assert (state, state_again) == ("ready", "ready")


def test_reload_cancels_recycling(world: World) -> None:
    """A reload stops the successor of a recycled worker and ends with the new generation alone."""
    world.settle()
    world.reach_request_limit(world.pool.workers[0])
    world.tick()
    successor = world.pool.workers[-1]
    world.master.reloads.request()
    world.tick()
    assert successor.killed
    world.settle()
    assert world.master.reloads.last is not None
    assert not world.master.reloads.last.error
    assert {generation.number for generation, _ in world.pool.running} == {2}
    assert len(world.pool.workers) == WORKERS
    assert not any("recycled" in line for line in world.lines)


def test_reload_after_a_crash(world: World) -> None:
    """The crash of a worker is logged even if a reload completes before its successor serves."""
    world.settle()
    victim = world.pool.workers[0]
    world.pool.exit(victim, 9)
    successor = world.pool.workers[-1]
    world.master.reloads.request()
    world.tick()
    for _ in range(6):
        for worker in world.pool.workers:
            if worker is not successor:
                world.advance(worker)
    assert [line for line in world.lines if "SIGKILL" in line] == [f"<4>{victim} was killed by SIGKILL"]
    world.settle()
    assert len(world.pool.workers) == WORKERS


def test_crash_during_recycling(world: World) -> None:
    """A worker that crashes while its successor starts is replaced once, not twice."""
    world.settle()
    old = world.pool.workers[0]
    world.reach_request_limit(old)
    world.tick()
    world.pool.exit(old, 9)
    world.settle()
    assert sorted(worker.slot for worker in world.pool.workers) == [1, 2]
    assert world.master.restarts == 1


class MasterStateMachine(RuleBasedStateMachine):
    """Any event may happen at any time. The invariants are the promises."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()

    @initialize()
    def begin(self) -> None:
        self.world = World(self.patch, delay=DELAY)
        self.was_ready = False

    def teardown(self) -> None:
        self.patch.undo()

    def pick(self, number: int) -> Worker | None:
        workers = self.world.pool.workers
        return workers[number % len(workers)] if workers else None

    @rule(number=st.integers(0, 9))
    def worker_advances(self, number: int) -> None:
        worker = self.pick(number)
        if worker is not None:
            self.world.advance(worker)

    @rule(number=st.integers(0, 9))
    def worker_reaches_request_limit(self, number: int) -> None:
        worker = self.pick(number)
        if worker is not None and worker.heartbeat.serving:
            self.world.reach_request_limit(worker)

    @rule()
    def all_workers_advance(self) -> None:
        self.world.settle()

    @rule(number=st.integers(0, 9), cause=st.sampled_from(["", "rejected"]))
    def worker_exits(self, number: int, cause: str) -> None:
        worker = self.pick(number)
        if worker is not None:
            if cause:
                self.world.pool.send(worker, StartFailed(cause))
            self.world.pool.exit(worker, 256 if cause else 9)

    @rule(seconds=st.sampled_from([0.0, 1.0, 16.0, 200.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.tick(seconds)

    @rule(valid=st.booleans())
    def file_is_edited(self, valid: bool) -> None:
        self.world.valid = valid

    @rule()
    def client_requests_reload(self) -> None:
        client = Client()
        self.world.clients.append(client)
        self.world.master._on_command("reload", client)  # type: ignore[arg-type]

    @rule(sure=st.integers(0, 5))
    def systemd_requests_drain(self, sure: int) -> None:
        if sure == 0:
            self.world.clients.append(ask_to_drain(self.world))

    @rule()
    def signal_requests_reload(self) -> None:
        self.world.master.reloads.request()

    @precondition(lambda self: not self.world.master.stopping)
    @rule(sure=st.integers(0, 5))
    def service_is_stopped(self, sure: int) -> None:
        if sure == 0:
            self.world.master._on_terminate()

    @invariant()
    def every_slot_is_filled(self) -> None:
        """Once ready, and unless it stops, the service has workers or vacancies to fill."""
        master = self.world.master
        if master.current is None or master.stopping:
            return
        assert master.current.workers or master.current._vacancies

    @invariant()
    def current_generation_does_not_drain(self) -> None:
        """No worker of the current generation drains."""
        current = self.world.master.current
        for worker in current.workers if current else ():
            assert worker.phase is not Phase.DRAINING

    @invariant()
    def at_most_two_generations_serve(self) -> None:
        """Next to the current generation there is at most one candidate, and neither has more workers than slots."""
        master = self.world.master
        for generation in (master.current, master.candidate):
            assert generation is None or len(generation.workers) + len(generation._vacancies) == WORKERS
        accepting = [worker for worker in self.world.pool.workers if worker.accepting and not worker.killed]
        assert len(accepting) <= 2 * WORKERS

    @invariant()
    def one_worker_is_recycled_at_a_time(self) -> None:
        """At most one worker is recycled, never during a reload or stop, and it serves until its successor does."""
        master = self.world.master
        replacement = master.recycling.replacement
        if replacement is None:
            return
        assert not master.candidate
        assert not master.stopping
        assert len(replacement.workers) + len(replacement._vacancies) == 1
        assert master.current is not None
        assert master.recycling._recycled in master.current.workers

    @invariant()
    def every_worker_has_a_generation(self) -> None:
        """Each running worker belongs to a generation that the main process knows."""
        known = [worker for each in self.world.master.generations for worker in each.workers]
        assert sorted(worker.pid for worker in known) == sorted(w.pid for w in self.world.pool.workers)

    @invariant()
    def every_client_gets_one_answer(self) -> None:
        """A client that requested a reload or a drain gets one result, at the latest when the service stops."""
        for client in self.world.clients:
            assert len(client.answers) <= 1
            assert client.answers or not self.world.master.stopping

    @invariant()
    def every_reload_ends_with_ready(self) -> None:
        """Every RELOADING=1 is followed by one READY=1, unless the service stops."""
        states = [state for state in self.world.notifier.sent if state in ("ready", "reloading", "stopping")]
        for before, after in itertools.pairwise(states):
            assert (before, after) not in (("reloading", "reloading"), ("ready", "ready"), ("stopping", "ready"))

    @invariant()
    def stopping_service_starts_no_worker(self) -> None:
        """A service that stops has no current generation and no candidate."""
        if self.world.master.stopping:
            assert self.world.master.current is None
            assert self.world.master.candidate is None


MasterStateMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestMasterStateMachine = pytest.mark.slow(MasterStateMachine.TestCase)
