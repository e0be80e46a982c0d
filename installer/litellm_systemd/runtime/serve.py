"""The start of the service, and the command `check`, which tests it and serves nothing.

What can fail is checked first, the cheap checks before the expensive ones.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import selectors
import signal
import socket
import tempfile
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path

from litellm_systemd.contract import METRICS_DIRECTORY, METRICS_SOCKET, ExitCode
from litellm_systemd.env.service_credential import add_secrets
from litellm_systemd.env.tls import ca_trouble, load_pair, read_pair
from litellm_systemd.env.variables import JSON_LOGS, MOCK_TESTING_WARNING, SSL_CERT_FILE
from litellm_systemd.errors import InputError, InstallerError, PermissionDenied, Unavailable
from litellm_systemd.runtime.channel import Heartbeat, StartFailed
from litellm_systemd.runtime.journal import Journal, install_exception_hooks, open_journal, redirect_loggers
from litellm_systemd.runtime.master.master import Master
from litellm_systemd.runtime.master.metrics import Metrics
from litellm_systemd.runtime.master.worker_pool import WorkerHandle, spawn
from litellm_systemd.runtime.metrics.multiprocess import share_metrics
from litellm_systemd.runtime.options import Configuration, Options, load_configuration, read_options
from litellm_systemd.runtime.secret_store import get_secrets
from litellm_systemd.runtime.systemd.notify import Notifier
from litellm_systemd.runtime.systemd.port import Inherited, inherit, take_listeners, take_metrics_listener
from litellm_systemd.runtime.worker import litellm_adapter, litellm_database
from litellm_systemd.runtime.worker.api_document import ApiDocument
from litellm_systemd.runtime.worker.worker import Job

_CAUSE = "For the cause, run: sudo litellmctl doctor"
#: What to do if the service's user cannot read a configuration.
_RESTORE_ACCESS = "The service runs as litellm. To restore the mode and owner: sudo litellmctl doctor --fix"


def main(config: Path, environ: MutableMapping[str, str] = os.environ) -> int:
    """Serve until the service is stopped. Returns the exit code.

    It is 78 (EX_CONFIG) if the configuration or the environment is invalid, 69 (EX_UNAVAILABLE) if another process
    listens on the port, or if secrets in AWS are not available now.
    """
    started_at = time.monotonic()
    faulthandler.enable()  # prints the stack when systemd's watchdog sends SIGABRT
    journal = open_journal(environ)
    install_exception_hooks(journal)
    notifier = Notifier(environ)
    # Ignore SIGHUP until there is something to reload. Its default action ends the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if os.getpid() != 1:  # in a container, __main__ has set handlers
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        options, configuration = _load(config, environ)
        if options.tls_files is not None:
            configuration = replace(configuration, tls=load_pair(read_pair(options.tls_files)))
        inherited = inherit(environ)
        listeners = take_listeners(inherited, options.host, options.port, options.trial_socket)
        metrics_listener = take_metrics_listener(inherited, options.metrics)
    except InstallerError as error:
        if isinstance(error, PermissionDenied):
            error.hint = _RESTORE_ACCESS
        journal.error(error.render())
        notifier.status(error.render())
        # A restart cannot fix a file or a variable, so systemd does not try (RestartPreventExitStatus=78).
        return error.code if isinstance(error, Unavailable) else ExitCode.CONFIG
    if options.mock_testing and options.trial_socket is None:
        journal.warning(MOCK_TESTING_WARNING)
    notifier.status("importing LiteLLM")
    if options.json_logs:
        environ[JSON_LOGS.name] = "true"  # LiteLLM accepts no other value
    metrics = None
    if metrics_listener is not None:
        metrics = _start_metrics(metrics_listener, inherited, options, environ, journal, (*listeners, notifier))
    elif options.metrics:
        journal.error(f"METRICS={options.metrics} is off: {METRICS_SOCKET} passes no listener. {_CAUSE}")
    if metrics is None:
        share_metrics(environ, options.runtime_directory, options.workers)
    failure = litellm_adapter.preload(environ, metrics=metrics is not None)
    redirect_loggers(journal)
    if failure and metrics is not None:
        metrics.callback = False
        journal.error(f"METRICS has no metrics of LiteLLM, which this release does not know: {failure}")
    install_exception_hooks(journal)  # again, because LiteLLM sets sys.excepthook with JSON_LOGS

    master = Master(
        options,
        configuration,
        listeners,
        lambda: load_configuration(options.config, environ),
        notifier,
        journal,
        started_at,
        _start_document(listeners, metrics, journal),
        metrics,
        owns_port=not inherited.port and options.trial_socket is None,
    )
    return master.run()


def _load(config: Path, environ: MutableMapping[str, str]) -> tuple[Options, Configuration]:
    """The options and the configuration. Adds all secrets to the environment.

    Raises:
        InstallerError: one of them cannot be used.
    """
    add_secrets(environ)
    options = read_options(config, environ)
    environ.update(get_secrets(options.references, environ))
    configuration = load_configuration(options.config, environ)
    _check_ca_file(environ)
    if configuration.has_database:
        litellm_database.check_parts(environ)
    return options, configuration


def _check_ca_file(environ: Mapping[str, str]) -> None:
    """Check the file with which the import of LiteLLM would end in a traceback."""
    path, trouble = environ.get(SSL_CERT_FILE.name), ""
    with contextlib.suppress(OSError):  # which LiteLLM reports with the path
        trouble = ca_trouble(Path(path)) if path else ""
    if trouble:
        raise InputError(f"{SSL_CERT_FILE.name}={path}: {trouble}", "Write certificates in PEM format into it.")


def _start_metrics(
    listener: socket.socket,
    inherited: Inherited,
    options: Options,
    environ: MutableMapping[str, str],
    journal: Journal,
    others: Sequence[socket.socket | Notifier],
) -> Metrics | None:
    """Start to count and to serve /metrics. None if that fails, which does not stop the gateway.

    Without the folder that outlives this process, the counts begin at zero with each start.
    """
    own = options.runtime_directory or Path(tempfile.mkdtemp())
    metrics = None
    # Next to the folder of this service: its standby has another one, and the same folder next to it.
    shared = own.parent / Path(METRICS_DIRECTORY).name
    for root in (shared, own / "metrics") if inherited.metrics else (own / "metrics",):
        try:
            if root.parent == own:
                root.mkdir(mode=0o700, exist_ok=True)
            metrics = Metrics(listener, root, environ, journal)
            break
        except OSError as error:
            journal.error(f"METRICS={options.metrics} cannot count in {root}: {error.strerror or error}. {_CAUSE}")
    if metrics is None:
        listener.close()
        return None

    def close_inherited() -> None:
        for each in others:
            each.close()

    metrics.start(close_inherited)
    return metrics


def _start_document(
    listeners: Sequence[socket.socket], metrics: Metrics | None, journal: Journal
) -> ApiDocument | None:
    """Start to build LiteLLM's API document, if it is on."""
    render = litellm_adapter.api_renderer()
    if render is None:
        return None

    def close_inherited() -> None:
        for each in listeners:
            each.close()
        if metrics is not None:
            metrics.close_in_child()  # else the process that serves METRICS would not exit before the builder

    document = ApiDocument()
    document.build(render, close_inherited, journal)
    return document


def check_main(config: Path, environ: MutableMapping[str, str] = os.environ) -> int:
    """Lint a configuration, and load it with LiteLLM in a worker. Returns 0, or 78 after logging the reason."""
    journal = open_journal(environ)
    try:
        _check(config, environ, journal)
    except InstallerError as error:
        journal.error(error.render())
        return ExitCode.CONFIG
    return ExitCode.OK


def _check(config: Path, environ: MutableMapping[str, str], journal: Journal) -> None:
    options, configuration = _load(config, environ)
    options = replace(options, workers=1)
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
