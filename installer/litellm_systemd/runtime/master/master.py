"""The master: starts generations of workers, replaces them, reloads, and stops (ADR 0003).

One thread, one loop. Nothing of LiteLLM runs here, so that nothing of one generation is left for the next.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable

from litellm_systemd.contract import CONTROL_SOCKET, ExitCode
from litellm_systemd.errors import InstallerError
from litellm_systemd.runtime.channel import Beat, Drained, Environment, Failed, Message
from litellm_systemd.runtime.configuration import Configuration
from litellm_systemd.runtime.journal import Journal
from litellm_systemd.runtime.master import status
from litellm_systemd.runtime.master.control import Client, Control
from litellm_systemd.runtime.master.event_loop import Events
from litellm_systemd.runtime.master.generation import Generation
from litellm_systemd.runtime.master.recycling import Recycling
from litellm_systemd.runtime.master.reloads import Reloads
from litellm_systemd.runtime.master.worker_handle import WorkerHandle
from litellm_systemd.runtime.master.worker_pool import WorkerPool
from litellm_systemd.runtime.options import Options
from litellm_systemd.runtime.systemd.notify import Notifier
from litellm_systemd.runtime.systemd.watchdog import Watchdog
from litellm_systemd.runtime.worker.worker import Job

#: The loop looks at its clocks this often.
_TICK = 0.25
#: A worker's time for its own end after the last request: LiteLLM flushes what it has buffered.
_FAREWELL = 15.0
#: A live generation that has no worker left ends the service after so many failed starts in a row.
_LAST_TRY = 5
_STOPPING = "the service is stopping"


class Master:
    """Runs until it is told to stop, or can't go on."""

    def __init__(
        self,
        options: Options,
        configuration: Configuration,
        listeners: tuple[socket.socket, ...],
        load: Callable[[], Configuration],
        notifier: Notifier,
        journal: Journal,
        born: float,
    ) -> None:
        self.options = options
        self.born = born
        self.listeners = listeners
        #: The generation that serves; the one that is being started; those that drain.
        self.current: Generation | None = None
        self.coming: Generation | None = None
        self.retiring: list[Generation] = []
        self.restarts = 0
        self.stopping = False
        self.reloads = Reloads()
        self.live_since = 0.0
        self._load = load
        self._notifier = notifier
        self._journal = journal
        self._events = Events()
        self._control: Control | None = None
        self._first = configuration
        job = Job(0, options, configuration, listeners, None)
        self._pool = WorkerPool(self._events, journal, job, self._release, self._on_message, self._on_end)
        self.recycling = Recycling(options, journal, self._pool.move, self._retire)
        self._count = 0
        self._deadline = born + options.start_timeout
        self._watchdog = Watchdog(notifier)
        self._code = ExitCode.OK
        self._last_words = ""

    def run(self) -> int:
        """The whole life; the exit code."""
        self._events.on_signal(signal.SIGCHLD, self._pool.reap)
        self._events.on_signal(signal.SIGHUP, self.reloads.ask)
        self._events.on_signal(signal.SIGTERM, self._on_stop)
        self._events.on_signal(signal.SIGINT, self._on_stop)
        if (directory := self.options.runtime_directory) is not None:
            self._control = Control(directory / CONTROL_SOCKET, self._events, self._on_command)
        self._start(self._first)
        try:
            while not self.stopping or self.processes:
                self._events.wait(_TICK)
                self._tick(time.monotonic())
        finally:
            if self._control is not None:
                self._control.close()
            self._events.close()
        if self._last_words:
            self._journal.error(self._last_words)
        return self._code

    @property
    def generations(self) -> list[Generation]:
        """All that have workers, the newest first."""
        return [each for each in (self.coming, self.recycling.spare, self.current, *reversed(self.retiring)) if each]

    @property
    def processes(self) -> list[WorkerHandle]:
        """All workers."""
        return self._pool.processes

    # Starting, and what follows from a generation's success or failure.

    def _start(self, configuration: Configuration) -> None:
        self.recycling.cancel()
        self._count += 1
        now = time.monotonic()
        self.coming = Generation(self._count, configuration, self.options.workers, self._pool.fork, now)
        self._fill(self.coming)
        self._notifier.status(status.render_status(self))

    def _fill(self, generation: Generation) -> None:
        if trouble := generation.fill(time.monotonic()):
            self._journal.error(f"can't start a worker: {trouble}")

    def _release(self) -> None:
        """In a fresh child: close what is the master's."""
        self._events.close()
        self._notifier.close()
        if self._control is not None:
            self._control.release()

    def _promote(self, generation: Generation) -> None:
        """All of it serves: it takes over, and the one before may go."""
        former, self.current, self.coming = self.current, generation, None
        self.live_since = time.time()
        if former is not None:
            self._retire(former)
        else:
            text = status.render_status(self)
            self._notifier.ready(text)
            self._journal.notice(f"{text}, ready after {time.monotonic() - self.born:.1f} s")

    def _retire(self, generation: Generation) -> None:
        limit = time.monotonic() + self.options.drain_timeout + self.options.lame_duck_timeout + _FAREWELL
        generation.retire(limit, self._journal.warning)
        self.retiring = [each for each in (*self.retiring, generation) if each.processes]

    def _give_up(self, generation: Generation, cause: str, code: ExitCode) -> None:
        """A generation that was to come doesn't."""
        self.coming = None
        self._retire(generation)
        if self.current is None:
            self._fail(cause, code)
        else:
            self._end_reload(cause)

    def _fail(self, cause: str, code: ExitCode) -> None:
        """The service can't go on. The reason is the last thing that is said, after the workers' own words."""
        self._code, self._last_words = code, cause
        self._stop()
        self._notifier.status(cause)

    # Reloading.

    def _on_command(self, command: str, client: Client) -> None:
        if command == "status":
            client.answer(status.build_status(self))
        elif command != "reload":
            client.answer({"ok": False, "error": f"unknown command: {command}"})
        elif self.stopping:
            client.answer({"ok": False, "error": _STOPPING})
        else:
            self.reloads.ask(client)

    def _begin_reload(self) -> None:
        self._deadline = time.monotonic() + self.options.start_timeout
        self._notifier.reloading("reloading: checking the configuration")
        try:
            configuration = self._load()
        except InstallerError as error:
            self._end_reload(status.render_error(error))
        else:
            self._start(configuration)

    def _is_live(self) -> bool:
        """Whether no new connection can reach the former generation any more."""
        return self.coming is None and not any(each.accepts for each in self.retiring)

    def _end_reload(self, error: str) -> None:
        outcome = self.reloads.end(self.current.number if self.current else 0, error)
        text = status.render_status(self)
        if error:
            self._journal.error(f"reload failed, the configuration before serves on: {error}")
        else:
            self._journal.notice(f"reloaded in {outcome.seconds:.1f} s, generation {outcome.generation}: {text}")
        self._notifier.ready(text)
        # Last, so that whoever hears of it finds it in the journal and in what systemd says.
        self.reloads.tell(outcome)

    # Stopping.

    def _on_stop(self) -> None:
        if self.stopping:
            self._journal.notice("asked to stop a second time: running requests are cut")
            for process in self.processes:
                process.hurry(time.monotonic() + _FAREWELL)
        else:
            self._stop()
            text = status.render_status(self)
            self._notifier.stopping(text)
            self._journal.notice(text)

    def _stop(self) -> None:
        self.stopping = True
        # The workers let go of them as well. Where systemd holds them, it depends on systemd whether the port closes.
        for listener in self.listeners:
            listener.close()
        self.listeners = ()
        self.recycling.cancel()
        for generation in filter(None, (self.coming, self.current)):
            self._retire(generation)
        self.coming = self.current = None
        self.reloads.refuse(_STOPPING)

    # What workers say, and how they end.

    def _on_message(self, generation: Generation, process: WorkerHandle, message: Message) -> None:
        if isinstance(message, Beat):
            self._on_beat(generation, process, message)
        elif isinstance(message, Failed):
            process.cause = message.cause
        elif isinstance(message, Environment):
            generation.environment = message.variables
            self._fill(generation)
        elif isinstance(message, Drained) and message.cut:
            self._journal.warning(f"{process} cut {message.cut} request(s) after {message.seconds:.0f} s")

    def _on_beat(self, generation: Generation, process: WorkerHandle, beat: Beat) -> None:
        if process.note(beat, time.monotonic()):
            self._settle(generation, process)
        if generation is self.coming and generation.serving:
            self._promote(generation)
        elif generation in (self.current, self.recycling.spare) or (generation is self.coming and generation.ready):
            generation.let_serve()

    def _settle(self, generation: Generation, process: WorkerHandle) -> None:
        story = generation.settle(process)
        if generation is self.recycling.spare:
            self.recycling.succeed(process, story, time.monotonic())
        elif story is not None:
            self.restarts += 1
            self._journal.warning(f"{story.why}, replaced in {time.monotonic() - story.since:.1f} s")

    def _on_end(self, generation: Generation, process: WorkerHandle, end: str, clean: bool) -> None:
        if generation is self.coming:
            generation.processes.remove(process)
            if process.cause:
                refusal = f"LiteLLM refuses {generation.configuration.path}: {process.cause}"
                self._give_up(generation, refusal, ExitCode.CONFIG)
            else:
                self._give_up(generation, f"{end} before it was ready", ExitCode.TEMPORARY)
        elif generation is self.current:
            self.recycling.lose(process)
            self._replace(generation, process, end)
        elif generation is self.recycling.spare:
            self.recycling.fail(process, end, time.monotonic())
        else:
            generation.processes.remove(process)
            self.retiring = [each for each in self.retiring if each.processes]
            if not clean and not process.dismissed:
                self._journal.warning(end)

    def _replace(self, generation: Generation, process: WorkerHandle, end: str) -> None:
        now = time.monotonic()
        vacancy = generation.lose(process, end, now)
        if not vacancy.failures:
            self._fill(generation)
            return
        cause = generation.trouble = process.cause or end
        if vacancy.failures >= _LAST_TRY and not generation.processes:
            self._fail(f"no worker can start any more: {cause}", ExitCode.CONFIG)
        else:
            self._journal.error(f"a new worker can't start: {cause}. Next try in {vacancy.due - now:.0f} s")

    # The clocks.

    def _tick(self, now: float) -> None:
        self._pool.reap()
        for process in self.processes:
            process.judge(now, self.options.start_timeout, self.options.hang_limit)
        if self.current is not None and len(self.generations) == 1 and not self.reloads.running:
            self.recycling.begin(self.current, now)
        for generation in self.generations:
            self._fill(generation)  # one that retires has no places to fill
        if self.reloads.running and self._is_live():
            self._end_reload("")
        if self.current is not None and self.coming is None and self.reloads.begin():
            self._begin_reload()
        if self.coming is not None and now > self._deadline:
            late = f"not ready after START_TIMEOUT={self.options.start_timeout:g} s"
            self._give_up(self.coming, self.coming.trouble or late, ExitCode.TEMPORARY)
        self._notifier.status(self._last_words or status.render_status(self))
        # While it starts or stops there may be no worker that answers; systemd has other limits for that.
        if self.current is None or self.current.answers(now, self.options.hang_limit):
            self._watchdog.beat(now)
        if self.stopping:
            self._watchdog.extend(now)
