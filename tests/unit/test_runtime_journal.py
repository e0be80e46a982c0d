"""Lines for the journal."""

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
    adopt_loggers,
    adopt_strays,
    hush_cancellations,
    open_journal,
    priority_of,
)

STRUCTURED = Journal(prefixed=True, structured=True)


def parse(written: str, priority: int) -> dict[str, Any]:
    """The one object that was written, with this priority."""
    assert written.startswith(f"<{priority}>")
    event: dict[str, Any] = json.loads(written.removeprefix(f"<{priority}>"))
    assert datetime.fromisoformat(event["timestamp"])
    return event


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """A logger of our own, and the root's handlers out of the way, which are pytest's."""
    logger = logging.getLogger("test.journal")
    last = logging.lastResort
    yield logger
    logging.lastResort = last
    logger.handlers.clear()
    logger.filters.clear()
    logger.propagate = True


@contextlib.contextmanager
def bare_root() -> Iterator[None]:
    """Without pytest's own handlers, which come anew for each phase of a test."""
    handlers = logging.root.handlers[:]
    logging.root.handlers.clear()
    try:
        yield
    finally:
        logging.root.handlers[:] = handlers


def test_every_line_has_its_priority(capsys: pytest.CaptureFixture[str]) -> None:
    """A text of several lines stays together, each with the priority."""
    Journal(prefixed=True).error("one\ntwo")
    Journal(prefixed=True).notice("three")
    assert capsys.readouterr().err == "<3>one\n<3>two\n<5>three\n"


def test_plain_in_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Without the journal there are no prefixes."""
    Journal().warning("one")
    assert capsys.readouterr().err == "one\n"


def test_only_this_stream_is_the_journal() -> None:
    """JOURNAL_STREAM must be this very stream: a redirected one gets plain lines."""
    status = os.fstat(2)
    assert open_journal({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}).prefixed
    assert not open_journal({"JOURNAL_STREAM": "1:2"}).prefixed
    assert not open_journal({}).prefixed


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7), (5, 7)],
)
def test_levels(level: int, priority: int) -> None:
    """Levels of logging are priorities of syslog(3)."""
    assert priority_of(level) == priority


class Secretive(logging.Formatter):
    """As LiteLLM's own: it takes secrets out."""

    def format(self, record: logging.LogRecord) -> str:
        return super().format(record).replace("sk-secret", "REDACTED")


def test_loggers_are_adopted(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """What a logger wrote to the terminal comes with a priority, without a clock, and as clean as before."""
    logger.propagate = False
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(Secretive("%(asctime)s %(levelname)s - %(message)s"))
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    adopt_loggers(Journal(prefixed=True))
    adopt_loggers(Journal(prefixed=True))  # twice is once
    logger.warning("key sk-secret\nsecond line")
    logger.info("below the handler's level")
    assert capsys.readouterr().err == "<4>test.journal: key REDACTED\n<4>second line\n"


def test_other_handlers_are_left_alone(logger: logging.Logger) -> None:
    """A file of the user's stays a file."""
    handler = logging.FileHandler(os.devnull)
    logger.addHandler(handler)
    adopt_loggers(Journal(prefixed=True))
    assert logger.handlers == [handler]
    handler.close()


def test_nobodys_records(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """A library without any handler gets a line too, from warnings up."""
    with bare_root():
        adopt_loggers(Journal(prefixed=True))
        logger.warning("hello")
    assert capsys.readouterr().err == "<4>test.journal: hello\n"


@pytest.mark.parametrize(
    ("extra", "trace", "priority"),
    [
        ({"requester_ip": "192.0.2.1"}, False, 4),
        ({"litellm_call_id": "1"}, False, 4),
        ({"litellm_call_id": "1"}, True, 3),
        ({}, False, 3),
    ],
)
def test_clients_make_no_errors(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str], extra: dict[str, str], trace: bool, priority: int
) -> None:
    """A wrong key or a bad request is a warning; an exception and an error of the service's own stay errors."""
    logger.addHandler(JournalHandler(Journal(prefixed=True)))
    try:
        raise ValueError("x")
    except ValueError:
        logger.error("refused", exc_info=trace, extra=extra)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"<{priority}>refused"
    assert all(line.startswith(f"<{priority}>") for line in lines)


def test_refused_key_is_one_line(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """A request without a key, which LiteLLM logs with a traceback, is a warning of one line."""
    record = logging.makeLogRecord(
        {"msg": "No api key", "levelno": logging.ERROR, "module": "auth_exception_handler"}
    )
    record.requester_ip = "192.0.2.1"
    record.exc_info = (Exception, Exception("No api key passed in."), None)
    JournalHandler(Journal(prefixed=True)).handle(record)
    assert capsys.readouterr().err == "<4>No api key\n"


def test_cancellations_are_hushed(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker that leaves doesn't log the tasks that it cancelled itself, but everything else."""
    uvicorn = logging.getLogger("uvicorn.error")
    with bare_root():
        adopt_loggers(Journal(prefixed=True))
        hush_cancellations()
        for error in (asyncio.CancelledError(), ValueError("bad")):
            try:
                raise error
            except BaseException:
                uvicorn.exception("in a task")
    uvicorn.filters.clear()
    written = capsys.readouterr().err
    assert "ValueError: bad" in written
    assert "CancelledError" not in written


def test_an_event_is_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    """With JSON_LOGS an event of several lines is one object in one line, its priority before it."""
    STRUCTURED.notice("one\ntwo")
    event = parse(capsys.readouterr().err, 5)
    assert (event["message"], event["level"]) == ("one\ntwo", "INFO")


@pytest.mark.parametrize(("word", "structured"), [("true", True), ("1", True), ("false", False), ("nonsense", False)])
def test_structured_by_variable(word: str, structured: bool) -> None:
    """JSON_LOGS decides; a value that will be refused is reported in plain words."""
    assert open_journal({"JSON_LOGS": word}).structured is structured


def test_records_are_objects(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """A library that knows nothing of JSON gets one object a record, its traceback inside, and no secret back."""
    logger.propagate = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Secretive("%(asctime)s %(message)s"))
    logger.addHandler(handler)
    adopt_loggers(STRUCTURED)
    try:
        raise ValueError("bad")
    except ValueError:
        logger.exception("key sk-secret")
    event = parse(capsys.readouterr().err, 3)
    assert event["message"].startswith("test.journal: key REDACTED\nTraceback")
    assert event["message"].endswith("ValueError: bad")
    assert (event["level"], event["component"]) == ("ERROR", "test.journal")


@pytest.mark.parametrize(
    ("message", "kept"), [('{"message": "m", "level": "INFO", "x": 1}', True), ('{"x": 1}', False), ("{", False)]
)
def test_objects_stay_as_they_are(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str], message: str, kept: bool
) -> None:
    """What a JSON formatter made is written unchanged; anything else that begins with a brace is text."""
    logger.addHandler(JournalHandler(STRUCTURED))
    logger.warning(message)
    written = capsys.readouterr().err
    assert written == f"<4>{message}\n" if kept else parse(written, 4)["message"] == message


def test_refused_key_is_a_warning_as_an_object(capsys: pytest.CaptureFixture[str]) -> None:
    """The level in the object is that of the priority before it."""
    record = logging.makeLogRecord({"msg": "No api key", "levelno": logging.ERROR, "levelname": "ERROR"})
    record.requester_ip = "192.0.2.1"
    JournalHandler(STRUCTURED).handle(record)
    assert parse(capsys.readouterr().err, 4)["level"] == "WARNING"


def test_strays(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings and exceptions that nobody caught, in threads too, are events like all others."""
    monkeypatch.setattr(sys, "excepthook", None)
    monkeypatch.setattr(threading, "excepthook", None)
    monkeypatch.setattr(warnings, "showwarning", None)
    adopt_strays(STRUCTURED)
    sys.excepthook(ValueError, ValueError("bad"), None)
    assert parse(capsys.readouterr().err, 2)["message"] == "ValueError: bad"
    threading.excepthook(threading.ExceptHookArgs((KeyError, KeyError("x"), None, None)))
    assert parse(capsys.readouterr().err, 3)["message"] == "KeyError: 'x'"
    threading.excepthook(threading.ExceptHookArgs((SystemExit, SystemExit(), None, None)))
    warnings.showwarning("old\nvalue=secret", DeprecationWarning, "a.py", 3)
    assert parse(capsys.readouterr().err, 6)["message"] == "a.py:3: DeprecationWarning: old"
