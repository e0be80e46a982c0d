"""A worker as the master sees it: a process, a channel, and what is known of its health."""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from enum import Enum

from litellm_systemd.runtime.channel import Beat, Channel, Message, Serve, open_channel
from litellm_systemd.runtime.journal import Journal
from litellm_systemd.runtime.master.event_loop import signals_held
from litellm_systemd.runtime.worker import worker

#: Between the signal that makes a hung worker say where it hangs, and the one that ends it.
_LAST_WORDS = 1.0


class Phase(Enum):
    """How far a worker is."""

    STARTING = "starting"
    READY = "ready"
    SERVING = "serving"
    RETIRING = "retiring"


class WorkerHandle:
    """One worker. Times are of the monotonic clock."""

    def __init__(self, slot: int, pid: int, channel: Channel, now: float) -> None:
        self.slot = slot
        self.pid = pid
        self.channel = channel
        self.born = now
        self.phase = Phase.STARTING
        self.beat = Beat(serving=False, inflight=0, connections=0, requests=0)
        #: When it was last heard of: before its first beat, when it was born.
        self.beat_at = now
        #: The memory of its first beat, in MiB.
        self.base = 0
        #: From 0 to 1: where in the jitter its limit of requests lies.
        self.luck = random.random()  # noqa: S311 - no secret
        #: Whether it may accept, and so may hold requests.
        self.told = False
        #: Why it couldn't start, in LiteLLM's words.
        self.cause = ""
        #: Why the master killed it: what it did wrong.
        self.charge = ""
        #: Whether the master ended it for no fault of its own.
        self.dismissed = False
        self._kill_at: float | None = None

    def __str__(self) -> str:
        return f"worker {self.slot} (pid {self.pid})"

    def messages(self) -> Iterator[Message | None]:
        """All that has arrived; None last if the stream has ended."""
        while True:
            try:
                message = self.channel.receive()
            except BlockingIOError:
                return
            yield message
            if message is None:
                return

    def note(self, beat: Beat, now: float) -> bool:
        """A sign of life; whether it is the first one that says it serves."""
        before = self.phase
        self.beat, self.beat_at = beat, now
        self.base = self.base or beat.memory
        if self.phase in (Phase.STARTING, Phase.READY):
            self.phase = Phase.SERVING if beat.serving else Phase.READY
        return self.phase is Phase.SERVING and before is not Phase.SERVING

    def serve(self) -> None:
        """Let it accept; its next beat says that it does."""
        self.told = True
        self.channel.send(Serve())

    def retire(self, limit: float) -> None:
        """Ask it to drain and leave; it is killed if it is still here at `limit`."""
        self.phase = Phase.RETIRING
        self._kill_at = limit
        self.signal(signal.SIGTERM)

    def hurry(self, limit: float) -> None:
        """Ask it to cut what runs and leave.

        Not a second SIGTERM: with another KillMode= a worker gets the first one from systemd and from here.
        """
        self.phase = Phase.RETIRING
        self._kill_at = limit
        self.signal(signal.SIGQUIT)

    def dismiss(self) -> None:
        """End it at once, because nobody waits for it: it has never served, or was asked often enough."""
        self.phase = Phase.RETIRING
        self.dismissed = True
        self.signal(signal.SIGKILL)

    def judge(self, now: float, start_timeout: float, hang_limit: float) -> None:
        """Kill it if it hangs or overstays. Call with its messages read: silence must be its own."""
        silence = now - self.beat_at
        if self._kill_at is not None and now >= self._kill_at:
            self.charge = self.charge or "didn't leave in time"
            self._kill_at = None
            self.signal(signal.SIGKILL)
        elif not self.charge and silence > (start_timeout if self.phase is Phase.STARTING else hang_limit):
            self.charge = f"answered nothing for {silence:.0f} s"
            self._kill_at = now + _LAST_WORDS
            self.signal(signal.SIGABRT)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. The process is ours and not reaped yet, so its number can't be another's."""
        os.kill(self.pid, number)

    def render_end(self, status: int) -> str:
        """How it ended, from the status of waitpid(2)."""
        if self.charge:
            return f"{self} {self.charge} and was killed"
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            return f"{self} was killed by {signal.Signals(-code).name}"
        return f"{self} exited with code {code}"


def spawn(job: worker.Job, journal: Journal, release: Callable[[], None], now: float) -> WorkerHandle:
    """Fork a worker. `release` closes in the child what belongs to the master alone. OSError if there is no room."""
    mine, theirs = open_channel()
    try:
        with signals_held() as before:
            pid = os.fork()
            if pid == 0:
                _be_worker(job, theirs, journal, (release, mine.close), before)
    except OSError:
        mine.close()
        raise
    finally:
        theirs.close()
    return WorkerHandle(job.slot, pid, mine, now)


def _be_worker(
    job: worker.Job,
    channel: Channel,
    journal: Journal,
    releases: tuple[Callable[[], None], ...],
    mask: set[signal.Signals],
) -> None:
    """Never returns: the caller's frames belong to the master."""
    code = 1
    try:
        worker.reset_process()
        for release in releases:
            release()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        code = worker.run(job, channel, journal)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        # Not sys.exit(): it would run the master's `finally` clauses and exit handlers here.
        os._exit(code)
