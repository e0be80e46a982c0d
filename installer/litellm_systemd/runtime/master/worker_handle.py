"""A worker as the main process sees it: its pid, its channel, and what is known of its health."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from enum import Enum

from litellm_systemd.runtime.channel import Channel, Heartbeat, Message, Serve, open_channel
from litellm_systemd.runtime.journal import Journal
from litellm_systemd.runtime.master.event_loop import signals_blocked
from litellm_systemd.runtime.worker import worker

#: Seconds between SIGABRT, on which a hung worker prints its stack, and SIGKILL.
_STACK_DUMP_TIME = 1.0


class Phase(Enum):
    """The state of a worker. The values are published: `status --json` and the control socket print them."""

    STARTING = "starting"
    READY = "ready"
    SERVING = "serving"
    DRAINING = "retiring"


class WorkerHandle:
    """One worker. Times are seconds of the monotonic clock."""

    def __init__(self, slot: int, pid: int, channel: Channel, now: float) -> None:
        self.slot = slot
        self.pid = pid
        self.channel = channel
        self.started_at = now
        self.phase = Phase.STARTING
        self.heartbeat = Heartbeat(serving=False, inflight=0, connections=0, requests=0)
        #: The time of the last heartbeat; before the first one, the time of the start.
        self.heartbeat_at = now
        #: The resident memory at the first heartbeat, in MiB.
        self.initial_memory = 0
        #: From 0 to 1: the share of the jitter that is added to this worker's limit of requests.
        self.jitter_fraction = random.random()  # noqa: S311 - no secret
        #: Whether it was allowed to accept connections, and so may have requests in flight.
        self.may_serve = False
        #: Why it could not start, in LiteLLM's words.
        self.start_error = ""
        #: Why the main process killed it: which limit it exceeded.
        self.kill_reason = ""
        #: Whether the main process killed it because it was no longer needed.
        self.discarded = False
        self._kill_at: float | None = None

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

    def record(self, heartbeat: Heartbeat, now: float) -> bool:
        """Record a heartbeat. Returns whether it is the first one that reports the worker as serving."""
        before = self.phase
        self.heartbeat, self.heartbeat_at = heartbeat, now
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
        self._kill_at = deadline
        self.send_signal(signal.SIGTERM)

    def force_close(self, deadline: float) -> None:
        """Make the worker force-close its in-flight requests and exit. It is killed if it still runs at `deadline`.

        The signal is not a second SIGTERM: under another KillMode= systemd and the main process both send the first.
        """
        self.phase = Phase.DRAINING
        self._kill_at = deadline
        self.send_signal(signal.SIGQUIT)

    def discard(self) -> None:
        """Kill the worker at once. Only for one that has never served, so that no client waits for it."""
        self.phase = Phase.DRAINING
        self.discarded = True
        self.send_signal(signal.SIGKILL)

    def enforce_limits(self, now: float, start_timeout: float, hang_limit: float) -> None:
        """Kill the worker if it hangs or does not exit in time.

        Read its messages first: otherwise a busy main process looks like a worker without a heartbeat.
        """
        silence = now - self.heartbeat_at
        if self._kill_at is not None and now >= self._kill_at:
            self.kill_reason = self.kill_reason or "did not exit in time"
            self._kill_at = None
            self.send_signal(signal.SIGKILL)
        elif not self.kill_reason and silence > (start_timeout if self.phase is Phase.STARTING else hang_limit):
            self.kill_reason = f"failed its health check for {silence:.0f} s"
            self._kill_at = now + _STACK_DUMP_TIME
            self.send_signal(signal.SIGABRT)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal. The pid cannot belong to another process: the worker is a child that is not reaped yet."""
        os.kill(self.pid, number)

    def render_exit(self, status: int) -> str:
        """How the worker ended, as a sentence, from the status of waitpid(2)."""
        if self.kill_reason:
            return f"{self} {self.kill_reason} and was killed"
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            return f"{self} was killed by {signal.Signals(-code).name}"
        return f"{self} exited with code {code}"


def spawn(job: worker.Job, journal: Journal, close_inherited: Callable[[], None], now: float) -> WorkerHandle:
    """Fork a worker.

    `close_inherited` runs in the child and closes what only the main process may hold. Raises OSError if the system
    cannot create a process.
    """
    master_end, worker_end = open_channel()
    try:
        with signals_blocked() as before:
            pid = os.fork()
            if pid == 0:
                _run_child(job, worker_end, journal, (close_inherited, master_end.close), before)
    except OSError:
        master_end.close()
        raise
    finally:
        worker_end.close()
    return WorkerHandle(job.slot, pid, master_end, now)


def _run_child(
    job: worker.Job,
    channel: Channel,
    journal: Journal,
    close_inherited: tuple[Callable[[], None], ...],
    mask: set[signal.Signals],
) -> None:
    """Run the worker and exit. It never returns, because the caller's frames belong to the main process."""
    code = 1
    try:
        worker.reset_process()
        for close in close_inherited:
            close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = worker.run(job, channel, journal)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # Not sys.exit(): it would run the main process's `finally` clauses and exit handlers here.
        os._exit(code)
