"""What happens to the port when systemd stops the service: ExecStop= and ExecStopPost=, as root.

They close the port if the service is to stay stopped. Otherwise litellm.socket would start the service again at the
next connection. After `systemctl stop litellm` that is unexpected. After exit 78 it would be a restart loop that
clients cause and RestartPreventExitStatus= does not prevent. After a crash and during a restart the port stays open,
and connections wait.

Behind a load balancer no connection may wait: the balancer has other instances. ExecStop= first lets the main process
leave the balancer (`master.leave`). Then it stops the socket unit, so that with the drain the last descriptor of the
port is closed. A restart starts the socket again before the service. None of this happens at a restart during which a
standby serves. A stop ends the standby too, which requires the socket.

systemd refuses to start a socket whose service is still stopping (socket_start in socket.c). So until the drain is
complete, a temporary unit with Before=litellm.socket has a start job, for which that of the socket waits.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path

from litellm_systemd.contract import CONTROL_SOCKET, METRICS_SOCKET, RUNTIME, SERVICE, SOCKET, STANDBY, ExitCode
from litellm_systemd.errors import InstallerError

#: The sockets that close with the service: a scrape must not start it either. As a pattern (the last letter in
#: brackets), because systemctl reports an error for a unit that does not exist, and METRICS may be off.
_SOCKETS = (SOCKET, f"{METRICS_SOCKET[:-1]}[{METRICS_SOCKET[-1]}]")
#: The jobs after which the service runs.
_STARTS = ("restart", "start")
#: Without ignore-dependencies, a stop of the socket, which the service requires, would stop the service too.
_ALONE = "--job-mode=ignore-dependencies"
#: The temporary unit of a drain, and the seconds between two looks at the state of the service.
_DRAIN_UNIT, _INTERVAL = "litellm-drain.service", 0.25
#: Without one of them there is no load balancer, and what reads them need not be loaded.
_VARIABLES = ("BEHIND_LOAD_BALANCER", "DEREGISTRATION_DELAY")
#: Seconds beyond DEREGISTRATION_DELAY that the main process gets: it does not count a pause of itself.
_MARGIN = 30.0
#: Seconds after which a main process that does not answer hangs.
_ANSWER_LIMIT = 15.0


def stopping_main(environ: Mapping[str, str]) -> int:
    """ExecStop=: leave the load balancer, and queue a stop of the socket if the service is to stay stopped.

    After the standby of a restart has exited, systemd treats the socket as one without a service
    (socket_trigger_notify in socket.c). Then a connection during the drain would queue a start, which replaces the
    stop. A socket with a stop job of its own queues no start. `systemctl start` replaces both stop jobs.
    """
    job = find_job(_list_jobs())
    if job == "stop":
        _systemctl("stop", "--no-block", *_SOCKETS)
    if job in ("stop", "restart") and _leave(environ, job):
        _close_port(job)
    return ExitCode.OK


def stopped_main(environ: Mapping[str, str]) -> int:
    """ExecStopPost=: queue a stop of the socket if the port is to close. Returns 0.

    It does not wait for the stop, because systemd waits for this command.
    """
    jobs = _list_jobs()
    job = find_job(jobs)
    if closes_port(environ.get("EXIT_STATUS", ""), job):
        # A stop of the service would cancel the start job that is about to fail. Then `systemctl start` would report
        # the cancellation instead of where to find the cause.
        _systemctl("stop", "--no-block", _ALONE, *_SOCKETS)
    elif job in _STARTS and not find_job(jobs, SOCKET) and _show_state(SOCKET) == "inactive":
        # ExecStop= was killed after it had closed the port, such as for lack of memory. Without its socket the
        # service may not bind a port, and would not serve.
        _start_drain_unit()
        _systemctl("start", "--no-block", SOCKET, METRICS_SOCKET)
    return ExitCode.OK


def drained_main() -> int:
    """The temporary unit of a drain: wait until the service has stopped. Returns 0.

    systemd does not answer during `systemctl daemon-reexec`, which an upgrade of systemd runs: the state is unknown.
    """
    while _show_state(SERVICE) in ("deactivating", ""):
        time.sleep(_INTERVAL)
    return ExitCode.OK


def closes_port(exit_status: str, job: str) -> bool:
    """Whether the port is to close, given $EXIT_STATUS (systemd.exec(5)) and the type of the service's job."""
    return job == "stop" or exit_status == str(int(ExitCode.CONFIG))


def find_job(jobs: str, unit: str = SERVICE) -> str:
    """The type of a unit's job in the output of `systemctl list-jobs`, such as stop; empty if it has none."""
    for line in jobs.splitlines():
        fields = line.split()
        if len(fields) >= 3 and fields[1] == unit:
            return fields[2]
    return ""


def _leave(environ: Mapping[str, str], job: str) -> bool:
    """Leave the load balancer, and wait until the drain may begin. Returns whether there is one to leave.

    False as well if the main process does not answer, such as one that has crashed or hangs. `job` is the type of the
    service's job.
    """
    if not any(map(environ.get, _VARIABLES)):
        return False
    # Imported here, because the stop of a host without a load balancer needs none of it.
    from litellm_systemd.env.variables import find_deregistration_delay
    from litellm_systemd.runtime.master.control import query

    folder = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    try:
        delay = find_deregistration_delay(environ)
        if not folder or not delay or (job == "restart" and _show_state(STANDBY) == "active"):
            return False
        control = Path(folder) / CONTROL_SOCKET
        query(control, "status", _ANSWER_LIMIT)  # one that hangs would delay the stop for all of the next time-out
        return query(control, "drain", delay + _MARGIN).get("left") is True
    except (OSError, InstallerError) as error:
        print(f"cannot leave the load balancer: {error}", file=sys.stderr)  # noqa: T201 - the output of a command
        return False


def _close_port(job: str) -> None:
    """Close the port now, so that no connection waits during the drain, and open it again after that of a restart.

    `job` is the type of the service's job so far.
    """
    if find_job(_list_jobs(), SOCKET) == "restart":
        return  # `systemctl restart litellm.socket`, which opens another port; its job would be canceled
    active = [each for each in (SOCKET, METRICS_SOCKET) if _show_state(each) == "active"]
    _start_drain_unit()
    # The metrics stay: their socket follows (BindsTo=) when the service has stopped.
    _systemctl("stop", _ALONE, SOCKET)
    # A start may have replaced the stop in the meantime.
    if (find_job(_list_jobs()) or job) in _STARTS:
        _systemctl("start", "--no-block", *active)


def _start_drain_unit() -> None:
    """From now on a start of the socket waits until the service has stopped."""
    unit = (f"--unit={_DRAIN_UNIT}", f"--description=Wait until {SERVICE} has drained")
    properties = ("--property=Type=oneshot", f"--property=Before={SOCKET}")
    command = (sys.executable, "-I", "-m", RUNTIME, "drained")
    _run("systemd-run", "--quiet", "--no-block", "--collect", *unit, *properties, *command)


def _show_state(unit: str) -> str:
    return _systemctl("show", "--property=ActiveState", "--value", unit).strip()


def _list_jobs() -> str:
    return _systemctl("list-jobs", "--no-legend", "--full", SERVICE, SOCKET)


def _systemctl(*arguments: str) -> str:
    return _run("systemctl", *arguments)


def _run(*argv: str) -> str:
    import subprocess  # imported here because only these commands of the runtime need it

    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        # The port stays open. That is no reason to fail the stop.
        print(f"cannot query systemd: {error}", file=sys.stderr)  # noqa: T201 - the output of a command
        return ""
