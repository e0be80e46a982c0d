"""The start of the main process: it checks everything that can fail, the cheap checks first, and runs the master."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from collections.abc import MutableMapping
from pathlib import Path

from litellm_systemd.contract import ExitCode
from litellm_systemd.env.mock_testing import WARNING
from litellm_systemd.env.variables import JSON_LOGS
from litellm_systemd.errors import InstallerError, Unavailable
from litellm_systemd.runtime.configuration import load_configuration
from litellm_systemd.runtime.journal import install_exception_hooks, open_journal, redirect_loggers
from litellm_systemd.runtime.master.master import Master
from litellm_systemd.runtime.master.status import render_error
from litellm_systemd.runtime.options import read_options
from litellm_systemd.runtime.systemd.listeners import take_listeners
from litellm_systemd.runtime.systemd.notify import Notifier
from litellm_systemd.runtime.worker import litellm_adapter


def main(config: Path, environ: MutableMapping[str, str] = os.environ) -> int:
    """Serve until the service is stopped. Returns the exit code.

    It is 78 (EX_CONFIG) if the configuration or the environment is invalid, 69 (EX_UNAVAILABLE) if another process
    listens on the port.
    """
    started_at = time.monotonic()
    faulthandler.enable()  # prints the stack when systemd's watchdog sends SIGABRT
    journal = open_journal(environ)
    install_exception_hooks(journal)
    notifier = Notifier(environ)
    # Ignore SIGHUP until there is something to reload. Its default action ends the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        options = read_options(config, environ)
        configuration = load_configuration(options.config, environ)
        listeners = take_listeners(environ, options.host, options.port, options.trial_socket)
    except InstallerError as error:
        journal.error(render_error(error))
        notifier.status(render_error(error))
        # A restart cannot fix a file or a variable, so systemd does not try (RestartPreventExitStatus=78).
        return error.code if isinstance(error, Unavailable) else ExitCode.CONFIG
    if options.mock_testing and options.trial_socket is None:
        journal.warning(WARNING)
    notifier.status("importing LiteLLM")
    if options.json_logs:
        environ[JSON_LOGS.name] = "true"  # LiteLLM accepts no other value
    litellm_adapter.preload(environ)
    redirect_loggers(journal)
    install_exception_hooks(journal)  # again, because LiteLLM sets sys.excepthook with JSON_LOGS

    master = Master(
        options,
        configuration,
        listeners,
        lambda: load_configuration(options.config, environ),
        notifier,
        journal,
        started_at,
    )
    return master.run()
