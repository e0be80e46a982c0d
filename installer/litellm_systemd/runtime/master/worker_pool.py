"""Forks workers, hears what they say, and notices their end. What follows from it is the master's business."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

from litellm_systemd.runtime.channel import Message
from litellm_systemd.runtime.journal import Journal
from litellm_systemd.runtime.master.event_loop import Events
from litellm_systemd.runtime.master.generation import Generation
from litellm_systemd.runtime.master.worker_handle import WorkerHandle, spawn
from litellm_systemd.runtime.worker.worker import Job


class WorkerPool:
    """All workers that live. `job` is what they have in common; `release` closes in a child what is the master's."""

    def __init__(
        self,
        events: Events,
        journal: Journal,
        job: Job,
        release: Callable[[], None],
        on_message: Callable[[Generation, WorkerHandle, Message], None],
        on_end: Callable[[Generation, WorkerHandle, str, bool], None],
    ) -> None:
        self._events = events
        self._journal = journal
        self._job = job
        self._release = release
        self._on_message = on_message
        self._on_end = on_end
        self._living: dict[int, tuple[Generation, WorkerHandle]] = {}

    @property
    def processes(self) -> list[WorkerHandle]:
        """Every worker that hasn't been buried."""
        return [process for _, process in self._living.values()]

    def fork(self, slot: int, generation: Generation) -> WorkerHandle:
        """A new worker for a place of a generation."""
        job = replace(
            self._job, slot=slot, configuration=generation.configuration, environment=generation.environment
        )
        process = spawn(job, self._journal, self._let_go, time.monotonic())
        self._living[process.pid] = generation, process
        self._events.watch(process.channel, lambda: self._listen(process))
        return process

    def move(self, process: WorkerHandle, generation: Generation) -> None:
        """From now on it belongs to another generation."""
        self._living[process.pid] = generation, process

    def reap(self) -> None:
        """Bury all that have ended."""
        while self._living:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid in self._living:
                self._bury(pid, status)

    def _bury(self, pid: int, status: int) -> None:
        self._listen(self._living[pid][1])  # its last words; with them it may change its generation
        generation, process = self._living.pop(pid)
        self._events.forget(process.channel)
        process.channel.close()
        self._on_end(generation, process, process.render_end(status), status == 0)

    def _listen(self, process: WorkerHandle) -> None:
        for message in process.messages():
            if message is None:
                self._events.forget(process.channel)
            else:
                self._on_message(self._living[process.pid][0], process, message)

    def _let_go(self) -> None:
        # A sibling that kept the master's end of a channel would keep its worker from noticing the master's death.
        self._release()
        for process in self.processes:
            process.channel.close()
