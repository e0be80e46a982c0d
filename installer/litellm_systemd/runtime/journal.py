"""Log lines on standard error, in the format of journald.

If journald reads them, each line starts with its priority, `<4>` for a warning (sd-daemon(3)), so that
`journalctl -u litellm -p warning` works. In a terminal they have no priority. With JSON_LOGS each event is one JSON
object after the priority, with the keys of LiteLLM's log (JsonFormatter in its _logging.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from litellm_systemd.env.variables import JSON_LOGS, is_on
from litellm_systemd.runtime.failures import Failure, build_failure, current_incident, find_error, has_no_cause

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]
else:  # not subscriptable before Python 3.11
    _StreamHandler = logging.StreamHandler

_BRIEF = "%(name)s: %(message)s"

CRITICAL, ERROR, WARNING, NOTICE, INFO, DEBUG = 2, 3, 4, 5, 6, 7
#: The level names of `logging`, which has none for a notice.
_LEVELS = {CRITICAL: "CRITICAL", ERROR: "ERROR", WARNING: "WARNING", NOTICE: "INFO", INFO: "INFO", DEBUG: "DEBUG"}
_COMPONENT = "litellm_systemd.runtime"
#: Loggers and modules whose messages are logged as information: LiteLLM warns at each start about the sign-in of the
#: Admin UI, which needs a database, uvicorn logs that a start failed just before the main process logs the cause, and
#: LiteLLM that it raises the refusal of a role, which then fails the request.
_DOWNGRADED = frozenset({("LiteLLM Proxy", "login_throttle"), ("uvicorn.error", "on"), ("LiteLLM", "base_aws_llm")})
#: The log levels of the priorities of failures.
_LOGGED = {ERROR: logging.ERROR, WARNING: logging.WARNING, INFO: logging.INFO}
#: Seconds for which the traceback of a failure is not repeated, and the number of kinds that a process remembers.
_DETAIL_INTERVAL, _MAX_DETAILS = 600.0, 500


@dataclass(frozen=True, slots=True)
class Journal:
    """Writes events to standard error: `prefixed` with the priority for journald, `structured` as JSON.

    `report`: gets the failures that libraries log, adds up those of all workers, and returns whether it could;
    otherwise each is written here.
    `is_model`: whether the configuration has a model group of that name.
    """

    prefixed: bool = False
    structured: bool = False
    report: Callable[[Failure], bool] | None = None
    is_model: Callable[[str], bool] = bool

    def line(self, priority: int, text: str) -> None:
        """Write one event. Each line of the text gets the priority."""
        if self.structured:
            text = render_object(text, _LEVELS[priority], time.time(), component=_COMPONENT)
        # One write per event, so that lines of different workers do not mix: they share the descriptor. If the
        # terminal has been closed, the service continues.
        with contextlib.suppress(OSError):
            sys.stderr.write(self.prefix(priority, text) + "\n")
            sys.stderr.flush()

    def error(self, text: str) -> None:
        """Log a failure that needs attention."""
        self.line(ERROR, text)

    def warning(self, text: str) -> None:
        """Log a failure from which the service has recovered."""
        self.line(WARNING, text)

    def notice(self, text: str) -> None:
        """Log a normal but significant event: a start, a reload, a stop."""
        self.line(NOTICE, text)

    def info(self, text: str) -> None:
        """Log any other event."""
        self.line(INFO, text)

    def prefix(self, priority: int, text: str) -> str:
        """The text with the priority before each line if journald reads it."""
        if not self.prefixed:
            return text
        return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


def open_journal(environ: Mapping[str, str]) -> Journal:
    """A `Journal` for the standard error of this process."""
    return Journal(_is_journal(environ.get("JOURNAL_STREAM", "")), is_on(environ, JSON_LOGS))


def render_object(message: str, level: str, created: float, **more: Any) -> str:
    """One event as a JSON object in one line. The timestamp has LiteLLM's format, so that both logs sort together."""
    timestamp = datetime.fromtimestamp(created).isoformat()
    return json.dumps({"message": message, "level": level, "timestamp": timestamp, **more})


def _is_journal(stream: str) -> bool:
    # A redirection does not change the variable. Device and inode show whether this is the stream (systemd.exec(5)).
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


class JournalHandler(_StreamHandler):
    """Writes a log record with its priority.

    A warning or an error is one line: a failure of a request is written once, and its traceback at DEBUG.
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__(sys.stderr)
        self.journal = journal
        self._detailed: dict[str, float] = {}

    def handle(self, record: logging.LogRecord) -> bool:
        """Write the record, unless another one is about the same failure."""
        if (record.name, record.module) in _DOWNGRADED:
            record = _copy(record, logging.INFO)
        elif has_no_cause(record):
            return True
        if record.levelno < logging.WARNING:
            return bool(super().handle(record))
        error, incident = find_error(record), current_incident()
        if incident is not None and incident.is_expected:
            return bool(super().handle(_copy(record, logging.DEBUG)))
        in_request = incident is not None and (not incident.ended or record.name == "uvicorn.error")

        def report() -> None:
            self._report(record, error, in_request=in_request)

        if incident is None or error is None or incident.claims(record, error, report):
            report()
        elif logging.getLogger(record.name).isEnabledFor(logging.DEBUG):
            super().handle(_copy(record, logging.DEBUG, keeps_trace=True))
        return True

    def _report(self, record: logging.LogRecord, error: BaseException | None, *, in_request: bool) -> None:
        failure = build_failure(record, error, in_request=in_request, is_model=self.journal.is_model)
        if failure.by_own_code and (incident := current_incident()) is not None:
            incident.is_broken = True
        brief = _copy(record, _LOGGED[failure.priority], failure.whole)
        if record.levelno >= logging.CRITICAL:
            brief.levelno, brief.levelname = record.levelno, record.levelname
        if self.journal.report is None or failure.priority == INFO:
            super().handle(brief)
        elif self.filter(brief):  # LiteLLM's filter removes secrets
            text = super().format(brief)
            message = str(json.loads(text)["message"]) if _is_structured(text) else text
            message = message.removesuffix(f" [request {failure.call}]")
            sent = self.journal.report(replace(failure, priority=priority_of(brief.levelno), text=message))
            if failure.call or not sent:
                super().handle(_copy(brief, logging.INFO if sent else brief.levelno))
        has_detail = record.exc_info or "Traceback (most recent" in record.getMessage()
        if has_detail and not failure.by_client and self._is_detailed(record, failure.kind):
            super().handle(_copy(record, logging.DEBUG, keeps_trace=True))

    def _is_detailed(self, record: logging.LogRecord, kind: str) -> bool:
        """Whether the traceback is written: once in a while for each kind, and always with LITELLM_LOG=DEBUG."""
        now = time.monotonic()
        if now - self._detailed.get(kind, -_DETAIL_INTERVAL) < _DETAIL_INTERVAL:
            return logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
        if len(self._detailed) >= _MAX_DETAILS:
            self._detailed.clear()
        self._detailed[kind] = now
        return True

    def format(self, record: logging.LogRecord) -> str:
        """The text of the record with the priority before each line."""
        text = super().format(record)
        if self.journal.structured and not _is_structured(text):
            text = render_object(text, record.levelname, record.created, component=record.name)
        return self.journal.prefix(priority_of(record.levelno), text)


def _is_structured(text: str) -> bool:
    """Whether the text is a JSON event already, as from LiteLLM's formatter."""
    if not text.startswith("{") or "\n" in text:
        return False
    try:
        keys: set[str] = set(json.loads(text))
    except ValueError:
        return False
    return {"message", "level"} <= keys


def _copy(
    record: logging.LogRecord, level: int, text: str | None = None, *, keeps_trace: bool = False
) -> logging.LogRecord:
    copied = copy.copy(record)
    copied.levelno, copied.levelname = level, logging.getLevelName(level)
    if text is not None:
        copied.msg, copied.args = text, ()
    if not keeps_trace:
        copied.exc_info = copied.exc_text = None
    return copied


def priority_of(level: int) -> int:
    """The syslog(3) priority of a level of `logging`."""
    if level >= logging.CRITICAL:
        return CRITICAL
    if level >= logging.ERROR:
        return ERROR
    if level >= logging.WARNING:
        return WARNING
    return INFO if level >= logging.INFO else DEBUG


def redirect_loggers(journal: Journal) -> None:
    """Redirect every logger that writes to standard output or error to `journal`.

    Formatters, levels and filters stay. LiteLLM and its libraries install handlers, with JSON_LOGS even later. Each
    of them is replaced, not wrapped, because some choose the stream for each record.
    """
    manager = logging.root.manager
    loggers = [logger for logger in manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    for logger in (logging.root, *loggers):
        logger.handlers[:] = [_replace_handler(handler, journal) for handler in logger.handlers]
    # For records without a handler. A handler of the root logger would repeat what LiteLLM's loggers propagate.
    last = JournalHandler(journal)
    last.setLevel(logging.WARNING)
    last.setFormatter(logging.Formatter(_BRIEF))
    logging.lastResort = last


def _replace_handler(handler: logging.Handler, journal: Journal) -> logging.Handler:
    if isinstance(handler, JournalHandler):
        handler.journal = journal
        return handler
    if not isinstance(handler, logging.StreamHandler):
        return handler
    if handler.stream not in (
        sys.stdout,
        sys.stderr,
        sys.__stdout__,
        sys.__stderr__,
    ):  # a file, as a user configures it
        return handler
    replacement = JournalHandler(journal)
    timed = journal.prefixed or journal.structured
    replacement.setFormatter(_shorten(handler.formatter) if timed else handler.formatter)
    replacement.setLevel(handler.level)
    replacement.filters[:] = handler.filters
    return replacement


def _shorten(formatter: logging.Formatter | None) -> logging.Formatter | None:
    # The journal and each JSON object have a time and a priority. The class stays, because LiteLLM's removes secrets.
    if formatter is None or "asctime" not in (formatter._fmt or ""):
        return formatter
    return type(formatter)(_BRIEF)


def install_exception_hooks(journal: Journal) -> None:
    """Redirect what Python prints itself to `journal`: warnings and uncaught exceptions."""

    def on_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        journal.line(CRITICAL, "".join(traceback.format_exception(kind, error, trace)).rstrip())

    def on_thread_uncaught(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_type is not SystemExit:  # SystemExit ends a thread without output
            lines = traceback.format_exception(arguments.exc_type, arguments.exc_value, arguments.exc_traceback)
            journal.error("".join(lines).rstrip())

    def on_warning(message: Any, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
        # Only the first line: the warnings are for LiteLLM's developers, and pydantic's continue with parts of
        # prompts.
        journal.info(f"{filename}:{lineno}: {category.__name__}: {str(message).partition(chr(10))[0]}")

    sys.excepthook, threading.excepthook, warnings.showwarning = on_uncaught, on_thread_uncaught, on_warning
    # pydantic warns about LiteLLM's types, twice in each worker.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"pydantic\._internal\.")


def suppress_cancellation_logs() -> None:
    """Drop records about cancelled tasks: a draining worker cancels force-closed requests and logs their number."""
    for logger in (logging.getLogger("uvicorn.error"), logging.getLogger("apscheduler.executors.default")):
        logger.addFilter(lambda record: not _is_cancellation(record))


def _is_cancellation(record: logging.LogRecord) -> bool:
    return isinstance(record.exc_info, tuple) and isinstance(record.exc_info[1], asyncio.CancelledError)
