"""Failures in the log of a worker: their priority, text and kind, and one line for each of a request."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
import traceback
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from litellm_systemd.runtime.failures import ERROR, FALLBACK, INFO, WARNING, Failure, build_failure, watch
from litellm_systemd.runtime.journal import Journal, JournalHandler
from litellm_systemd.runtime.worker.litellm_adapter import is_model_group

INTRODUCTION = "litellm.proxy.proxy_server._handle_llm_api_exception(): Exception occured - litellm_call_id=%s - %s"
ADVICE = """

LiteLLM: model group 'claude' failed with the error above and no fallback model group was found for it."""


class Refused(Exception):
    """An exception of LiteLLM about a call of a provider."""

    def __init__(self, message: str, status: int, provider: str = "bedrock", **more: Any) -> None:
        super().__init__(message)
        self.status_code, self.llm_provider, self.model = status, provider, "amazon.x"
        vars(self).update(more)


class HTTPException(Exception):
    """An exception of FastAPI, as LiteLLM raises it for a mistake of a client."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"{status}: {detail}")
        self.status_code = status


class NoCredentialsError(Exception):
    """The exception of botocore with this name."""


class ClientConnectorError(Exception):
    """The exception of aiohttp with this name."""


def aws(status: int, code: str, message: str) -> Refused:
    """A refusal of AWS. The HTTP library's exception has AWS's code."""
    error = Refused(f'litellm.XError: BedrockException - {{"message": "{message}"}}', status)
    cause = Exception("Client error")
    vars(cause)["response"] = SimpleNamespace(headers={"x-amzn-errortype": f"{code}:http://internal.amazon.com/"})
    error.__context__ = cause
    return error


def caused_by(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def build(error: Exception, message: str = "", **options: Any) -> Failure:
    """The failure of LiteLLM's record about an error of a request."""
    record = logging.LogRecord("LiteLLM Proxy", logging.ERROR, "x.py", 7, INTRODUCTION, ("id-1", error), None)
    if message:
        record.msg, record.args = message, ()
    vars(record)["litellm_call_id"] = "id-1"
    return build_failure(record, error, **{"in_request": True, "is_model": bool, **options})


CONNECTION = Refused("litellm.InternalServerError: InternalServerError: OpenAIException - Connection error.", 500)


@pytest.mark.parametrize(
    ("error", "priority"),
    [
        (aws(403, "AccessDeniedException", "User: x is not authorized to perform: bedrock:InvokeModel"), ERROR),
        (aws(403, "ExpiredTokenException", "The security token included in the request is expired"), ERROR),
        (aws(404, "ResourceNotFoundException", "This model version has reached the end of its life."), ERROR),
        (aws(400, "ValidationException", "The provided model identifier is invalid."), ERROR),
        (aws(400, "ValidationException", "messages: Operation not allowed, said the prompt"), WARNING),
        (aws(429, "ThrottlingException", "Too many requests"), WARNING),
        (aws(503, "ServiceUnavailableException", "Bedrock is unable to process your request."), WARNING),
        (aws(400, "ValidationException", "prompt is too long: 1200034 tokens > 1000000 maximum"), WARNING),
        (aws(404, "UnknownOperationException", "Unknown operation"), WARNING),
        (caused_by(Refused("litellm.AuthenticationError", 401), NoCredentialsError("no")), ERROR),
        (Refused('OpenAIException - {"error": {"code": "invalid_api_key"}}', 401, "openai"), ERROR),
        (Refused('OpenAIException - {"error": {"code": "insufficient_quota"}}', 429, "openai"), ERROR),
        (Refused("OpenAIException - Rate limit reached", 429, "openai"), WARNING),
        (caused_by(CONNECTION, socket.gaierror(-2, "Name or service not known")), ERROR),
        (HTTPException(400, "Invalid model name passed in"), WARNING),
        (HTTPException(499, "Client disconnected"), INFO),
        (HTTPException(500, "DB not connected"), WARNING),
        (AttributeError("'list' object has no attribute 'get'"), WARNING),
        (OSError(errno.ENOSPC, "No space left on device"), ERROR),
        (RuntimeError("can't start new thread"), ERROR),
        (ModuleNotFoundError("No module named 'presidio_analyzer'"), ERROR),
    ],
    ids=lambda value: str(value)[:60],
)
def test_priorities(error: Exception, priority: int) -> None:
    """What an operator must act on is an error; what AWS or a retry settles, and a client's mistake, is a warning."""
    assert build(error).priority == priority


@pytest.mark.parametrize(("code", "priority"), [("invalid_api_key", WARNING), ("rate_limit", INFO)])
def test_failures_that_a_fallback_hides(code: str, priority: int) -> None:
    """A failure is one level lower if a fallback has answered, which the line names before the model."""
    error = Refused(f'OpenAIException - {{"error": {{"code": "{code}"}}}}', 401, "openai")
    record = logging.LogRecord(
        "LiteLLM Router", logging.ERROR, "x.py", 7, "%s\nLiteLLM: model group '%s' failed", (), None
    )
    record.args = (error, "gpt")
    vars(record)[FALLBACK] = "claude"
    failure = build_failure(record, error, in_request=True, is_model=bool)
    assert (failure.priority, failure.text) == (priority, f"{error} (fallback claude answers; model gpt)")


def test_defects_of_callbacks_are_errors() -> None:
    """An exception in the operator's own code is an error that names the place; so is one outside of a request."""
    try:
        raise ZeroDivisionError("mine")
    except ZeroDivisionError as error:
        trace = "".join(traceback.format_exception(error))
        failure = build(error, f"LiteLLM.LoggingError: [Non-Blocking] Exception while success logging {trace}")
    assert failure.priority == ERROR
    start = "LiteLLM.LoggingError: [Non-Blocking] Exception while success logging (ZeroDivisionError: mine; "
    assert failure.text.startswith(f"{start}test_runtime_failures.py:")
    assert build(KeyError("x"), in_request=False).priority == ERROR


def test_requests_that_own_code_fails() -> None:
    """A request that an exception of the user's code ends is counted. One that survives it, or is refused, is not."""
    error = raise_in("/etc/litellm/mine.py", KeyError("tenant"))
    refusal = raise_in("/etc/litellm/mine.py", HTTPException(400, "no"))
    webhook = raise_in("/etc/litellm/mine.py", ConnectionRefusedError(111, "Connect call failed"))
    errors = (error, webhook, refusal, KeyError("tenant"))
    assert [build(each).by_own_code for each in errors] == [True, True, False, False]
    assert not build(error, "Error in post_call_response_headers_hook: 'tenant'").by_own_code


def raise_in(path: str, error: Exception) -> Exception:
    """The error, raised by code of that file."""
    try:
        exec(compile("raise error", path, "exec"), {"error": error})
    except Exception as raised:
        return raised
    raise AssertionError


def test_guardrails_without_their_server() -> None:
    """A guardrail that cannot reach its server is an error that names it, whatever status LiteLLM gives it."""
    for error in (Exception("Presidio PII analysis failed"), HTTPException(400, "guardrail failed")):
        caused_by(error, ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 5002)"))
        folder = "/x/litellm/proxy/guardrails/guardrail_hooks"
        inner = raise_in(f"{folder}/presidio.py", error)
        failure = build(raise_in(f"{folder}/unified_guardrail/unified_guardrail.py", inner))
        assert failure.priority == ERROR
        assert "Connect call failed ('127.0.0.1', 5002); guardrail presidio" in failure.text


GUARDRAIL = """
class CustomGuardrail:
    pass
class Words(CustomGuardrail):
    def check(self, data):
        if "secret" in data["text"]:
            raise ValueError(
                "Guardrail failed words"
            )
"""


@pytest.mark.parametrize(
    ("data", "priority", "text"),
    [
        (
            {"text": "secret"},
            WARNING,
            "Guardrail failed words (ValueError; refused by test_runtime_failures.py:7 check)",
        ),
        ({}, ERROR, "'text' (KeyError; test_runtime_failures.py:6 check)"),
    ],
)
def test_requests_that_a_guardrail_refuses(data: dict[str, str], priority: int, text: str) -> None:
    """A guardrail that raises an exception refuses a request; an exception inside it is a defect of that code."""
    names: dict[str, Any] = {}
    exec(compile(GUARDRAIL, __file__, "exec"), names)
    with pytest.raises((ValueError, KeyError)) as raised:
        names["Words"]().check(data)
    failure = build(raised.value)
    assert (failure.priority, failure.text.partition(": ")[2] or failure.text) == (priority, text)


def test_keys_that_custom_auth_refuses() -> None:
    """An `Exception` of the operator's own custom_auth refuses a client's key; any other is a defect of that code."""
    found = []
    for error in (Exception("wrong key"), KeyError("x-team")):
        path = "auth_exception_handler.py"
        record = logging.LogRecord("LiteLLM Proxy", logging.ERROR, path, 7, "%s", (error,), None)
        failure = build_failure(record, raise_in(__file__, error), in_request=True, is_model=bool)
        found.append((failure.priority, failure.text.partition(";")[0]))
    assert found == [(WARNING, "Authentication Error, wrong key (Exception)"), (ERROR, "'x-team' (KeyError")]


def test_names_that_clients_choose() -> None:
    """The refusal of a model that a client chose, since a wildcard of the configuration allows it, is a warning."""
    error = aws(400, "ValidationException", "The provided model identifier is invalid.")
    error.args = (f"{error.args[0]}{ADVICE}",)
    assert build(error, is_model=lambda name: name == "claude").priority == ERROR
    assert build(error, is_model=lambda name: name != "claude").priority == WARNING
    others = [aws(429, "ThrottlingException", f"no{ADVICE.replace('claude', name)}") for name in ("any", "other")]
    assert len({build(each, is_model=lambda _name: False).kind for each in others}) == 1
    error.args = (error.args[0].replace("'claude'", "'claude -> requested'"),)
    assert build(error, is_model=lambda name: name == "claude").priority == ERROR


def test_aliases_are_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of a failed call may be an alias of the configuration. Without a router, nothing is known."""
    server = ModuleType("litellm.proxy.proxy_server")
    monkeypatch.setitem(sys.modules, server.__name__, server)
    assert is_model_group("any")
    router = SimpleNamespace(model_names={"claude"}, model_group_alias={"sonnet": "claude"})
    monkeypatch.setattr(server, "llm_router", router, raising=False)
    assert [is_model_group(name) for name in ("claude", "sonnet", "of-a-client")] == [True, True, False]


def test_text() -> None:
    """The line has the provider's message and code, the model and the request, and nothing of LiteLLM's advice."""
    error = aws(429, "ThrottlingException", "Too many requests")
    error.args = (
        f"{error.args[0]}\n\nThis looks like a bug in LiteLLM rather than in your request. File it with one click:"
        f" https://github.com/BerriAI/litellm/issues/new?title=quota{ADVICE}",
    )
    assert build(error).whole == (
        'litellm.XError: BedrockException - {"message": "Too many requests"} (ThrottlingException; model claude)'
        " [request id-1]"
    )


def test_kinds() -> None:
    """An expired token is one kind for all models, a throttled model is one for each. Addresses of objects are left
    out.
    """

    def kinds(code: str) -> set[str]:
        errors = [aws(403, code, "no") for _ in range(2)]
        for number, error in enumerate(errors):
            error.args = (f"{error.args[0]}{ADVICE.replace('claude', f'claude-{number}')}",)
        return {build(error).kind for error in errors}

    assert len(kinds("ExpiredTokenException")) == 1
    assert len(kinds("ThrottlingException")) == 2
    texts = {
        build(Refused(f"Cannot connect to host x:443 ssl:<ssl.SSLContext object at {at}> [refused]", 500)).text
        for at in ("0x1", "0x2")
    }
    assert texts == {"Cannot connect to host x:443 [refused]"}
    unconnected = (
        caused_by(Refused("no", 500), ClientConnectorError(f"host x:443 ssl:<ssl.SSLContext object at {at}> [no]"))
        for at in ("0x1", "0x2")
    )
    assert len({build(error).kind for error in unconnected}) == 1


@pytest.fixture
def loggers() -> Iterator[tuple[logging.Logger, logging.Logger]]:
    """LiteLLM's loggers of the router and of the proxy, which are reset afterwards."""
    found = logging.getLogger("LiteLLM Router"), logging.getLogger("LiteLLM Proxy")
    kept = [(logger, logger.handlers[:], logger.propagate) for logger in found]
    yield found
    for logger, handlers, propagate in kept:
        logger.handlers[:], logger.propagate = handlers, propagate


def redirect(loggers: tuple[logging.Logger, logging.Logger]) -> list[Failure]:
    """Let the loggers report to the returned list. Standard error is that of the test."""
    reported: list[Failure] = []

    def report(failure: Failure) -> bool:
        reported.append(failure)
        return True

    for logger in loggers:
        logger.handlers[:] = [JournalHandler(Journal(prefixed=True, report=report))]
        logger.propagate = False
    return reported


def test_one_line_for_a_request(
    loggers: tuple[logging.Logger, logging.Logger], capsys: pytest.CaptureFixture[str]
) -> None:
    """What the layers of LiteLLM log about one exception of a request is reported once, by the outermost layer."""
    (router, proxy), reported = loggers, redirect(loggers)

    async def fail() -> None:
        try:
            try:
                raise aws(429, "ThrottlingException", "Too many requests")
            except Refused as error:
                router.error("Error occurred while trying to do fallbacks - %s\nDebug Information:\nx", error)
                raise HTTPException(429, "wrapped") from error
        except HTTPException as error:
            proxy.exception(INTRODUCTION, "id-2", error, extra={"litellm_call_id": "id-2"})
            proxy.error("Exception: %s", error)

    async def recover() -> None:
        try:
            raise aws(403, "AccessDeniedException", "no")
        except Refused as error:
            router.error("Error occurred while trying to do fallbacks - %s", error)

    for run in (fail, recover):
        asyncio.run(watch({"state": {}}, run()))
    assert [(each.call, "AccessDenied" in each.text) for each in reported] == [("id-2", False), ("", True)]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("<6>429: wrapped")
    assert lines[0].endswith("[request id-2]")
    assert {line[:3] for line in lines[1:]} == {"<7>"}


@pytest.mark.parametrize(
    ("code", "count"), [("ExpiredTokenException", 1), ("AccessDeniedException", 2)], ids=["one cause", "two causes"]
)
def test_a_model_and_its_fallback_fail(loggers: tuple[logging.Logger, logging.Logger], code: str, count: int) -> None:
    """Credentials that fail a model and its fallback in one request are reported once, by the proxy."""
    (router, proxy), reported = loggers, redirect(loggers)

    async def fail() -> None:
        try:
            raise aws(403, code, "of the fallback")
        except Refused as error:
            router.error("Fallback also failed with: %s", error)
        try:
            raise aws(403, "ExpiredTokenException", "of the model")
        except Refused as error:
            proxy.exception(INTRODUCTION, "id-3", error, extra={"litellm_call_id": "id-3"})

    asyncio.run(watch({"state": {}}, fail()))
    assert [each.call for each in reported] == ["id-3", ""][:count]


def test_a_long_request_holds_few_failures(loggers: tuple[logging.Logger, logging.Logger]) -> None:
    """A WebSocket that lasts for hours does not hold each failure of its calls until it ends."""
    (router, _), reported = loggers, redirect(loggers)

    async def fail() -> None:
        for number in range(50):
            try:
                raise Refused(f"no {number}", 500)
            except Refused as error:
                router.error("Error: %s", error)
        assert len(reported) == 30

    asyncio.run(watch({"state": {}}, fail()))
    assert len(reported) == 50


def test_expected_refusals(
    loggers: tuple[logging.Logger, logging.Logger], capsys: pytest.CaptureFixture[str]
) -> None:
    """A request of verify that is to be refused reports nothing, also where LiteLLM refuses it."""
    (_, proxy), reported = loggers, redirect(loggers)

    async def refuse() -> None:
        proxy.error("Authentication Error, Invalid proxy server token passed")

    asyncio.run(watch({"state": {"litellm_systemd.is_expected": True}}, refuse()))
    assert reported == []
    assert capsys.readouterr().err.startswith("<7>")
