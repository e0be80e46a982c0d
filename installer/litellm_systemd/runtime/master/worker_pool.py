"""The workers of the main process: handles, generations, the pool that forks and reaps them, and their recycling.

A `WorkerHandle` is one worker as the main process sees it. A `Generation` is the workers that serve one
configuration, and the slots without a worker. What follows from an exit or a message is decided in `master`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from litellm_systemd.env.variables import WORKER_MEMORY_LIMIT
from litellm_systemd.runtime.activity import STACK_SIGNAL, Activity, locate, render_record, render_stack
from litellm_systemd.runtime.channel import Channel, Heartbeat, Message, Serve, open_channel
from litellm_systemd.runtime.journal import Journal
from litellm_systemd.runtime.master.blocks import Block, find_call, find_cause
from litellm_systemd.runtime.master.event_loop import EventLoop, signals_blocked
from litellm_systemd.runtime.options import Configuration, Options
from litellm_systemd.runtime.worker.acceptor import ConnectionCounts
from litellm_systemd.runtime.worker.worker import Job, reset_process, run

#: Seconds between SIGABRT, on which a hung worker writes the stacks of all its threads, and SIGKILL.
_STACK_DUMP_TIME = 1.0
#: Seconds without a heartbeat after which the stack of a worker is read. Workers send one each second.
_LATE = 1.5
#: The heartbeats of the last minute.
_REMEMBERED_LAGS = 60
#: Seconds of a start after which the stack of the worker is read, again and again.
_SLOW_START = 10.0
#: The share of the hang limit after which a blocked worker gets a line in the journal.
_BLOCKED_SHARE = 1 / 2


class Phase(Enum):
    """The state of a worker. The values are published: `status --json` and the control socket print them."""

    STARTING = "starting"
    READY = "ready"
    SERVING = "serving"
    DRAINING = "retiring"


class WorkerHandle:
    """One worker. Times are seconds of the monotonic clock."""

    def __init__(self, slot: int, pid: int, channel: Channel, activity: Activity, now: float) -> None:
        self.slot = slot
        self.pid = pid
        self.channel = channel
        self.activity = activity
        self.started_at = now
        self.phase = Phase.STARTING
        self.heartbeat = Heartbeat(serving=False, inflight=0, connections=0, requests=0)
        self._lags: deque[float] = deque(maxlen=_REMEMBERED_LAGS)
        #: The time of the last heartbeat; before the first one, the time of the start.
        self.heartbeat_at = now
        #: The resident memory at the first heartbeat, in MiB.
        self.initial_memory = 0
        #: From 0 to 1: the share of the jitter that is added to this worker's limit of requests.
        self.jitter_fraction = random.random()  # noqa: S311 - no secret
        #: Whether it was allowed to accept connections, and so may have requests in flight.
        self.may_serve = False
        #: Why it could not start, and whether these are LiteLLM's words.
        self.start_error = ""
        self.failed_by_litellm = True
        #: Why the main process killed it: which limit it exceeded.
        self.kill_reason = ""
        #: The status of waitpid(2), once it has exited.
        self.exit_status = 0
        self._was_hung = self._was_late = False
        #: Whether it has reported the end of its drain.
        self.has_drained = False
        #: Whether the main process killed it because it was no longer needed.
        self.discarded = False
        self._kill_at: float | None = None
        #: When its event loop was last seen to proceed: by a heartbeat, or by the step of another request.
        self.progress_at = now
        self._record = activity.read()
        #: Since when which request has blocked the event loop, once the stack was requested.
        self._blocked: tuple[float, bytes] | None = None
        #: The blocks that have ended, with the death of the worker too, since the last `take_blocks`.
        self._blocks: list[Block] = []
        #: The request that ran when the heartbeat was late, once the stack was requested.
        self._late: bytes | None = None
        #: When the stack of the starting worker was last requested.
        self._start_seen_at = now

    def __str__(self) -> str:
        return f"worker {self.slot} (pid {self.pid})"

    def messages(self) -> Iterator[Message | None]:
        """All messages that have arrived. None is the last item if the stream has ended."""
        while True:
            try:
                message = self.channel.receive()
            except BlockingIOError:
                return
            yield message
            if message is None:
                return

    @property
    def lag(self) -> float:
        """The greatest lag of the last minute: a scrape sees few heartbeats."""
        return max(self._lags, default=0.0)

    def record(self, heartbeat: Heartbeat, now: float) -> bool:
        """Record a heartbeat. Returns whether it is the first one that reports the worker as serving."""
        self._lags.append(heartbeat.lag)
        before = self.phase
        if self._late is not None and self._blocked is None:
            self._add_block(now - self.heartbeat_at, self._late, is_short=True)
        self._late = None
        self.heartbeat = heartbeat
        self.heartbeat_at = self.progress_at = now
        self.initial_memory = self.initial_memory or heartbeat.memory
        if self.phase in (Phase.STARTING, Phase.READY):
            self.phase = Phase.SERVING if heartbeat.serving else Phase.READY
        return self.phase is Phase.SERVING and before is not Phase.SERVING

    def serve(self) -> None:
        """Let the worker accept connections. Its next heartbeat confirms that it does."""
        self.may_serve = True
        self.channel.send(Serve())

    def drain(self, deadline: float) -> None:
        """Make the worker drain and exit. It is killed if it still runs at `deadline`."""
        self.phase = Phase.DRAINING
        self._kill_by(deadline)
        self.send_signal(signal.SIGTERM)

    def on_drained(self, deadline: float) -> None:
        """The worker has no requests left. It is killed if it still runs at `deadline`, or at an earlier one."""
        self.has_drained = True
        self._kill_by(deadline)

    def _kill_by(self, deadline: float) -> None:
        self._kill_at = deadline if self._kill_at is None else min(self._kill_at, deadline)

    def force_close(self, deadline: float) -> None:
        """Make the worker force-close its in-flight requests and exit. It is killed if it still runs at `deadline`.

        The signal is not a second SIGTERM: under another KillMode= systemd and the main process both send the first.
        """
        self.phase = Phase.DRAINING
        self._kill_by(deadline)
        self.send_signal(signal.SIGQUIT)

    def discard(self) -> None:
        """Kill the worker at once. Only for one that has never served, so that no client waits for it."""
        self.phase = Phase.DRAINING
        self.discarded = True
        self.send_signal(signal.SIGKILL)

    def excuse(self, seconds: float, now: float) -> None:
        """Do not count the last `seconds`, in which the main process did not run, and this worker perhaps neither.

        A heartbeat that arrived after them counts as it is: `progress_at` is never in the future.
        """
        self.progress_at = min(now, self.progress_at + seconds)
        self.heartbeat_at = min(now, self.heartbeat_at + seconds)
        if self._kill_at is not None:
            self._kill_at += seconds
        if self._blocked is not None:
            since, record = self._blocked
            self._blocked = min(now, since + seconds), record

    def enforce_limits(self, now: float, start_timeout: float, hang_limit: float) -> str:
        """Kill the worker if it hangs or does not exit in time. Returns how long it was blocked if a block has ended.

        Read its messages first: otherwise a busy main process looks like a worker without a heartbeat.
        """
        ended_block = self._observe_progress(now, hang_limit)
        silence = now - self.progress_at
        if self._kill_at is not None and now >= self._kill_at:
            late = "hung in LiteLLM's shutdown" if self.has_drained else "did not exit in time"
            self.kill_reason = self.kill_reason or late
            self._kill_at = None
            self.send_signal(signal.SIGKILL)
        elif not self.kill_reason and silence > (start_timeout if self.phase is Phase.STARTING else hang_limit):
            is_starting = self.phase is Phase.STARTING
            if self._blocked is not None:
                self._add_block(silence, self._blocked[1], killed=True)
            self._was_late, self._was_hung = is_starting, not is_starting
            self.kill_reason = f"was not ready after {silence:.0f} s" if is_starting else self._render_block(silence)
            self._kill_at = now + _STACK_DUMP_TIME
            self.send_signal(signal.SIGABRT)
        return ended_block

    def _observe_progress(self, now: float, hang_limit: float) -> str:
        if self.phase is Phase.STARTING:
            if now - self._start_seen_at > _SLOW_START:
                self._start_seen_at = now
                self._request_stack()
            return ""
        if (record := self.activity.read()) != self._record:
            self._record, self.progress_at = record, now
        if self._blocked is None:
            if now - self.progress_at > hang_limit * _BLOCKED_SHARE:
                self._blocked = self.progress_at, record
                self._request_stack()
            elif self._late is None and now - self.heartbeat_at > _LATE:
                self._late = record
                self._request_stack()
        elif self.progress_at > self._blocked[0]:
            seconds = self.progress_at - self._blocked[0]
            ended_block = f"{self} {self._render_block(seconds)}"
            self._add_block(seconds, self._blocked[1])
            self._blocked = self._late = None
            return ended_block
        return ""

    def _request_stack(self) -> None:
        self.activity.reset_stack()
        self.send_signal(STACK_SIGNAL)

    def _add_block(self, seconds: float, record: bytes, *, killed: bool = False, is_short: bool = False) -> None:
        self._blocks.append(Block(seconds, render_record(record), self.activity.read_stack(), killed, is_short))

    def find_obstacle(self, texts: Mapping[str, str]) -> str:
        """What a slow start waits for, such as "time.sleep (/etc/litellm/mine.py:3)"; empty if it is unknown.

        `texts` holds the Python files of the configuration, by path.
        """
        if self.phase is not Phase.STARTING or self._start_seen_at == self.started_at:
            return ""
        stack = self.activity.read_stack()
        frame = find_cause(stack)
        if frame is None or not frame.is_own:
            return render_stack(stack) if frame else ""
        return f"{find_call(frame, texts) or frame.function} ({frame.path}:{frame.line})"

    def take_blocks(self) -> list[Block]:
        """The blocks of the event loop that have ended since the last call."""
        blocks, self._blocks = self._blocks, []
        return blocks

    def _render_block(self, seconds: float) -> str:
        request = render_record(self._blocked[1]) if self._blocked is not None else ""
        stack = render_stack(self.activity.read_stack()) if self._blocked is not None else ""
        return f"was blocked for {seconds:.0f} s" + locate(request) + f" ({stack})" * bool(stack)

    def close(self) -> None:
        """Close the descriptors: of a worker that has exited, or in a sibling of the worker."""
        self.channel.close()
        self.activity.close()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal. The pid cannot belong to another process: the worker is a child that is not reaped yet."""
        os.kill(self.pid, number)

    @property
    def exit_cause(self) -> str:
        """How the worker ended, as a label of `families.WORKER_RESTARTS`."""
        if self._was_hung:
            return "hung"
        if self._was_late:
            return "start_timeout"
        return "crash" if os.waitstatus_to_exitcode(self.exit_status) < 0 else "exit"

    def render_exit(self, status: int) -> str:
        """How the worker ended, as a sentence, from the status of waitpid(2)."""
        if self.kill_reason:
            return f"{self} {self.kill_reason} and was killed"
        # A worker that waits for its next step is in no request.
        request = render_record(self.activity.read()) if status else ""
        cause = self.start_error if self.phase is Phase.SERVING else ""
        return f"{self} {_render_outcome(status)}" + locate(request) + f": {cause}" * bool(cause)


def _render_outcome(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


def spawn(job: Job, journal: Journal, close_inherited: Callable[[], None], now: float) -> WorkerHandle:
    """Fork a worker.

    `close_inherited` runs in the child and closes what only the main process may hold. Raises OSError if the system
    cannot create a process.
    """
    activity = Activity()
    master_end, worker_end = open_channel()
    try:
        with signals_blocked() as before:
            pid = os.fork()
            if pid == 0:
                _run_child(job, worker_end, activity, journal, (close_inherited, master_end.close), before)
    except OSError:
        master_end.close()
        activity.close()
        raise
    finally:
        worker_end.close()
    return WorkerHandle(job.slot, pid, master_end, activity, now)


def _run_child(
    job: Job,
    channel: Channel,
    activity: Activity,
    journal: Journal,
    close_inherited: tuple[Callable[[], None], ...],
    mask: set[signal.Signals],
) -> None:
    """Run the worker and exit. It never returns, because the caller's frames belong to the main process."""
    code = 1
    try:
        reset_process()
        activity.register()
        for close in close_inherited:
            close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = run(job, channel, activity, journal)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # Not sys.exit(): it would run the main process's `finally` clauses and exit handlers here.
        os._exit(code)


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

    @property
    def obstacle(self) -> str:
        """Why a start takes so long, to be appended to a sentence; empty if it does not, or if that is unknown."""
        found = [worker.find_obstacle(self.configuration.texts) for worker in self.workers]
        waits = [f"; still running: {each}" for each in found if each]
        return f"; cannot start a worker: {self.start_error}" if self.start_error else "".join(waits[:1])

    def count(self, phase: Phase) -> int:
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
        """Whether the event loop of at least one worker has proceeded within the last `hang_limit` seconds."""
        times = (worker.progress_at for worker in self.workers if worker.phase is not Phase.STARTING)
        return any(now - at < hang_limit for at in times)

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


class WorkerPool:
    """All running workers of all generations.

    `job` is what the workers have in common. `close_inherited` runs in a forked child and closes what only the main
    process may hold. `on_exit` gets the worker, how it ended, and whether its exit code was 0; `on_other_exit` gets
    the pid of any other child, and how it ended.
    """

    def __init__(
        self,
        events: EventLoop,
        journal: Journal,
        job: Job,
        close_inherited: Callable[[], None],
        on_message: Callable[[Generation, WorkerHandle, Message], None],
        on_exit: Callable[[Generation, WorkerHandle, str, bool], None],
        on_other_exit: Callable[[int, str], None] = lambda _pid, _outcome: None,
    ) -> None:
        self._events = events
        self._journal = journal
        self._job = job
        self._close_inherited = close_inherited
        self._on_message = on_message
        self._on_exit = on_exit
        self._on_other_exit = on_other_exit
        self._running: dict[int, tuple[Generation, WorkerHandle]] = {}
        #: With room for generations that drain.
        self._counts = ConnectionCounts(4 * job.options.workers + 4)
        self._seats: dict[int, int] = {}

    @property
    def workers(self) -> list[WorkerHandle]:
        """Every worker that is not reaped yet."""
        return [worker for _, worker in self._running.values()]

    def fork(self, slot: int, generation: Generation) -> WorkerHandle:
        seat = self._counts.find_seat(self._seats.values())
        job = replace(
            self._job,
            slot=slot,
            configuration=generation.configuration,
            environment=generation.environment,
            counts=self._counts,
            seat=seat,
            renews_secrets=generation.number > 1,
        )
        worker = spawn(job, self._journal, self.close_in_child, time.monotonic())
        self._running[worker.pid] = generation, worker
        self._seats[worker.pid] = seat
        self._events.watch(worker.channel, lambda: self._read_messages(worker))
        return worker

    def move(self, worker: WorkerHandle, generation: Generation) -> None:
        self._running[worker.pid] = generation, worker

    def reap(self) -> None:
        while self._running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid in self._running:
                self._remove(pid, status)
            else:
                self._on_other_exit(pid, _render_outcome(status))

    def _remove(self, pid: int, status: int) -> None:
        self._read_messages(self._running[pid][1])  # its last messages; they may move it to another generation
        generation, worker = self._running.pop(pid)
        self._counts.clear(self._seats.pop(pid))
        self._events.unwatch(worker.channel)
        if dump := worker.activity.read_dump():
            self._journal.info(f"{worker}: {dump}")
        reason = worker.render_exit(status)
        worker.close()
        worker.exit_status = status
        self._on_exit(generation, worker, reason, status == 0)

    def _read_messages(self, worker: WorkerHandle) -> None:
        for message in worker.messages():
            if message is None:
                self._events.unwatch(worker.channel)
            else:
                self._on_message(self._running[worker.pid][0], worker, message)

    def close_in_child(self) -> None:
        """In a forked child: close what only the main process may hold."""
        # If a sibling kept the master's end of a channel open, that worker would not notice the master's death.
        self._close_inherited()
        for worker in self.workers:
            worker.close()


def render_reason(worker: WorkerHandle, options: Options) -> str:
    """Why a worker is due for recycling, such as "after 100 requests"; empty if it is not due."""
    return _find_reason(worker, options)[1]


def _find_reason(worker: WorkerHandle, options: Options) -> tuple[str, str]:
    """Why a worker is due for recycling: as a label of `families.WORKER_RESTARTS`, and in words."""
    requests = worker.heartbeat.requests
    if options.max_requests and requests >= options.max_requests + int(worker.jitter_fraction * (options.jitter + 1)):
        return "max_requests", f"after {requests} request{'s' * (requests != 1)}"
    if worker.heartbeat.unhealthy > options.unhealthy_limit:
        return "unhealthy", f"after failing its health check for {worker.heartbeat.unhealthy:.0f} s"
    # A limit below the initial memory is ignored: each successor would be due for recycling at once.
    if worker.initial_memory < options.memory_limit < worker.heartbeat.memory:
        return "memory", f"at {worker.heartbeat.memory} MiB of memory"
    return "", ""


def select_worker(workers: Sequence[WorkerHandle], options: Options) -> tuple[WorkerHandle, str] | None:
    """The worker to recycle and the reason; None if no worker is due.

    The oldest is first: if workers become due faster than they are replaced, each of them gets its turn.
    """
    due = ((worker, render_reason(worker, options)) for worker in sorted(workers, key=lambda each: each.started_at))
    return next((pair for pair in due if pair[1]), None)


class Recycling:
    """Replaces a worker that has served MAX_REQUESTS_BEFORE_RESTART requests or uses too much memory, one at a time.

    The successor runs in a replacement generation: one slot, same configuration, next to the generation that serves.
    So it starts, fails, is retried and is stopped like any other worker. When it serves, the two workers swap
    generations, and the replacement generation is drained with the old worker in it. `move` assigns a worker to a
    generation, `drain` drains a generation.
    """

    def __init__(
        self,
        options: Options,
        journal: Journal,
        move: Callable[[WorkerHandle, Generation], None],
        drain: Callable[[Generation], None],
    ) -> None:
        #: The generation of the successor, from the decision to recycle until the successor serves.
        self.replacement: Generation | None = None
        #: Why, as a label of `families.WORKER_RESTARTS`.
        self.cause = ""
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
            self.cause = _find_reason(self._recycled, self._options)[0]
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
