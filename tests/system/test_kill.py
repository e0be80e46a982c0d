"""SIGKILL and SIGSTOP under load, to each kind of process: what they held is lost, and nothing else.

A client has one request under way at a time, so that one death costs at most one request of each client.
"""

from __future__ import annotations

import re

from box import Box
from load import CLIENTS, STREAMS, Load, loaded
from service import (
    chat,
    now,
    processes,
    runtime,
    said,
    set_up,
    signal_process,
    state,
    wait_for_workers,
    workers,
)

ENV = "NUM_WORKERS=2\nWATCHDOG_TIMEOUT=10\n"
#: Long enough for a start on a busy machine, and waited for by tests of what doesn't start.
START = "START_TIMEOUT=30\n"
STANDBY = "litellm-standby.service"


def assert_little_lost(load: Load) -> None:
    """At most one request of each client failed, and nobody found the port closed."""
    assert load.refused == []
    assert len(load.failed) <= CLIENTS, load.failed
    assert load.answered > 2 * CLIENTS


def test_killed_worker_is_replaced(idle_box: Box) -> None:
    """A worker that is killed costs its own requests alone, is replaced, and one line says so."""
    set_up(idle_box, ENV)
    before, victim, start = state(idle_box), min(workers(idle_box)), now(idle_box)
    with loaded(idle_box) as load:
        signal_process(idle_box, "KILL", victim)
        wait_for_workers(idle_box, gone={victim})
        idle_box.wait_until(lambda: said(idle_box, "warning", start), 30, "a line about it")
    assert_little_lost(load)
    lines = said(idle_box, "warning", start)
    assert len(lines) == 1, lines
    assert re.fullmatch(rf"worker [12] \(pid {victim}\) was killed by SIGKILL, replaced in \d+\.\d s", lines[0])
    assert state(idle_box) == before


def test_killed_main_process_takes_its_workers_along(idle_box: Box) -> None:
    """When the main process is killed, its workers go with it, and the service comes back; connections wait."""
    set_up(idle_box, ENV)
    before, old = state(idle_box)["MainPID"], processes(idle_box)
    with loaded(idle_box) as load:
        signal_process(idle_box, "KILL", before)
        wait_for_workers(idle_box, gone=old)
        assert chat(idle_box) == 200
    assert_little_lost(load)
    assert (state(idle_box)["ActiveState"], state(idle_box)["NRestarts"]) == ("active", "1")


def test_hung_processes_are_replaced(idle_box: Box) -> None:
    """A worker that is stopped is replaced by the main process, and a stopped main process by systemd."""
    set_up(idle_box, ENV)
    main, victim, start = state(idle_box)["MainPID"], min(workers(idle_box)), now(idle_box)
    with loaded(idle_box) as load:
        signal_process(idle_box, "STOP", victim)
        wait_for_workers(idle_box, gone={victim})
        idle_box.wait_until(lambda: said(idle_box, "warning", start), 30, "a line about it")
    assert_little_lost(load)
    lines = said(idle_box, "warning", start)
    assert len(lines) == 1, lines
    words = rf"worker [12] \(pid {victim}\) answered nothing for \d+ s and was killed, replaced in \d+\.\d s"
    assert re.fullmatch(words, lines[0])
    assert state(idle_box)["MainPID"] == main

    old = processes(idle_box)
    with loaded(idle_box) as load:
        signal_process(idle_box, "STOP", main)
        wait_for_workers(idle_box, gone=old)
        assert chat(idle_box) == 200
    assert_little_lost(load)
    assert state(idle_box)["NRestarts"] == "1"
    assert "watchdog" in idle_box.journal("litellm", f"--since={start}", "_PID=1").lower()


def test_coming_worker_dies(idle_box: Box) -> None:
    """A worker of the coming generation that is killed or stopped fails the reload aloud, and nobody's request."""
    set_up(idle_box, ENV + START)
    before = state(idle_box), workers(idle_box)
    with loaded(idle_box) as load:
        for name, cause in (("KILL", "killed by SIGKILL before it was ready"), ("STOP", "START_TIMEOUT=30 s")):
            start = now(idle_box)
            reload = idle_box.popen(("systemctl", "reload", "litellm"))
            coming = idle_box.wait_until(lambda: workers(idle_box) - before[1], 30, "a worker is coming")
            signal_process(idle_box, name, min(coming))
            assert reload.wait(timeout=120) != 0
            errors = said(idle_box, "err", start)
            assert len(errors) == 1, errors
            assert cause in errors[0]
            wait_for_workers(idle_box, gone=coming)
            assert (state(idle_box), workers(idle_box)) == before
        idle_box.systemctl("reload", "litellm")
    assert load.failed == []


def test_draining_worker_dies(idle_box: Box) -> None:
    """A draining worker that is killed or hangs loses its own streams; other streams and all chats go on."""
    set_up(idle_box, ENV.replace("=2", "=3"))
    with loaded(idle_box, streams=STREAMS) as load:
        idle_box.systemctl("reload", "litellm")
        idle_box.wait_until(lambda: sum(draining(idle_box).values()) == STREAMS, 30, "nothing but streams is left")
        held = draining(idle_box)
        killed, *others = sorted(held, key=lambda pid: held[pid])
        start = now(idle_box)
        signal_process(idle_box, "KILL", killed)
        signal_process(idle_box, "STOP", others[-1])
        wait_for_workers(idle_box, 3, gone=set(held))
    assert load.failed == []
    assert (load.whole, len(load.streamed)) == (STREAMS - held[killed] - held[others[-1]], STREAMS)
    lines = "\n".join(said(idle_box, "warning", start))
    assert f"(pid {killed}) was killed by SIGKILL" in lines
    assert f"(pid {others[-1]}) answered nothing for" in lines


def draining(box: Box) -> dict[str, int]:
    """Requests in flight of each retiring worker that has any, by pid."""
    found = runtime(box)["workers"]
    return {str(each["pid"]): each["inflight"] for each in found if each["state"] == "retiring" and each["inflight"]}


def test_standby_dies_before_it_serves(idle_box: Box) -> None:
    """When the standby's main process or worker is killed or stopped, the service is untouched and serves on."""
    set_up(idle_box, ENV + START)
    before = state(idle_box), processes(idle_box)
    with loaded(idle_box) as load:
        for name, whom in (("KILL", "main"), ("KILL", "worker"), ("STOP", "main")):
            restart = idle_box.popen(("litellmctl", "restart"))
            idle_box.wait_until(lambda: standby(idle_box) != "0", 60, "the standby starts")
            victim = standby(idle_box)
            if whom == "worker":
                victim = idle_box.wait_until(lambda: children(idle_box, standby(idle_box)), 60, "it has a worker")[0]
            signal_process(idle_box, name, victim)
            _, stderr = restart.communicate(timeout=180)
            assert (restart.returncode, "was not touched and serves on" in stderr) == (69, True), (name, whom, stderr)
            idle_box.wait_until(lambda: processes(idle_box) == before[1], 60, "nothing of it is left")
            assert state(idle_box) == before[0]
            assert not idle_box.exists(f"/run/systemd/system/{STANDBY}")
    assert load.failed == []


def test_standby_dies_while_it_serves(idle_box: Box) -> None:
    """When the standby is killed while the service restarts, its requests are lost, and other connections wait."""
    set_up(idle_box, ENV)
    old = processes(idle_box)
    with loaded(idle_box) as load:
        restart = idle_box.popen(("litellmctl", "restart"))
        idle_box.wait_until(
            lambda: idle_box.show(STANDBY, "ActiveState")["ActiveState"] == "active", 120, "the standby serves"
        )
        signal_process(idle_box, "KILL", standby(idle_box))
        stdout, stderr = restart.communicate(timeout=180)
        assert restart.returncode == 0, stdout + stderr
        wait_for_workers(idle_box, gone=old)
    assert_little_lost(load)
    assert chat(idle_box) == 200


def standby(box: Box) -> str:
    return box.show(STANDBY, "MainPID").get("MainPID", "0")


def children(box: Box, pid: str) -> list[str]:
    return box.run(("pgrep", "-P", pid), check=False).stdout.split()
