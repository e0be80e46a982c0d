"""For ExecStop= and ExecStopPost=, as root: close the port if the service is to stay down.

litellm.socket would start the service again at the next connection. An administrator who says
`systemctl stop litellm` doesn't expect that; and after exit 78 it would be a restart loop driven by clients, which
RestartPreventExitStatus= doesn't see. After a crash and during a restart the port stays open and connections wait.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from litellm_systemd.contract import SERVICE, SOCKET, ExitCode


def stopping_main() -> int:
    """Have the port close when the service has drained, if it is to stay down.

    When the standby of a restart has gone, systemd takes the socket for one without a service (socket_trigger_notify
    in its socket.c), and from then on a connection asks for a start, which in a drain would replace the stop. With a
    stop of its own waiting, the socket asks for nothing. A start by hand replaces both stops.
    """
    if find_job(_list_jobs()) == "stop":
        _systemctl("stop", "--no-block", SOCKET)
    return ExitCode.OK


def main(environ: Mapping[str, str]) -> int:
    """Decide, and tell systemd. It doesn't wait: systemd itself waits for this command."""
    if closes_port(environ.get("EXIT_STATUS", ""), find_job(_list_jobs())):
        # Without ignore-dependencies, stopping what the service requires would turn the job that is just failing into
        # one that was cancelled, and `systemctl start` would say that instead of where to look.
        _systemctl("stop", "--no-block", "--job-mode=ignore-dependencies", SOCKET)
    return ExitCode.OK


def closes_port(exit_status: str, job: str) -> bool:
    """Whether the port is to be closed, by $EXIT_STATUS (systemd.exec(5)) and the kind of job that runs."""
    return job == "stop" or exit_status == str(int(ExitCode.CONFIG))


def find_job(jobs: str) -> str:
    """The kind of job of the service in the output of `systemctl list-jobs`: stop, restart, start; empty if none."""
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
        # The port stays as it is: nothing here is worth a failed stop.
        print(f"can't ask systemd: {error}", file=sys.stderr)  # noqa: T201 - a command of its own
        return ""
