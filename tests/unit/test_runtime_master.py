"""The master's decisions, whatever happens in whatever order: hypothesis plays workers, clients and administrator."""

from __future__ import annotations

import itertools
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from litellm_systemd.errors import InputError
from litellm_systemd.runtime.channel import Beat, Environment, Failed, Message, open_channel
from litellm_systemd.runtime.configuration import Configuration
from litellm_systemd.runtime.journal import Journal
from litellm_systemd.runtime.master import master as module
from litellm_systemd.runtime.master import status
from litellm_systemd.runtime.master.generation import Generation
from litellm_systemd.runtime.master.master import Master
from litellm_systemd.runtime.master.worker_handle import Phase, WorkerHandle
from litellm_systemd.runtime.options import Options

PATH = Path("/etc/litellm/config.yaml")
WORKERS = 2
MANY = 100


class Clock:
    """Stands still unless it is moved; both clocks of the time module."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    time = monotonic


class Notifier:
    """Keeps what systemd was told."""

    watchdog_interval = 7.5

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: self.told.append(name)


class Client:
    def __init__(self) -> None:
        self.answers: list[Mapping[str, Any]] = []

    def answer(self, reply: Mapping[str, Any]) -> None:
        self.answers.append(reply)


class Worker(WorkerHandle):
    """A process that does what the test says. `accepting` is what the kernel would know."""

    def __init__(self, slot: int, pid: int, now: float) -> None:
        super().__init__(slot, pid, open_channel()[0], now)
        self.accepting = False
        self.draining = False
        self.killed = False

    def serve(self) -> None:
        super().serve()
        self.accepting = not self.draining

    def signal(self, number: signal.Signals) -> None:
        self.draining = True
        self.accepting = False
        self.killed = self.killed or number in (signal.SIGKILL, signal.SIGABRT)


class Nursery:
    """As the real one, without processes."""

    def __init__(self, clock: Clock, *callbacks: Any) -> None:
        *_, self.on_message, self.on_end = callbacks
        self.clock = clock
        self.living: list[tuple[Generation, Worker]] = []
        self.count = 0

    @property
    def processes(self) -> list[Worker]:
        return [worker for _, worker in self.living]

    def fork(self, slot: int, generation: Generation) -> Worker:
        self.count += 1
        worker = Worker(slot, self.count, self.clock.now)
        self.living.append((generation, worker))
        return worker

    def move(self, worker: Worker, generation: Generation) -> None:
        self.living = [(generation if each is worker else home, each) for home, each in self.living]

    def reap(self) -> None:
        """The test says when a worker ends."""

    def say(self, worker: Worker, message: Message) -> None:
        generation = next(generation for generation, each in self.living if each is worker)
        self.on_message(generation, worker, message)

    def end(self, worker: Worker, status: int) -> None:
        pair = next(pair for pair in self.living if pair[1] is worker)
        self.living.remove(pair)
        self.on_end(*pair, worker.render_end(status), status == 0)


class World:
    """A master and all that it deals with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = Clock()
        self.notifier = Notifier()
        self.good = True
        self.clients: list[Client] = []
        monkeypatch.setattr(module, "WorkerPool", lambda *arguments: Nursery(self.clock, *arguments))
        for each in (module, status):
            monkeypatch.setattr(each, "time", self.clock)
        monkeypatch.setattr("litellm_systemd.runtime.master.reloads.time", self.clock)
        self.lines: list[str] = []
        monkeypatch.setattr(Journal, "line", lambda _, priority, text: self.lines.append(f"<{priority}>{text}"))
        self.master = Master(
            Options(config=PATH, workers=WORKERS, max_requests=MANY),
            self.load(),
            (),
            self.load,
            self.notifier,  # type: ignore[arg-type]
            Journal(),
            self.clock.now,
        )
        self.pool: Nursery = self.master._pool  # type: ignore[assignment]
        self.master._start(self.load())

    def load(self) -> Configuration:
        if not self.good:
            raise InputError("bad")
        return Configuration(PATH, "0" * 64, 1, {})

    @property
    def over(self) -> bool:
        return self.master.stopping and not self.pool.living

    def tick(self, seconds: float = 0.0) -> None:
        self.clock.now += seconds
        self.master._tick(self.clock.now)

    def live(self, worker: Worker) -> None:
        """What a healthy worker does next."""
        generation = next(generation for generation, each in self.pool.living if each is worker)
        if worker.killed:
            self.pool.end(worker, 9)
        elif worker.draining and not worker.accepting and worker.beat.serving:
            self.pool.say(worker, Beat(serving=False, inflight=1, connections=1, requests=1))
        elif worker.draining:
            self.pool.end(worker, 0)
        elif generation.environment is None:
            self.pool.say(worker, Environment({}))
        else:
            self.pool.say(worker, Beat(serving=worker.accepting, inflight=0, connections=0, requests=1))

    def wear(self, worker: Worker) -> None:
        """Have it say that it has answered all that it may."""
        self.pool.say(worker, Beat(serving=worker.accepting, inflight=0, connections=0, requests=MANY))

    def settle(self) -> None:
        """Let all healthy workers do their part until nothing changes."""
        for _ in range(12):
            for worker in list(self.pool.processes):
                if worker in self.pool.processes:
                    self.live(worker)
            self.tick(0.25)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_sound_life(world: World) -> None:
    """It starts, says READY=1 when all serve, and ends with 0 when it is told to."""
    assert "ready" not in world.notifier.told
    world.settle()
    assert world.notifier.told.count("ready") == 1
    assert [worker.accepting for worker in world.pool.processes] == [True, True]
    world.master._on_stop()
    world.settle()
    assert world.over
    assert world.master._code == 0


def test_a_stop_lets_go_of_the_port(world: World) -> None:
    """From a stop on the main process holds no socket: who connects while it drains is refused at once."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        world.master.listeners = (listener,)
        world.master._on_stop()
        assert listener.fileno() == -1
    assert status.build_status(world.master)["listen"] == []


def test_first_start_fails(world: World) -> None:
    """A worker that LiteLLM refuses before READY=1 ends everything with 78 and the cause; no second try."""
    worker = world.pool.processes[0]
    world.pool.say(worker, Failed("no master key is set"))
    world.pool.end(worker, 256)
    world.settle()
    assert world.over
    assert world.master._code == 78
    assert world.master._last_words == f"LiteLLM refuses {PATH}: no master key is set"
    assert world.pool.count == 1


def test_first_start_is_killed(world: World) -> None:
    """A first worker that is killed, for want of memory say, is worth a restart: no configuration error."""
    world.pool.end(world.pool.processes[0], 9)
    world.settle()
    assert world.over
    assert world.master._code == 75


def test_first_start_takes_too_long(world: World) -> None:
    """START_TIMEOUT ends a start that gets nowhere."""
    world.tick(181)
    world.settle()
    assert world.over
    assert world.master._code == 75
    assert "START_TIMEOUT=180" in world.master._last_words


def test_all_workers_fail_for_good(world: World) -> None:
    """When no worker is left and none can start any more, it ends with 78 and the cause, not in a loop."""
    world.settle()
    for _ in range(20):
        for worker in list(world.pool.processes):
            world.pool.say(worker, Failed("the file is gone"))
            world.pool.end(worker, 256)
        world.tick(30)
    assert world.over
    assert world.master._code == 78
    assert world.master._last_words == "no worker can start any more: the file is gone"


def test_one_worker_left_is_better_than_none(world: World) -> None:
    """As long as one worker serves, the service goes on, and its status says what is wrong."""
    world.settle()
    keeper = world.pool.processes[1]
    for _ in range(20):
        for worker in [worker for worker in world.pool.processes if worker is not keeper]:
            world.pool.say(worker, Failed("no memory"))
            world.pool.end(worker, 256)
        for _ in range(4):
            world.tick(8)
            world.live(keeper)
    assert keeper.accepting
    assert not world.master.stopping
    assert "1 of 2 workers" in status.render_status(world.master)
    assert "a worker can't start: no memory" in status.render_status(world.master)


def test_slow_reload_fails(world: World) -> None:
    """A new generation that isn't ready in time is taken down; the old one never noticed."""
    world.settle()
    before = list(world.pool.processes)
    world.master.reloads.ask()
    world.tick()
    for _ in range(181):
        for worker in before:
            world.live(worker)
        world.tick(1)
    assert world.master.reloads.last is not None
    assert "START_TIMEOUT" in world.master.reloads.last.error
    world.settle()
    assert world.pool.processes == before
    assert all(worker.accepting for worker in before)


def test_worn_worker_is_recycled(world: World) -> None:
    """The successor serves before the old worker is asked to go, and no restart is counted."""
    world.settle()
    old, other = world.pool.processes
    world.wear(old)
    world.tick()
    successor = world.pool.processes[-1]
    assert successor.slot == old.slot
    world.live(successor)
    assert old.accepting
    assert successor.accepting
    world.live(successor)
    assert old.phase is Phase.RETIRING
    assert world.master.current is not None
    assert world.master.current.processes == [successor, other]
    world.settle()
    assert world.pool.processes == [other, successor]
    assert world.master.restarts == 0


def test_one_recycle_at_a_time(world: World) -> None:
    """Of two worn workers the second is replaced only when the first has left."""
    world.settle()
    old = world.pool.processes
    for worker in old:
        world.wear(worker)
    for _ in range(4):
        world.tick()
        for worker in world.pool.processes[2:]:
            world.live(worker)
    assert [worker.phase for worker in old] == [Phase.RETIRING, Phase.SERVING]
    assert len(world.pool.processes) == WORKERS + 1
    world.live(old[0])
    world.live(old[0])
    world.tick()
    assert [worker.slot for worker in world.pool.processes] == [2, 1, 2]


def test_successor_that_fails(world: World) -> None:
    """When the successor can't start the old worker serves on, STATUS= says why, and it is tried again later."""
    world.settle()
    old = world.pool.processes[0]
    world.wear(old)
    world.tick()
    for pause in (1, 2, 4, 8):
        successor = world.pool.processes[-1]
        world.pool.say(successor, Failed("no memory"))
        world.pool.end(successor, 256)
        world.tick(pause - 0.5)
        assert len(world.pool.processes) == WORKERS
        assert "a worker can't start: no memory" in status.render_status(world.master)
        for worker in world.pool.processes:
            world.wear(worker)
        world.tick(0.5)
        assert len(world.pool.processes) == WORKERS + 1
    assert old.accepting
    assert not world.master.stopping
    world.settle()
    assert old not in world.pool.processes
    assert "can't start" not in status.render_status(world.master)


def test_who_waits_hears_of_a_reload_last(world: World) -> None:
    """Whoever is told how a reload ended finds it in the journal, and in the status, already."""
    world.settle()
    found: list[tuple[str, str]] = []
    client = Client()
    client.answer = lambda _: found.append((world.lines[-1], world.notifier.told[-1]))  # type: ignore[assignment, method-assign]
    for world.good in (False, True):
        world.master._on_command("reload", client)  # type: ignore[arg-type]
        world.tick()
        world.settle()
    (failed, told), (done, told_again) = found
    assert failed.startswith("<3>reload failed, the configuration before serves on: ")
    assert done.startswith("<5>reloaded in ")
    assert (told, told_again) == ("ready", "ready")


def test_reload_supersedes_a_recycle(world: World) -> None:
    """A reload takes the successor down, and ends with the new generation alone."""
    world.settle()
    world.wear(world.pool.processes[0])
    world.tick()
    successor = world.pool.processes[-1]
    world.master.reloads.ask()
    world.tick()
    assert successor.killed
    world.settle()
    assert world.master.reloads.last is not None
    assert not world.master.reloads.last.error
    assert {generation.number for generation, _ in world.pool.living} == {2}
    assert len(world.pool.processes) == WORKERS
    assert not any("recycled" in line for line in world.lines)


def test_reload_after_a_crash(world: World) -> None:
    """A reload that is quicker than the successor of a killed worker doesn't hide its death."""
    world.settle()
    victim = world.pool.processes[0]
    world.pool.end(victim, 9)
    successor = world.pool.processes[-1]
    world.master.reloads.ask()
    world.tick()
    for _ in range(6):
        for worker in world.pool.processes:
            if worker is not successor:
                world.live(worker)
    assert [line for line in world.lines if "SIGKILL" in line] == [f"<4>{victim} was killed by SIGKILL"]
    world.settle()
    assert len(world.pool.processes) == WORKERS


def test_crash_of_the_worker_to_be_recycled(world: World) -> None:
    """It is replaced as any other, and the successor is not one too many."""
    world.settle()
    old = world.pool.processes[0]
    world.wear(old)
    world.tick()
    world.pool.end(old, 9)
    world.settle()
    assert sorted(worker.slot for worker in world.pool.processes) == [1, 2]
    assert world.master.restarts == 1


class Story(RuleBasedStateMachine):
    """Anything may happen at any time. The invariants are the promises."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()

    @initialize()
    def begin(self) -> None:
        self.world = World(self.patch)
        self.was_ready = False

    def teardown(self) -> None:
        self.patch.undo()

    def pick(self, number: int) -> Worker | None:
        workers = self.world.pool.processes
        return workers[number % len(workers)] if workers else None

    @rule(number=st.integers(0, 9))
    def a_worker_lives(self, number: int) -> None:
        worker = self.pick(number)
        if worker is not None:
            self.world.live(worker)

    @rule(number=st.integers(0, 9))
    def a_worker_is_worn(self, number: int) -> None:
        worker = self.pick(number)
        if worker is not None and worker.beat.serving:
            self.world.wear(worker)

    @rule()
    def all_live(self) -> None:
        self.world.settle()

    @rule(number=st.integers(0, 9), cause=st.sampled_from(["", "refused"]))
    def a_worker_dies(self, number: int, cause: str) -> None:
        worker = self.pick(number)
        if worker is not None:
            if cause:
                self.world.pool.say(worker, Failed(cause))
            self.world.pool.end(worker, 256 if cause else 9)

    @rule(seconds=st.sampled_from([0.0, 1.0, 16.0, 200.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.tick(seconds)

    @rule(good=st.booleans())
    def the_file_is_edited(self, good: bool) -> None:
        self.world.good = good

    @rule()
    def somebody_reloads(self) -> None:
        client = Client()
        self.world.clients.append(client)
        self.world.master._on_command("reload", client)  # type: ignore[arg-type]

    @rule()
    def a_signal_reloads(self) -> None:
        self.world.master.reloads.ask()

    @precondition(lambda self: not self.world.master.stopping)
    @rule(sure=st.integers(0, 5))
    def it_is_stopped(self, sure: int) -> None:
        if sure == 0:
            self.world.master._on_stop()

    @invariant()
    def somebody_serves(self) -> None:
        """Once ready, and unless it stops, each place is filled or about to be."""
        master = self.world.master
        if master.current is None or master.stopping:
            return
        assert master.current.processes or master.current._vacancies

    @invariant()
    def nobody_retires_too_soon(self) -> None:
        """The workers of the live generation are never asked to go."""
        current = self.world.master.current
        for worker in current.processes if current else ():
            assert worker.phase is not Phase.RETIRING

    @invariant()
    def never_two_generations_too_many(self) -> None:
        """Beside the live generation one at most is coming; neither has more workers than places."""
        master = self.world.master
        for generation in (master.current, master.coming):
            assert generation is None or len(generation.processes) + len(generation._vacancies) == WORKERS
        told = [worker for worker in self.world.pool.processes if worker.accepting and not worker.killed]
        assert len(told) <= 2 * WORKERS

    @invariant()
    def one_recycle_at_a_time(self) -> None:
        """One successor at most is coming, in a quiet time, and its predecessor serves on until it serves."""
        master = self.world.master
        spare = master.recycling.spare
        if spare is None:
            return
        assert not master.coming
        assert not master.stopping
        assert len(spare.processes) + len(spare._vacancies) == 1
        assert master.current is not None
        assert master.recycling._old in master.current.processes

    @invariant()
    def nobody_is_forgotten(self) -> None:
        """Each worker that lives belongs to a generation that the master knows."""
        known = [worker for each in self.world.master.generations for worker in each.processes]
        assert sorted(worker.pid for worker in known) == sorted(w.pid for w in self.world.pool.processes)

    @invariant()
    def everybody_is_answered_once(self) -> None:
        """Who asked for a reload hears of its outcome at most once, and at the latest when the service stops."""
        for client in self.world.clients:
            assert len(client.answers) <= 1
            assert client.answers or not self.world.master.stopping

    @invariant()
    def systemd_hears_the_end_of_each_reload(self) -> None:
        """Every RELOADING=1 is followed by one READY=1, unless the service stops."""
        states = [word for word in self.world.notifier.told if word in ("ready", "reloading", "stopping")]
        for before, after in itertools.pairwise(states):
            assert (before, after) not in (("reloading", "reloading"), ("ready", "ready"), ("stopping", "ready"))

    @invariant()
    def it_comes_to_rest(self) -> None:
        """A service that stops holds no place that is to be filled."""
        if self.world.master.stopping:
            assert self.world.master.current is None
            assert self.world.master.coming is None


Story.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestStory = pytest.mark.slow(Story.TestCase)
