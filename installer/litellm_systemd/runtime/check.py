"""`check`: would the service start with this configuration? Nothing is served."""

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
from litellm_systemd.runtime.channel import Beat, Failed
from litellm_systemd.runtime.configuration import load_configuration
from litellm_systemd.runtime.journal import Journal, adopt_loggers, open_journal
from litellm_systemd.runtime.master.status import render_error
from litellm_systemd.runtime.master.worker_handle import WorkerHandle, spawn
from litellm_systemd.runtime.options import read_options
from litellm_systemd.runtime.worker import litellm_adapter
from litellm_systemd.runtime.worker.worker import Job


def main(config: Path, environ: MutableMapping[str, str] = os.environ) -> int:
    """Read, lint, and have LiteLLM load it in a process of its own; 0, or 78 and the reason."""
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
    adopt_loggers(journal)
    process = spawn(Job(1, options, configuration, (), None), journal, lambda: None, time.monotonic())
    try:
        cause = _wait(process, options.start_timeout)
    finally:
        process.signal(signal.SIGKILL)
        os.waitpid(process.pid, 0)
    if cause:
        raise InputError(cause)


def _wait(process: WorkerHandle, seconds: float) -> str:
    """Why the worker doesn't get ready; empty if it does."""
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(process.channel.fileno(), selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            for message in process.messages():
                if isinstance(message, Beat):
                    return ""
                if isinstance(message, Failed):
                    return message.cause
                if message is None:
                    return "LiteLLM ended without a reason"
    return f"LiteLLM isn't ready after {seconds:g} s"
