"""A worker: the forked process that serves requests."""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from litellm_systemd.bounded_yaml import load_yaml
from litellm_systemd.env.variables import MASTER_KEY
from litellm_systemd.errors import InstallerError
from litellm_systemd.gateway.python_files import python_folders
from litellm_systemd.runtime import failures
from litellm_systemd.runtime.activity import Activity
from litellm_systemd.runtime.channel import (
    Channel,
    Drained,
    Environment,
    FailureReport,
    Heartbeat,
    Serve,
    StartFailed,
)
from litellm_systemd.runtime.http.access_log import AccessLog
from litellm_systemd.runtime.http.authentication import AuthenticationGate
from litellm_systemd.runtime.http.cut_requests import CutRequests
from litellm_systemd.runtime.http.health_checks import READINESS, HealthChecks
from litellm_systemd.runtime.http.pages import Pages
from litellm_systemd.runtime.http.refuse import Application, RefusalCounter
from litellm_systemd.runtime.http.request_size import RequestSizeLimit
from litellm_systemd.runtime.http.response_count import ResponseCounter
from litellm_systemd.runtime.http.retired_keys import RetiredKeys
from litellm_systemd.runtime.http.unknown_keys import UnknownKeys
from litellm_systemd.runtime.journal import (
    DEBUG,
    NOTICE,
    Journal,
    redirect_loggers,
    suppress_cancellation_logs,
)
from litellm_systemd.runtime.leaving_flag import LeavingFlag
from litellm_systemd.runtime.metrics.counting import Counters
from litellm_systemd.runtime.options import Configuration, Options
from litellm_systemd.runtime.secret_store import get_secrets
from litellm_systemd.runtime.worker import (
    draining_server,
    garbage_collection,
    litellm_adapter,
    litellm_outages,
    litellm_redis,
    slow_connections,
    waiting_code,
)
from litellm_systemd.runtime.worker.acceptor import ConnectionCounts
from litellm_systemd.runtime.worker.api_document import ApiDocument
from litellm_systemd.runtime.worker.draining_server import Server, build_config
from litellm_systemd.runtime.worker.litellm_authentication import MasterKeyAuthentication
from litellm_systemd.runtime.worker.litellm_routes import LiteLLMRoutes
from litellm_systemd.runtime.worker.load_errors import render_cause

#: Seconds that in-flight requests get after the main process has died.
ORPHAN_DRAIN_TIMEOUT = 5.0
#: Seconds that the exit handlers of libraries get after the drain.
EXIT_HANDLERS_LIMIT = 2.0
#: Characters of the reason why the database or Redis cannot be used.
_MAX_CAUSE = 300
#: Seconds between two health checks before the worker is ready.
_START_INTERVAL = 0.02


@dataclass(frozen=True, slots=True)
class Job:
    """The parameters of a worker.

    `environment` is what LiteLLM's set-up added to the environment of the generation's first worker. It is None for
    that first worker, which runs the set-up. `counts` holds the number of connections of each worker, this one's at
    `seat`.
    """

    slot: int
    options: Options
    configuration: Configuration
    listeners: tuple[socket.socket, ...]
    environment: Mapping[str, str] | None
    counts: ConnectionCounts = field(default_factory=lambda: ConnectionCounts(1))
    seat: int = 0
    document: ApiDocument | None = None
    #: What the worker counts in; None without METRICS.
    counters: Counters | None = None
    #: Whether the first worker gets the secrets in AWS again, as at a reload. The main process got them at the start.
    renews_secrets: bool = False
    leaving: LeavingFlag = field(default_factory=LeavingFlag)


def run(job: Job, channel: Channel, activity: Activity, journal: Journal) -> int:
    """Run a worker, from the fork to its exit code. It reports a failure to the main process, in one line."""
    garbage_collection.disable_automatic()
    application = _Application(activity)
    refusals = RefusalCounter(job.counters)
    reporting = replace(
        journal,
        report=lambda failure: (
            litellm_outages.explains(failure.text)
            or litellm_redis.explains(failure.text, failure.kind)
            or channel.send(FailureReport(failure.priority, failure.kind, failure.text, failure.call))
        ),
        is_model=litellm_adapter.is_model_group,
    )
    try:
        with litellm_adapter.suppress_stdout():
            _set_up(job, channel)
            application.inner = _build_application(job, refusals, channel)
            redirect_loggers(reporting)
        if job.counters is not None:
            application.inner = ResponseCounter(application.inner, job.counters)
        if job.options.access_log:
            application.inner = AccessLog(
                application.inner, journal, with_health_checks=not job.options.deregistration_delay
            )
        asyncio_run(_Worker(job, channel, activity, reporting, application, refusals).serve())
        run_exit_handlers()
    except BaseException as error:  # SystemExit included: LiteLLM and uvicorn use it for bad configurations
        cause = application.failure or error
        # The last frames show the cause. The hundreds before them are nested lifespans.
        journal.line(DEBUG, "".join(traceback.format_exception(cause, limit=-4)).rstrip())
        channel.send(_start_failed(cause, job.configuration))
        return 1
    return 0


def run_exit_handlers() -> None:
    """Run what libraries in this worker registered with `atexit`: OpenTelemetry's sends what it still holds.

    A forked process has to do this itself, as Python's multiprocessing does. If the target of a library does not
    respond, this ends after EXIT_HANDLERS_LIMIT seconds.
    """
    handlers = threading.Thread(target=atexit._run_exitfuncs, daemon=True)
    handlers.start()
    handlers.join(EXIT_HANDLERS_LIMIT)


def _start_failed(cause: BaseException, configuration: Configuration) -> StartFailed:
    if isinstance(cause, InstallerError):
        return StartFailed(cause.render(), by_litellm=False)
    document = load_yaml(configuration.texts[str(configuration.path)])
    code = frozenset(path for path in configuration.texts if path.endswith(".py"))
    return StartFailed(litellm_adapter.redact(render_cause(cause, document, code)))


def _build_application(job: Job, refusals: RefusalCounter, channel: Channel) -> Application:
    litellm = litellm_adapter.application()
    routes = LiteLLMRoutes(litellm, job.document, job.leaving, catalogues=job.options.api_docs)
    unknown = UnknownKeys()
    authentication = MasterKeyAuthentication(litellm, routes.is_public, routes.is_open, unknown)
    body_limit = job.options.limits.body_size
    is_behind = job.options.deregistration_delay > 0
    health_checks = HealthChecks(litellm, lambda: is_behind and bool(litellm_outages.cause()))
    limited = CutRequests(RequestSizeLimit(health_checks, body_limit, refusals))
    gate = AuthenticationGate(
        limited, authentication.find_refusal, refusals, authentication.wrap, body_limit, unknown
    )
    pages = Pages(gate, routes.find_page, authentication.wrap, body_limit)
    accepted = [key for key in job.options.retired_keys if key.until > time.time()]
    if not accepted:
        return pages

    def report(text: str) -> None:
        channel.send(FailureReport(NOTICE, text, text, ""))

    return RetiredKeys(pages, accepted, os.environ[MASTER_KEY.name], authentication.find_key_headers, report)


def asyncio_run(main: Any) -> None:
    """Run on uvloop."""
    import uvloop

    slow_connections.log_waits()
    if sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
    else:
        uvloop.install()
        asyncio.run(main)


def _set_up(job: Job, channel: Channel) -> None:
    configuration = job.configuration
    # LiteLLM finds Python files next to the configuration by itself, and only there. What these import is there too.
    sys.path += [str(folder) for folder in python_folders(configuration.path)]
    if job.environment is None:
        # In this process, because AWS may be slow. Workers that are replaced later get the same values.
        secrets = get_secrets(job.options.references, os.environ) if job.renews_secrets else {}
        os.environ.update(secrets)
        added = litellm_adapter.set_up(
            configuration.path, configuration.texts, job.options.workers, configuration.pool_size
        )
        channel.send(Environment({**secrets, **added}))
    else:
        litellm_adapter.apply_environment(configuration.texts, job.environment)


class _Application:
    """LiteLLM's application. It stores the exception that ended the startup, which uvicorn only logs."""

    def __init__(self, activity: Activity) -> None:
        self.inner: Any = None
        self.failure: BaseException | None = None
        self._activity = activity

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return self._lifespan(scope, receive, send)
        return self._activity.record(scope, failures.watch(scope, self.inner(scope, receive, send)))

    async def _lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_without_traceback(message: Any) -> None:
            # Starlette puts the traceback into the message, and uvicorn would log it as an error. `run` logs it as
            # DEBUG instead.
            await send({**message, "message": ""} if message["type"].endswith(".failed") else message)

        try:
            await self.inner(scope, receive, send_without_traceback)
        except BaseException as error:
            self.failure = error
            raise


class _Worker:
    def __init__(
        self,
        job: Job,
        channel: Channel,
        activity: Activity,
        journal: Journal,
        application: _Application,
        refusals: RefusalCounter,
    ) -> None:
        options = job.options
        self._refusals = refusals
        self._channel = channel
        self._activity = activity
        self._journal = journal
        self._is_first = job.environment is None
        self._interval = options.beat_interval
        self._check_timeout = options.unhealthy_limit / 2
        #: When LiteLLM last answered a health check, on the monotonic clock.
        self._healthy_at = 0.0
        self._probes = 0
        #: Seconds by which the event loop ran the last timer too late.
        self._lag = 0.0
        self._serving = False
        self._orphaned = False
        self._server = Server(
            build_config(application, options.keepalive_timeout, options.trusted_proxies),
            job.listeners,
            lame_duck_timeout=options.lame_duck_timeout,
            drain_timeout=options.drain_timeout,
            limits=options.limits,
            counter=refusals,
            counts=job.counts,
            seat=job.seat,
            tls=job.configuration.tls.context if job.configuration.tls else None,
            leaving=job.leaving,
            on_drained=self._report_drained,
        )

    async def serve(self) -> None:
        """Serve until the drain is complete."""
        loop = asyncio.get_running_loop()
        self._activity.start(loop)
        self._handle_signals()
        loop.add_reader(self._channel.fileno(), self._on_message)
        garbage_collection.Collector().start(loop)
        tasks = [loop.create_task(each) for each in (self._report_health(), waiting_code.watch(self._report_waiting))]
        # LiteLLM logs the same messages about the configuration in each worker. Only the first worker passes them on.
        logging.disable(logging.NOTSET if self._is_first else logging.WARNING)
        with litellm_adapter.suppress_stdout():
            serving = loop.create_task(self._server.serve())
            while not self._server.started and not serving.done():
                await asyncio.sleep(_START_INTERVAL / 4)
        logging.disable(logging.NOTSET)
        # Both again: the Python files of the configuration may have changed handlers and added loggers.
        self._handle_signals()
        redirect_loggers(self._journal)
        await serving
        for task in tasks:
            task.cancel()
        self._send_refusals()

    def _report_drained(self) -> None:
        self._channel.send(Drained(self._server.cut, self._server.drain_seconds))

    def _report_waiting(self, priority: int, where: str, text: str) -> None:
        self._channel.send(FailureReport(priority, f"{priority} waiting {where}", text, ""))

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._drain)
        loop.add_signal_handler(signal.SIGQUIT, self._force_close, 0.0)

    def _drain(self) -> None:
        suppress_cancellation_logs()
        self._server.start_drain()
        self._serving = False
        self._send_heartbeat()

    def _force_close(self, after: float) -> None:
        self._drain()
        self._server.force_close(after)

    def _on_message(self) -> None:
        try:
            message = self._channel.receive()
        except BlockingIOError:
            return
        if isinstance(message, Serve) and not self._server.should_exit:
            self._server.start_accepting()
            self._serving = True
            self._send_heartbeat()
        elif message is None:
            # The main process has died. No process would replace or stop this worker, so it drains and exits.
            asyncio.get_running_loop().remove_reader(self._channel.fileno())
            self._set_alarm(ORPHAN_DRAIN_TIMEOUT * 4)
            self._orphaned = True
            self._force_close(ORPHAN_DRAIN_TIMEOUT)

    async def _report_health(self) -> None:
        """Check readiness until it succeeds. Then send heartbeats, and check liveness next to them.

        A heartbeat proves that the event loop runs, however late the answer to a health check is under load.
        """
        while not self._server.started:
            await asyncio.sleep(_START_INTERVAL)
        while not self._is_ready(await self._check(READINESS)):
            await asyncio.sleep(_START_INTERVAL)
        # Before it serves, so that its first heartbeat says whether its limits are shared.
        await litellm_redis.check()
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(each) for each in (self._check_liveness(), litellm_redis.watch())]
        try:
            while True:
                self._send_heartbeat()
                self._send_refusals()
                due = time.monotonic() + self._interval
                await asyncio.sleep(self._interval)
                # A pause of this process, or a blocked event loop, is no failed health check.
                self._lag = time.monotonic() - due
                self._healthy_at += self._lag
        finally:
            for task in tasks:
                task.cancel()

    @staticmethod
    def _is_ready(status: int | None) -> bool:
        # LiteLLM answers 503 as well while the database is down. A worker serves what needs no database.
        return status == 200 or (status == 503 and bool(litellm_outages.cause()))

    async def _check_liveness(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            await self._check(draining_server.LIVELINESS)

    async def _check(self, path: str) -> int | None:
        status = await draining_server.get_status(self._server.connect, path, self._check_timeout)
        self._probes += status is not None
        # LiteLLM answers 503 during its shutdown. That counts as alive.
        if status in (200, 503):
            self._healthy_at = time.monotonic()
        return status

    def _set_alarm(self, seconds: float) -> None:
        """Have the kernel end this process after twice the `seconds`, by SIGALRM.

        The main process kills a hung worker much earlier. The alarm ends a worker that hangs in Python code after the
        main process has died. The first alarm only sets the second one, because it also comes at the end of a long
        pause (SIGSTOP, `docker pause`): then the next heartbeat sets a new one.
        """

        def set_last(*_: object) -> None:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(math.ceil(seconds))

        if not self._orphaned:
            signal.signal(signal.SIGALRM, set_last)
            signal.alarm(math.ceil(seconds))

    def _send_refusals(self) -> None:
        for refusals in self._refusals.take():
            self._channel.send(refusals)

    def _send_heartbeat(self) -> None:
        self._set_alarm(self._check_timeout * 4)
        server = self._server
        requests = max(0, server.server_state.total_requests - self._probes)
        unhealthy = time.monotonic() - self._healthy_at
        redis = litellm_redis.cause()
        self._channel.send(
            Heartbeat(
                self._serving,
                server.inflight,
                server.connections,
                requests,
                _resident_memory(),
                unhealthy,
                round(self._lag, 4),
                litellm_outages.cause()[:_MAX_CAUSE],
                None if redis is None else redis[:_MAX_CAUSE],
                failures.CALLS.total,
                failures.CALLS.failed,
            )
        )


def _resident_memory() -> int:
    """The resident memory of this process in MiB; 0 if /proc cannot be read (proc_pid_statm(5))."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def reset_process() -> None:
    """Reset in a forked child the handlers and variables of the main process."""
    atexit._clear()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGQUIT, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    # Ctrl-C and a closed terminal send a signal to the whole process group. Only the main process handles it.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.environ.pop("LISTEN_PID", None)
