"""Recycling: a worker that has answered enough, or has grown too large, gives its place to a fresh one.

The successor gets a generation of its own beside the one that serves, of one place and with the same configuration.
So it starts, fails, is tried again and is taken down like any other worker; and when it serves, the two processes
change generations, and the one beside retires with the old worker in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from litellm_systemd.env.variables import WORKER_MEMORY_LIMIT
from litellm_systemd.runtime.journal import Journal
from litellm_systemd.runtime.master.generation import Generation, Vacancy
from litellm_systemd.runtime.master.worker_handle import WorkerHandle
from litellm_systemd.runtime.options import Options


def render_wear(process: WorkerHandle, options: Options) -> str:
    """After what a worker is to be replaced; empty if it may serve on."""
    requests = process.beat.requests
    if options.max_requests and requests >= options.max_requests + int(process.luck * (options.jitter + 1)):
        return f"after {requests} request{'s' * (requests != 1)}"
    # A limit below what it began with would have no worker live: its successor begins with as much.
    if process.base < options.memory_limit < process.beat.memory:
        return f"at {process.beat.memory} MiB of memory"
    return ""


def choose(processes: Sequence[WorkerHandle], options: Options) -> tuple[WorkerHandle, str] | None:
    """The worker to replace and its wear; None if all may serve on.

    The oldest goes first: under a load that wears a worker out while another one is replaced, each gets its turn.
    """
    worn = ((process, render_wear(process, options)) for process in sorted(processes, key=lambda each: each.born))
    return next((pair for pair in worn if pair[1]), None)


class Recycling:
    """Replaces one worker at a time. `move` gives a process to another generation, `retire` ends a generation."""

    def __init__(
        self,
        options: Options,
        journal: Journal,
        move: Callable[[WorkerHandle, Generation], None],
        retire: Callable[[Generation], None],
    ) -> None:
        #: The generation of the successor while there is one to come.
        self.spare: Generation | None = None
        self._home: Generation | None = None
        self._old: WorkerHandle | None = None
        self._options = options
        self._journal = journal
        self._move = move
        self._retire = retire
        self._complained = False

    def begin(self, home: Generation, now: float) -> None:
        """Open a place for a successor if a worker is worn. Only for a time when nothing else is under way."""
        self._complain(home)
        choice = choose(home.processes, self._options) if home.serving else None
        if choice is not None:
            self._home, (self._old, wear) = home, choice
            self.spare = home.open_beside(self._old.slot, f"{self._old} recycled {wear}", now)

    def succeed(self, successor: WorkerHandle, story: Vacancy | None, now: float) -> None:
        """The successor serves: the two change places, and the old one may go."""
        spare, home, old = self.spare, self._home, self._old
        if spare is None or home is None or old is None or story is None:
            return
        self._forget()
        home.processes[home.processes.index(old)] = successor
        spare.processes[:] = [old]
        self._move(successor, home)
        self._move(old, spare)
        self._retire(spare)
        self._journal.notice(f"{story.why}, replaced in {now - story.since:.1f} s")

    def fail(self, successor: WorkerHandle, end: str, now: float) -> None:
        """The successor ended before it served: the old one serves on, and another is tried after a pause."""
        if self.spare is not None:
            vacancy = self.spare.lose(successor, end, now)
            cause = self.spare.trouble = successor.cause or end
            pause = f"Next try in {vacancy.due - now:.0f} s"
            self._journal.error(f"{self._old} is to be recycled, but a new worker can't start: {cause}. {pause}")

    def cancel(self) -> None:
        """Something of more weight comes: take the successor down."""
        spare = self.spare
        self._forget()
        if spare is not None:
            spare.forget()  # the worker that was to be replaced serves on
            self._retire(spare)

    def lose(self, process: WorkerHandle) -> None:
        """A worker has died. Was it the one to be replaced, its place is filled in the usual way."""
        if process is self._old:
            self.cancel()

    def _forget(self) -> None:
        self.spare = self._home = self._old = None

    def _complain(self, home: Generation) -> None:
        limit = self._options.memory_limit
        base = max((process.base for process in home.processes), default=0)
        if not self._complained and 0 < limit <= base:
            self._complained = True
            said = f"{WORKER_MEMORY_LIMIT.name}={limit}"
            self._journal.warning(f"{said} is too low to recycle anything: a fresh worker has {base} MiB already")
