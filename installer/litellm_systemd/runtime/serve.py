"""From exec to the master's loop: everything that can be wrong is found here, the cheap things first."""

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
from litellm_systemd.runtime.journal import adopt_loggers, adopt_strays, open_journal
from litellm_systemd.runtime.master.master import Master
from litellm_systemd.runtime.master.status import render_error
from litellm_systemd.runtime.options import read_options
from litellm_systemd.runtime.systemd.listeners import take_listeners
from litellm_systemd.runtime.systemd.notify import Notifier
from litellm_systemd.runtime.worker import litellm_adapter


def main(config: Path, environ: MutableMapping[str, str] = os.environ) -> int:
    """Serve until told to stop; the exit code. 78 if configuration or environment are wrong, 69 if the port is."""
    born = time.monotonic()
    faulthandler.enable()  # systemd's watchdog sends SIGABRT: say where this process hung
    journal = open_journal(environ)
    adopt_strays(journal)
    notifier = Notifier(environ)
    # Until there is something to reload. The default action would end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        options = read_options(config, environ)
        configuration = load_configuration(options.config, environ)
        listeners = take_listeners(environ, options.host, options.port, options.trial_socket)
    except InstallerError as error:
        journal.error(render_error(error))
        notifier.status(render_error(error))
        # Whatever is wrong with a file or a variable, a restart won't mend it (RestartPreventExitStatus=78).
        return error.code if isinstance(error, Unavailable) else ExitCode.CONFIG
    if options.mock_testing and options.trial_socket is None:
        journal.warning(WARNING)
    notifier.status("importing LiteLLM")
    if options.json_logs:
        environ[JSON_LOGS.name] = "true"  # the only word for yes that LiteLLM takes
    litellm_adapter.preload(environ)
    adopt_loggers(journal)
    adopt_strays(journal)  # again: under JSON_LOGS, LiteLLM takes sys.excepthook

    master = Master(
        options,
        configuration,
        listeners,
        lambda: load_configuration(options.config, environ),
        notifier,
        journal,
        born,
    )
    return master.run()
