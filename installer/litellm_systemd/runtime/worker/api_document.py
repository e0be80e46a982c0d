"""LiteLLM's OpenAPI document, built once by a process of its own.

FastAPI would build it in the event loop of each worker: 3 to 4 s of CPU, in which the worker serves no other request,
and again whenever LiteLLM loads another of its features.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from litellm_systemd.runtime.journal import Journal

#: Seconds of processor time that the build may take. It takes about 5.
_CPU_LIMIT = 120
#: Seconds between two looks at an unfinished document.
_INTERVAL = 0.1
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK


class ApiDocument:
    """The document in memory that the main process shares with all workers (memfd_create(2)).

    It is sealed at the end, by the builder, or by the main process if the builder was killed. It is empty then, as
    after an error.
    """

    def __init__(self) -> None:
        self._builder = 0
        self._file = os.memfd_create("openapi.json", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)

    def build(self, render: Callable[[], Any], close_inherited: Callable[[], None], journal: Journal) -> None:
        """Fork a process that writes what `render` returns, as JSON. `close_inherited` closes what it may not hold.

        The main process must not have started other threads. It reaps the process with its workers, and calls
        `on_exit` then.
        """
        self._builder = os.fork()
        if self._builder > 0:
            return
        try:
            signal.setitimer(signal.ITIMER_PROF, _CPU_LIMIT)  # its default action ends this process
            close_inherited()
            logging.disable(logging.CRITICAL)
            text = memoryview(json.dumps(render(), separators=(",", ":")).encode())
            while text:
                text = text[os.write(self._file, text) :]
        except Exception as error:
            journal.warning(f"the API document is off, because LiteLLM cannot describe its API: {error!r}")
        finally:
            fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, _SEALS)
            os._exit(0)

    def on_exit(self, pid: int, outcome: str, journal: Journal) -> None:
        """In the main process: a child is reaped. Seal the document if the child was its builder and left it open."""
        if pid == self._builder and not self._is_sealed():
            os.ftruncate(self._file, 0)
            fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, _SEALS)
            journal.warning(f"the API document is off, because the process that builds it {outcome}")

    def _is_sealed(self) -> bool:
        return fcntl.fcntl(self._file, fcntl.F_GET_SEALS) & _SEALS == _SEALS

    async def read(self, timeout: float) -> bytes | None:
        """The document, empty if it cannot be built, or None if it is not complete after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while not self._is_sealed():
            if time.monotonic() >= deadline:
                return None
            await asyncio.sleep(_INTERVAL)
        return os.pread(self._file, os.fstat(self._file).st_size, 0)
