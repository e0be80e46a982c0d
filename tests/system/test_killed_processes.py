"""SIGKILL and SIGSTOP under load, to each type of process: only the requests of that process are lost.

A client has one request in flight, so that the loss of a process costs at most one request of each client.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from box import Box, Image, Namespaces
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
START = "START_TIMEOUT=60\n"
STANDBY = "litellm-standby.service"


@pytest.fixture(scope="module")
def pair(namespaces: Namespaces, idle_image: Image) -> Iterator[Box]:
    """A box whose service has two workers."""
    with Box(namespaces, idle_image) as opened:
        set_up(opened, ENV)
        yield opened


@pytest.fixture(scope="module")
def holding(namespaces: Namespaces, idle_image: Image) -> Iterator[Box]:
    """A box whose service has two workers, which wait while they start from `hold` to `let_go`."""
    with Box(namespaces, idle_image) as opened:
        write_callback(opened, "pass\n", HOLDING)
        set_up(opened, ENV + START, CONFIG + CALLBACK)
        yield opened


def assert_little_lost(load: Load) -> None:
    """Check that at most one request of each client failed and no connection was refused."""
    assert load.refused == []
    assert len(load.failed) <= CLIENTS, load.failed


def wait_for_answers(box: Box, load: Load) -> None:
    """Wait until the clients get answers from what runs now."""
    before = load.answered
    box.wait_until(lambda: load.answered >= before + 2 * CLIENTS, 60, "answers after the replacement")


def await_warnings(box: Box, pid: str, start: str) -> list[str]:
    """Wait for a warning about a worker, and return all of them. On a busy machine another worker may be late too."""

    def about() -> list[str]:
        return [line for line in said(box, "warning", start) if f"(pid {pid})" in line]

    return box.wait_until(about, 30, "a line about it")


HOW = {
    # Under load it may be in a request, or in what a request has left to do.
    "KILL": r"worker [12] \(pid {}\) was killed by SIGKILL( in [^,]+)?, replaced in \d+\.\d s",
    "STOP": r"worker [12] \(pid {}\) was blocked for \d+ s.* and was killed, replaced in \d+\.\d s",
}


def test_processes_are_replaced(pair: Box) -> None:
    """The main process replaces a worker that is killed or hangs and logs one line. systemd replaces a main process
    that is killed or hangs, with its workers. Only the requests of these processes are lost.
    """
    before = state(pair)
    for name, pattern in HOW.items():
        victim, start = min(workers(pair)), now(pair)
        with loaded(pair) as load:
            signal_process(pair, name, victim)
            wait_for_workers(pair, gone={victim})
            await_warnings(pair, victim, start)
            wait_for_answers(pair, load)
        assert_little_lost(load)
        [line] = await_warnings(pair, victim, start)
        assert re.fullmatch(pattern.format(victim), line)
        assert state(pair) == before

    for number, name in enumerate(HOW, start=1):
        old, start = processes(pair), now(pair)
        with loaded(pair) as load:
            signal_process(pair, name, state(pair)["MainPID"])
            wait_for_workers(pair, gone=old)
            wait_for_answers(pair, load)
        assert_little_lost(load)
        assert (state(pair)["ActiveState"], state(pair)["NRestarts"]) == ("active", str(number))
    assert "watchdog" in pair.journal("litellm", f"--since={start}", "_PID=1").lower()


def test_candidate_worker_exits(holding: Box) -> None:
    """If a worker of the new generation is killed or stopped, the reload fails with an error and no request fails."""
    before = state(holding), workers(holding)
    with loaded(holding, pause=LONG_PAUSE) as load:
        for name, cause in (("KILL", "killed by SIGKILL before it was ready"), ("STOP", "START_TIMEOUT=60 s")):
            start = now(holding)
            hold(holding)
            reload = holding.popen(("systemctl", "reload", "litellm"))
            starting = holding.wait_until(lambda: workers(holding) - before[1], 60, "a worker starts")
            signal_process(holding, name, min(starting))
            let_go(holding)
            assert reload.wait(timeout=240) != 0
            errors = said(holding, "err", start)
            assert len(errors) == 1, errors
            assert cause in errors[0]
            wait_for_workers(holding, gone=starting)
            assert (state(holding), workers(holding)) == before
        holding.systemctl("reload", "litellm")
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


def test_standby_fails_to_start(holding: Box) -> None:
    """If a process of a starting standby is killed or stopped, the restart fails and the service continues."""
    wait_for_workers(holding)
    before = state(holding), processes(holding)
    hold(holding)
    with loaded(holding, pause=LONG_PAUSE) as load:
        for name, whom in (("KILL", "main"), ("KILL", "worker"), ("STOP", "main")):
            restart = holding.popen(("litellmctl", "restart"))
            victim = holding.wait_until(lambda: standby(holding), 120, "the standby starts")
            if whom == "worker":
                victim = holding.wait_until(lambda: children(holding, standby(holding)), 120, "it has a worker")[0]
            signal_process(holding, name, victim)
            _, stderr = restart.communicate(timeout=300)
            assert (restart.returncode, "was not changed and continues to serve" in stderr) == (69, True), (
                name,
                whom,
                stderr,
            )
            holding.wait_until(lambda: processes(holding) == before[1], 60, "nothing of it is left")
            assert state(holding) == before[0]
            assert not holding.exists(f"/run/systemd/system/{STANDBY}")
    assert load.failed == []


def test_serving_standby_is_killed(pair: Box) -> None:
    """If the standby is killed while the service restarts, its requests are lost, and other connections wait."""
    old = processes(pair)
    with loaded(pair) as load:
        restart = pair.popen(("litellmctl", "restart"))
        main = pair.wait_until(lambda: standby(pair, "active"), 240, "the standby serves")
        signal_process(pair, "KILL", main)
        stdout, stderr = restart.communicate(timeout=180)
        assert restart.returncode == 0, stdout + stderr
        wait_for_workers(pair, gone=old)
        wait_for_answers(pair, load)
    assert_little_lost(load)
    assert chat(pair) == 200


def standby(box: Box, wanted: str = "activating") -> str:
    """The pid of the main process of the standby in that state; empty if there is none."""
    found = box.show(STANDBY, "ActiveState", "MainPID")
    return found["MainPID"] if found["ActiveState"] == wanted and found["MainPID"] != "0" else ""


def children(box: Box, pid: str) -> list[str]:
    return box.run(("pgrep", "-P", pid), check=False).stdout.split()
