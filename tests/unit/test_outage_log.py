"""The journal's lines about outages of a server."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from litellm_systemd.runtime.master.outage_log import OutageLog

LOST, BACK = "<3>Redis cannot be used: refused. Alone", "<5>Redis can be used again, after {} s"


class Clock:
    """A log, and a clock that runs in steps of a second."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now = 10_000.0
        self.log = OutageLog(
            "Redis",
            lambda text: self.lines.append(f"<3>{text}"),
            lambda text: self.lines.append(f"<5>{text}"),
            advice="Alone",
        )

    def run(self, seconds: int, cause: str = "") -> list[str]:
        """Let the workers report a cause for some seconds: the lines that this adds."""
        before = len(self.lines)
        for _ in range(seconds):
            self.now += 1
            self.log.update([None, "", cause], self.now)
        return self.lines[before:]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def flap(clock: Clock, times: int) -> Iterator[list[str]]:
    """Outages of 3 seconds, each with 7 seconds after it."""
    for _ in range(times):
        yield [*clock.run(3, "refused"), *clock.run(7)]


def test_a_few_outages(clock: Clock) -> None:
    """Each outage has an error when it begins and a notice when it ends, also the next ones."""
    assert clock.run(5) == []
    assert list(flap(clock, 3)) == [[LOST, BACK.format(3)]] * 3


def test_an_outage_whose_cause_changes(clock: Clock) -> None:
    """A server that is back after a minute with another password has a second line, with that cause, and no third."""
    assert clock.run(20, "refused") == [LOST]
    assert clock.run(600, "wrong password") == [LOST.replace("refused", "wrong password")]
    assert clock.run(600, "refused") == []
    assert clock.run(1) == [BACK.format(1220)]
    assert clock.run(90, "refused") == [LOST]


def test_a_server_that_comes_and_goes(clock: Clock) -> None:
    """Further short outages are counted: in a day they have a line an hour, with their number."""
    list(flap(clock, 3))
    lines = [line for each in flap(clock, 8640) for line in each]
    assert len(lines) < 70
    assert lines[0].startswith("<3>6 more in 60 s: Redis cannot be used: refused.")
    counted = [int(found[1]) for line in lines if (found := re.match(r"<3>(\d+) more in ", line))]
    assert 8640 - 361 < sum(counted) <= 8640


def test_a_long_outage_is_never_hidden(clock: Clock) -> None:
    """An outage that lasts has its lines within a minute, after any number of short ones."""
    list(flap(clock, 500))
    lost, back = [*clock.run(61, "refused"), *clock.run(1)]
    assert re.fullmatch(r"<3>\d+ more in \d+ s: Redis cannot be used: refused. Alone", lost)
    assert back == BACK.format(61)


def test_the_last_of_a_series(clock: Clock) -> None:
    """Short outages that are over are counted in a line that says so. After a quiet hour each has its own again."""
    list(flap(clock, 3))
    assert clock.run(3, "refused") == []
    (line,) = clock.run(3600)
    assert re.fullmatch(r"<3>1 more in \d+ s: Redis could not be used, and can now: refused", line)
    assert list(flap(clock, 1)) == [[LOST, BACK.format(3)]]
    assert clock.log.build() == {"usable": True, "cause": "", "since": None}


@pytest.mark.parametrize(
    ("seconds", "line"),
    [(0, "Redis cannot be used: refused. Alone"), (7, "Redis could not be used, and can now: refused")],
)
def test_stop_during_a_series(clock: Clock, seconds: int, line: str) -> None:
    """Outages that are counted, but have no line yet, have one when the service stops."""
    list(flap(clock, 4))
    assert [*clock.run(3, "refused"), *clock.run(seconds)] == []
    for _ in range(2):
        clock.log.flush(clock.now)
    assert clock.lines[-1] == f"<3>2 more in {22 + seconds} s: {line}"


def test_server_that_is_no_longer_used(clock: Clock) -> None:
    """A configuration without the server is no end of its outage."""
    assert clock.run(3, "refused") == [LOST]
    clock.log.update([None], clock.now + 1)
    assert (clock.lines, clock.log.cause, clock.log.is_used) == ([LOST], "", False)
