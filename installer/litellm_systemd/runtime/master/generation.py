"""A generation: the workers that serve one configuration, and the places that are to be filled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from litellm_systemd.runtime.configuration import Configuration
from litellm_systemd.runtime.master.worker_handle import Phase, WorkerHandle

#: Seconds before the next try of a place whose worker failed to start once, twice, and so on.
_BACKOFF = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
#: Seconds before the next try if the system had no room for a process.
_ROOM_PAUSE = 5.0


@dataclass(frozen=True, slots=True)
class Vacancy:
    """A place without a worker: since when, why, and when to fill it. `failures` counts starts that failed."""

    since: float
    due: float
    why: str = ""
    failures: int = 0


class Generation:
    """Keeps `workers` places filled. It decides nothing about other generations: that is the master's."""

    def __init__(
        self,
        number: int,
        configuration: Configuration,
        workers: int,
        fork: Callable[[int, Generation], WorkerHandle],
        now: float,
    ) -> None:
        self.number = number
        self.configuration = configuration
        self.size = workers
        self.processes: list[WorkerHandle] = []
        #: What the first worker's set-up of LiteLLM adds to the environment; None until it has told.
        self.environment: dict[str, str] | None = None
        #: The last reason why a worker of a live generation couldn't start; empty when all is well.
        self.trouble = ""
        self._fork = fork
        self._vacancies = {slot: Vacancy(now, now) for slot in range(1, workers + 1)}
        #: What happened to the worker before, by slot, until its successor serves.
        self._stories: dict[int, Vacancy] = {}

    @property
    def ready(self) -> bool:
        """Whether every place is filled with a worker that answers 200."""
        return self._all_in(Phase.READY, Phase.SERVING)

    @property
    def serving(self) -> bool:
        """Whether every worker accepts."""
        return self._all_in(Phase.SERVING)

    @property
    def accepts(self) -> bool:
        """Whether any worker says that it takes connections, retiring or not."""
        return any(process.beat.serving for process in self.processes)

    def count(self, phase: Phase) -> int:
        """How many workers are in a phase."""
        return sum(process.phase is phase for process in self.processes)

    def fill(self, now: float) -> str:
        """Fork for every place that is due. Before the first worker has set LiteLLM up, it alone.

        Returns why it can't, if the system has no room for a process; it is tried again later.
        """
        due = sorted(slot for slot, vacancy in self._vacancies.items() if vacancy.due <= now)
        try:
            for slot in due if self.environment is not None else due[: not self.processes]:
                self.processes.append(self._fork(slot, self))
                self._stories[slot] = self._vacancies.pop(slot)
        except OSError as error:
            self.trouble = f"no new process: {error.strerror or error}"
            for slot in self._vacancies.keys() & due:
                self._vacancies[slot] = replace(self._vacancies[slot], due=now + _ROOM_PAUSE)
            return self.trouble
        return ""

    def lose(self, process: WorkerHandle, end: str, now: float) -> Vacancy:
        """A worker is gone: its place is to be filled, at once, or after a pause if it had never served."""
        self.processes.remove(process)
        story = self._stories.pop(process.slot, Vacancy(now, now))
        if process.phase is Phase.SERVING:
            vacancy = Vacancy(since=now, due=now, why=end)
        else:
            pause = _BACKOFF[min(story.failures, len(_BACKOFF) - 1)]
            vacancy = Vacancy(story.since, now + pause, story.why or end, story.failures + 1)
        self._vacancies[process.slot] = vacancy
        return vacancy

    def settle(self, process: WorkerHandle) -> Vacancy | None:
        """A worker serves: what it replaces, told once."""
        story = self._stories.pop(process.slot, None)
        if not any(vacancy.failures for vacancy in (*self._vacancies.values(), *self._stories.values())):
            self.trouble = ""
        return story if story is not None and story.why else None

    def let_serve(self) -> None:
        """Let those accept that are ready and don't yet."""
        for process in self.processes:
            if process.phase is Phase.READY and not process.told:
                process.serve()

    def answers(self, now: float, hang_limit: float) -> bool:
        """Whether some worker has answered its probe within `hang_limit`."""
        answered = (process.beat_at for process in self.processes if process.phase is not Phase.STARTING)
        return any(now - at < hang_limit for at in answered)

    def retire(self, limit: float, say: Callable[[str], None]) -> None:
        """Drain all; what has never served is ended at once. `say` is told of losses that no successor makes good."""
        for story in (*self._vacancies.values(), *self._stories.values()):
            if story.why:
                say(story.why)
        self.forget()
        for process in self.processes:
            if process.told:
                process.retire(limit)
            else:
                process.dismiss()

    def forget(self) -> None:
        """Fill no more places, and tell nothing of what happened to those who had them."""
        self._vacancies.clear()
        self._stories.clear()

    def open_beside(self, slot: int, why: str, now: float) -> Generation:
        """A generation of one place with the same configuration, for the successor of a worker that still serves."""
        beside = Generation(self.number, self.configuration, 1, self._fork, now)
        beside.environment = self.environment
        beside._vacancies = {slot: Vacancy(now, now, why)}
        return beside

    def _all_in(self, *phases: Phase) -> bool:
        fit = sum(process.phase in phases for process in self.processes)
        return fit == self.size and not self._vacancies
