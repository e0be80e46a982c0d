"""Log lines in the format of journald and as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from litellm_systemd.runtime.journal import (
    Journal,
    JournalHandler,
    install_exception_hooks,
    open_journal,
    priority_of,
    redirect_loggers,
    suppress_cancellation_logs,
)

STRUCTURED = Journal(prefixed=True, structured=True)


def parse(written: str, priority: int) -> dict[str, Any]:
    """The one JSON object in `written`, which must have this priority."""
    assert written.startswith(f"<{priority}>")
    event: dict[str, Any] = json.loads(written.removeprefix(f"<{priority}>"))
    assert datetime.fromisoformat(event["timestamp"])
    return event


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger for one test, which is reset afterwards."""
    logger = logging.getLogger("test.journal")
    last = logging.lastResort
    yield logger
    logging.lastResort = last
    logger.handlers.clear()
    logger.filters.clear()
    logger.propagate = True


@contextlib.contextmanager
def bare_root() -> Iterator[None]:
    """Remove pytest's handlers from the root logger. pytest adds them again for each phase of a test."""
    handlers = logging.root.handlers[:]
    logging.root.handlers.clear()
    try:
        yield
    finally:
        logging.root.handlers[:] = handlers


def test_every_line_has_its_priority(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line of an event has the priority of the event."""
    Journal(prefixed=True).error("one\ntwo")
    Journal(prefixed=True).notice("three")
    assert capsys.readouterr().err == "<3>one\n<3>two\n<5>three\n"


def test_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines to a terminal have no priority."""
    Journal().warning("one")
    assert capsys.readouterr().err == "one\n"


def test_journal_stream() -> None:
    """Lines have a priority only if JOURNAL_STREAM names the current standard error, not if it is redirected."""
    status = os.fstat(2)
    assert open_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}).prefixed
    assert not open_journal({"JOURNAL_STREAM": "1:2"}).prefixed
    assert not open_journal({}).prefixed


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7), (5, 7)],
)
def test_levels(level: int, priority: int) -> None:
    """Each level of `logging` has a priority of syslog(3)."""
    assert priority_of(level) == priority


class RedactingFormatter(logging.Formatter):
    """Removes secrets, as LiteLLM's formatter does."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("sk-secret", "REDACTED")


def test_redirected_logger(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """A redirected logger writes a priority and no timestamp, and keeps its level and its redaction of secrets."""
    logger.propagate = False
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s - %(message)s"))
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    redirect_loggers(Journal(prefixed=True))
    redirect_loggers(Journal(prefixed=True))  # a second call has no effect
    logger.warning("key sk-secret\nsecond line")
    logger.info("below the handler's level")
    assert capsys.readouterr().err == "<4>test.journal: key REDACTED second line\n"


def test_file_handlers_stay(logger: logging.Logger) -> None:
    """A handler that writes to a file is not replaced."""
    handler = logging.FileHandler(os.devnull)
    logger.addHandler(handler)
    redirect_loggers(Journal(prefixed=True))
    assert logger.handlers == [handler]
    handler.close()


def test_logger_without_handler(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings and errors of a logger without a handler are written with their priority."""
    with bare_root():
        redirect_loggers(Journal(prefixed=True))
        logger.warning("hello")
    assert capsys.readouterr().err == "<4>test.journal: hello\n"


def test_cancellations_are_not_logged(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """A draining worker does not log the tasks that it cancels, but it logs other errors."""
    uvicorn = logging.getLogger("uvicorn.error")
    with bare_root():
        redirect_loggers(Journal(prefixed=True))
        suppress_cancellation_logs()
        for error in (asyncio.CancelledError(), ValueError("bad")):
            try:
                raise error
            except BaseException:
                uvicorn.exception("in a task")
    uvicorn.filters.clear()
    written = capsys.readouterr().err
    assert "ValueError: bad" in written
    assert "CancelledError" not in written


def test_json_event(capsys: pytest.CaptureFixture[str]) -> None:
    """With JSON_LOGS an event of several lines is one object in one line, after its priority."""
    STRUCTURED.notice("one\ntwo")
    event = parse(capsys.readouterr().err, 5)
    assert (event["message"], event["level"]) == ("one\ntwo", "INFO")


@pytest.mark.parametrize(
    ("value", "structured"), [("true", True), ("1", True), ("false", False), ("nonsense", False)]
)
def test_structured_by_variable(value: str, structured: bool) -> None:
    """JSON_LOGS turns on JSON. The error about an invalid value is plain text."""
    assert open_journal({"JSON_LOGS": value}).structured is structured


def test_json_record(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """With JSON_LOGS each record of a library is one object, with its traceback and without secrets."""
    logger.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    redirect_loggers(STRUCTURED)
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("key sk-secret")
    brief, detail = capsys.readouterr().err.splitlines()
    event = parse(brief, 3)
    assert event["message"].startswith("test.journal: key REDACTED (ValueError: bad")
    assert (event["level"], event["component"]) == ("ERROR", "test.journal")
    event = parse(detail, 7)
    assert event["message"].startswith("test.journal: key REDACTED\nTraceback")
    assert event["message"].endswith("ValueError: bad")


@pytest.mark.parametrize(
    ("message", "kept"), [('{"message": "m", "level": "INFO", "x": 1}', True), ('{"x": 1}', False), ("{", False)]
)
def test_json_of_other_formatters(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str], message: str, kept: bool
) -> None:
    """An event of a JSON formatter is written unchanged. Other text that begins with a brace is wrapped."""
    logger.addHandler(JournalHandler(STRUCTURED))
    logger.warning(message)
    written = capsys.readouterr().err
    assert written == f"<4>{message}\n" if kept else parse(written, 4)["message"] == message


def test_client_error_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """The level in the object of a client error matches its priority."""
    record = logging.makeLogRecord({"msg": "No api key", "levelno": logging.ERROR, "levelname": "ERROR"})
    record.requester_ip = "192.0.2.1"
    JournalHandler(STRUCTURED).handle(record)
    assert parse(capsys.readouterr().err, 4)["level"] == "WARNING"


def test_exception_hooks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Python warnings and uncaught exceptions, also in threads, are written as events."""
    monkeypatch.setattr(sys, "excepthook", None)
    monkeypatch.setattr(threading, "excepthook", None)
    monkeypatch.setattr(warnings, "showwarning", None)
    install_exception_hooks(STRUCTURED)
    sys.excepthook(ValueError, ValueError("bad"), None)
    assert parse(capsys.readouterr().err, 2)["message"] == "ValueError: bad"
    threading.excepthook(threading.ExceptHookArgs((KeyError, KeyError("x"), None, None)))
    assert parse(capsys.readouterr().err, 3)["message"] == "KeyError: 'x'"
    threading.excepthook(threading.ExceptHookArgs((SystemExit, SystemExit(), None, None)))
    warnings.showwarning("old\nvalue=secret", DeprecationWarning, "a.py", 3)
    assert parse(capsys.readouterr().err, 6)["message"] == "a.py:3: DeprecationWarning: old"
