"""The drain of a service: its timeout, its status, and a start during the drain."""

from __future__ import annotations

import re
from subprocess import Popen

from box import Box
from load import ENDLESS, STREAMS, loaded
from service import BASE, end_streams, let_streams_run, now, said, set_up, status_text

UNIT = "/org/freedesktop/systemd1/unit/litellm_2eservice"
#: A client that waits for its response.
KNOCK = ("curl", "--silent", "--max-time", "150", f"{BASE}/health/liveliness")


def test_drain_timeout(idle_box: Box) -> None:
    """Streams that exceed DRAIN_TIMEOUT end with an error event and are counted. The status shows their number."""
    set_up(idle_box, "NUM_WORKERS=2\nDRAIN_TIMEOUT=10\n")
    start = now(idle_box)
    with loaded(idle_box, streams=STREAMS, events=ENDLESS) as load:
        # Not until the command has ended: on a slow machine the drain may end before that is seen.
        reload = idle_box.popen(("systemctl", "reload", "litellm"))
        idle_box.wait_until(
            lambda: re.search(
                r"serving .*; \d+ requests? in flight on the previous configuration", status_text(idle_box)
            ),
            120,
            "the status counts what drains",
        )
        assert reload.wait(timeout=120) == 0
        idle_box.wait_until(lambda: len(load.streamed) == STREAMS, 60, "the streams were ended")
    assert load.failed == []
    assert_cut(load.streamed)
    idle_box.wait_until(lambda: count_cut(idle_box, start) == STREAMS, 60, "each cut stream is counted")

    start = now(idle_box)
    with loaded(idle_box, streams=STREAMS, events=ENDLESS, clients=0) as load:
        stop = idle_box.popen(("systemctl", "stop", "litellm"))
        idle_box.wait_until(
            lambda: f"draining: {STREAMS} requests in flight" in status_text(idle_box), 60, "it drains"
        )
        assert stop.wait(timeout=120) == 0
    assert_cut(load.streamed)
    assert count_cut(idle_box, start) == STREAMS
    assert idle_box.show("litellm.service", "Result")["Result"] == "success"


def test_what_undoes_a_stop(idle_box: Box) -> None:
    """`systemctl start` during the drain replaces the stop, and waiting clients get a response. A connection during
    the drain does not start the service again, not even after a restart with a standby.
    """
    set_up(idle_box, "NUM_WORKERS=2\n")
    with loaded(idle_box, streams=1, events=ENDLESS, clients=0) as load:
        stop = begin_stop(idle_box)
        client = idle_box.popen(KNOCK)
        start = idle_box.popen(("systemctl", "start", "litellm"))
        assert stop.wait(timeout=120) == 1
        end_streams(idle_box)
        assert start.wait(timeout=180) == client.wait(timeout=180) == 0
    assert load.whole == 1
    assert states(idle_box) == ["active"] * 2

    let_streams_run(idle_box)
    with loaded(idle_box, streams=1, events=ENDLESS, clients=0) as load:
        forget_service(idle_box)
        stop = begin_stop(idle_box)
        idle_box.run(("timeout", "2", *KNOCK), check=False)
        end_streams(idle_box)
        assert stop.wait(timeout=120) == 0
    assert load.whole == 1
    assert states(idle_box) == ["inactive"] * 2


def states(box: Box) -> list[str]:
    """The states of the service and its socket."""
    return box.systemctl("is-active", "litellm.service", "litellm.socket", check=False).split()


def forget_service(box: Box) -> None:
    """Make systemd treat the socket as one without a service, as after the exit of a standby."""
    box.write(
        "/run/systemd/system/other.service", "[Service]\nType=oneshot\nSockets=litellm.socket\nExecStart=true\n"
    )
    box.systemctl("daemon-reload")
    box.systemctl("start", "other.service")
    assert box.show("litellm.socket", "SubState")["SubState"] == "listening"


def begin_stop(box: Box) -> Popen[str]:
    """Run `systemctl stop`, and return when the service drains."""
    stop = box.popen(("systemctl", "stop", "litellm"))
    box.wait_until(lambda: "draining: 1 request in flight" in status_text(box), 60, "it drains")
    return stop


def test_stop_timeout_exceeds_drain_timeout(idle_box: Box) -> None:
    """TimeoutStopSec= exceeds DRAIN_TIMEOUT, so that systemd does not kill a draining service."""
    for seconds, env in ((600, ""), (5, "DRAIN_TIMEOUT=5\n"), (7200, "DRAIN_TIMEOUT=7200\n")):
        idle_box.write("/root/.env", env, 0o600)
        idle_box.run(("litellmctl", "install", "--env-file", "/root/.env", "--no-start"))
        argv = ("busctl", "get-property", "org.freedesktop.systemd1", UNIT)
        answer = idle_box.run((*argv, "org.freedesktop.systemd1.Service", "TimeoutStopUSec")).stdout
        assert int(answer.split()[1]) > seconds * 1_000_000


def assert_cut(texts: list[str]) -> None:
    """Check that each stream has begun and ended with an error in OpenAI's format."""
    assert len(texts) == STREAMS
    for text in texts:
        assert "w0 " in text
        assert '"code": "503"' in text.rstrip().splitlines()[-1], text


def count_cut(box: Box, start: str) -> int:
    """The number of force-closed requests in the warnings of the workers."""
    lines = said(box, "warning", start)
    return sum(
        int(found[1]) for line in lines if (found := re.search(r"force-closed (\d+) requests? after \d+ s", line))
    )
