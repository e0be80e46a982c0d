"""SIGKILL and SIGSTOP under load, to each type of process: only the requests of that process are lost.

A client has one request in flight, so that the loss of a process costs at most one request of each client.
"""

from __future__ import annotations

import re

from box import Box
from load import CLIENTS, ENDLESS, LONG_PAUSE, STREAMS, Load, loaded
from service import (
    CALLBACK,
    CONFIG,
    HOLDING,
    chat,
    end_streams,
    hold,
    let_go,
    now,
    processes,
    runtime,
    said,
    set_up,
    signal_process,
    state,
    wait_for_workers,
    workers,
    write_callback,
)

#: Health checks fail after half of this. On a busy machine the first request of a worker may import for five seconds.
ENV = "NUM_WORKERS=2\nWATCHDOG_TIMEOUT=20\n"
#: Long enough for a start on a busy machine; tests of failed starts wait this long.
START = "START_TIMEOUT=45\n"
STANDBY = "litellm-standby.service"


def assert_little_lost(load: Load) -> None:
    """Check that at most one request of each client failed and no connection was refused."""
    assert load.refused == []
    assert len(load.failed) <= CLIENTS, load.failed


def wait_for_answers(box: Box, load: Load) -> None:
    """Wait until the clients get answers from what runs now."""
    before = load.answered
    box.wait_until(lambda: load.answered >= before + 2 * CLIENTS, 60, "answers after the replacement")


def wait_for_warning(box: Box, start: str) -> None:
    box.wait_until(lambda: said(box, "warning", start), 30, "a line about it")


HOW = {
    # Under load it may be in a request, or in what a request has left to do.
    "KILL": r"worker [12] \(pid {}\) was killed by SIGKILL( in [^,]+)?, replaced in \d+\.\d s",
    "STOP": r"worker [12] \(pid {}\) was blocked for \d+ s.* and was killed, replaced in \d+\.\d s",
}


def test_processes_are_replaced(idle_box: Box) -> None:
    """The main process replaces a worker that is killed or hangs and logs one line. systemd replaces a main process
    that is killed or hangs, with its workers. Only the requests of these processes are lost.
    """
    set_up(idle_box, ENV)
    before = state(idle_box)
    for name, pattern in HOW.items():
        victim, start = min(workers(idle_box)), now(idle_box)
        with loaded(idle_box) as load:
            signal_process(idle_box, name, victim)
            wait_for_workers(idle_box, gone={victim})
            wait_for_warning(idle_box, start)
            wait_for_answers(idle_box, load)
        assert_little_lost(load)
        [line] = said(idle_box, "warning", start)
        assert re.fullmatch(pattern.format(victim), line)
        assert state(idle_box) == before

    for number, name in enumerate(HOW, start=1):
        old, start = processes(idle_box), now(idle_box)
        with loaded(idle_box) as load:
            signal_process(idle_box, name, state(idle_box)["MainPID"])
            wait_for_workers(idle_box, gone=old)
            wait_for_answers(idle_box, load)
        assert_little_lost(load)
        assert (state(idle_box)["ActiveState"], state(idle_box)["NRestarts"]) == ("active", str(number))
    assert "watchdog" in idle_box.journal("litellm", f"--since={start}", "_PID=1").lower()


def test_candidate_worker_exits(idle_box: Box) -> None:
    """If a worker of the new generation is killed or stopped, the reload fails with an error and no request fails."""
    write_callback(idle_box, "pass\n", HOLDING)
    set_up(idle_box, ENV + START, CONFIG + CALLBACK)
    before = state(idle_box), workers(idle_box)
    with loaded(idle_box, pause=LONG_PAUSE) as load:
        for name, cause in (("KILL", "killed by SIGKILL before it was ready"), ("STOP", "START_TIMEOUT=45 s")):
            start = now(idle_box)
            hold(idle_box)
            reload = idle_box.popen(("systemctl", "reload", "litellm"))
            starting = idle_box.wait_until(lambda: workers(idle_box) - before[1], 60, "a worker starts")
            signal_process(idle_box, name, min(starting))
            let_go(idle_box)
            assert reload.wait(timeout=120) != 0
            errors = said(idle_box, "err", start)
            assert len(errors) == 1, errors
            assert cause in errors[0]
            wait_for_workers(idle_box, gone=starting)
            assert (state(idle_box), workers(idle_box)) == before
        idle_box.systemctl("reload", "litellm")
    assert load.failed == []


def test_draining_worker_exits(idle_box: Box) -> None:
    """A draining worker that is killed or hangs loses its own streams. Other streams and all chats continue."""
    set_up(idle_box, ENV.replace("=2", "=3"))
    with loaded(idle_box, streams=STREAMS, events=ENDLESS) as load:
        idle_box.systemctl("reload", "litellm")
        held = idle_box.wait_until(lambda: draining(idle_box), 60, "only streams are in flight")
        killed, *others = sorted(held, key=lambda pid: held[pid])
        start = now(idle_box)
        signal_process(idle_box, "KILL", killed)
        signal_process(idle_box, "STOP", others[-1])
        end_streams(idle_box)
        wait_for_workers(idle_box, 3, gone=set(held))
    assert load.failed == []
    assert (load.whole, len(load.streamed)) == (STREAMS - held[killed] - held[others[-1]], STREAMS)
    lines = "\n".join(said(idle_box, "warning", start))
    assert f"(pid {killed}) was killed by SIGKILL" in lines
    assert f"(pid {others[-1]}) was blocked for" in lines


def draining(box: Box) -> dict[str, int]:
    """The number of streams of each draining worker by pid; empty while such a worker has other connections.

    A client whose idle connection is lost with a killed worker may just be sending its next request.
    """
    found = [each for each in runtime(box)["workers"] if each["state"] == "retiring"]
    held = {str(each["pid"]): each["inflight"] for each in found if each["inflight"]}
    return held if sum(held.values()) == sum(each["connections"] for each in found) == STREAMS else {}


def test_standby_fails_to_start(idle_box: Box) -> None:
    """If a process of a starting standby is killed or stopped, the restart fails and the service continues."""
    write_callback(idle_box, "pass\n", HOLDING)
    set_up(idle_box, ENV + START, CONFIG + CALLBACK)
    before = state(idle_box), processes(idle_box)
    hold(idle_box)
    with loaded(idle_box, pause=LONG_PAUSE) as load:
        for name, whom in (("KILL", "main"), ("KILL", "worker"), ("STOP", "main")):
            restart = idle_box.popen(("litellmctl", "restart"))
            victim = idle_box.wait_until(lambda: standby(idle_box), 120, "the standby starts")
            if whom == "worker":
                victim = idle_box.wait_until(lambda: children(idle_box, standby(idle_box)), 120, "it has a worker")[0]
            signal_process(idle_box, name, victim)
            _, stderr = restart.communicate(timeout=180)
            assert (restart.returncode, "was not changed and continues to serve" in stderr) == (69, True), (
                name,
                whom,
                stderr,
            )
            idle_box.wait_until(lambda: processes(idle_box) == before[1], 60, "nothing of it is left")
            assert state(idle_box) == before[0]
            assert not idle_box.exists(f"/run/systemd/system/{STANDBY}")
    assert load.failed == []


def test_serving_standby_is_killed(idle_box: Box) -> None:
    """If the standby is killed while the service restarts, its requests are lost, and other connections wait."""
    set_up(idle_box, ENV)
    old = processes(idle_box)
    with loaded(idle_box) as load:
        restart = idle_box.popen(("litellmctl", "restart"))
        main = idle_box.wait_until(lambda: standby(idle_box, "active"), 240, "the standby serves")
        signal_process(idle_box, "KILL", main)
        stdout, stderr = restart.communicate(timeout=180)
        assert restart.returncode == 0, stdout + stderr
        wait_for_workers(idle_box, gone=old)
        wait_for_answers(idle_box, load)
    assert_little_lost(load)
    assert chat(idle_box) == 200


def standby(box: Box, wanted: str = "activating") -> str:
    """The pid of the main process of the standby in that state; empty if there is none."""
    found = box.show(STANDBY, "ActiveState", "MainPID")
    return found["MainPID"] if found["ActiveState"] == wanted and found["MainPID"] != "0" else ""


def children(box: Box, pid: str) -> list[str]:
    return box.run(("pgrep", "-P", pid), check=False).stdout.split()
