"""A generation: the workers that serve one configuration, and the slots that have no worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from litellm_systemd.runtime.configuration import Configuration
from litellm_systemd.runtime.master.worker_handle import Phase, WorkerHandle

#: Seconds before the next start in a slot whose worker failed to start once, twice, and so on.
_RETRY_DELAYS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
#: Seconds before the next start if the system could not create a process.
_FORK_RETRY_DELAY = 5.0


@dataclass(frozen=True, slots=True)
class Vacancy:
    """A slot without a worker: since when, when to fill it, why it is empty, and how many starts failed in a row."""

    since: float
    retry_at: float
    reason: str = ""
    failures: int = 0


class Generation:
    """Keeps `size` slots filled with workers. The master decides what happens to other generations."""

    def __init__(
        self,
        number: int,
        configuration: Configuration,
        size: int,
        fork: Callable[[int, Generation], WorkerHandle],
        now: float,
    ) -> None:
        self.number = number
        self.configuration = configuration
        self.size = size
        self.workers: list[WorkerHandle] = []
        #: What LiteLLM's set-up in the first worker adds to the environment; None until that worker has reported it.
        self.environment: dict[str, str] | None = None
        #: Why a worker of a serving generation could not start last; empty when every slot could be filled.
        self.start_error = ""
        self._fork = fork
        self._vacancies = {slot: Vacancy(now, now) for slot in range(1, size + 1)}
        #: The vacancy that a starting worker fills, by slot, until the worker serves.
        self._being_filled: dict[int, Vacancy] = {}

    @property
    def ready(self) -> bool:
        """Whether every slot has a worker that passes its health check."""
        return self._all_in(Phase.READY, Phase.SERVING)

    @property
    def serving(self) -> bool:
        """Whether every slot has a worker that accepts connections."""
        return self._all_in(Phase.SERVING)

    @property
    def accepts_connections(self) -> bool:
        """Whether any worker, a draining one included, last reported that it accepts connections."""
        return any(worker.heartbeat.serving for worker in self.workers)

    def count(self, phase: Phase) -> int:
        """The number of workers in a phase."""
        return sum(worker.phase is phase for worker in self.workers)

    def fill(self, now: float) -> str:
        """Fork a worker for each vacancy that is due. The first worker starts alone until it has set up LiteLLM.

        Returns why no process can be created, or an empty string. Such a start is retried later.
        """
        due = sorted(slot for slot, vacancy in self._vacancies.items() if vacancy.retry_at <= now)
        try:
            for slot in due if self.environment is not None else due[: not self.workers]:
                self.workers.append(self._fork(slot, self))
                self._being_filled[slot] = self._vacancies.pop(slot)
        except OSError as error:
            self.start_error = f"no new process: {error.strerror or error}"
            for slot in self._vacancies.keys() & due:
                self._vacancies[slot] = replace(self._vacancies[slot], retry_at=now + _FORK_RETRY_DELAY)
            return self.start_error
        return ""

    def remove(self, worker: WorkerHandle, reason: str, now: float) -> Vacancy:
        """Remove a worker that has exited, and open its slot: at once, or after a delay if it never served."""
        self.workers.remove(worker)
        filled = self._being_filled.pop(worker.slot, Vacancy(now, now))
        if worker.phase is Phase.SERVING:
            vacancy = Vacancy(since=now, retry_at=now, reason=reason)
        else:
            delay = _RETRY_DELAYS[min(filled.failures, len(_RETRY_DELAYS) - 1)]
            vacancy = Vacancy(filled.since, now + delay, filled.reason or reason, filled.failures + 1)
        self._vacancies[worker.slot] = vacancy
        return vacancy

    def on_serving(self, worker: WorkerHandle) -> Vacancy | None:
        """A worker serves. Returns the vacancy that it filled, or None if its slot was never served before."""
        filled = self._being_filled.pop(worker.slot, None)
        if not any(vacancy.failures for vacancy in (*self._vacancies.values(), *self._being_filled.values())):
            self.start_error = ""
        return filled if filled is not None and filled.reason else None

    def let_serve(self) -> None:
        """Let every ready worker accept connections that does not do so yet."""
        for worker in self.workers:
            if worker.phase is Phase.READY and not worker.may_serve:
                worker.serve()

    def is_responsive(self, now: float, hang_limit: float) -> bool:
        """Whether at least one worker has passed its health check within the last `hang_limit` seconds."""
        heartbeats = (worker.heartbeat_at for worker in self.workers if worker.phase is not Phase.STARTING)
        return any(now - at < hang_limit for at in heartbeats)

    def drain(self, deadline: float, warn: Callable[[str], None]) -> None:
        """Drain all workers, and kill those that have never served.

        `warn` gets the reason of each vacancy that will not be filled any more.
        """
        for vacancy in (*self._vacancies.values(), *self._being_filled.values()):
            if vacancy.reason:
                warn(vacancy.reason)
        self.clear_vacancies()
        for worker in self.workers:
            if worker.may_serve:
                worker.drain(deadline)
            else:
                worker.discard()

    def clear_vacancies(self) -> None:
        """Fill no more slots, and forget why they were empty."""
        self._vacancies.clear()
        self._being_filled.clear()

    def open_replacement(self, slot: int, reason: str, now: float) -> Generation:
        """A generation of one slot with the same configuration, for the successor of a worker that still serves."""
        replacement = Generation(self.number, self.configuration, 1, self._fork, now)
        replacement.environment = self.environment
        replacement._vacancies = {slot: Vacancy(now, now, reason)}
        return replacement

    def _all_in(self, *phases: Phase) -> bool:
        return not self._vacancies and sum(worker.phase in phases for worker in self.workers) == self.size
