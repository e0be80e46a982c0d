"""ExecStop= and ExecStopPost=: whether the port closes when the service stops."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from litellm_systemd.runtime import stop
from litellm_systemd.runtime.stop import closes_port, find_job, stopped_main, stopping_main


@pytest.mark.parametrize(
    ("exit_status", "job", "closes"),
    [
        ("0", "stop", True),
        ("78", "", True),
        ("78", "start", True),
        ("KILL", "stop", True),
        ("0", "restart", False),
        ("0", "", False),
        ("KILL", "", False),
        ("69", "", False),
        ("", "", False),
    ],
)
def test_closes_port(exit_status: str, job: str, closes: bool) -> None:
    """The port closes after a stop and after a configuration error, and stays open otherwise."""
    assert closes_port(exit_status, job) is closes


@pytest.mark.parametrize(
    ("jobs", "job"),
    [
        ("1204 litellm.service stop running\n", "stop"),
        (" 7 other.service  start waiting\n 8 litellm.service restart running\n", "restart"),
        ("7 litellm.service.d start running\n", ""),
        ("", ""),
        ("No jobs running.\n", ""),
    ],
)
def test_find_job(jobs: str, job: str) -> None:
    """The job of the service is found in the output of systemctl among other jobs."""
    assert find_job(jobs) == job


class Systemctl:
    """A systemctl and a systemd-run that log their arguments. `jobs` are the types of the service's job, in turn.

    Without a type, it prints nothing, as while systemd restarts itself.
    """

    def __init__(
        self, folder: Path, *jobs: str, socket_job: str = "", standby: str = "inactive", port: str = "active"
    ) -> None:
        self._log = folder / "log"
        self._log.touch()
        for number, job in enumerate(jobs):
            socket = f"6 litellm.socket {socket_job} waiting\n" if socket_job else ""
            (folder / f"job{number}").write_text(f"5 litellm.service {job} running\n{socket}" if job else "")
        (folder / "systemd-run").write_text(f'#!/bin/sh\necho systemd-run "$@" >>{self._log}\n')
        (folder / "systemctl").write_text(f"""#!/bin/sh
case "$1 $4" in
list-jobs*) number=$(cat {folder}/count 2>/dev/null || echo 0)
    cat {folder}/job$number; [ -e {folder}/job$((number + 1)) ] && echo $((number + 1)) >{folder}/count; exit 0;;
"show litellm-standby.service") echo {standby};;
"show litellm.socket") echo {port};;
"show "*) echo active;;
*) echo "$@" >>{self._log};;
esac
""")
        for name in ("systemctl", "systemd-run"):
            (folder / name).chmod(0o755)

    def calls(self) -> list[str]:
        """What was to change."""
        return self._log.read_text().splitlines()


SOCKETS = "litellm.socket litellm-metrics.socke[t]"


@pytest.mark.parametrize("job", ["stop", "restart"])
def test_socket_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str) -> None:
    """A stop of the service stops its sockets, without waiting for them, and a restart does not."""
    systemctl = Systemctl(tmp_path, job)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert stopping_main({}) == 0
    assert stopped_main({"EXIT_STATUS": "0"}) == 0
    expected = [f"stop --no-block {SOCKETS}", f"stop --no-block --job-mode=ignore-dependencies {SOCKETS}"]
    assert systemctl.calls() == (expected if job == "stop" else [])


class Service:
    """A main process that answers at its control socket, unless it `hangs`, and counts who asks."""

    def __init__(self, folder: Path, left: bool, *, hangs: bool = False) -> None:
        self.asked: list[bytes] = []
        self._answer = json.dumps({"ok": True, "left": left}).encode() + b"\n"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "control.sock"))
        self._listener.listen()
        if hangs:
            return
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                self.asked.append(connection.recv(4096))
                connection.sendall(self._answer)


WAIT, CLOSE = "systemd-run", "stop --job-mode=ignore-dependencies litellm.socket"
OPEN = "start --no-block litellm.socket litellm-metrics.socket"


@pytest.mark.parametrize("variables", [{"BEHIND_LOAD_BALANCER": "true"}, {"DEREGISTRATION_DELAY": "30"}])
@pytest.mark.parametrize(
    ("jobs", "calls"),
    [
        (("stop",), [f"stop --no-block {SOCKETS}", WAIT, CLOSE]),
        (("restart",), [WAIT, CLOSE, OPEN]),
        # By `systemctl start` during the delay, and by `systemctl stop` during that of a restart.
        (("stop", "start"), [f"stop --no-block {SOCKETS}", WAIT, CLOSE, OPEN]),
        (("restart", "stop"), [WAIT, CLOSE]),
        # systemd does not answer.
        (("restart", ""), [WAIT, CLOSE, OPEN]),
    ],
)
def test_port_closes_after_leaving(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    jobs: tuple[str, ...],
    calls: list[str],
    variables: dict[str, str],
) -> None:
    """When the instance has left its load balancer, the port closes before the drain. A restart opens it again."""
    systemctl, service = Systemctl(tmp_path, *jobs), Service(tmp_path, left=True)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert stopping_main({"RUNTIME_DIRECTORY": str(tmp_path), **variables}) == 0
    assert [call if call.startswith("st") else call.split()[0] for call in systemctl.calls()] == calls
    assert service.asked == [b'{"command": "status"}\n', b'{"command": "drain"}\n']


def test_standby_of_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stop leaves the load balancer also next to a standby, which serves only for a restart."""
    systemctl, service = Systemctl(tmp_path, "stop", standby="active"), Service(tmp_path, left=True)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert stopping_main({"RUNTIME_DIRECTORY": str(tmp_path), "BEHIND_LOAD_BALANCER": "true"}) == 0
    assert service.asked[1:] == [b'{"command": "drain"}\n']
    assert systemctl.calls()[-1] == CLOSE


def test_main_process_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A main process that does not answer is not waited for until the delay is over, and the port stays open."""
    systemctl, _service = Systemctl(tmp_path, "restart"), Service(tmp_path, left=True, hangs=True)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(stop, "_ANSWER_LIMIT", 0.1)
    assert stopping_main({"RUNTIME_DIRECTORY": str(tmp_path), "DEREGISTRATION_DELAY": "3600"}) == 0
    assert systemctl.calls() == []


@pytest.mark.parametrize(
    ("variables", "options", "left"),
    [
        ({}, {}, True),
        ({"BEHIND_LOAD_BALANCER": "false", "DEREGISTRATION_DELAY": "30"}, {}, True),
        ({"BEHIND_LOAD_BALANCER": "true"}, {"standby": "active"}, True),
        ({"BEHIND_LOAD_BALANCER": "true"}, {"socket_job": "restart"}, True),
        ({"BEHIND_LOAD_BALANCER": "true"}, {}, False),
        ({"BEHIND_LOAD_BALANCER": "true", "RUNTIME_DIRECTORY": "/nowhere"}, {}, True),
        ({"DEREGISTRATION_DELAY": "soon"}, {}, True),
    ],
)
def test_port_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], options: dict[str, str], left: bool
) -> None:
    """Without a load balancer, next to a standby, of the socket, or after a crash, a restart closes no port."""
    systemctl = Systemctl(tmp_path, "restart", **options)
    Service(tmp_path, left)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert stopping_main({"RUNTIME_DIRECTORY": str(tmp_path), **variables}) == 0
    assert systemctl.calls() == []


@pytest.mark.parametrize(
    ("job", "options", "opens"),
    [
        ("restart", {"port": "inactive"}, True),
        ("start", {"port": "inactive"}, True),
        ("restart", {"port": "inactive", "socket_job": "start"}, False),
        ("restart", {}, False),
        ("", {"port": "inactive"}, False),
    ],
)
def test_port_opens_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: str, options: dict[str, str], opens: bool
) -> None:
    """If ExecStop= was killed after it had closed the port of a restart, ExecStopPost= opens it."""
    systemctl = Systemctl(tmp_path, job, **options)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert stopped_main({"EXIT_STATUS": "0"}) == 0
    found = [call if call.startswith("st") else call.split()[0] for call in systemctl.calls()]
    assert found == ([WAIT, OPEN] if opens else [])


def test_drain_unit_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit of a drain waits for the end of the service, also while systemd does not answer."""
    for number, state in enumerate(("deactivating", "", "deactivating", "inactive")):
        (tmp_path / str(number)).write_text(state)
    (tmp_path / "systemctl").write_text(f"""#!/bin/sh
for number in 0 1 2 3; do [ -e {tmp_path}/$number ] && cat {tmp_path}/$number && rm {tmp_path}/$number && exit; done
""")
    (tmp_path / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(stop, "_INTERVAL", 0)
    assert stop.drained_main() == 0
    assert not (tmp_path / "3").exists()
