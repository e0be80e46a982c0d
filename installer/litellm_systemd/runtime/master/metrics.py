"""The metrics of a main process: its folder, its counters, and the child that serves them."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

from litellm_systemd.env.retired_keys import read_retired_keys
from litellm_systemd.env.variables import MASTER_KEY, METRICS_KEY
from litellm_systemd.runtime.journal import Journal
from litellm_systemd.runtime.master.event_loop import signals_blocked
from litellm_systemd.runtime.metrics import counting, exporter, families, store
from litellm_systemd.runtime.metrics.store import State, Store
from litellm_systemd.runtime.systemd.port import render_listener

#: Seconds between two states, and before the exporter is started again after it has exited.
_INTERVAL, _RETRY_DELAY = 1.0, 5.0


class Metrics:
    """Counts in a new folder below `root`, and serves all of `root` on `listener`.

    Create it before LiteLLM is imported.

    Raises:
        OSError: the folder cannot be created.
    """

    def __init__(
        self, listener: socket.socket, root: Path, environ: MutableMapping[str, str], journal: Journal
    ) -> None:
        self.listener = listener
        self._journal = journal
        self._store = Store(root)
        self.counters = counting.start(environ, self._store.folder, journal.warning)
        retired = read_retired_keys(environ)
        keys = tuple(filter(None, (environ.get(METRICS_KEY.name), environ.get(MASTER_KEY.name))))
        with contextlib.suppress(OSError):  # without room there is none until the first tick that finds some
            # Until LiteLLM is imported, which takes seconds.
            self._store.write_state(State(((families.READY.name, {}, 0.0),), {"main": (os.getpid(),)}))
        self._alive, self._end = os.pipe()
        self._task = exporter.Task(listener, root, self._store.folder, keys, self._alive, journal.warning, retired)
        self._pid = 0
        self._retry_at = 0.0
        self._due_at = 0.0
        self._error = ""
        #: Whether LiteLLM counts its own metrics.
        self.callback = True

    def start(self, close_inherited: Callable[[], None]) -> None:
        """Fork the exporter. `close_inherited` closes in it what only the main process may hold."""
        with signals_blocked() as before:
            try:
                self._pid = os.fork()
            except OSError as error:
                self._retry_at = time.monotonic() + _RETRY_DELAY
                self._journal.error(f"cannot start the process that serves METRICS: {error.strerror or error}")
                return
            if self._pid:
                return
            try:
                close_inherited()
                os.close(self._end)
                exporter.run(self._task, before)
            except Exception as error:
                self._journal.error(f"the process that serves METRICS failed: {type(error).__name__}: {error}")
            finally:
                os._exit(1)

    def close_in_child(self) -> None:
        """In any other forked child: close what only the main process and the exporter may hold."""
        self.listener.close()
        for each in (self._alive, self._end):
            os.close(each)

    def stop(self) -> None:
        """End the exporter, and wait until it has answered the scrapes that it has accepted."""
        os.close(self._end)
        deadline = time.monotonic() + 2 * exporter.END_TIMEOUT
        while self._pid and time.monotonic() < deadline:
            if os.waitpid(self._pid, os.WNOHANG)[0]:
                self._pid = 0
            else:
                time.sleep(0.02)

    def on_exit(self, pid: int, outcome: str) -> None:
        """A child has been reaped: keep its counters, and forget its gauges."""
        if pid == self._pid:
            self._pid = 0
            self._retry_at = time.monotonic() + _RETRY_DELAY
            self._journal.error(f"the process that serves METRICS {outcome}, starting it again")
        self._store.forget(pid)

    def build_status(self) -> dict[str, Any]:
        """For the status: where the metrics are served, by which process, when they were last scraped (Unix time).

        `error`: why the last state could not be written; "" if it was. `callback`: whether LiteLLM's metrics are
        among them.
        """
        return {
            "listen": render_listener(self.listener),
            "directory": str(self._store.root),
            "exporter": self._pid or None,
            "last_scrape": store.last_scrape(self._store.root),
            "error": self._error,
            "callback": self.callback,
        }

    def tick(self, now: float, build: Callable[[float], State]) -> bool:
        """Publish what `build` returns, once a second. Returns whether `start` is due."""
        if now >= self._due_at:
            self._due_at = now + _INTERVAL
            state = build(now)
            self._error = ""
            try:
                self._store.write_state(state)
            except OSError as error:  # scrapes get the last state
                self._error = error.strerror or str(error)
        return not self._pid and now >= self._retry_at
