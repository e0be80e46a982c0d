"""The worker pool: forks workers, reads their messages and reaps them. The master decides what follows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace

from litellm_systemd.runtime.channel import Message
from litellm_systemd.runtime.journal import Journal
from litellm_systemd.runtime.master.event_loop import EventLoop
from litellm_systemd.runtime.master.generation import Generation
from litellm_systemd.runtime.master.worker_handle import WorkerHandle, spawn
from litellm_systemd.runtime.worker.worker import Job


class WorkerPool:
    """All running workers of all generations.

    `job` is what the workers have in common. `close_inherited` runs in a forked child and closes what only the main
    process may hold. `on_exit` gets the worker, how it ended, and whether its exit code was 0.
    """

    def __init__(
        self,
        events: EventLoop,
        journal: Journal,
        job: Job,
        close_inherited: Callable[[], None],
        on_message: Callable[[Generation, WorkerHandle, Message], None],
        on_exit: Callable[[Generation, WorkerHandle, str, bool], None],
    ) -> None:
        self._events = events
        self._journal = journal
        self._job = job
        self._close_inherited = close_inherited
        self._on_message = on_message
        self._on_exit = on_exit
        self._running: dict[int, tuple[Generation, WorkerHandle]] = {}

    @property
    def workers(self) -> list[WorkerHandle]:
        """Every worker that is not reaped yet."""
        return [worker for _, worker in self._running.values()]

    def fork(self, slot: int, generation: Generation) -> WorkerHandle:
        """Fork a worker for a slot of a generation."""
        job = replace(
            self._job, slot=slot, configuration=generation.configuration, environment=generation.environment
        )
        worker = spawn(job, self._journal, self._close_in_child, time.monotonic())
        self._running[worker.pid] = generation, worker
        self._events.watch(worker.channel, lambda: self._read_messages(worker))
        return worker

    def move(self, worker: WorkerHandle, generation: Generation) -> None:
        """Assign a worker to another generation."""
        self._running[worker.pid] = generation, worker

    def reap(self) -> None:
        """Reap all workers that have exited."""
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid in self._running:
                self._remove(pid, status)

    def _remove(self, pid: int, status: int) -> None:
        self._read_messages(self._running[pid][1])  # its last messages; they may move it to another generation
        generation, worker = self._running.pop(pid)
        self._events.unwatch(worker.channel)
        worker.channel.close()
        self._on_exit(generation, worker, worker.render_exit(status), status == 0)

    def _read_messages(self, worker: WorkerHandle) -> None:
        for message in worker.messages():
            if message is None:
                self._events.unwatch(worker.channel)
            else:
                self._on_message(self._running[worker.pid][0], worker, message)

    def _close_in_child(self) -> None:
        # If a sibling kept the master's end of a channel open, that worker would not notice the master's death.
        self._close_inherited()
        for worker in self.workers:
            worker.channel.close()
