"""One journal line for each kind of failure, for all workers."""

from __future__ import annotations

from litellm_systemd.logs.events import group_events, read_events
from litellm_systemd.runtime.channel import FailureReport
from litellm_systemd.runtime.master.failure_log import FailureLog


def report(number: int = 0, kind: str = "throttled", priority: int = 4) -> FailureReport:
    return FailureReport(priority, kind, f"LiteLLM Proxy: {kind}", f"call-{number}")


def test_a_burst() -> None:
    """The first failure of a kind is logged at once with its request, the number of further ones after 10, 30 and 70
    seconds, and the next one after an hour without any at once again.
    """
    lines: list[tuple[float, int, str]] = []
    now = 0.0
    log = FailureLog(lambda priority, text: lines.append((now, priority, text)))
    for second in range(100):
        now = float(second)
        log.add(report(second), now)
        log.tick(now)
    assert lines == [
        (0.0, 4, "LiteLLM Proxy: throttled [request call-0]"),
        (10.0, 4, "10 more in 10 s: LiteLLM Proxy: throttled"),
        (30.0, 4, "20 more in 20 s: LiteLLM Proxy: throttled"),
        (70.0, 4, "40 more in 40 s: LiteLLM Proxy: throttled"),
    ]
    now = 150.0
    log.tick(now)
    assert lines[-1][2].startswith("29 more in 80 s: ")
    for now in (5000.0, 5001.0):
        log.tick(now)
        log.add(report(7), now)
    assert lines[-1] == (5000.0, 4, "LiteLLM Proxy: throttled [request call-7]")
    log.flush(now)
    assert lines[-1] == (5001.0, 4, "1 more in 1 s: LiteLLM Proxy: throttled")


def test_kinds_are_apart_and_limited() -> None:
    """Each kind has its own lines; clients that cause new kinds without end get no line for each."""
    lines: list[str] = []
    log = FailureLog(lambda priority, text: lines.append(f"{priority} {text}"))
    log.add(report(1), 0.0)
    log.add(report(2, "denied", 3), 0.0)
    assert lines == ["4 LiteLLM Proxy: throttled [request call-1]", "3 LiteLLM Proxy: denied [request call-2]"]
    for number in range(2000):
        log.add(report(3, f"kind {number}"), 1.0)
    assert len(lines) < 600
    assert lines[-1].startswith("4 failures of other kinds, such as: LiteLLM Proxy: kind ")


def test_logs_count_all_failures() -> None:
    """`logs --errors` counts each failure, and `logs --request` knows the request."""
    lines: list[str] = []
    log = FailureLog(lambda _, text: lines.append(text))
    for number in range(20):
        log.add(report(number), 0.0)
    log.flush(3.0)
    events = read_events(
        {"MESSAGE": line, "_PID": "7", "PRIORITY": "4", "__REALTIME_TIMESTAMP": "1000000"} for line in lines
    )
    (group,) = group_events(events)
    assert (group.count, group.sample) == (20, "LiteLLM Proxy: throttled")
    assert [event.call for event in events] == ["call-0", ""]
