"""What happens at the end of DRAIN_TIMEOUT, and what an administrator sees until then."""

from __future__ import annotations

import re
from subprocess import Popen

from box import Box
from load import ENDLESS, STREAMS, loaded
from service import BASE, end_streams, now, said, set_up, status_text

UNIT = "/org/freedesktop/systemd1/unit/litellm_2eservice"
#: A client that waits for its answer.
KNOCK = ("curl", "--silent", "--max-time", "150", f"{BASE}/health/liveliness")


def test_drain_ends_in_time(idle_box: Box) -> None:
    """Streams that outlast DRAIN_TIMEOUT end with an error event and are counted; STATUS shows how many are left."""
    set_up(idle_box, "NUM_WORKERS=2\nDRAIN_TIMEOUT=10\n")
    start = now(idle_box)
    with loaded(idle_box, streams=STREAMS, events=ENDLESS) as load:
        idle_box.systemctl("reload", "litellm")
        idle_box.wait_until(
            lambda: re.search(
                r"serving .*; \d+ requests? in flight on the previous configuration", status_text(idle_box)
            ),
            60,
            "the status counts what drains",
        )
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


def test_a_client_cannot_undo_a_stop(idle_box: Box) -> None:
    """Who knocks while the service drains doesn't start it again, not even after a restart with a standby."""
    set_up(idle_box, "NUM_WORKERS=2\n")
    with loaded(idle_box, streams=1, events=ENDLESS, clients=0) as load:
        forget_service(idle_box)
        stop = begin_stop(idle_box)
        idle_box.run(("timeout", "2", *KNOCK), check=False)
        end_streams(idle_box)
        assert stop.wait(timeout=120) == 0
    assert load.whole == 1
    assert states(idle_box) == ["inactive"] * 2


def test_an_administrator_can_undo_a_stop(idle_box: Box) -> None:
    """`systemctl start` while the service drains takes the place of the stop, and who waits meanwhile is answered."""
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


def states(box: Box) -> list[str]:
    """Those of the service and of its socket."""
    return box.systemctl("is-active", "litellm.service", "litellm.socket", check=False).split()


def forget_service(box: Box) -> None:
    """Have systemd take the socket for one without a service, as it does when a standby has gone."""
    box.write(
        "/run/systemd/system/other.service", "[Service]\nType=oneshot\nSockets=litellm.socket\nExecStart=true\n"
    )
    box.systemctl("daemon-reload")
    box.systemctl("start", "other.service")
    assert box.show("litellm.socket", "SubState")["SubState"] == "listening"


def begin_stop(box: Box) -> Popen[str]:
    """`systemctl stop`, once the service drains."""
    stop = box.popen(("systemctl", "stop", "litellm"))
    box.wait_until(lambda: "draining: 1 request in flight" in status_text(box), 60, "it drains")
    return stop


def test_systemd_waits_longer_than_the_drain(idle_box: Box) -> None:
    """TimeoutStopSec is larger than DRAIN_TIMEOUT, so that systemd never kills what drains."""
    for seconds, env in ((600, ""), (5, "DRAIN_TIMEOUT=5\n"), (7200, "DRAIN_TIMEOUT=7200\n")):
        idle_box.write("/root/.env", env, 0o600)
        idle_box.run(("litellmctl", "install", "--env-file", "/root/.env", "--no-start"))
        argv = ("busctl", "get-property", "org.freedesktop.systemd1", UNIT)
        answer = idle_box.run((*argv, "org.freedesktop.systemd1.Service", "TimeoutStopUSec")).stdout
        assert int(answer.split()[1]) > seconds * 1_000_000


def assert_cut(texts: list[str]) -> None:
    """Each stream had begun, and ended with the error that an OpenAI client understands."""
    assert len(texts) == STREAMS
    for text in texts:
        assert "w0 " in text
        assert '"code": "503"' in text.rstrip().splitlines()[-1], text


def count_cut(box: Box, start: str) -> int:
    """The sum of what workers say that they have cut."""
    lines = said(box, "warning", start)
    return sum(int(found[1]) for line in lines if (found := re.search(r"cut (\d+) request\(s\) after \d+ s", line)))
