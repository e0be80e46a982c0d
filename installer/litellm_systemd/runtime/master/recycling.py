"""Recycling: replaces a worker that has served MAX_REQUESTS_BEFORE_RESTART requests or uses too much memory.

The successor runs in a replacement generation: one slot, same configuration, next to the generation that serves. So
it starts, fails, is retried and is stopped like any other worker. When it serves, the two workers swap generations,
and the replacement generation is drained with the old worker in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from litellm_systemd.env.variables import WORKER_MEMORY_LIMIT
from litellm_systemd.runtime.journal import Journal
from litellm_systemd.runtime.master.worker_pool import Generation, Vacancy, WorkerHandle
from litellm_systemd.runtime.options import Options


def render_reason(worker: WorkerHandle, options: Options) -> str:
    """Why a worker is due for recycling, such as "after 100 requests"; empty if it is not due."""
    requests = worker.heartbeat.requests
    if options.max_requests and requests >= options.max_requests + int(worker.jitter_fraction * (options.jitter + 1)):
        return f"after {requests} request{'s' * (requests != 1)}"
    # A limit below the initial memory is ignored: each successor would be due for recycling at once.
    if worker.initial_memory < options.memory_limit < worker.heartbeat.memory:
        return f"at {worker.heartbeat.memory} MiB of memory"
    return ""


def select_worker(workers: Sequence[WorkerHandle], options: Options) -> tuple[WorkerHandle, str] | None:
    """The worker to recycle and the reason; None if no worker is due.

    The oldest is first: if workers become due faster than they are replaced, each of them gets its turn.
    """
    due = ((worker, render_reason(worker, options)) for worker in sorted(workers, key=lambda each: each.started_at))
    return next((pair for pair in due if pair[1]), None)


class Recycling:
    """Replaces one worker at a time. `move` assigns a worker to a generation, `drain` drains a generation."""

    def __init__(
        self,
        options: Options,
        journal: Journal,
        move: Callable[[WorkerHandle, Generation], None],
        drain: Callable[[Generation], None],
    ) -> None:
        #: The generation of the successor, from the decision to recycle until the successor serves.
        self.replacement: Generation | None = None
        self._generation: Generation | None = None
        self._recycled: WorkerHandle | None = None
        self._options = options
        self._journal = journal
        self._move = move
        self._drain = drain
        self._warned = False

    def begin(self, generation: Generation, now: float) -> None:
        """Open a replacement generation if a worker is due. Call it only while no other change is in progress."""
        self._check_memory_limit(generation)
        choice = select_worker(generation.workers, self._options) if generation.serving else None
        if choice is not None:
            self._generation, (self._recycled, reason) = generation, choice
            reason = f"{self._recycled} recycled {reason}"
            self.replacement = generation.open_replacement(self._recycled.slot, reason, now)

    def complete(self, successor: WorkerHandle, filled: Vacancy | None, now: float) -> None:
        """The successor serves: swap the two workers, and drain the old one."""
        replacement, generation, recycled = self.replacement, self._generation, self._recycled
        if replacement is None or generation is None or recycled is None or filled is None:
            return
        self._reset()
        generation.workers[generation.workers.index(recycled)] = successor
        replacement.workers[:] = [recycled]
        self._move(successor, generation)
        self._move(recycled, replacement)
        self._drain(replacement)
        self._journal.notice(f"{filled.reason}, replaced in {now - filled.since:.1f} s")

    def on_failed_start(self, successor: WorkerHandle, reason: str, now: float) -> None:
        """The successor exited before it served: the old worker continues, and the start is retried after a delay."""
        if self.replacement is not None:
            vacancy = self.replacement.remove(successor, reason, now)
            cause = self.replacement.start_error = successor.start_error or reason
            retry = f"Retrying in {vacancy.retry_at - now:.0f} s"
            self._journal.error(f"cannot start a worker to recycle {self._recycled}: {cause}. {retry}")

    def cancel(self) -> None:
        """Stop the successor, because a reload or a stop begins. The old worker continues."""
        replacement = self.replacement
        self._reset()
        if replacement is not None:
            replacement.clear_vacancies()
            self._drain(replacement)

    def on_worker_exit(self, worker: WorkerHandle) -> None:
        """Cancel if the worker to recycle has exited: its generation fills the slot as after any exit."""
        if worker is self._recycled:
            self.cancel()

    def _reset(self) -> None:
        self.replacement = self._generation = self._recycled = None

    def _check_memory_limit(self, generation: Generation) -> None:
        limit = self._options.memory_limit
        initial = max((worker.initial_memory for worker in generation.workers), default=0)
        if not self._warned and 0 < limit <= initial:
            self._warned = True
            setting = f"{WORKER_MEMORY_LIMIT.name}={limit}"
            self._journal.warning(f"{setting} has no effect: a new worker already uses {initial} MiB")
