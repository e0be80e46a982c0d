"""The API document, which a process of its own builds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.runtime.activity import Activity
from litellm_systemd.runtime.channel import open_channel
from litellm_systemd.runtime.journal import Journal
from litellm_systemd.runtime.master.event_loop import EventLoop
from litellm_systemd.runtime.master.worker_pool import Generation, WorkerHandle, WorkerPool
from litellm_systemd.runtime.options import Configuration, Options
from litellm_systemd.runtime.worker.api_document import ApiDocument
from litellm_systemd.runtime.worker.worker import Job

CONFIGURATION = Configuration(Path("/etc/litellm/config.yaml"), "0" * 64, 1, {})
KILLED = "<4>the API document is off, because the process that builds it was killed by SIGKILL"


def kill() -> Any:
    signal.raise_signal(signal.SIGKILL)


@pytest.mark.parametrize(
    ("render", "text", "lines"), [(kill, b"", [KILLED]), (lambda: {"paths": {}}, b'{"paths":{}}', [])]
)
def test_builder_exits(monkeypatch: pytest.MonkeyPatch, render: Any, text: bytes, lines: list[str]) -> None:
    """If the process that builds the document is killed, clients get none at once, and the journal has the cause."""
    logged: list[str] = []
    monkeypatch.setattr(Journal, "line", lambda _, priority, text: logged.append(f"<{priority}>{text}"))
    document, events = ApiDocument(), EventLoop()
    job = Job(0, Options(config=CONFIGURATION.path), CONFIGURATION, (), None, document=document)
    pool = WorkerPool(
        events,
        Journal(),
        job,
        lambda: None,
        lambda *_: None,
        lambda *_: None,
        lambda pid, outcome: document.on_exit(pid, outcome, Journal()),
    )
    with contextlib.closing(events), subprocess.Popen(["sleep", "60"]) as process:
        worker = WorkerHandle(1, process.pid, open_channel()[0], Activity(), 0.0)
        generation = Generation(1, CONFIGURATION, 1, lambda *_: worker, 0.0)
        pool._running[process.pid] = generation, worker
        document.build(render, lambda: None, Journal())
        os.waitid(os.P_PID, document._builder, os.WEXITED | os.WNOWAIT)
        pool.reap()
        process.kill()
    assert asyncio.run(document.read(0)) == text
    assert logged == lines
