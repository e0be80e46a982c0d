"""The places of a generation, and the processes that fill them. No process is forked here."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from litellm_systemd.runtime.channel import Beat, open_channel
from litellm_systemd.runtime.configuration import Configuration
from litellm_systemd.runtime.master.generation import Generation
from litellm_systemd.runtime.master.worker_handle import Phase, WorkerHandle

CONFIGURATION = Configuration(Path("/etc/litellm/config.yaml"), "0" * 64, 1, {})
READY = Beat(serving=False, inflight=0, connections=0, requests=0)
SERVING = Beat(serving=True, inflight=0, connections=0, requests=0)


class Fake(WorkerHandle):
    """Keeps the signals that it is sent."""

    def __init__(self, slot: int, pid: int, now: float) -> None:
        super().__init__(slot, pid, open_channel()[0], now)
        self.signals: list[str] = []

    def signal(self, number: signal.Signals) -> None:
        self.signals.append(number.name)


class World:
    """A generation of two, and what it forked."""

    def __init__(self) -> None:
        self.forked: list[Fake] = []
        self.full = False
        self.now = 0.0
        self.generation = Generation(1, CONFIGURATION, 2, self.fork, 0.0)

    def fork(self, slot: int, _: Generation) -> WorkerHandle:
        if self.full:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        self.forked.append(Fake(slot, 70 + len(self.forked), self.now))
        return self.forked[-1]

    def start(self) -> None:
        self.generation.fill(0.0)
        self.generation.environment = {}
        self.generation.fill(0.0)

    def serve(self) -> None:
        self.start()
        for process in self.forked:
            self.note(process)

    def note(self, process: WorkerHandle) -> None:
        process.note(SERVING, self.now)
        self.generation.settle(process)


def test_first_worker_goes_ahead() -> None:
    """One worker alone sets LiteLLM up; the others follow when it has."""
    world = World()
    world.generation.fill(0.0)
    world.generation.fill(0.0)
    assert [process.slot for process in world.forked] == [1]
    world.generation.environment = {}
    world.generation.fill(0.0)
    assert [process.slot for process in world.forked] == [1, 2]
    assert not world.generation.ready


def test_ready_means_all() -> None:
    """A generation is ready, and serves, when all of it does."""
    world = World()
    world.start()
    first, second = world.forked
    first.note(READY, 1.0)
    assert not world.generation.ready
    second.note(READY, 1.0)
    assert world.generation.ready
    assert not world.generation.serving
    world.generation.let_serve()
    assert first.told
    for process in (first, second):
        process.note(SERVING, 1.0)
    assert world.generation.serving


def test_crash_is_mended_at_once() -> None:
    """A worker that served is replaced without a pause, and the story is told once, when its successor serves."""
    world = World()
    world.serve()
    world.now = 10.0
    vacancy = world.generation.lose(world.forked[0], "worker 1 (pid 70) was killed by SIGKILL", 10.0)
    assert (vacancy.due, vacancy.failures) == (10.0, 0)
    world.generation.fill(10.0)
    successor = world.forked[2]
    assert successor.slot == 1
    successor.note(SERVING, 10.4)
    story = world.generation.settle(successor)
    assert story is not None
    assert (story.since, story.why) == (10.0, "worker 1 (pid 70) was killed by SIGKILL")
    assert world.generation.settle(successor) is None


def test_failing_starts_back_off() -> None:
    """A worker that can't start is tried again after 1, 2, 4 and so on up to 30 seconds; success ends the count."""
    world = World()
    world.serve()
    world.generation.lose(world.forked[0], "it died", 0.0)
    pauses = []
    now = 0.0
    for _ in range(8):
        world.generation.fill(now)
        vacancy = world.generation.lose(world.forked[-1], "it failed", now)
        world.generation.trouble = "it failed"
        world.generation.fill(now)  # too early
        assert len(world.generation.processes) == 1
        pauses.append(vacancy.due - now)
        now = vacancy.due
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    assert vacancy.failures == 8
    world.generation.fill(now)
    world.forked[-1].note(SERVING, now)
    story = world.generation.settle(world.forked[-1])
    assert story is not None
    assert (story.since, story.why) == (0.0, "it died")
    assert world.generation.trouble == ""
    assert world.generation.lose(world.forked[-1], "again", now).failures == 0


def test_no_room_for_a_process() -> None:
    """When the system can't fork, the reason is told once, and it is tried again after a while."""
    world = World()
    world.full = True
    assert world.generation.fill(0.0) == "no new process: Resource temporarily unavailable"
    assert world.generation.fill(1.0) == ""
    world.full = False
    assert world.generation.fill(5.0) == ""
    assert len(world.forked) == 1


def test_retire() -> None:
    """Who may hold requests is asked to drain, who can't is ended, and no place is filled any more."""
    world = World()
    world.start()
    first, second = world.forked
    first.note(READY, 0.0)
    first.serve()
    world.generation.retire(600.0, pytest.fail)
    assert (first.signals, second.signals) == (["SIGTERM"], ["SIGKILL"])
    assert (first.phase, second.phase) == (Phase.RETIRING, Phase.RETIRING)
    world.generation.fill(1000.0)
    assert len(world.forked) == 2


@pytest.mark.parametrize("filled", [True, False])
def test_loss_is_told_at_the_latest_when_it_retires(filled: bool) -> None:
    """A worker that died is named when its generation goes before a successor served, and not after that."""
    world = World()
    world.serve()
    first, second = world.forked
    world.generation.lose(first, "worker 1 (pid 70) was killed", 10.0)
    world.generation.lose(second, "worker 2 (pid 71) was killed", 10.0)
    world.generation.fill(10.0)
    world.note(world.forked[2])
    if not filled:  # died at its start: its place waits for the next try
        world.generation.lose(world.forked[3], "worker 2 (pid 73) exited with code 1", 11.0)
    told: list[str] = []
    world.generation.retire(600.0, told.append)
    assert told == ["worker 2 (pid 71) was killed"]


def test_answers() -> None:
    """A generation answers if one of its workers does; one that starts doesn't yet."""
    world = World()
    world.start()
    assert not world.generation.answers(0.0, 15)
    world.forked[0].note(READY, 0.0)
    assert world.generation.answers(14.9, 15)
    assert not world.generation.answers(15.0, 15)


def judged(process: Fake, *times: float) -> list[str]:
    for now in times:
        process.judge(now, 60, 15)
    return process.signals


def test_hung_worker() -> None:
    """A silent worker is first made to say where it hangs, then killed, each once."""
    process = Fake(1, 70, 0.0)
    process.note(SERVING, 10.0)
    assert judged(process, 25.0) == []
    assert judged(process, 25.5, 26.0) == ["SIGABRT"]
    assert judged(process, 26.5, 27.0, 28.0) == ["SIGABRT", "SIGKILL"]
    assert process.render_end(9) == "worker 1 (pid 70) answered nothing for 16 s and was killed"
    assert process.phase is Phase.SERVING  # so that it is replaced at once


def test_slow_start_is_no_hang() -> None:
    """A worker that starts has all of START_TIMEOUT."""
    assert judged(Fake(1, 70, 0.0), 59.0) == []
    assert judged(Fake(1, 70, 0.0), 61.0) == ["SIGABRT"]


def test_overstaying_worker() -> None:
    """A worker that doesn't leave in time is killed; one that hangs while it drains too."""
    process = Fake(1, 70, 0.0)
    process.note(SERVING, 0.0)
    process.retire(20.0)
    process.note(SERVING, 19.0)
    assert process.phase is Phase.RETIRING
    assert judged(process, 19.9) == ["SIGTERM"]
    assert judged(process, 20.0, 20.1) == ["SIGTERM", "SIGKILL"]
    assert process.render_end(9).endswith("didn't leave in time and was killed")


def test_hurried_worker() -> None:
    """Asked to hurry it is sent another signal than the first, and has a new limit."""
    process = Fake(1, 70, 0.0)
    process.note(SERVING, 0.0)
    process.retire(600.0)
    process.hurry(5.0)
    assert judged(process, 5.0) == ["SIGTERM", "SIGQUIT", "SIGKILL"]


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exited with code 0"), (3 << 8, "exited with code 3"), (9, "was killed by SIGKILL"), (134, "by SIGABRT")],
)
def test_ends_in_words(status: int, words: str) -> None:
    """How a worker ended is said as an administrator would."""
    assert os.WIFEXITED(status) or os.WIFSIGNALED(status)
    assert words in Fake(1, 70, 0.0).render_end(status)
