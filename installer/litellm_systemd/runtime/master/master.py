"""The main process: starts generations of workers, replaces workers, reloads, and stops (ADR 0003).

It has one thread and one event loop. It runs none of LiteLLM's code, so no state of one generation reaches the next.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone

from litellm_systemd.contract import CONTROL_SOCKET, ExitCode
from litellm_systemd.env.tls import Tls, TlsPair, load_pair
from litellm_systemd.env.variables import TLS_CERT_FILE
from litellm_systemd.errors import InputError, InstallerError
from litellm_systemd.runtime.channel import (
    Drained,
    Environment,
    FailureReport,
    Heartbeat,
    Message,
    Refusals,
    StartFailed,
)
from litellm_systemd.runtime.journal import Journal
from litellm_systemd.runtime.master import status
from litellm_systemd.runtime.master.blocks import BlockLog
from litellm_systemd.runtime.master.certificate_log import CertificateLog
from litellm_systemd.runtime.master.control import ControlClient, ControlSocket, Reloads
from litellm_systemd.runtime.master.event_loop import EventLoop
from litellm_systemd.runtime.master.failure_log import FailureLog
from litellm_systemd.runtime.master.gauges import build_constants, build_gauges, list_processes
from litellm_systemd.runtime.master.leave import Leave
from litellm_systemd.runtime.master.metrics import Metrics
from litellm_systemd.runtime.master.outage_log import build_database_log, build_redis_log
from litellm_systemd.runtime.master.pauses import PauseDetector
from litellm_systemd.runtime.master.refusals import RefusalLog
from litellm_systemd.runtime.master.worker_pool import Generation, Recycling, WorkerHandle, WorkerPool
from litellm_systemd.runtime.metrics import families
from litellm_systemd.runtime.metrics.families import Family
from litellm_systemd.runtime.metrics.multiprocess import forget_live_gauges
from litellm_systemd.runtime.metrics.store import State
from litellm_systemd.runtime.options import Configuration, Options
from litellm_systemd.runtime.systemd.notify import Notifier, Watchdog
from litellm_systemd.runtime.worker.api_document import ApiDocument
from litellm_systemd.runtime.worker.worker import Job

#: Seconds between two checks of the timeouts.
_TICK = 0.25
#: Seconds for a worker to exit after the longest possible drain: LiteLLM writes its buffers then.
_EXIT_TIMEOUT = 15.0
#: The same after the end of its own drain. The earlier end holds.
_SHUTDOWN_TIMEOUT = 60.0
#: The service exits if a serving generation has no worker left after this many failed starts in a row.
_MAX_FAILED_STARTS = 5
_STOPPING = "the service is stopping"


class Master:
    """Runs until a signal stops it or no worker can start.

    `owns_port`: no other process, such as systemd, holds the listeners. Then SIGTERM also announces the drain to a
    load balancer. With systemd ExecStop= does, which knows whether a standby takes over.
    """

    def __init__(
        self,
        options: Options,
        configuration: Configuration,
        listeners: tuple[socket.socket, ...],
        load: Callable[[], Configuration],
        notifier: Notifier,
        journal: Journal,
        started_at: float,
        document: ApiDocument | None = None,
        metrics: Metrics | None = None,
        *,
        owns_port: bool = False,
    ) -> None:
        self.options = options
        self.started_at = started_at
        self.listeners = listeners
        #: The generation that serves, the one that starts, and those that drain.
        self.current: Generation | None = None
        self.candidate: Generation | None = None
        self.draining: list[Generation] = []
        self.restarts = 0
        self.stopping = False
        self.reloads = Reloads()
        self.leave = Leave(options.deregistration_delay)
        self.serving_since = 0.0
        self._load = load
        self._notifier = notifier
        self._journal = journal
        self._events = EventLoop()
        self._control: ControlSocket | None = None
        self._initial_configuration = configuration
        self.metrics = metrics
        self._document = document
        self._constants = () if metrics is None else tuple(build_constants(os.environ, started_at))
        counters = metrics.counters if metrics is not None else None
        job = Job(
            0, options, configuration, listeners, None, document=document, counters=counters, leaving=self.leave.flag
        )
        self._pool = WorkerPool(
            self._events, journal, job, self._close_in_child, self._on_message, self._on_exit, self._on_other_exit
        )
        self.recycling = Recycling(options, journal, self._pool.move, self._drain)
        self.refusals = RefusalLog(journal.notice, journal.warning)
        self.blocks = BlockLog(journal.error, journal.warning)
        self._failures = FailureLog(journal.line)
        name = TLS_CERT_FILE.name
        self._certificates = CertificateLog(journal.error, f"{name}={os.environ.get(name, '')}")
        self.database = build_database_log(journal.error, journal.notice)
        self.redis = build_redis_log(journal.error, journal.notice, options.workers)
        self._last_number = 0
        self._start_deadline = started_at + options.start_timeout
        self._pauses = PauseDetector(time.monotonic())
        self._was_paused = False
        self._watchdog = Watchdog(notifier)
        self._exit_code = ExitCode.OK
        self._fatal_error = ""
        self._owns_port = owns_port
        #: Whether the end of ExecStop=, which waits for the leave, sends SIGTERM after one that has ended the leave.
        self._sigterm_follows = False

    def run(self) -> int:
        """Serve until the last worker has exited. Returns the exit code."""
        self._events.on_signal(signal.SIGCHLD, self._pool.reap)
        self._events.on_signal(signal.SIGHUP, self.reloads.request)
        self._events.on_signal(signal.SIGTERM, self._on_terminate)
        self._events.on_signal(signal.SIGINT, self._on_stop)
        if (directory := self.options.runtime_directory) is not None:
            self._control = ControlSocket(directory / CONTROL_SOCKET, self._events, self._on_command)
        self._start(self._initial_configuration)
        try:
            while not self.stopping or self.workers:
                self._events.wait(_TICK)
                self._tick(time.monotonic())
        finally:
            self.refusals.flush()
            for log in (self._failures, self.database, self.redis):
                log.flush(time.monotonic())
            if self._control is not None:
                self._control.close()
            if self.metrics is not None:
                self.metrics.stop()
            self._events.close()
        if self._fatal_error:
            self._journal.error(self._fatal_error)
        return self._exit_code

    @property
    def generations(self) -> list[Generation]:
        """All generations that have workers, the newest first."""
        candidates = (self.candidate, self.recycling.replacement, self.current, *reversed(self.draining))
        return [each for each in candidates if each]

    @property
    def workers(self) -> list[WorkerHandle]:
        return self._pool.workers

    # Start: what follows when a generation serves or fails.

    def _start(self, configuration: Configuration) -> None:
        self.recycling.cancel()
        self._last_number += 1
        now = time.monotonic()
        self.candidate = Generation(self._last_number, configuration, self.options.workers, self._pool.fork, now)
        self._fill(self.candidate)
        self._notifier.status(status.render_status(self))

    def _fill(self, generation: Generation) -> None:
        if error := generation.fill(time.monotonic()):
            self._journal.error(f"cannot start a worker: {error}")

    def _count(self, family: Family, *labels: str, amount: int = 1) -> None:
        if self.metrics is not None:
            self.metrics.counters.count(family, *labels, amount=amount)

    def _start_exporter(self) -> None:
        if self.metrics is not None:
            self.metrics.start(self._close_for_exporter)

    def _close_for_exporter(self) -> None:
        self._close_shared()
        for worker in self.workers:
            worker.close()
        for listener in self.listeners:
            listener.close()

    def _close_in_child(self) -> None:
        """In a forked worker: close what only the main process may hold."""
        self._close_shared()
        if self.metrics is not None:
            self.metrics.close_in_child()

    def _close_shared(self) -> None:
        self._events.close()
        self._notifier.close()
        if self._control is not None:
            self._control.close_descriptors()

    def _promote(self, generation: Generation) -> None:
        """All workers of the candidate serve: make it current, and drain the previous generation."""
        previous, self.current, self.candidate = self.current, generation, None
        self.serving_since = time.time()
        if previous is not None:
            self._drain(previous)
        else:
            text = status.render_status(self)
            self._notifier.ready(text)
            self._journal.notice(f"{text}, ready after {time.monotonic() - self.started_at:.1f} s")

    def _drain(self, generation: Generation) -> None:
        deadline = time.monotonic() + self.options.drain_timeout + self.options.lame_duck_timeout + _EXIT_TIMEOUT
        generation.drain(deadline, self._journal.warning)
        self.draining = [each for each in (*self.draining, generation) if each.workers]

    def _reject(self, candidate: Generation, cause: str, code: ExitCode) -> None:
        """The candidate cannot serve: end the reload, or the service if there is no current generation."""
        self.candidate = None
        self._drain(candidate)
        if self.current is None:
            self._fail(cause, code)
        else:
            self._finish_reload(cause)

    def _fail(self, cause: str, code: ExitCode) -> None:
        """Stop the service because of an error. `run` logs the error last, after the workers' messages."""
        self._exit_code, self._fatal_error = code, cause
        self._stop()
        self._notifier.status(cause)

    # Reload.

    def _on_command(self, command: str, client: ControlClient, pair: TlsPair | None = None) -> None:
        if command == "status":
            client.answer(status.build_status(self))
        elif command == "drain":
            self._on_leave(client)
        elif command != "reload":
            client.answer({"ok": False, "error": f"unknown command: {command}"})
        elif self.stopping:
            client.answer({"ok": False, "error": _STOPPING})
        else:
            self.reloads.request(client, pair=pair)

    def _begin_reload(self) -> None:
        self._start_deadline = time.monotonic() + self.options.start_timeout
        self._notifier.reloading("reloading: checking the configuration")
        try:
            configuration = replace(self._load(), tls=self._renew_tls())
        except InstallerError as error:
            self._finish_reload(error.render())
        else:
            self._start(configuration)

    def _renew_tls(self) -> Tls | None:
        """The certificate for the next generation: that of the reload, else the one that is served.

        Raises:
            InputError: the new one cannot be used, or is not valid now and so is no improvement.
        """
        served = self.current.configuration.tls if self.current else None
        if served is None or self.reloads.pair is None:
            return served  # another protocol on the port needs a restart
        new, now = load_pair(self.reloads.pair), datetime.now(timezone.utc)
        if new.certificate != served.certificate and not new.certificate.is_valid(now):
            message = f"clients would refuse the new certificate: {new.certificate.render(now)}"
            raise InputError(message, "Renew it, and reload again.")
        return new

    def _is_switched(self) -> bool:
        """Whether every new connection reaches the current generation and none an older one."""
        return self.candidate is None and not any(each.accepts_connections for each in self.draining)

    def _finish_reload(self, error: str) -> None:
        self._count(families.RELOADS, "failure" if error else "success")
        result = self.reloads.finish(self.current.number if self.current else 0, error)
        text = status.render_status(self)
        if error:
            self._journal.error(f"reload failed, the previous configuration stays active: {error}")
        else:
            self._journal.notice(f"reloaded in {result.seconds:.1f} s, generation {result.generation}: {text}")
        self._notifier.ready(text)
        # Last: a client that gets the result must find it in the journal and in `systemctl status`.
        self.reloads.notify(result)

    # Stop.

    def _on_leave(self, client: ControlClient) -> None:
        """ExecStop= asks to leave the load balancer, and stops this process when it has its answer."""
        if not self.leave.is_planned and self._can_leave():
            self._begin_leave()
        self.leave.wait(client)
        self._end_leave(time.monotonic())

    def _can_leave(self) -> bool:
        """Whether a load balancer may send requests."""
        return self.leave.delay > 0 and self.current is not None and not self.stopping

    def _begin_leave(self) -> None:
        self.leave.begin()
        delay = f"{self.leave.delay:g} s"
        self._journal.notice(f"leaving: /health/readiness answers 503 for {delay}, then the port closes")
        self._notifier.status(status.render_status(self))

    def _end_leave(self, now: float) -> None:
        """Begin the drain, or let ExecStop= do so, if the load balancer has had its time."""
        if self.stopping or now >= self.leave.over_at:
            self.leave.end()
            if self._owns_port and self.leave.is_planned and not self.stopping:
                self._on_stop()

    def _on_terminate(self) -> None:
        """SIGTERM: leave, then drain. Another one ends the leave, and one more the drain."""
        if self._sigterm_follows:
            self._sigterm_follows = False
        elif self._owns_port and not self.leave.is_planned and self._can_leave():
            self._begin_leave()
        else:
            self._sigterm_follows = self.leave.is_awaited
            self._on_stop()

    def _on_stop(self) -> None:
        if self.stopping:
            self._journal.notice("stop requested again: force-closing in-flight requests")
            for worker in self.workers:
                worker.force_close(time.monotonic() + _EXIT_TIMEOUT)
        else:
            self._stop()
            text = status.render_status(self)
            self._notifier.stopping(text)
            self._journal.notice(text)

    def _stop(self) -> None:
        self.stopping = True
        self._watchdog.forget_extension()
        # The workers close them as well. If systemd holds the sockets, only systemd can close the port.
        for listener in self.listeners:
            listener.close()
        self.listeners = ()
        self.recycling.cancel()
        for generation in filter(None, (self.candidate, self.current)):
            self._drain(generation)
        self.candidate = self.current = None
        self.reloads.cancel(_STOPPING)
        self.leave.end()

    # Messages and exits of workers.

    def _on_message(self, generation: Generation, worker: WorkerHandle, message: Message) -> None:
        if isinstance(message, Heartbeat):
            self._on_heartbeat(generation, worker, message)
        elif isinstance(message, StartFailed):
            worker.start_error, worker.failed_by_litellm = message.cause, message.by_litellm
        elif isinstance(message, Refusals):
            self.refusals.add(message, time.monotonic())
        elif isinstance(message, FailureReport):
            self._failures.add(message, time.monotonic())
        elif isinstance(message, Environment):
            generation.environment = message.variables
            self._fill(generation)
        elif isinstance(message, Drained):
            self._on_drained(worker, message)

    def _on_drained(self, worker: WorkerHandle, message: Drained) -> None:
        worker.on_drained(time.monotonic() + _SHUTDOWN_TIMEOUT)
        self._count(families.DRAINS, "cut" if message.cut else "complete")
        if message.cut:
            self._count(families.CUT_REQUESTS, amount=message.cut)
            requests = status.render_count(message.cut, "request")
            self._journal.warning(f"{worker} force-closed {requests} after {message.seconds:.0f} s of draining")

    def _on_heartbeat(self, generation: Generation, worker: WorkerHandle, heartbeat: Heartbeat) -> None:
        if worker.record(heartbeat, time.monotonic()):
            self._on_serving(generation, worker)
        is_ready_candidate = generation is self.candidate and generation.ready
        if generation is self.candidate and generation.serving:
            self._promote(generation)
        elif generation in (self.current, self.recycling.replacement) or is_ready_candidate:
            generation.let_serve()

    def _on_serving(self, generation: Generation, worker: WorkerHandle) -> None:
        filled = generation.on_serving(worker)
        if generation is self.recycling.replacement:
            self._count(families.WORKER_RESTARTS, self.recycling.cause)
            self.recycling.complete(worker, filled, time.monotonic())
        elif filled is not None:
            self.restarts += 1
            self._journal.warning(f"{filled.reason}, replaced in {time.monotonic() - filled.since:.1f} s")

    def _on_exit(self, generation: Generation, worker: WorkerHandle, reason: str, clean: bool) -> None:
        if self.metrics is not None:
            self.metrics.on_exit(worker.pid, reason)
        else:
            forget_live_gauges(worker.pid)
        if generation is self.candidate:
            generation.workers.remove(worker)
            if worker.start_error:
                error = worker.start_error
                if worker.failed_by_litellm:
                    error = f"LiteLLM rejects {generation.configuration.path}: {error}"
                self._reject(generation, error, ExitCode.CONFIG)
            else:
                self._reject(generation, f"{reason} before it was ready", ExitCode.TEMPORARY)
        elif generation is self.current:
            self._count(families.WORKER_RESTARTS, worker.exit_cause)
            self.recycling.on_worker_exit(worker)
            self._replace(generation, worker, reason)
        elif generation is self.recycling.replacement:
            self.recycling.on_failed_start(worker, reason, time.monotonic())
        else:
            generation.workers.remove(worker)
            if worker.kill_reason and not worker.has_drained:
                self._count(families.DRAINS, "cut")  # it could not report it
            self.draining = [each for each in self.draining if each.workers]
            if not clean and not worker.discarded:
                self._journal.warning(reason)

    def _on_other_exit(self, pid: int, outcome: str) -> None:
        if self._document is not None:
            self._document.on_exit(pid, outcome, self._journal)
        if self.metrics is not None:
            self.metrics.on_exit(pid, outcome)

    def _replace(self, generation: Generation, worker: WorkerHandle, reason: str) -> None:
        now = time.monotonic()
        vacancy = generation.remove(worker, reason, now)
        if not vacancy.failures:
            self._fill(generation)
            return
        cause = generation.start_error = worker.start_error or reason
        if vacancy.failures >= _MAX_FAILED_STARTS and not generation.workers:
            self._fail(f"no worker can start: {cause}", ExitCode.CONFIG)
        else:
            self._journal.error(f"cannot start a worker: {cause}. Retrying in {vacancy.retry_at - now:.0f} s")

    # Timeouts.

    def _tick(self, now: float) -> None:
        self._pool.reap()
        if self.metrics is not None and self.metrics.tick(now, self._build_metrics):
            self._start_exporter()
        self.refusals.tick(now)
        self._excuse_pause(now)
        self._failures.tick(now)
        if self.current is not None and (tls := self.current.configuration.tls) is not None:
            self._certificates.tick(tls.certificate, datetime.now(timezone.utc))
        if not self.stopping:
            self.database.update((worker.heartbeat.database for worker in self.workers), now)
            self.redis.update((worker.heartbeat.redis for worker in self.workers), now)
        for worker in self.workers:
            if block := worker.enforce_limits(now, self.options.start_timeout, self.options.hang_limit):
                self._journal.warning(f"{block}. Its other requests waited")
        for generation in self.generations:
            for worker in generation.workers:
                for each in worker.take_blocks():
                    self.blocks.add(str(worker), each, generation.configuration.texts, now)
        if self.current is not None and len(self.generations) == 1 and not self.reloads.running:
            self.recycling.begin(self.current, now)
        for generation in self.generations:
            self._fill(generation)  # a draining generation has no vacancies
        if self.reloads.running and self._is_switched():
            self._finish_reload("")
        if self.current is not None and self.candidate is None and self.reloads.begin():
            self._begin_reload()
        if self.candidate is not None and now > self._start_deadline:
            late = f"not ready after START_TIMEOUT={self.options.start_timeout:g} s{self.candidate.obstacle}"
            self._reject(self.candidate, late, ExitCode.TEMPORARY)
        if self.leave.is_planned:
            self._end_leave(now)
        self._notifier.status(self._fatal_error or status.render_status(self))
        # During a start or stop no worker may be responsive. TimeoutStartSec= and TimeoutStopSec= limit those.
        if self.current is None or self.current.is_responsive(now, self.options.hang_limit):
            self._watchdog.ping(now)
        # systemd's timeout of the start has gone on during a pause.
        if self.stopping or self.leave.is_planned or (self.current is None and self._was_paused):
            self._watchdog.extend(now)

    def _build_metrics(self, now: float) -> State:
        return State((*self._constants, *build_gauges(self, now)), list_processes(self.workers))

    def _excuse_pause(self, now: float) -> None:
        """Extend all timeouts by the time in which this process did not run, and log one line about a long pause."""
        pause = self._pauses.measure(now)
        if pause.missed:
            self._was_paused = True
            self._start_deadline += pause.missed
            self.leave.excuse(pause.missed)
            for worker in self.workers:
                worker.excuse(pause.missed, now)
        if pause.text:
            self._journal.notice(pause.text)
