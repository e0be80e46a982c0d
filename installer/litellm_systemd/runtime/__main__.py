"""`python -m litellm_systemd.runtime`: the command line of the runtime, for the units.

Names of commands are published: the units of earlier releases call them. Each command imports its module after
parsing, because `port` and `reload` run during a start or reload and must be fast.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from litellm_systemd.contract import CONFIG_FILE, ExitCode


def main(argv: Sequence[str]) -> int:
    """Run one command. Returns its exit code."""
    arguments = _parser().parse_args(argv)
    command: str | None = arguments.command
    if command == "port":
        from litellm_systemd.runtime.systemd.port import main as port

        return port(arguments.address, is_metrics=arguments.metrics)
    if command == "reload":
        from litellm_systemd.runtime.master.control import reload_main

        return reload_main(arguments.pid, os.environ)
    if command == "status":
        from litellm_systemd.runtime.master.control import status_main

        return status_main(os.environ)
    if command == "stopped":
        from litellm_systemd.runtime.stop import stopped_main

        return stopped_main(os.environ)
    if command == "stopping":
        from litellm_systemd.runtime.stop import stopping_main

        return stopping_main(os.environ)
    if command == "drained":
        from litellm_systemd.runtime.stop import drained_main

        return drained_main()
    if command == "check":
        from litellm_systemd.runtime.serve import check_main

        return check_main(arguments.config, os.environ)
    if command == "secrets":
        from litellm_systemd.runtime.secret_store import main as secrets

        return secrets(os.environ)
    if command == "reach":
        from litellm_systemd.env.service_credential import add_secrets
        from litellm_systemd.runtime.connectivity import main as reach

        add_secrets(os.environ)  # a proxy may have a password
        return reach(arguments.urls, os.environ)
    if os.getpid() == 1:
        _handle_signals_of_pid_1()
    from litellm_systemd.runtime.journal import install_exception_hooks, open_journal

    # The next import fails if a library is damaged or may not be loaded. The journal has that error as one, too.
    install_exception_hooks(open_journal(os.environ))
    from litellm_systemd.runtime.serve import main as serve

    return serve(arguments.config, os.environ)


def _handle_signals_of_pid_1() -> None:
    """In a container: exit at a signal until there is something to drain.

    The kernel drops signals for which PID 1 has no handler, and importing LiteLLM takes seconds.
    """

    def exit_at_once(_number: int, _frame: object) -> None:
        # An exception could end in an `except:` of a module that is being imported.
        os._exit(ExitCode.OK)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, exit_at_once)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        # argparse exits with 2, which has another meaning in this project (contract.ExitCode.CHANGES).
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="litellm_systemd.runtime", description="Run the LiteLLM proxy as a systemd service.")
    parser.add_argument("--config", type=Path, default=Path(CONFIG_FILE), help="the LiteLLM configuration")
    commands = parser.add_subparsers(dest="command", title="commands (default: serve)")
    check = commands.add_parser("check", help="check that the service would start with a configuration")
    check.add_argument("--config", type=Path, default=Path(CONFIG_FILE), help="the LiteLLM configuration")
    reload = commands.add_parser("reload", help="for ExecReload=: reload, and wait for the result")
    reload.add_argument("--pid", type=int, help="the expected main process; fail if another one answers")
    port = commands.add_parser("port", help="for ExecStartPre= of the socket: check that a port is free")
    port.add_argument("address", metavar="HOST:PORT")
    port.add_argument("--metrics", action="store_true", help="the port is that of METRICS")
    commands.add_parser("status", help="print the status of the running service as JSON")
    reach = commands.add_parser("reach", help="for doctor: test the connection to each URL")
    reach.add_argument("urls", metavar="URL", nargs="*")
    commands.add_parser("secrets", help="for litellmctl: print the secrets that variables refer to in AWS")
    commands.add_parser("stopping", help="for ExecStop=: leave the load balancer, and close the port for the drain")
    commands.add_parser("stopped", help="for ExecStopPost=: close the port if the service stays stopped")
    commands.add_parser("drained", help="for the unit of a drain: wait until the service has stopped")
    return parser


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
