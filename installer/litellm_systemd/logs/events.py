"""Entries of the journal as events: a traceback is one, and so are its repetitions a group. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from litellm_systemd.logs.known_messages import Signature, find_signature

ERROR, WARNING, INFO = 3, 4, 6
_TRACEBACK = "Traceback (most recent call last):"
#: Lines that go on with an event; the last two are paragraphs of LiteLLM's. journald drops the empty lines between.
_MORE = (
    _TRACEBACK,
    "During handling of the above exception",
    "The above exception was the direct cause",
    "LiteLLM: model group ",
    "Requester IP Address:",
)
#: What differs between two lines that say the same: ids, addresses, times, numbers.
_VARYING = re.compile(
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b0x[0-9a-f]+\b|\b(?=[0-9a-f]*\d)[0-9a-f]{10,}\b|\d+",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One thing that was said.

    `when`: Unix time. `priority` as in syslog(3), 3 is an error. `text`: all its lines. `call`: the id of the request
    that it is about (x-litellm-call-id), where the line is an object that has one.
    """

    when: float
    priority: int
    pid: str
    text: str
    of_systemd: bool = False
    call: str = ""

    @property
    def head(self) -> str:
        """The first line, which says what happened."""
        return self.text.partition("\n")[0].removesuffix(_TRACEBACK).rstrip()

    @property
    def last(self) -> str:
        """The last line, in which a traceback names the exception."""
        return self.text.rstrip().rpartition("\n")[2]

    @property
    def words(self) -> str:
        """All that was said, without the frames of tracebacks, whose code could be taken for words."""
        lines = (line for line in self.text.split("\n") if line and line[0] not in " \t")
        return "\n".join(line for line in lines if not line.startswith(_MORE))

    @property
    def signature(self) -> Signature | None:
        """What it is known as."""
        return find_signature(self.words, of_systemd=self.of_systemd)

    @property
    def sample(self) -> str:
        """It in a line or two: the head and, of a traceback, the exception."""
        return self.head if self.head == self.last else f"{self.head}\n{self.last}".strip()


@dataclass(frozen=True, slots=True)
class Group:
    """Events of one kind, at least one. `signature` is None if the kind isn't known."""

    signature: Signature | None
    events: tuple[LogEvent, ...]

    @property
    def count(self) -> int:
        """How often it was said."""
        return len(self.events)

    @property
    def priority(self) -> int:
        """That of the worst."""
        return min(event.priority for event in self.events)

    @property
    def first(self) -> float:
        """When it was said first (Unix time)."""
        return min(event.when for event in self.events)

    @property
    def last(self) -> float:
        """When it was said last (Unix time)."""
        return max(event.when for event in self.events)

    @property
    def sample(self) -> str:
        """What was said last."""
        return max(self.events, key=lambda event: event.when).sample


def read_events(entries: Iterable[Mapping[str, Any]]) -> tuple[LogEvent, ...]:
    """The events of journal entries (`journalctl -o json`), in the order of their first lines.

    A text of several lines comes as several entries, one after another of the same process and priority.
    """
    found: list[LogEvent] = []
    latest: dict[str, int] = {}
    for entry in entries:
        line = _line(entry)
        at = latest.get(line.pid)
        if at is not None and not line.of_systemd and _goes_on(found[at], line):
            found[at] = replace(found[at], text=f"{found[at].text}\n{line.text}")
        else:
            latest[line.pid] = len(found)
            found.append(line)
    return tuple(found)


def _line(entry: Mapping[str, Any]) -> LogEvent:
    message = _text(entry.get("MESSAGE"))
    pid = str(entry.get("_PID", ""))
    text, call = _unwrap(message)
    return LogEvent(
        int(entry.get("__REALTIME_TIMESTAMP", 0)) / 1e6,
        int(entry.get("PRIORITY", INFO)),
        pid,
        text,
        of_systemd=pid == "1",
        call=call,
    )


def _text(message: Any) -> str:
    """A message as text: one with bytes that aren't UTF-8 comes as a list of numbers, a large one as null."""
    if isinstance(message, list) and all(isinstance(each, int) for each in message):
        return bytes(message).decode(errors="replace")
    return message if isinstance(message, str) else ""


def _unwrap(message: str) -> tuple[str, str]:
    """The words of an object of JSON_LOGS, with its traceback; and the request's id, if it has one."""
    if not message.startswith("{"):
        return message, ""
    try:
        found = dict(json.loads(message))
    except (ValueError, TypeError):
        return message, ""
    trace = str(found.get("stacktrace") or "").rstrip()
    return "\n".join(part for part in (str(found.get("message", "")), trace) if part), str(
        found.get("litellm_call_id") or found.get("call_id") or ""
    )


def _goes_on(event: LogEvent, line: LogEvent) -> bool:
    if event.priority != line.priority:
        return False
    if line.text == "" or line.text[0] in " \t" or line.text.startswith(_MORE):
        return True
    # After the frames of a traceback, which are indented, comes the exception.
    return _TRACEBACK in event.text and event.last.startswith((" ", "\t"))


def group_events(events: Iterable[LogEvent]) -> tuple[Group, ...]:
    """Events by what they are known as, else by their words without what varies; what was said last comes first."""
    found: dict[str, list[LogEvent]] = {}
    for event in events:
        signature = event.signature
        found.setdefault(signature.name if signature else shape_of(event), []).append(event)
    groups = (Group(events[0].signature, tuple(events)) for events in found.values())
    return tuple(sorted(groups, key=lambda group: -group.last))


def shape_of(event: LogEvent) -> str:
    """The words of an event without what differs from one time to the next."""
    return " ".join(_VARYING.sub("#", event.sample).split())


def of_request(events: Iterable[LogEvent], name: str) -> Iterator[LogEvent]:
    """The events about one request, by its x-litellm-call-id, whole or a part of it at least eight letters long."""
    for event in events:
        if name == event.call or (len(name) >= 8 and (name in event.call or name in event.text)):
            yield event
