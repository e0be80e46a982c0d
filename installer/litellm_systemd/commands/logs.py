"""logs: the journal of the service, its errors by kind, or one request in all workers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from litellm_systemd.command import pass_on, replace_process
from litellm_systemd.env.secrets import redact
from litellm_systemd.errors import CommandError, InputError, UsageError
from litellm_systemd.host.journald import observe_gap, require_journal
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.systemctl import Systemctl, journal_argv
from litellm_systemd.logs.events import ERROR, Group, LogEvent, filter_by_request, group_events, read_events
from litellm_systemd.report.report import Check, Outcome, Report, render_count

#: The default period: the journal of a busy gateway is large.
_DAY = "-1d"
_LAST_DAY = "in the last day"
_NOTHING = "A successful request has a line only with ACCESS_LOG=true in .env."
#: Lines of the journal in which `recent_errors` searches.
_RECENT_LINES = 300
_CUT = "The journal of that time is too large: only its newest part was read. For another part: --since"


def show_logs(
    *,
    follow: bool = False,
    lines: int | None = None,
    priority: str | None = None,
    since: str | None = None,
    boot: str | None = None,
    as_json: bool = False,
    write: Callable[[bytes], bool] | None,
) -> int:
    """Print what journalctl prints for all units of ours, and return its exit code.

    The messages are not redacted: it is the own journal of the host. Without `write` this process becomes journalctl,
    which does not report that it could not write.

    Raises:
        PermissionDenied, Unavailable: as `errors`.
        MissingError: there is no journalctl.
    """
    require_journal()
    count = lines if lines is not None or since or boot else 100
    output = "json" if as_json else None
    argv = journal_argv(lines=count, follow=follow, priority=priority, since=since, boot=boot, output=output)
    if write is not None:
        return pass_on(argv, write)
    replace_process(argv)
    return 0


def errors(
    layout: Layout, *, priority: str | None = None, since: str | None = None, boot: str | None = None
) -> Report:
    """Warnings and errors by kind: number, first and last time, the last message, its meaning and the remedy.

    Args:
        layout: the paths of the host.
        priority: this level and worse; None for warnings and worse, since LiteLLM warns of mistakes of clients.
        since: a time in the format of journalctl(1). Default without `boot`: one day ago.
        boot: a boot in the format of journalctl(1).

    Raises:
        PermissionDenied: this user can't read the journal.
        Unavailable: there is no journal.
        InputError: journalctl refuses a time, a boot or a priority.
    """
    events, notes = _events(layout, priority or "warning", since, boot)
    report = build_errors(group_events(events), _span(since, boot))
    return replace(report, notes=(*notes, *report.notes, *_gaps(layout)))


def _gaps(layout: Layout) -> tuple[str, ...]:
    """A note if the journal lacks messages of the service: no error in it then means nothing."""
    gap = observe_gap(layout)
    return (
        () if gap is None else (f"The journal lacks messages of the service: {gap.reason}. To fix it: {gap.remedy}",)
    )


def build_errors(groups: tuple[Group, ...], span: str) -> Report:
    """The report of `errors`; `span` names the period."""
    number = sum(group.count for group in groups)
    counted = f"{number} warnings and errors" if number > 1 else "1 warning or error"
    title = f"{counted} of {render_count(len(groups), 'kind')}" if groups else "no warnings and no errors"
    return Report(
        f"{title} {_hinted(span, is_found=bool(groups))}",
        tuple(_check(group) for group in groups),
        data={"groups": [describe_group(group) for group in groups]},
    )


def request(layout: Layout, name: str, *, since: str | None = None, boot: str | None = None) -> Report:
    """The events of one request in all workers, by the x-litellm-call-id of its response.

    LiteLLM's lines about failures have that id, and with ACCESS_LOG=true each finished request has a line with it.

    Raises:
        PermissionDenied, InputError: as `errors`.
        UsageError: the id has fewer than 8 characters.
    """
    if len(name) < 8:
        raise UsageError(
            f"{name!r} is too short to identify a request", "Use at least 8 characters of x-litellm-call-id."
        )
    events, notes = _events(layout, None, since, boot)
    report = build_request(tuple(filter_by_request(events, name)), name, _span(since, boot))
    return replace(report, notes=(*notes, *report.notes, *_gaps(layout)))


def build_request(found: tuple[LogEvent, ...], name: str, span: str) -> Report:
    """The report of `request`; `span` names the period."""
    return Report(
        f"{render_count(len(found), 'event')} of request {name} {_hinted(span, is_found=bool(found))}",
        facts=tuple((f"{render_time(event.when)}  {event.pid}", redact(event.text)) for event in found),
        notes=_meanings(found) or (() if found else (_NOTHING,)),
        data={"request": name, "events": [_event(event) for event in found]},
    )


def _events(
    layout: Layout, priority: str | None, since: str | None, boot: str | None
) -> tuple[tuple[LogEvent, ...], tuple[str, ...]]:
    """The events of a period, and a note if these are not all."""
    start = since if since or boot else _DAY
    require_journal()
    try:
        journal = Systemctl(layout).entries(since=start, boot=boot, priority=priority)
    except CommandError as error:
        raise InputError(f"journalctl: {(error.stderr or error.message).strip()}", "man journalctl") from None
    return read_events(journal.entries), (_CUT,) if journal.is_cut else ()


def _span(since: str | None, boot: str | None) -> str:
    parts = [f"since {since}"] if since else []
    parts += [f"in boot {boot}"] if boot else []
    return " ".join(parts) or _LAST_DAY


def _hinted(span: str, *, is_found: bool) -> str:
    """The period; if nothing was found in the default one, with the option for a longer one."""
    return span if is_found or span != _LAST_DAY else f"{span}: --since searches further back"


def render_time(when: float) -> str:
    """A Unix time for people, in the time zone of the host, as journalctl prints it."""
    return datetime.fromtimestamp(when).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _check(group: Group) -> Check:
    first, last = render_time(group.first), render_time(group.last)
    times = f"once, {last}" if group.count == 1 else f"{group.count} times, {first} to {last}"
    known = group.signature
    return Check(
        known.name if known else "not known" if group.priority <= ERROR else "not known (warning)",
        Outcome.WARNING,
        f"{times}\n{redact(group.sample)}",
        f"{known.means}: {known.remedy}." if known else "",
    )


def recent_errors(systemctl: Systemctl) -> tuple[dict[str, object], ...]:
    """Warnings and errors of the last hour by kind, the latest first; of many lines, the last ones.

    Raises:
        PermissionDenied, Unavailable: as `errors`.
        CommandError: journalctl failed, or did not answer in time.
    """
    require_journal()
    journal = systemctl.entries(since="-1h", priority="warning", lines=_RECENT_LINES, timeout=10)
    return tuple(map(describe_group, group_events(read_events(journal.entries))))


def describe_group(group: Group) -> dict[str, object]:
    """A kind of errors for programs."""
    known = group.signature
    return {
        "kind": known.name if known else None,
        "area": known.area if known else None,
        "priority": group.priority,
        "count": group.count,
        "first": group.first,
        "last": group.last,
        "sample": redact(group.sample),
        "means": known.means if known else None,
        "remedy": known.remedy if known else None,
    }


def _event(event: LogEvent) -> dict[str, object]:
    return {"time": event.when, "priority": event.priority, "pid": event.pid, "text": redact(event.text)}


def _meanings(events: tuple[LogEvent, ...]) -> tuple[str, ...]:
    found = {one.name: one for event in events if (one := event.signature)}
    return tuple(f"{one.means}: {one.remedy}." for one in found.values())
