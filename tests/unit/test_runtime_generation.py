"""The slots of a generation and the workers in them. No process is forked here."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from litellm_systemd.runtime.activity import Activity
from litellm_systemd.runtime.channel import Heartbeat, open_channel
from litellm_systemd.runtime.master.worker_pool import Generation, Phase, WorkerHandle
from litellm_systemd.runtime.options import Configuration

CONFIGURATION = Configuration(Path("/etc/litellm/config.yaml"), "0" * 64, 1, {})
READY = Heartbeat(serving=False, inflight=0, connections=0, requests=0)
SERVING = Heartbeat(serving=True, inflight=0, connections=0, requests=0)


class FakeWorker(WorkerHandle):
    """Records the signals that it gets."""

    def __init__(self, slot: int, pid: int, now: float) -> None:
        super().__init__(slot, pid, open_channel()[0], Activity(), now)
        self.signals: list[str] = []

    def send_signal(self, number: signal.Signals) -> None:
        self.signals.append(number.name)


class World:
    """A generation of two slots and the workers that it forked."""

    def __init__(self) -> None:
        self.forked: list[FakeWorker] = []
        self.fork_fails = False
        self.now = 0.0
        self.generation = Generation(1, CONFIGURATION, 2, self.fork, 0.0)

    def fork(self, slot: int, _: Generation) -> WorkerHandle:
        if self.fork_fails:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        self.forked.append(FakeWorker(slot, 70 + len(self.forked), self.now))
        return self.forked[-1]

    def start(self) -> None:
        self.generation.fill(0.0)
        self.generation.environment = {}
        self.generation.fill(0.0)

    def serve(self) -> None:
        self.start()
        for worker in self.forked:
            self.mark_serving(worker)

    def mark_serving(self, worker: WorkerHandle) -> None:
        worker.record(SERVING, self.now)
        self.generation.on_serving(worker)


def test_first_worker_starts_alone() -> None:
    """The first worker sets up LiteLLM alone; the others start after that."""
    world = World()
    world.generation.fill(0.0)
    world.generation.fill(0.0)
    assert [worker.slot for worker in world.forked] == [1]
    world.generation.environment = {}
    world.generation.fill(0.0)
    assert [worker.slot for worker in world.forked] == [1, 2]
    assert not world.generation.ready


def test_ready_and_serving() -> None:
    """A generation is ready, or serving, when all its workers are."""
    world = World()
    world.start()
    first, second = world.forked
    first.record(READY, 1.0)
    assert not world.generation.ready
    second.record(READY, 1.0)
    assert world.generation.ready
    assert not world.generation.serving
    world.generation.let_serve()
    assert first.may_serve
    for worker in (first, second):
        worker.record(SERVING, 1.0)
    assert world.generation.serving


def test_crashed_worker_is_replaced() -> None:
    """A worker that served is replaced at once, and the reason is reported once, when its successor serves."""
    world = World()
    world.serve()
    world.now = 10.0
    vacancy = world.generation.remove(world.forked[0], "worker 1 (pid 70) was killed by SIGKILL", 10.0)
    assert (vacancy.retry_at, vacancy.failures) == (10.0, 0)
    world.generation.fill(10.0)
    successor = world.forked[2]
    assert successor.slot == 1
    successor.record(SERVING, 10.4)
    filled = world.generation.on_serving(successor)
    assert filled is not None
    assert (filled.since, filled.reason) == (10.0, "worker 1 (pid 70) was killed by SIGKILL")
    assert world.generation.on_serving(successor) is None


def test_retry_delays() -> None:
    """A failed start is retried after 1, 2, 4 and so on up to 30 seconds, and a success resets the delay."""
    world = World()
    world.serve()
    world.generation.remove(world.forked[0], "it crashed", 0.0)
    delays = []
    now = 0.0
    for _ in range(8):
        world.generation.fill(now)
        vacancy = world.generation.remove(world.forked[-1], "it failed", now)
        world.generation.start_error = "it failed"
        world.generation.fill(now)  # too early
        assert len(world.generation.workers) == 1
        delays.append(vacancy.retry_at - now)
        now = vacancy.retry_at
    assert delays == [1, 2, 4, 8, 16, 30, 30, 30]
    assert vacancy.failures == 8
    world.generation.fill(now)
    world.forked[-1].record(SERVING, now)
    filled = world.generation.on_serving(world.forked[-1])
    assert filled is not None
    assert (filled.since, filled.reason) == (0.0, "it crashed")
    assert world.generation.start_error == ""
    assert world.generation.remove(world.forked[-1], "again", now).failures == 0


def test_fork_fails() -> None:
    """If the system cannot fork, the reason is reported once and the fork is retried after a delay."""
    world = World()
    world.fork_fails = True
    assert world.generation.fill(0.0) == "no new process: Resource temporarily unavailable"
    assert world.generation.fill(1.0) == ""
    world.fork_fails = False
    assert world.generation.fill(5.0) == ""
    assert len(world.forked) == 1


def test_drain() -> None:
    """A drain stops workers that may have requests, kills those that cannot, and fills no more slots."""
    world = World()
    world.start()
    first, second = world.forked
    first.record(READY, 0.0)
    first.serve()
    world.generation.drain(600.0, pytest.fail)
    assert (first.signals, second.signals) == (["SIGTERM"], ["SIGKILL"])
    assert (first.phase, second.phase) == (Phase.DRAINING, Phase.DRAINING)
    world.generation.fill(1000.0)
    assert len(world.forked) == 2


@pytest.mark.parametrize("successor_starts", [True, False])
def test_unreplaced_worker_is_reported_at_drain(successor_starts: bool) -> None:
    """A drain reports each crashed worker whose successor does not serve yet, and no other."""
    world = World()
    world.serve()
    first, second = world.forked
    world.generation.remove(first, "worker 1 (pid 70) was killed", 10.0)
    world.generation.remove(second, "worker 2 (pid 71) was killed", 10.0)
    world.generation.fill(10.0)
    world.mark_serving(world.forked[2])
    if not successor_starts:  # it crashed during the start: its slot waits for the next start
        world.generation.remove(world.forked[3], "worker 2 (pid 73) exited with code 1", 11.0)
    reported: list[str] = []
    world.generation.drain(600.0, reported.append)
    assert reported == ["worker 2 (pid 71) was killed"]


def test_is_responsive() -> None:
    """A generation is responsive if one of its workers passes its health check. A starting worker does not count."""
    world = World()
    world.start()
    assert not world.generation.is_responsive(0.0, 15)
    world.forked[0].record(READY, 0.0)
    assert world.generation.is_responsive(14.9, 15)
    assert not world.generation.is_responsive(15.0, 15)


def signals_at(worker: FakeWorker, *times: float) -> list[str]:
    for now in times:
        worker.enforce_limits(now, 60, 15)
    return worker.signals


def test_hung_worker() -> None:
    """A hung worker gets SIGUSR1 when its heartbeat is late and when it is blocked for long. Later it gets SIGABRT,
    on which it prints its stack, then SIGKILL, each once.
    """
    worker = FakeWorker(1, 70, 0.0)
    worker.record(SERVING, 10.0)
    assert signals_at(worker, 11.0, 11.5) == []
    assert signals_at(worker, 11.6, 17.5) == ["SIGUSR1"]
    assert signals_at(worker, 18.0, 20.0, 25.0) == ["SIGUSR1"] * 2
    assert signals_at(worker, 25.5, 26.0) == ["SIGUSR1", "SIGUSR1", "SIGABRT"]
    assert signals_at(worker, 26.5, 27.0, 28.0) == ["SIGUSR1", "SIGUSR1", "SIGABRT", "SIGKILL"]
    assert worker.render_exit(9) == "worker 1 (pid 70) was blocked for 16 s and was killed"
    assert worker.phase is Phase.SERVING  # so that it is replaced at once


def test_hang_after_a_pause() -> None:
    """A pause of the whole service does not count, and a worker that hangs right after it is killed in time."""
    worker = FakeWorker(1, 70, 0.0)
    worker.record(SERVING, 10.0)
    worker.record(SERVING, 611.0)  # read before the main process notices the pause
    worker.excuse(600.0, 611.0)
    assert signals_at(worker, 612.5) == []
    assert signals_at(worker, 619.0, 626.5) == ["SIGUSR1", "SIGABRT"]


def test_pause_during_a_drain() -> None:
    """A draining worker gets the time of a pause of the whole service in addition."""
    worker = FakeWorker(1, 70, 0.0)
    worker.record(SERVING, 10.0)
    worker.drain(20.0)
    worker.excuse(600.0, 612.0)
    worker.record(SERVING, 619.0)
    assert signals_at(worker, 619.9) == ["SIGTERM"]
    assert signals_at(worker, 620.0) == ["SIGTERM", "SIGKILL"]


def test_pause_of_a_blocked_worker() -> None:
    """The time for which a worker was blocked does not include a pause of the whole service."""
    worker = FakeWorker(1, 70, 0.0)
    worker.record(SERVING, 10.0)
    assert signals_at(worker, 18.0) == ["SIGUSR1"]
    worker.excuse(600.0, 619.0)
    assert worker.enforce_limits(619.0, 60, 15) == ""
    worker.record(SERVING, 622.0)
    assert worker.enforce_limits(622.0, 60, 15) == "worker 1 (pid 70) was blocked for 12 s"


def test_slow_start_is_no_hang() -> None:
    """A starting worker is asked for its stack, and is not killed before START_TIMEOUT."""
    assert signals_at(FakeWorker(1, 70, 0.0), 59.0) == ["SIGUSR1"]
    assert signals_at(FakeWorker(1, 70, 0.0), 61.0) == ["SIGUSR1", "SIGABRT"]


def test_drain_deadline() -> None:
    """A draining worker that does not exit by its deadline is killed."""
    worker = FakeWorker(1, 70, 0.0)
    worker.record(SERVING, 0.0)
    worker.drain(20.0)
    worker.record(SERVING, 19.0)
    assert worker.phase is Phase.DRAINING
    assert signals_at(worker, 19.9) == ["SIGTERM"]
    assert signals_at(worker, 20.0, 20.1) == ["SIGTERM", "SIGKILL"]
    assert worker.render_exit(9).endswith("did not exit in time and was killed")


def test_force_close() -> None:
    """A force-close sends SIGQUIT and sets a new deadline."""
    worker = FakeWorker(1, 70, 0.0)
    worker.record(SERVING, 0.0)
    worker.drain(600.0)
    worker.force_close(5.0)
    worker.record(SERVING, 4.0)
    assert signals_at(worker, 5.0) == ["SIGTERM", "SIGQUIT", "SIGKILL"]


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exited with code 0"), (3 << 8, "exited with code 3"), (9, "was killed by SIGKILL"), (134, "by SIGABRT")],
)
def test_render_exit(status: int, words: str) -> None:
    """The exit of a worker is described by its exit code or the name of the signal."""
    assert os.WIFEXITED(status) or os.WIFSIGNALED(status)
    assert words in FakeWorker(1, 70, 0.0).render_exit(status)
