"""The command `check`: whether the service would start with a configuration. It serves nothing."""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import MutableMapping
from dataclasses import replace
from pathlib import Path

from litellm_systemd.contract import ExitCode
from litellm_systemd.errors import InputError, InstallerError
from litellm_systemd.runtime.channel import Heartbeat, StartFailed
from litellm_systemd.runtime.configuration import load_configuration
from litellm_systemd.runtime.journal import Journal, open_journal, redirect_loggers
from litellm_systemd.runtime.master.status import render_error
from litellm_systemd.runtime.master.worker_pool import WorkerHandle, spawn
from litellm_systemd.runtime.options import read_options
from litellm_systemd.runtime.worker import litellm_adapter
from litellm_systemd.runtime.worker.worker import Job


def main(config: Path, environ: MutableMapping[str, str] = os.environ) -> int:
    """Lint a configuration, and load it with LiteLLM in a worker. Returns 0, or 78 after logging the reason."""
    journal = open_journal(environ)
    try:
        _check(config, environ, journal)
    except InstallerError as error:
        journal.error(render_error(error))
        return ExitCode.CONFIG
    return ExitCode.OK


def _check(config: Path, environ: MutableMapping[str, str], journal: Journal) -> None:
    options = replace(read_options(config, environ), workers=1)
    configuration = load_configuration(options.config, environ)
    litellm_adapter.preload(environ)
    redirect_loggers(journal)
    worker = spawn(Job(1, options, configuration, (), None), journal, lambda: None, time.monotonic())
    try:
        error = _await_ready(worker, options.start_timeout)
    finally:
        worker.send_signal(signal.SIGKILL)
        os.waitpid(worker.pid, 0)
    if error:
        raise InputError(error)


def _await_ready(worker: WorkerHandle, seconds: float) -> str:
    """Wait until the worker is ready. Returns the error, or an empty string when it is ready."""
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(worker.channel.fileno(), selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            for message in worker.messages():
                if isinstance(message, Heartbeat):
                    return ""
                if isinstance(message, StartFailed):
                    return message.cause
                if message is None:
                    return "LiteLLM exited without an error message"
    return f"LiteLLM is not ready after {seconds:g} s"
