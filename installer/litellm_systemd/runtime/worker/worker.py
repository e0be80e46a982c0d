"""A worker: the forked process that answers requests."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import math
import os
import signal
import socket
import sys
import traceback
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litellm_systemd.runtime.channel import Channel, Drained, Environment, Heartbeat, Serve, StartFailed
from litellm_systemd.runtime.configuration import Configuration
from litellm_systemd.runtime.http.access_log import AccessLog
from litellm_systemd.runtime.http.cut_requests import CutRequests
from litellm_systemd.runtime.journal import DEBUG, Journal, adopt_loggers, hush_cancellations
from litellm_systemd.runtime.options import Options
from litellm_systemd.runtime.worker import litellm_adapter, probe
from litellm_systemd.runtime.worker.server import Server, build_config

#: Seconds that requests get when the master is gone.
HURRY = 5.0
#: Between two questions before the first 200.
_EAGER = 0.02


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is to be. Without an `environment` it is its generation's first, and finds that out."""

    slot: int
    options: Options
    configuration: Configuration
    listeners: tuple[socket.socket, ...]
    environment: Mapping[str, str] | None


def run(job: Job, channel: Channel, journal: Journal) -> int:
    """Be a worker, from just after the fork to the exit code. Every failure goes to the master, in one line."""
    # Where a hung worker hung: the master sends SIGABRT before it kills.
    faulthandler.enable()
    application = _Application()
    try:
        with litellm_adapter.silence():
            _set_up(job, channel)
            application.inner = CutRequests(litellm_adapter.application())
            adopt_loggers(journal)
        if job.options.access_log:
            application.inner = AccessLog(application.inner, journal)
        asyncio_run(_Worker(job, channel, journal, application).live())
    except BaseException as error:  # SystemExit included: LiteLLM and uvicorn use it for bad configurations
        cause = application.failure or error
        # The last frames say it; the hundreds before are one lifespan inside another.
        journal.line(DEBUG, "".join(traceback.format_exception(cause, limit=-4)).rstrip())
        channel.send(StartFailed(litellm_adapter.render_cause(cause)))
        return 1
    return 0


def asyncio_run(main: Any) -> None:
    """Run on uvloop."""
    import uvloop

    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    else:
        uvloop.install()
        asyncio.run(main)


def _set_up(job: Job, channel: Channel) -> None:
    configuration = job.configuration
    if job.environment is None:
        channel.send(
            Environment(litellm_adapter.set_up(configuration.path, configuration.texts, job.options.workers))
        )
    else:
        litellm_adapter.adopt(configuration.texts, job.environment)


class _Application:
    """LiteLLM's application, with the exception that ended its start-up kept.

    uvicorn logs that exception and forgets it.
    """

    def __init__(self) -> None:
        self.inner: Any = None
        self.failure: BaseException | None = None

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return self._lifespan(scope, receive, send)
        request: Awaitable[None] = self.inner(scope, receive, send)
        return request

    async def _lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_briefly(message: Any) -> None:
            # Starlette puts the traceback here, and uvicorn would log it as an error: it goes to DEBUG instead.
            await send({**message, "message": ""} if message["type"].endswith(".failed") else message)

        try:
            await self.inner(scope, receive, send_briefly)
        except BaseException as error:
            self.failure = error
            raise


class _Worker:
    def __init__(self, job: Job, channel: Channel, journal: Journal, application: _Application) -> None:
        options = job.options
        self._channel = channel
        self._journal = journal
        self._is_first = job.environment is None
        self._interval = options.beat_interval
        self._hang_limit = options.hang_limit
        self._probes = 0
        self._serving = False
        self._orphaned = False
        self._server = Server(
            build_config(application, options.keepalive_timeout),
            job.listeners,
            lame_duck_timeout=options.lame_duck_timeout,
            drain_timeout=options.drain_timeout,
        )

    async def live(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._retire)
        loop.add_signal_handler(signal.SIGQUIT, self._hurry, 0.0)
        loop.add_reader(self._channel.fileno(), self._on_message)
        heart = loop.create_task(self._beat())
        # What LiteLLM has to say about a configuration is the same in each worker: the first one of them says it.
        logging.disable(logging.NOTSET if self._is_first else logging.WARNING)
        with litellm_adapter.silence():
            serving = loop.create_task(self._server.serve())
            while not self._server.started and not serving.done():
                await asyncio.sleep(_EAGER / 4)
        logging.disable(logging.NOTSET)
        adopt_loggers(self._journal)  # those that came with the configuration
        await serving
        heart.cancel()
        self._channel.send(Drained(self._server.cut, self._server.drained))

    def _retire(self) -> None:
        hush_cancellations()
        self._server.retire()
        self._serving = False
        self._report()

    def _hurry(self, seconds: float) -> None:
        self._retire()
        self._server.hurry(seconds)

    def _on_message(self) -> None:
        try:
            message = self._channel.receive()
        except BlockingIOError:
            return
        if isinstance(message, Serve) and not self._server.should_exit:
            self._server.accept()
            self._serving = True
            self._report()
        elif message is None:
            # The master is dead. Nobody would replace or stop this worker: it must not outlive its requests.
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._set_alarm(HURRY * 4)
            self._orphaned = True
            self._hurry(HURRY)

    async def _beat(self) -> None:
        """Ask this process for readiness until it answers 200, then for a sign of life, again and again."""
        while not self._server.started:
            await asyncio.sleep(_EAGER)
        while await self._ask(probe.READINESS) != 200:
            await asyncio.sleep(_EAGER)
        while True:
            # 503 is how LiteLLM answers while it shuts down: alive, and busy with leaving.
            if await self._ask(probe.LIVELINESS) in (200, 503):
                self._report()
            await asyncio.sleep(self._interval)

    async def _ask(self, path: str) -> int | None:
        status = await probe.ask(self._server.connect, path, self._hang_limit)
        self._probes += status is not None
        return status

    def _set_alarm(self, seconds: float) -> None:
        """Have the kernel end this process then (SIGALRM, which nothing catches).

        The master kills a hung worker long before. This is for a worker that hangs when its master is dead.
        """
        if not self._orphaned:
            signal.alarm(math.ceil(seconds))

    def _report(self) -> None:
        self._set_alarm(self._hang_limit * 4)
        server = self._server
        requests = max(0, server.server_state.total_requests - self._probes)
        self._channel.send(
            Heartbeat(self._serving, server.inflight, server.connections, requests, _resident_memory())
        )


def _resident_memory() -> int:
    """What this process has in memory, in MiB; 0 if /proc can't be read (proc_pid_statm(5))."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def reset_process() -> None:
    """Undo in a fresh child what the master set up for itself."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGQUIT, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    # Ctrl-C and a closed terminal reach the whole process group; the master decides what they mean.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.environ.pop("LISTEN_PID", None)
