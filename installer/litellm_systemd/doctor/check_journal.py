"""The journal since the last start: what is known of LiteLLM, AWS, the runtime and systemd, counted.

What it tells has happened and may be over; whether it still is so is for the other checks. So these warn, and are
only consequences where something else has failed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from litellm_systemd.doctor.cause import Cause, Finding, looks_for
from litellm_systemd.doctor.check_exit import GROUND
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import PermissionDenied
from litellm_systemd.logs.events import ERROR, Group, LogEvent, group_events, read_events
from litellm_systemd.report.report import Outcome

_NEEDS = ("host-systemd-absent", "host-systemd-silent", "files-not-installed")
_FOLLOWS = (
    *GROUND,
    *("unit-start-limit", "unit-watchdog", "unit-oom", "unit-killed", "unit-exit"),
    *("service-silent", "service-not-ready"),
)
#: Seconds: what was said longer ago isn't news.
_NEWS = 86_400
#: So often a line that nobody knows has to be there.
_REPEATED = 3
_REMEDY = "{remedy}    # all lines of that kind: litellmctl logs --errors"


def _groups(snapshot: Snapshot) -> tuple[Group, ...]:
    return snapshot.once("groups of the journal", lambda: _observe(snapshot))  # type: ignore[no-any-return]


def _observe(snapshot: Snapshot) -> tuple[Group, ...]:
    since = snapshot.service.get("InactiveExitTimestamp", "")
    if not since:
        return ()  # it hasn't been started since this boot
    entries = snapshot.systemctl.entries(since=since, priority="warning", timeout=2.5)
    if not entries and not snapshot.is_root:
        raise PermissionDenied("only root and the group systemd-journal may read the journal")
    return group_events(news_of(read_events(entries), time.time()))


def news_of(events: tuple[LogEvent, ...], now: float) -> tuple[LogEvent, ...]:
    """The events of the last day; `now` is a Unix time."""
    return tuple(event for event in events if event.when > now - _NEWS)


def worth_telling(groups: tuple[Group, ...], area: str) -> Iterator[Group]:
    """The groups of an area that are there often enough to be worth a word."""
    for group in groups:
        known = group.signature
        if known is not None and known.area == area and 0 < known.least <= group.count:
            yield group


def _find(snapshot: Snapshot, cause: Cause) -> Iterator[Finding]:
    for group in worth_telling(_groups(snapshot), cause.id.removeprefix("journal-")):
        if group.signature is not None:
            seen = f"{group.signature.means} ({_times(group)}): {group.sample}"
            yield cause.found(seen, remedy=group.signature.remedy)


def _times(group: Group) -> str:
    last = time.strftime("%H:%M:%S", time.localtime(group.last))
    return f"once, at {last}" if group.count == 1 else f"{group.count} times, the last at {last}"


AWS = Cause(
    "journal-aws",
    "AWS has refused or broken off calls since the last start; clients got errors, or a fallback's answer.",
    _REMEDY,
    outcome=Outcome.WARNING,
    needs=_NEEDS,
    follows=_FOLLOWS,
)


@looks_for(AWS)
def aws(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the journal tells of refusals of AWS that a client isn't to blame for."""
    yield from _find(snapshot, AWS)


LITELLM = Cause(
    "journal-litellm",
    "LiteLLM has reported trouble of its own since the last start.",
    _REMEDY,
    outcome=Outcome.WARNING,
    needs=_NEEDS,
    follows=_FOLLOWS,
)


@looks_for(LITELLM)
def litellm(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the journal tells of known trouble in LiteLLM."""
    yield from _find(snapshot, LITELLM)


SERVICE = Cause(
    "journal-service",
    "The service has lost requests, or lacked something of the host, since the last start.",
    _REMEDY,
    outcome=Outcome.WARNING,
    needs=_NEEDS,
    follows=_FOLLOWS,
)


@looks_for(SERVICE)
def service(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the journal tells of known trouble of the service's processes."""
    yield from _find(snapshot, SERVICE)


SYSTEMD = Cause(
    "journal-systemd",
    "systemd has complained about the units since the last start.",
    _REMEDY,
    outcome=Outcome.WARNING,
    needs=_NEEDS,
    follows=(*_FOLLOWS, "unit-bad"),
)


@looks_for(SYSTEMD)
def systemd(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether systemd has complained of what no other check looks at."""
    yield from _find(snapshot, SYSTEMD)


UNKNOWN = Cause(
    "journal-unknown",
    "The service has said the same error again and again since the last start, and it is none that litellmctl knows.",
    "litellmctl logs -p err -n 50    # what it says at length",
    outcome=Outcome.WARNING,
    needs=_NEEDS,
    follows=_FOLLOWS,
)


@looks_for(UNKNOWN)
def unknown(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether an error that isn't known repeats itself."""
    for group in _groups(snapshot):
        ours = not any(event.of_systemd for event in group.events)
        if ours and group.signature is None and group.priority <= ERROR and group.count >= _REPEATED:
            yield UNKNOWN.found(f"{_times(group)}: {group.sample}")
