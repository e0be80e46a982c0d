"""Programs that print without an end, and what reaches a terminal."""

from __future__ import annotations

import os
import signal
import time

import pytest

from litellm_systemd.command import interruptible, run
from litellm_systemd.errors import CommandError, Interrupted
from litellm_systemd.logs.events import read_events
from litellm_systemd.report.display import render_tables
from litellm_systemd.report.report import Check, Outcome, Report


def test_endless_output() -> None:
    """A program that prints without an end is stopped; what it printed until then can be used."""
    with pytest.raises(CommandError, match="printed more than 1 MiB"):
        run(("yes",), limit=1 << 20)
    found = run(("yes",), limit=1 << 20, may_cut=True)
    assert (found.is_cut, len(found.stdout)) == (True, 1 << 20)
    with pytest.raises(CommandError, match="printed more than 1 MiB"):
        run(("sh", "-c", "yes >&2"), limit=1 << 20)


def test_program_that_does_not_exit() -> None:
    """A program that does not exit is killed when its time is over, whether it prints or not."""
    for script in ("sleep 60", "exec >&- 2>&-; exec sleep 60", "while :; do echo; sleep 0.05; done"):
        began = time.monotonic()
        with pytest.raises(CommandError, match="did not exit within"):
            run(("sh", "-c", f"{script}"), timeout=0.3)
        assert time.monotonic() - began < 10


def test_both_outputs() -> None:
    """Standard output and standard error are kept apart, with plain line breaks."""
    found = run(("sh", "-c", r"printf 'a\r\nb\r'; printf 'c\377' >&2; exit 3"), check=False)
    assert (found.stdout, found.stderr, found.returncode) == ("a\nb\n", "c\ufffd", 3)


def test_terminal_codes_are_not_printed() -> None:
    """A text of the service cannot move the cursor, hide lines or set the title of root's terminal."""
    hostile = "\x1b]0;title\x07\x1b[2Jgone\r\x9b1A\u202eok"
    text = render_tables(Report("", (Check(hostile, Outcome.OK, hostile, hostile),), facts=((hostile, hostile),)))
    assert "gone" in text
    assert not {"\x1b", "\x07", "\r", "\x9b", "\u202e"} & set(text)


@pytest.mark.parametrize(
    "entry",
    [
        {"PRIORITY": "loud", "MESSAGE": "x"},
        {"PRIORITY": ["3", "4"], "MESSAGE": ["x", "y"]},
        {"PRIORITY": "-1", "MESSAGE": [1, 2, 300]},
        {"PRIORITY": None, "MESSAGE": '{"message": ' + "[" * 100_000},
        {"PRIORITY": "٣", "MESSAGE": {"a": 1}},
    ],
    ids=["text", "lists", "bytes", "nested", "digit"],
)
def test_odd_journal_entries(entry: dict[str, object]) -> None:
    """Whatever a process writes to the journal is read as an event."""
    (event,) = read_events([{**entry, "__REALTIME_TIMESTAMP": "1000000", "_PID": "5"}])
    assert event.when == 1.0
    assert event.priority in range(8)


def test_endless_message() -> None:
    """A message without an end takes 64 KiB of an event."""
    lines = [{"MESSAGE": " " + "x" * 60_000, "_PID": "5", "PRIORITY": "3"}] * 100
    (event,) = read_events(lines)
    assert len(event.text) < 200_000
    assert len(read_events([{"MESSAGE": "x" * 10**6, "_PID": "5"}])[0].text) == 65536


def test_ignored_signals_stay_ignored() -> None:
    """A signal raises Interrupted, unless the caller ignores it, as nohup(1) does with SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
            with pytest.raises(Interrupted, match="SIGTERM"):
                os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)
