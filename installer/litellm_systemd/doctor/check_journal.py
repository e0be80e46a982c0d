"""The journal since the last start: known messages of LiteLLM, AWS, the runtime and systemd, and repeated errors.

A message in the journal shows what happened, which may be over. These checks therefore only warn, and their findings
are consequences if another check fails.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from litellm_systemd.doctor.cause import Cause, Finding, detects
from litellm_systemd.doctor.check_exit import STARTUP_BLOCKERS
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import PermissionDenied
from litellm_systemd.logs.events import ERROR, Group, LogEvent, group_events, read_events
from litellm_systemd.report.report import Outcome

_REQUIRES = ("host-systemd-absent", "host-systemd-silent", "files-not-installed")
_CAUSED_BY = (
    *STARTUP_BLOCKERS,
    *("unit-start-limit", "unit-watchdog", "unit-oom", "unit-killed", "unit-exit"),
    *("service-silent", "service-not-ready"),
)
#: Seconds; older messages are not reported.
_MAX_AGE = 86_400
#: How often an unknown error must appear to be reported.
_MIN_UNKNOWN = 3
_REMEDY = "{remedy}    # to see all messages: litellmctl logs --errors"


def _groups(snapshot: Snapshot) -> tuple[Group, ...]:
    return snapshot.cached("journal groups", lambda: _observe(snapshot))  # type: ignore[no-any-return]


def _observe(snapshot: Snapshot) -> tuple[Group, ...]:
    since = snapshot.service.get("InactiveExitTimestamp", "")
    if not since:
        return ()  # not started since this boot
    entries = snapshot.systemctl.entries(since=since, priority="warning", timeout=2.5)
    if not entries and not snapshot.is_root:
        raise PermissionDenied("only root and the group systemd-journal can read the journal")
    return group_events(recent_events(read_events(entries), time.time()))


def recent_events(events: tuple[LogEvent, ...], now: float) -> tuple[LogEvent, ...]:
    """The events of the last day; `now` is a Unix time."""
    return tuple(event for event in events if event.when > now - _MAX_AGE)


def reportable_groups(groups: tuple[Group, ...], area: str) -> Iterator[Group]:
    """The groups of an area whose messages are frequent enough to be reported."""
    for group in groups:
        known = group.signature
        if known is not None and known.area == area and 0 < known.min_count <= group.count:
            yield group


def _find(snapshot: Snapshot, cause: Cause) -> Iterator[Finding]:
    for group in reportable_groups(_groups(snapshot), cause.id.removeprefix("journal-")):
        if group.signature is not None:
            evidence = f"{group.signature.means} ({_times(group)}): {group.sample}"
            yield cause.finding(evidence, remedy=group.signature.remedy)


def _times(group: Group) -> str:
    last = time.strftime("%H:%M:%S", time.localtime(group.last))
    return f"once, at {last}" if group.count == 1 else f"{group.count} times, last at {last}"


AWS = Cause(
    "journal-aws",
    "AWS rejected or interrupted calls since the last start; clients got errors or the answer of a fallback.",
    _REMEDY,
    outcome=Outcome.WARNING,
    requires=_REQUIRES,
    caused_by=_CAUSED_BY,
)


@detects(AWS)
def detect_journal_aws(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect calls that AWS rejected, except for mistakes of clients."""
    yield from _find(snapshot, AWS)


LITELLM = Cause(
    "journal-litellm",
    "LiteLLM logged an internal problem since the last start.",
    _REMEDY,
    outcome=Outcome.WARNING,
    requires=_REQUIRES,
    caused_by=_CAUSED_BY,
)


@detects(LITELLM)
def detect_journal_litellm(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect known problems inside LiteLLM."""
    yield from _find(snapshot, LITELLM)


SERVICE = Cause(
    "journal-service",
    "The service lost requests, or lacked a resource of the host, since the last start.",
    _REMEDY,
    outcome=Outcome.WARNING,
    requires=_REQUIRES,
    caused_by=_CAUSED_BY,
)


@detects(SERVICE)
def detect_journal_service(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect known problems of the service's processes."""
    yield from _find(snapshot, SERVICE)


SYSTEMD = Cause(
    "journal-systemd",
    "systemd logged a warning about the units since the last start.",
    _REMEDY,
    outcome=Outcome.WARNING,
    requires=_REQUIRES,
    caused_by=(*_CAUSED_BY, "unit-bad"),
)


@detects(SYSTEMD)
def detect_journal_systemd(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect warnings of systemd that no other check covers."""
    yield from _find(snapshot, SYSTEMD)


UNKNOWN = Cause(
    "journal-unknown",
    "The service repeatedly logged an error that litellmctl does not know since the last start.",
    "litellmctl logs -p err -n 50    # shows the whole messages",
    outcome=Outcome.WARNING,
    requires=_REQUIRES,
    caused_by=_CAUSED_BY,
)


@detects(UNKNOWN)
def detect_journal_unknown(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect unknown errors that repeat."""
    for group in _groups(snapshot):
        from_service = not any(event.from_systemd for event in group.events)
        if from_service and group.signature is None and group.priority <= ERROR and group.count >= _MIN_UNKNOWN:
            yield UNKNOWN.finding(f"{_times(group)}: {group.sample}")
