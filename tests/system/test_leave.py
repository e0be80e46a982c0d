"""A service behind a load balancer: readiness, the port and in-flight requests when it stops and starts."""

from __future__ import annotations

import time
from contextlib import suppress
from subprocess import Popen

from box import Box
from load import ENDLESS, loaded
from service import (
    BASE,
    chat,
    end_streams,
    let_streams_run,
    refused,
    runtime,
    set_up,
    signal_process,
    state,
    status_text,
)

#: Long enough for the checks on a busy machine.
ENV = "NUM_WORKERS=2\nDEREGISTRATION_DELAY=20\n"


def readiness(box: Box) -> int:
    """What a load balancer sees; 0 if the connection is refused."""
    try:
        # The timeout is longer than a restart.
        return box.http("GET", f"{BASE}/health/readiness", timeout=180).status
    except ConnectionRefusedError:
        return 0


def states(box: Box) -> list[str]:
    return box.systemctl("is-active", "litellm.service", "litellm.socket", check=False).split()


def await_drain(box: Box, *, is_hurried: bool) -> None:
    """Check that the instance leaves and serves meanwhile. Returns when the port is closed, and a stream runs.

    `is_hurried`: SIGTERM ends the delay.
    """
    box.wait_until(lambda: readiness(box) == 503, 60, "it leaves")
    assert runtime(box)["state"] == "leaving"
    assert " in flight" in status_text(box)
    assert chat(box) == 200
    if is_hurried:
        signal_process(box, "TERM", state(box)["MainPID"])
    box.wait_until(lambda: refused(box), 60, "the port closes")
    box.wait_until(lambda: status_text(box) == "draining: 1 request in flight", 60, "it drains")


def complete(box: Box, *commands: Popen[str]) -> None:
    """End the stream, and wait for what follows."""
    end_streams(box)
    for command in commands:
        assert command.wait(timeout=180) == 0, command.communicate()
    let_streams_run(box)


def test_restart_and_drain(idle_box: Box) -> None:
    """`systemctl restart` and `litellmctl drain` leave, close the port and drain. No stream is cut.

    After a restart readiness is 200 again. Without a load balancer `drain` is an error that names the remedy, and it
    says of a stopped service that it was stopped already.
    """
    done = idle_box.run(("litellmctl", "drain"), check=False)
    assert (done.returncode, "Set BEHIND_LOAD_BALANCER=true in .env" in done.stderr) == (78, True), done.stderr
    set_up(idle_box, ENV)
    with loaded(idle_box, streams=1, events=ENDLESS, clients=0) as load:
        restart = idle_box.popen(("systemctl", "restart", "litellm"))
        await_drain(idle_box, is_hurried=False)
        complete(idle_box, restart)
    assert (load.whole, readiness(idle_box)) == (1, 200)
    with loaded(idle_box, streams=1, events=ENDLESS, clients=0) as load:
        drain = idle_box.popen(("litellmctl", "drain"))
        await_drain(idle_box, is_hurried=True)
        complete(idle_box, drain)
    assert "has drained and is inactive" in drain.communicate()[0]
    assert (load.whole, states(idle_box)) == (1, ["inactive"] * 2)
    assert "was stopped already and is inactive" in idle_box.run(("litellmctl", "drain")).stdout
    assert idle_box.systemctl("is-system-running") == "running"


def test_what_does_not_leave(idle_box: Box) -> None:
    """`systemctl start` during a drain waits for its end. `litellmctl restart` and a crash close no port."""
    set_up(idle_box, ENV)
    with loaded(idle_box, streams=1, events=ENDLESS, clients=0) as load:
        idle_box.popen(("systemctl", "stop", "litellm"))
        await_drain(idle_box, is_hurried=True)
        start = idle_box.popen(("systemctl", "start", "litellm"))
        complete(idle_box, start)
    assert (load.whole, states(idle_box), readiness(idle_box)) == (1, ["active"] * 2, 200)
    main = state(idle_box)["MainPID"]
    restart = idle_box.popen(("litellmctl", "restart"))
    seen = set()
    while restart.poll() is None:
        seen.add(readiness(idle_box))
        time.sleep(0.1)
    assert (restart.returncode, seen) == (0, {200})
    assert state(idle_box)["MainPID"] != main
    signal_process(idle_box, "KILL", state(idle_box)["MainPID"])
    # The two workers die a moment after it, with the connections that they have accepted.
    for _ in range(2):
        with suppress(ConnectionResetError):
            assert readiness(idle_box) == 200
    assert readiness(idle_box) == 200
