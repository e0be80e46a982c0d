"""The command line of the runtime. Units call it, people seldom do.

Each command imports what it needs after parsing: `port` and `reload` run beside a start and must be quick.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from litellm_systemd.contract import CONFIG_FILE, ExitCode


def main(argv: Sequence[str]) -> int:
    """Run one command; its exit code."""
    arguments = _parser().parse_args(argv)
    command: str | None = arguments.command
    if command == "port":
        from litellm_systemd.runtime.systemd.port import main as port

        return port(arguments.address)
    if command == "reload":
        from litellm_systemd.runtime.master.control import reload_main

        return reload_main(arguments.pid, os.environ)
    if command == "status":
        from litellm_systemd.runtime.master.control import status_main

        return status_main(os.environ)
    if command == "stopped":
        from litellm_systemd.runtime.systemd.stop import main as stopped

        return stopped(os.environ)
    if command == "stopping":
        from litellm_systemd.runtime.systemd.stop import stopping_main

        return stopping_main()
    if command == "check":
        from litellm_systemd.runtime.check import main as check

        return check(arguments.config, os.environ)
    if command == "reach":
        from litellm_systemd.runtime.connectivity import main as reach

        return reach(arguments.urls, os.environ)
    from litellm_systemd.runtime.serve import main as serve

    return serve(arguments.config, os.environ)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        # argparse exits with 2, which means something else to us (contract.ExitCode.CHANGES).
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"{self.prog}: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="litellm_systemd.runtime", description="Serve LiteLLM under systemd.")
    parser.add_argument("--config", type=Path, default=Path(CONFIG_FILE), help="a LiteLLM configuration")
    commands = parser.add_subparsers(dest="command", title="commands (none: serve)")
    check = commands.add_parser("check", help="load a configuration as the service would, without serving")
    check.add_argument("--config", type=Path, default=Path(CONFIG_FILE), help="a LiteLLM configuration")
    reload = commands.add_parser("reload", help="for ExecReload=: reload the service and wait for the outcome")
    reload.add_argument("--pid", type=int, help="the main process, to be sure to ask the right one")
    port = commands.add_parser("port", help="for the socket's ExecStartPre=: say who holds a port")
    port.add_argument("address", metavar="HOST:PORT")
    commands.add_parser("status", help="print the running service's facts as JSON")
    reach = commands.add_parser("reach", help="for doctor: say how far one gets on the way to each URL")
    reach.add_argument("urls", metavar="URL", nargs="*")
    commands.add_parser("stopping", help="for ExecStop=: let no client undo a stop while it drains")
    commands.add_parser("stopped", help="for ExecStopPost=: close the port if the service is to stay down")
    return parser
