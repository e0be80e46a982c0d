"""The commands of ExecStop= and ExecStopPost=, run as root: they close the port if the service is to stay stopped.

Otherwise litellm.socket would start the service again at the next connection. After `systemctl stop litellm` that is
unexpected. After exit 78 it would be a restart loop that clients cause and RestartPreventExitStatus= does not
prevent. After a crash and during a restart the port stays open, and connections wait.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from litellm_systemd.contract import SERVICE, SOCKET, ExitCode


def stopping_main() -> int:
    """ExecStop=: queue a stop of the socket if the service is to stay stopped. Returns 0.

    After the standby of a restart has exited, systemd treats the socket as one without a service
    (socket_trigger_notify in socket.c). Then a connection during the drain would queue a start, which replaces the
    stop. A socket with a stop job of its own queues no start. `systemctl start` replaces both stop jobs.
    """
    if find_job(_list_jobs()) == "stop":
        _systemctl("stop", "--no-block", SOCKET)
    return ExitCode.OK


def main(environ: Mapping[str, str]) -> int:
    """ExecStopPost=: queue a stop of the socket if the port is to close. Returns 0.

    It does not wait for the stop, because systemd waits for this command.
    """
    if closes_port(environ.get("EXIT_STATUS", ""), find_job(_list_jobs())):
        # Without ignore-dependencies, a stop of the socket, which the service requires, would cancel the start job
        # that is about to fail. Then `systemctl start` would report the cancellation instead of where to find the
        # cause.
        _systemctl("stop", "--no-block", "--job-mode=ignore-dependencies", SOCKET)
    return ExitCode.OK


def closes_port(exit_status: str, job: str) -> bool:
    """Whether the port is to close, given $EXIT_STATUS (systemd.exec(5)) and the type of the service's job."""
    return job == "stop" or exit_status == str(int(ExitCode.CONFIG))


def find_job(jobs: str) -> str:
    """The type of the service's job in the output of `systemctl list-jobs`, such as stop; empty if it has none."""
    for line in jobs.splitlines():
        fields = line.split()
        if len(fields) >= 3 and fields[1] == SERVICE:
            return fields[2]
    return ""


def _list_jobs() -> str:
    return _systemctl("list-jobs", "--no-legend", "--full", SERVICE)


def _systemctl(*arguments: str) -> str:
    argv = ("systemctl", *arguments)
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        # The port stays open. That is no reason to fail the stop.
        print(f"cannot query systemd: {error}", file=sys.stderr)  # noqa: T201 - the output of a command
        return ""
