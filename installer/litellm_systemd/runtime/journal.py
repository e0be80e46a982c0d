"""Lines for people, on standard error, as journald likes them.

Under the journal each line starts with its priority, `<4>` for a warning (sd-daemon(3)), so that
`journalctl -u litellm -p warning` works. In a terminal the lines are plain. With JSON_LOGS, what follows the priority
is one JSON object for each event, with the keys of LiteLLM's own (JsonFormatter in its _logging.py).
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
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from litellm_systemd.env.variables import JSON_LOGS, is_on

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]
else:  # it can't be subscripted before Python 3.11
    _StreamHandler = logging.StreamHandler

_BRIEF = "%(name)s: %(message)s"

CRITICAL, ERROR, WARNING, NOTICE, INFO, DEBUG = 2, 3, 4, 5, 6, 7
#: The words of `logging`, which has none for a notice.
_LEVELS = {CRITICAL: "CRITICAL", ERROR: "ERROR", WARNING: "WARNING", NOTICE: "INFO", INFO: "INFO", DEBUG: "DEBUG"}
_COMPONENT = "litellm_systemd.runtime"
#: Loggers and modules that say at each start what helps nobody here: LiteLLM of the Admin UI's sign-in, which takes a
#: database; uvicorn that a start failed, when the master is about to say why.
_BESIDE_THE_POINT = frozenset({("LiteLLM Proxy", "login_throttle"), ("uvicorn.error", "on")})


@dataclass(frozen=True, slots=True)
class Journal:
    """Writes lines to standard error; `prefixed` if journald reads them, `structured` for JSON."""

    prefixed: bool = False
    structured: bool = False

    def line(self, priority: int, text: str) -> None:
        """One event. A text of several lines stays together, each line with its priority."""
        if self.structured:
            text = render_object(text, _LEVELS[priority], time.time(), component=_COMPONENT)
        # One write a message: workers share the descriptor, and their lines must not mix. If it is gone with its
        # terminal, the service isn't.
        with contextlib.suppress(OSError):
            sys.stderr.write(self.prefix(priority, text) + "\n")
            sys.stderr.flush()

    def error(self, text: str) -> None:
        """Something failed, and a person has to look."""
        self.line(ERROR, text)

    def warning(self, text: str) -> None:
        """Something went wrong and was mended."""
        self.line(WARNING, text)

    def notice(self, text: str) -> None:
        """A normal event that an administrator may look for: started, reloaded, stopped."""
        self.line(NOTICE, text)

    def info(self, text: str) -> None:
        """Everything else."""
        self.line(INFO, text)

    def prefix(self, priority: int, text: str) -> str:
        """`text` as it is written."""
        if not self.prefixed:
            return text
        return "\n".join(f"<{priority}>{line}" for line in text.split("\n"))


def open_journal(environ: Mapping[str, str]) -> Journal:
    """A `Journal` for this process's standard error."""
    return Journal(_is_journal(environ.get("JOURNAL_STREAM", "")), is_on(environ, JSON_LOGS))


def render_object(message: str, level: str, created: float, **more: Any) -> str:
    """One event as one JSON object in one line; the time as LiteLLM writes it, so that both sort together."""
    timestamp = datetime.fromtimestamp(created).isoformat()
    return json.dumps({"message": message, "level": level, "timestamp": timestamp, **more})


def _is_journal(stream: str) -> bool:
    # Device and inode say that it is this very stream: a redirection leaves the variable alone (systemd.exec(5)).
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


class JournalHandler(_StreamHandler):
    """Puts the priority before each line of a log record, the lines of a traceback included."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(sys.stderr)
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """The record's text with prefixes."""
        if _is_clients_fault(record):
            record = _soften(record, logging.WARNING)
        elif (record.name, record.module) in _BESIDE_THE_POINT:
            record = _soften(record, logging.INFO)
        text = super().format(record)
        if self._journal.structured and not _is_structured(text):
            text = render_object(text, record.levelname, record.created, component=record.name)
        return self._journal.prefix(priority_of(record.levelno), text)


def _is_structured(text: str) -> bool:
    """Whether a formatter made an object of an event already, as LiteLLM's does; those of other libraries don't."""
    if not text.startswith("{") or "\n" in text:
        return False
    try:
        keys: set[str] = set(json.loads(text))
    except ValueError:
        return False
    return {"message", "level"} <= keys


def _soften(record: logging.LogRecord, level: int) -> logging.LogRecord:
    brief = copy.copy(record)
    brief.levelno, brief.levelname = level, logging.getLevelName(level)
    brief.exc_info = brief.exc_text = None  # where in LiteLLM a key was refused helps nobody
    return brief


def _is_clients_fault(record: logging.LogRecord) -> bool:
    """Whether LiteLLM reports one request as wrong: a bad key, a missing parameter.

    It logs them as errors (log_llm_api_exception in proxy/common_request_processing.py and
    auth/auth_exception_handler.py). Whoever reaches the port could fill `journalctl -p err` with them. A missing key
    comes as a bare Exception with a traceback; any other traceback is a failure of LiteLLM's own.
    """
    about_a_request = hasattr(record, "requester_ip") or hasattr(record, "litellm_call_id")
    if record.levelno != logging.ERROR or not about_a_request:
        return False
    error = record.exc_info[1] if record.exc_info else None
    return error is None or (record.module == "auth_exception_handler" and type(error) is Exception)


def priority_of(level: int) -> int:
    """A level of `logging` as a priority of syslog(3)."""
    if level >= logging.CRITICAL:
        return CRITICAL
    if level >= logging.ERROR:
        return ERROR
    if level >= logging.WARNING:
        return WARNING
    return INFO if level >= logging.INFO else DEBUG


def adopt_loggers(journal: Journal) -> None:
    """Send what every logger writes to a terminal through `journal`, formatters, levels and filters kept.

    LiteLLM and its libraries bring handlers of their own, and make new ones when JSON_LOGS is on. Each is replaced
    rather than wrapped: some choose their stream record by record.
    """
    manager = logging.root.manager
    loggers = [logger for logger in manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    for logger in (logging.root, *loggers):
        logger.handlers[:] = [_adopt(handler, journal) for handler in logger.handlers]
    # A handler on the root would say twice what LiteLLM's loggers pass up. This one is for what nobody handles.
    last = JournalHandler(journal)
    last.setLevel(logging.WARNING)
    last.setFormatter(logging.Formatter(_BRIEF))
    logging.lastResort = last


def _adopt(handler: logging.Handler, journal: Journal) -> logging.Handler:
    if isinstance(handler, JournalHandler) or not isinstance(handler, logging.StreamHandler):
        return handler
    if handler.stream not in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):  # a file of the user's
        return handler
    mine = JournalHandler(journal)
    timed = journal.prefixed or journal.structured
    mine.setFormatter(_shorten(handler.formatter) if timed else handler.formatter)
    mine.setLevel(handler.level)
    mine.filters[:] = handler.filters
    return mine


def _shorten(formatter: logging.Formatter | None) -> logging.Formatter | None:
    # The journal and each object have time and priority already. The class is kept: LiteLLM's takes secrets out.
    if formatter is None or "asctime" not in (formatter._fmt or ""):
        return formatter
    return type(formatter)(_BRIEF)


def adopt_strays(journal: Journal) -> None:
    """Send what Python itself would print through `journal`: warnings, and exceptions that nobody caught."""

    def on_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        journal.line(CRITICAL, "".join(traceback.format_exception(kind, error, trace)).rstrip())

    def on_thread_crash(crash: threading.ExceptHookArgs) -> None:
        if crash.exc_type is not SystemExit:  # which ends a thread in silence
            lines = traceback.format_exception(crash.exc_type, crash.exc_value, crash.exc_traceback)
            journal.error("".join(lines).rstrip())

    def on_warning(message: Any, category: type[Warning], filename: str, lineno: int, *_: Any, **__: Any) -> None:
        # They are for LiteLLM's programmers. pydantic's go on with values, parts of prompts: the first line will do.
        journal.info(f"{filename}:{lineno}: {category.__name__}: {str(message).partition(chr(10))[0]}")

    sys.excepthook, threading.excepthook, warnings.showwarning = on_crash, on_thread_crash, on_warning
    # pydantic has something to say of LiteLLM's types, twice in each worker.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"pydantic\._internal\.")


def hush_cancellations() -> None:
    """Drop records about cancelled tasks: a worker that leaves cancels what it cuts, and says so in a line itself."""
    for logger in (logging.getLogger("uvicorn.error"), logging.getLogger("apscheduler.executors.default")):
        logger.addFilter(lambda record: not _is_cancellation(record))


def _is_cancellation(record: logging.LogRecord) -> bool:
    return bool(record.exc_info) and isinstance(record.exc_info, tuple) and _cancelled(record.exc_info[1])


def _cancelled(error: BaseException | None) -> bool:
    return isinstance(error, asyncio.CancelledError)
