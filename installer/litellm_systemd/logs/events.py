"""Combine journal entries into events (a traceback is one event), and events of one kind into groups. Pure."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from litellm_systemd.logs.known_messages import Signature, find_signature

ERROR, WARNING, INFO = 3, 4, 6
_PRIORITIES = tuple("01234567")
#: Characters of a message. A traceback has a few thousand.
_MAX_TEXT = 64 * 1024
_TRACEBACK = "Traceback (most recent call last):"
#: Lines that continue an event; the last ones begin paragraphs of LiteLLM. journald drops the empty lines between.
_CONTINUATIONS = (
    _TRACEBACK,
    "During handling of the above exception",
    "The above exception was the direct cause",
    "LiteLLM: model group ",
    "Requester IP Address:",
    "Debug Information:",
    "Cooldown Deployments=",
    "Deployment Info:",
    "For more information check: ",
    "This looks like a bug in LiteLLM",
)
#: How the service begins a line about further failures, and ends one about a request (runtime/master/failure_log.py).
_MORE = re.compile(r"(\d{1,9}) more in \d+ s: ")
_REQUEST = re.compile(r" \[request ([^\]\n]{1,256})\]$")
#: systemd's lines about a failed command of the unit, which may be that of ExecReload=.
_RELOAD = re.compile(r"Control process exited|Reload failed for")
#: systemd's warnings after an install that changed HOST or PORT and restarted the socket, and when a process exits.
_NORMAL = re.compile(
    r"litellm\.socket: Socket unit configuration has changed while unit has been running"
    r"|Got notification message from PID \d+, but reception (?:is disabled|only permitted for main PID)"
)
#: systemd's lines about one failure follow each other within these seconds.
_TOGETHER = 10.0
#: Consequences: systemd's messages about the end of the service, and a cooldown; and the seconds in which they follow
#: the message that says why, on a busy host.
_ENDS, _END = ("unit-ended", "start-limit", "cooldown"), 60.0
#: The parts in which two messages of one kind differ: ids, addresses, times, numbers.
_VARIABLE_PARTS = re.compile(
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b0x[0-9a-f]+\b|\b(?=[0-9a-f]*\d)[0-9a-f]{10,}\b|\d+",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One log message, possibly of several lines.

    `when`: Unix time. `priority`: as in syslog(3), 3 is an error. `text`: all lines. `call`: the id of the request
    (x-litellm-call-id), if the line has one. `from_systemd`: logged by systemd itself. `count`: how often it
    happened: the service adds up failures of one kind, and systemd logs one in several lines.
    """

    when: float
    priority: int
    pid: str
    text: str
    from_systemd: bool = False
    call: str = ""
    count: int = 1
    logger: str = ""

    @property
    def head(self) -> str:
        """The first line, which describes what happened."""
        return self.text.partition("\n")[0].removesuffix(_TRACEBACK).rstrip()

    @property
    def last(self) -> str:
        """The last line, in which a traceback names the exception."""
        return self.text.rstrip().rpartition("\n")[2]

    @property
    def message_lines(self) -> str:
        """The text without the frames of tracebacks, whose code could match a signature."""
        lines = (line for line in self.text.split("\n") if line and line[0] not in " \t")
        return "\n".join(line for line in lines if not line.startswith(_CONTINUATIONS))

    @property
    def signature(self) -> Signature | None:
        """The known message that matches; None if it is unknown."""
        return find_signature(self.message_lines, from_systemd=self.from_systemd)

    @property
    def sample(self) -> str:
        """The event in one or two lines: the first line, and the exception of a traceback."""
        return self.head if self.head == self.last else f"{self.head}\n{self.last}".strip()


@dataclass(frozen=True, slots=True)
class Group:
    """Events of one kind, at least one. `signature` is None if the kind is unknown."""

    signature: Signature | None
    events: tuple[LogEvent, ...]

    @property
    def count(self) -> int:
        """How often it happened."""
        return sum(event.count for event in self.events)

    @property
    def priority(self) -> int:
        """The priority of the most severe event."""
        return min(event.priority for event in self.events)

    @property
    def first(self) -> float:
        """The time of the first event (Unix time)."""
        return min(event.when for event in self.events)

    @property
    def last(self) -> float:
        """The time of the last event (Unix time)."""
        return max(event.when for event in self.events)

    @property
    def sample(self) -> str:
        """The sample of the last event."""
        return max(self.events, key=lambda event: event.when).sample


def read_events(entries: Iterable[Mapping[str, Any]]) -> tuple[LogEvent, ...]:
    """The events in journal entries (`journalctl -o json`), in the order of their first lines.

    journald stores a text of several lines as consecutive entries with the same process and priority.
    """
    found: list[LogEvent] = []
    latest: dict[str, int] = {}
    for entry in entries:
        line = _line(entry)
        at = latest.get(line.pid)
        if at is not None and not line.from_systemd and _continues(found[at], line):
            if len(found[at].text) < _MAX_TEXT:
                found[at] = replace(found[at], text=f"{found[at].text}\n{line.text}")
        else:
            latest[line.pid] = len(found)
            found.append(line)
    return tuple(found)


def _line(entry: Mapping[str, Any]) -> LogEvent:
    message = message_text(entry.get("MESSAGE"))
    pid = str(entry.get("_PID", ""))
    text, call, logger = _unwrap(message)
    if (more := _MORE.match(text)) is not None:
        text = text[more.end() :]
    if (request := _REQUEST.search(text)) is not None:
        text, call = text[: request.start()], request[1]
    return LogEvent(
        int(entry.get("__REALTIME_TIMESTAMP", 0)) / 1e6,
        _priority(entry.get("PRIORITY")),
        pid,
        text,
        from_systemd=pid == "1" or _is_forked_by_systemd(entry),
        call=call,
        count=int(more[1]) if more else 1,
        logger=logger or text.partition(": ")[0],
    )


def _is_forked_by_systemd(entry: Mapping[str, Any]) -> bool:
    """Whether a process logged it that systemd has forked, before it runs the program of the unit.

    journald does not know the _EXE of a process that has exited already. systemd names it after the program, as
    `(python)`.
    """
    if program := entry.get("_EXE"):
        return str(program).endswith(("/systemd", "/systemd-executor"))
    return re.fullmatch(r"\([^()]+\)", str(entry.get("SYSLOG_IDENTIFIER", ""))) is not None


def _priority(value: Any) -> int:
    """The priority of an entry; a process can write any text there, or several (systemd.journal-fields(7))."""
    return int(value) if value in _PRIORITIES else INFO


def message_text(message: Any) -> str:
    """A message as text: journalctl prints one that is not UTF-8 as a list of numbers, a large one as null."""
    if isinstance(message, list) and all(isinstance(each, int) and 0 <= each < 256 for each in message):
        message = bytes(message).decode(errors="replace")
    return message[:_MAX_TEXT] if isinstance(message, str) else ""


def _unwrap(message: str) -> tuple[str, str, str]:
    """Of a JSON_LOGS object: message and traceback, the id of the request and the logger, if it has them."""
    if not message.startswith("{"):
        return message, "", ""
    try:
        found = dict(json.loads(message))
    except (ValueError, TypeError, RecursionError):
        return message, "", ""
    trace = str(found.get("stacktrace") or "").rstrip()
    text = "\n".join(part for part in (str(found.get("message", "")), trace) if part)
    call = str(found.get("litellm_call_id") or found.get("call_id") or "")
    return text, call, str(found.get("component") or "")


def _continues(event: LogEvent, line: LogEvent) -> bool:
    if event.priority != line.priority:
        return False
    if line.text == "" or line.text[0] in " \t" or line.text.startswith(_CONTINUATIONS):
        return True
    # The exception follows the frames of a traceback, which are indented.
    return _TRACEBACK in event.text and event.last.startswith((" ", "\t"))


def group_events(events: Iterable[LogEvent], own_loggers: Container[str] = ()) -> tuple[Group, ...]:
    """Events by their signature, else by their text without variable parts.

    A message of `own_loggers`, those of the user's Python files, is no message of a provider, whatever its words.
    The latest group is first, but systemd's lines about the end of the service come after what it ended of, and what
    clients caused is last.
    """
    found: dict[str, tuple[Signature | None, list[LogEvent]]] = {}
    known = []
    for event in events:
        signature = event.signature
        is_own = signature is not None and signature.area in ("aws", "upstream") and event.logger in own_loggers
        known.append((event, None if is_own else signature))
    for event, signature in _count_once(known):
        name = signature.name if signature else shape_of(event)
        found.setdefault(name, (signature, []))[1].append(event)
    groups = (Group(signature, tuple(events)) for signature, events in found.values())
    return tuple(sorted(groups, key=_order))


def _order(group: Group) -> tuple[bool, float]:
    is_clients = group.signature is not None and group.signature.name.startswith("client-")
    return is_clients, -group.last + _END * _is(group.signature, *_ENDS)


def _count_once(
    events: Sequence[tuple[LogEvent, Signature | None]],
) -> Iterator[tuple[LogEvent, Signature | None]]:
    """The events, each with its signature, as often as they count.

    Systemd's lines about what is normal, and about a reload whose failure the service logs itself, are left out. Its
    lines about one end of the service count as one.
    """
    failed = sorted(event.when for event, _ in events if event.from_systemd and "Reload failed" in event.text)
    reloads = sorted(event.when for event, signature in events if _is(signature, "reload-failed"))
    ended_at = -_TOGETHER
    for event, signature in events:
        if event.from_systemd and _RELOAD.search(event.text) is not None:
            is_logged = _has_time(reloads, event.when - _TOGETHER, event.when + _TOGETHER)
            is_part = "Reload failed" not in event.text and _has_time(failed, event.when, event.when + _TOGETHER)
            if is_logged or is_part:
                continue
        if event.from_systemd and _NORMAL.search(event.text):
            continue
        if _is(signature, "unit-ended"):
            # A service that fails again at once has another line about its main process.
            is_new = event.when - ended_at >= _TOGETHER or "process exited" in event.text
            ended_at = event.when
            event = event if is_new else replace(event, count=0)
        yield event, signature


def _has_time(times: Sequence[float], begin: float, end: float) -> bool:
    """Whether one of the sorted times is in an interval."""
    index = bisect_left(times, begin)
    return index < len(times) and times[index] < end


def _is(signature: Signature | None, *names: str) -> bool:
    return signature is not None and signature.name in names


def shape_of(event: LogEvent) -> str:
    """The text of an event without its variable parts."""
    return " ".join(_VARIABLE_PARTS.sub("#", event.sample).split())


def filter_by_request(events: Iterable[LogEvent], name: str) -> Iterator[LogEvent]:
    """The events of one request, by its x-litellm-call-id or a part of it that has at least eight characters."""
    for event in events:
        if name == event.call or (len(name) >= 8 and (name in event.call or name in event.text)):
            yield event
