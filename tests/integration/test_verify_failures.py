"""verify against a stub with one fault at a time: exactly the right check fails."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import pytest

from litellm_systemd.cli import run_command
from litellm_systemd.client.gateway import Gateway, Response
from litellm_systemd.contract import ExitCode
from litellm_systemd.report.report import Check, Outcome, Report
from litellm_systemd.verify.answers import MAX_TOKENS
from litellm_systemd.verify.run import Scope, verify
from tests.integration.stub_gateway import (
    KEY,
    MESSAGE_EVENTS,
    MODELS,
    RESPONSE_EVENTS,
    Answerer,
    Handler,
    Stub,
    delta,
    healthy,
    stub,
)

OK, FAILED, SKIPPED, WARNING = Outcome.OK, Outcome.FAILED, Outcome.SKIPPED, Outcome.WARNING
PLAIN, PLAIN_V1, STREAMED, STREAMED_V1 = CHATS = (
    "chat primary (/chat/completions)",
    "chat primary (/v1/chat/completions)",
    "chat primary, streamed (/chat/completions)",
    "chat primary, streamed (/v1/chat/completions)",
)
TOOLS, MESSAGES, MESSAGES_STREAMED, RESPONSES = APIS = (
    "tools primary",
    "messages primary (/v1/messages)",
    "messages primary, streamed (/v1/messages)",
    "responses primary (/v1/responses)",
)
ASKED = (*CHATS, *APIS)
NAMES = ("liveliness", "readiness", "models", "refuses a missing key", "refuses a wrong key", *ASKED)


def ask(server: Stub) -> Report:
    return verify(Gateway(server.url, KEY, 20.0), Scope(MODELS))


class Hasty(Gateway):
    """A gateway with short timeouts for the requests that tests leave unanswered: those with a wrong key, and the
    first chat. A busy machine may be slow with all others.
    """

    def get(self, path: str, *, timeout: float | None = None) -> Response:
        return super().get(path, timeout=timeout if self.api_key == KEY else 0.3)

    def post(self, path: str, body: Mapping[str, Any], *, timeout: float | None = None) -> Response:
        return super().post(path, body, timeout=0.3 if path == "/chat/completions" else timeout)


def ask_hastily(server: Stub) -> Report:
    return verify(Hasty(server.url, KEY, 20.0), Scope(MODELS))


def check(report: Report, name: str) -> Check:
    return next(check for check in report.checks if check.name == name)


def having(report: Report, outcome: Outcome) -> tuple[str, ...]:
    return tuple(check.name for check in report.checks if check.outcome is outcome)


def test_a_healthy_gateway(server: Stub) -> None:
    """All checks pass, each with its time, and the JSON has the facts."""
    report = ask(server)
    assert tuple(check.name for check in report.checks) == NAMES
    assert having(report, OK) == NAMES
    assert all(check.seconds is not None for check in report.checks)
    assert report.exit_code is ExitCode.OK
    assert report.title == f"verified {server.url}: 13 checks passed"
    first = report.data["first_token_seconds"]
    assert {**report.data, "first_token_seconds": list(first)} == {
        "base_url": server.url,
        "models": list(MODELS),
        "chat_models": ["primary"],
        "litellm_version": None,
        "first_token_seconds": [STREAMED, STREAMED_V1, MESSAGES_STREAMED],
        "billed": {"checks": 8, "input_tokens": 87, "output_tokens": 9},
    }
    assert json.loads(report.as_json())["ok"] is True


def test_only_chats_are_billed(server: Stub) -> None:
    """verify never requests /health, which calls every model; each chat is short and sets no temperature."""
    bodies = []

    def remember(handler: Handler) -> None:
        bodies.append(handler.body)
        healthy(handler)

    server.faults["*"] = remember
    ask(server)
    assert "/health" not in {path.rstrip("/") for _, path, _ in server.seen}
    asked = [body for body in bodies if body]
    assert len(asked) == 9
    assert {body.get("max_tokens", body.get("max_output_tokens")) for body in asked} == {MAX_TOKENS}
    assert not any("temperature" in body for body in asked)


def test_no_spend(server: Stub) -> None:
    """With --no-spend, no POST request is sent, and no line of the report mentions a tested model."""
    report = verify(Gateway(server.url, KEY), Scope(MODELS, spend=False, full=True))
    assert having(report, OK) == NAMES[:5]
    assert len(report.checks) == 5
    assert {method for method, _, _ in server.seen} == {"GET"}
    assert report.data["billed"] == {"checks": 0, "input_tokens": 0, "output_tokens": 0}


def test_billed_checks_are_counted(server: Stub) -> None:
    """The report counts the billed checks and the tokens; mocked models cost nothing."""
    report = ask(server)
    assert report.notes[-1].startswith("8 checks called models that bill: 87 input tokens and 9 output tokens.")
    assert check(report, PLAIN).data == {"input_tokens": 9, "output_tokens": 1, "billed": True}
    free = verify(Gateway(server.url, KEY), Scope(MODELS, mocked=frozenset(MODELS)))
    assert free.notes == ()
    assert having(free, SKIPPED) == ()


def test_checks_of_an_install_are_not_repeated(server: Stub) -> None:
    """A report that continues from the checks of an install has all of them, and requests only the models."""
    gateway = Gateway(server.url, KEY)
    proof = verify(gateway, Scope(MODELS, spend=False))
    server.seen.clear()
    report = verify(gateway, Scope(MODELS), proven=proof)
    assert having(report, OK) == NAMES
    assert not {path for _, path, _ in server.seen} & {"/health/liveliness", "/health/readiness", "/v1/models"}


def test_nothing_listens() -> None:
    """A port without a listener is one failure with its remedy; the other checks are skipped with the reason."""
    with socket.socket() as reserved:
        # Bound but not listening: connections are refused, and no other process can use the port.
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        report = verify(Gateway(url, KEY), Scope(MODELS))
    assert having(report, FAILED) == ("liveliness",)
    assert having(report, SKIPPED) == NAMES[1:]
    assert "connection refused" in check(report, "liveliness").detail
    assert "systemctl status litellm" in check(report, "liveliness").hint
    assert {check.detail for check in report.checks[1:]} == {"not checked, because “liveliness” failed"}
    assert report.title == f"{url} is unhealthy: 1 of 13 checks failed, 12 skipped"
    assert report.exit_code is ExitCode.FAILED


def test_wait_expires() -> None:
    """If --wait expires, the report has the last state next to the checks."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        report = verify(Gateway(f"http://127.0.0.1:{reserved.getsockname()[1]}", KEY), wait=0.05)
    assert len(report.notes) == 1
    assert "not ready within 0.05 s; last status: nothing listens" in report.notes[0]
    assert having(report, FAILED) == ("liveliness",)


def test_wait_ends_when_ready(server: Stub) -> None:
    """--wait continues as soon as a starting gateway is ready."""
    answers = [503, 503]

    def later(handler: Handler) -> None:
        handler.reply(answers.pop(), {"detail": "starting"}) if answers else healthy(handler)

    server.faults["/health/readiness"] = later
    report = verify(Gateway(server.url, KEY), Scope(MODELS), wait=30)
    assert having(report, OK) == NAMES
    assert report.notes[0].startswith("ready after ")


def test_not_ready(server: Stub) -> None:
    """A gateway that is not ready fails only that check; the others are made."""
    server.faults["/health/readiness"] = lambda handler: handler.reply(503, {"detail": "Service Unhealthy"})
    report = ask(server)
    assert having(report, FAILED) == ("readiness",)
    assert having(report, SKIPPED) == ()
    assert check(report, "readiness").detail == "HTTP 503: Service Unhealthy"


@pytest.mark.parametrize(
    "page", ["<html><head><title>Welcome to nginx!</title></head></html>", '{"hello": "world"}', ""]
)
def test_a_web_server_is_not_a_gateway(server: Stub, page: str) -> None:
    """A server that answers every request with 200 is not verified, and gets no further requests."""
    server.faults["*"] = lambda handler: handler.reply(200, page, "text/html")
    report = ask(server)
    assert having(report, FAILED) == ("liveliness",)
    assert having(report, SKIPPED) == NAMES[1:]
    assert check(report, "liveliness").detail.startswith("the program that responds is not LiteLLM: HTTP 200")


def test_an_error_page(server: Stub) -> None:
    """For an HTML error page the report has its title, not its source."""
    page = "<html><head><title>502 Bad Gateway</title></head><body>" + "x" * 5000
    server.faults["*"] = lambda handler: handler.reply(502, page, "text/html")
    report = ask(server)
    assert check(report, "liveliness").detail == "HTTP 502: an HTML page, “502 Bad Gateway”"
    assert "reverse proxy" in check(report, "liveliness").hint
    assert having(report, SKIPPED) == NAMES[1:]


def test_a_redirect(server: Stub) -> None:
    """A redirect is reported but not followed: neither the key nor the query is sent to another host."""
    with stub() as other:
        target = f"{other.url}/login?ticket=canary"
        server.faults["*"] = lambda handler: handler.reply(302, "", location=target)
        report = ask(server)
        assert other.seen == []
    found = check(report, "liveliness")
    assert found.detail == "HTTP 302: it redirects to http://127.0.0.1"
    assert "--base-url" in found.hint
    assert having(report, SKIPPED) == NAMES[1:]


def test_a_wrong_key(server: Stub) -> None:
    """If the gateway rejects the installed key, the chats are skipped, and the key is not in the report."""
    wrong = "sk-canary-not-the-key"
    server.faults["/v1/models"] = lambda handler: (
        healthy(handler) if handler.trusted else handler.reply(401, {"error": {"message": f"{wrong} is wrong"}})
    )
    report = verify(Gateway(server.url, wrong), Scope(MODELS))
    assert having(report, FAILED) == ("models",)
    assert having(report, SKIPPED) == ASKED
    assert check(report, "models").detail == "HTTP 401: *** is wrong"
    assert "another key" in check(report, "models").hint
    assert wrong not in report.as_json()


def test_no_key(server: Stub) -> None:
    """Without a key nothing can be verified, so the result is not a pass."""
    report = verify(Gateway(server.url), Scope(MODELS))
    assert having(report, FAILED) == ("models",)
    assert having(report, SKIPPED) == ASKED
    assert check(report, "models").detail == "no API key is known"
    assert "--api-key" in check(report, "models").hint


def test_an_unprotected_gateway(server: Stub) -> None:
    """A gateway that answers without a key, or with any key, fails the check."""
    server.faults["/v1/models"] = lambda handler: handler.reply(200, {"data": [{"id": name} for name in MODELS]})
    report = ask(server)
    assert having(report, FAILED) == ("refuses a missing key", "refuses a wrong key")
    assert check(report, "refuses a missing key").detail == "HTTP 200: the gateway answers without a key"
    assert check(report, "refuses a wrong key").detail == "HTTP 200: the gateway answers with a wrong key"
    assert "LITELLM_MASTER_KEY" in check(report, "refuses a wrong key").hint


def reject(server: Stub, status: int, message: str) -> Report:
    """The report of a gateway that rejects every other key with this answer."""
    server.faults["/v1/models"] = lambda handler: (
        healthy(handler) if handler.trusted else handler.reply(status, {"error": {"message": message}})
    )
    return ask(server)


@pytest.mark.parametrize("status", [401, 403])
def test_rejection(server: Stub, status: int) -> None:
    """401 and 403 count as a rejection of the key."""
    report = reject(server, status, "no")
    assert having(report, OK) == NAMES
    assert check(report, "refuses a missing key").detail == f"HTTP {status}"


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_other_errors_are_no_rejection(server: Stub, status: int) -> None:
    """Another error, as LiteLLM's 400 without a database, fails the checks: no client takes it for a wrong key."""
    report = reject(server, status, "No connected db.")
    assert having(report, FAILED) == ("refuses a missing key", "refuses a wrong key")
    for name in having(report, FAILED):
        assert check(report, name).detail == f"HTTP {status}: No connected db. (not 401 or 403)"
        assert "litellmctl upgrade" in check(report, name).hint


def test_missing_rejection(server: Stub) -> None:
    """A gateway that does not respond to requests with a wrong key has not rejected them."""

    def silent(handler: Handler) -> None:
        healthy(handler) if handler.trusted else handler.server.released.wait()

    server.faults["/v1/models"] = silent
    report = ask_hastily(server)
    assert having(report, FAILED) == ("refuses a missing key", "refuses a wrong key")


def test_a_model_is_missing(server: Stub) -> None:
    """A name of the configuration that is not listed is a failure; the listed models are still tested."""
    report = verify(Gateway(server.url, KEY), Scope(("primary", "third")))
    assert having(report, FAILED) == ("models",)
    assert check(report, "models").detail == "missing: third; not in the configuration: second"
    assert "reload" in check(report, "models").hint
    assert having(report, SKIPPED) == ()
    assert report.data["models"] == list(MODELS)


@pytest.mark.parametrize("body", [{"data": []}, {"data": None}, {"object": "list"}, [], "text"])
def test_no_models(server: Stub, body: object) -> None:
    """An empty or missing list is a failure even if no models are expected; no chat is sent."""
    server.faults["/v1/models"] = lambda handler: handler.reply(200, body) if handler.trusted else healthy(handler)
    report = verify(Gateway(server.url, KEY))
    assert having(report, FAILED) == ("models",)
    assert having(report, SKIPPED) == ("chat",)


def test_without_a_configuration_a_listed_model_is_tested(server: Stub) -> None:
    """Without a configuration, a listed model is tested."""
    report = verify(Gateway(server.url, KEY))
    assert having(report, OK) == NAMES


def completion(**message: object) -> Answerer:
    return lambda handler: handler.reply(200, {"choices": [{"message": message}]})


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (completion(content=""), "the answer has no text"),
        (completion(content=" \n"), "the answer has no text"),
        (completion(content=None), "the answer has no text"),
        (lambda handler: handler.reply(200, {"choices": []}), "not a chat completion: HTTP 200"),
        (
            lambda handler: handler.reply(200, "<html>hi", "text/html"),
            "not a chat completion: HTTP 200: an HTML page",
        ),
        (
            lambda handler: handler.reply(429, {"error": {"message": "RateLimitError: slow\ndown"}}),
            "HTTP 429: RateLimitError: slow",
        ),
        (lambda handler: handler.reply(500, "Internal Server Error", "text/plain"), "HTTP 500: Internal"),
    ],
)
def test_a_chat_that_fails(server: Stub, answer: Answerer, detail: str) -> None:
    """A model that does not answer with text fails once; no other checks of it are made."""
    server.faults["/chat/completions"] = answer
    report = ask(server)
    assert having(report, FAILED) == (PLAIN,)
    assert check(report, PLAIN).detail.startswith(detail)
    assert check(report, PLAIN).hint
    assert having(report, SKIPPED) == ASKED[1:]
    assert report.title.endswith("1 of 13 checks failed, 7 skipped")


def test_answers_are_safe_for_a_terminal(server: Stub) -> None:
    """Control characters in a model's answer are not printed, and long answers are shortened."""
    server.faults["/chat/completions"] = completion(content="\x1b[2Jpo\x07ng " + "x" * 100)
    detail = check(ask(server), PLAIN).detail
    assert detail.isprintable()
    assert len(detail) < 60


def test_thinking_only(server: Stub) -> None:
    """A model that spends all its tokens on reasoning is a warning, not a failure."""
    server.faults["/chat/completions"] = completion(content="", reasoning_content="well")
    server.faults["streamed /chat/completions"] = lambda handler: handler.stream(
        delta("well", "reasoning_content"), "[DONE]"
    )
    report = ask(server)
    assert having(report, WARNING) == (PLAIN, STREAMED)
    assert report.exit_code is ExitCode.OK


def test_a_model_that_times_out(server: Stub) -> None:
    """A model that does not answer in time fails with the time and the option for a longer timeout."""
    server.faults["/chat/completions"] = lambda handler: wait(handler)
    report = ask_hastily(server)
    assert having(report, FAILED) == (PLAIN,)
    assert "within 0.3 s" in check(report, PLAIN).detail
    assert "--timeout" in check(report, PLAIN).hint


def test_a_database_that_is_down(server: Stub) -> None:
    """A gateway whose database is down gets a warning with the remedy, and no check with a virtual key."""
    server.faults["/health/readiness"] = lambda handler: handler.reply(
        200, {"status": "healthy", "db": "disconnected"}
    )
    report = verify(Gateway(server.url, KEY), Scope(MODELS))
    found = check(report, "readiness")
    assert (found.outcome, found.detail) == (Outcome.WARNING, "healthy, but the database is down")
    assert "sudo litellmctl doctor" in found.hint
    assert not [each.name for each in report.checks if each.name.startswith("virtual key")]


def test_a_gateway_that_hangs(server: Stub) -> None:
    """A gateway that hangs costs one timeout, not thirteen."""
    server.faults["*"] = lambda handler: wait(handler)
    report = verify(Gateway(server.url, KEY, 0.3), Scope(MODELS))
    assert having(report, FAILED) == ("liveliness",)
    assert having(report, SKIPPED) == NAMES[1:]
    deadline = time.monotonic() + 60
    while not server.seen and time.monotonic() < deadline:  # it reads the request after the client has disconnected
        time.sleep(0.01)
    assert len(server.seen) == 1


def wait(handler: Handler) -> None:
    handler.server.released.wait()


def streams(*events: str, cut: bool = False) -> Answerer:
    return lambda handler: handler.stream(*events, cut=cut)


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (streams(delta("po"), delta("ng")), "the stream ended after 2 events without [DONE]"),
        (streams(delta("po"), "[DONE]", cut=True), None),
        (streams(delta("po"), cut=True), "after 1 event: 127.0.0.1"),
        (streams("[DONE]"), "the answer has no text"),
        (streams(), "the stream ended after 0 events without [DONE]"),
        (
            streams(delta("po"), '{"error": {"message": "ThrottlingException: sk-canary12345"}}', "[DONE]"),
            "error in the stream: ThrottlingException: ***",
        ),
        (completion(content="pong"), "not an event stream: HTTP 200"),
        (lambda handler: handler.reply(500, {"error": {"message": "no stream"}}), "HTTP 500: no stream"),
    ],
)
def test_a_stream_that_fails(server: Stub, answer: Answerer, detail: str | None) -> None:
    """A stream must have text and end with [DONE], otherwise the report has what came instead. Text after [DONE] is
    ignored.
    """
    server.faults["streamed /v1/chat/completions"] = answer
    report = ask(server)
    if detail is None:
        assert having(report, OK) == NAMES
        return
    assert having(report, FAILED) == (STREAMED_V1,)
    assert having(report, SKIPPED) == ()
    assert check(report, STREAMED_V1).detail.startswith(detail)
    assert check(report, STREAMED_V1).hint


def test_the_gateway_exits_during_verify(server: Stub) -> None:
    """A gateway that exits between two checks is one failure, and the later checks are skipped."""

    def last_words(handler: Handler) -> None:
        handler.server.shutdown()
        handler.server.socket.close()
        handler.close_connection = True
        healthy(handler)

    server.faults["/v1/chat/completions"] = last_words
    report = ask(server)
    assert having(report, OK) == NAMES[:7]
    assert having(report, FAILED) == (STREAMED,)
    assert having(report, SKIPPED) == (STREAMED_V1, *APIS)


def test_an_answer_of_another_model(server: Stub) -> None:
    """An answer of another model is a warning that names it."""
    headers = {"x-litellm-attempted-fallbacks": "1", "x-litellm-model-group": "second"}
    body = {"choices": [{"message": {"content": "pong"}}]}
    server.faults["/chat/completions"] = lambda handler: handler.reply(200, body, **headers)
    report = ask(server)
    assert having(report, WARNING) == (PLAIN,)
    assert check(report, PLAIN).detail == "the fallback second answered instead: “pong”"
    assert report.exit_code is ExitCode.OK
    assert report.title == f"verified {server.url}: 13 checks passed, 1 with a warning"


# --- the other APIs ---


def test_anthropic_clients_send_the_key_in_two_ways(server: Stub) -> None:
    """/v1/messages is tested once with only x-api-key, as Anthropic's clients do, and once with a bearer token."""
    given: list[tuple[str | None, str | None]] = []

    def remember(handler: Handler) -> None:
        given.append((handler.headers.get("authorization"), handler.headers.get("x-api-key")))
        healthy(handler)

    server.faults |= {"/v1/messages": remember, "streamed /v1/messages": remember}
    assert having(ask(server), OK) == NAMES
    assert given == [(None, KEY), (f"Bearer {KEY}", None)]


def message(*blocks: object, **more: object) -> Answerer:
    return lambda handler: handler.reply(200, {"content": list(blocks), **more})


@pytest.mark.parametrize(
    ("answer", "detail"),
    [
        (message(), "the answer has no text"),
        (completion(content="pong"), "not a message: HTTP 200"),
        (lambda handler: handler.reply(404, {"detail": "Not Found"}), "HTTP 404: Not Found"),
        (lambda handler: handler.reply(500, {"type": "error", "error": {"message": "no"}}), "HTTP 500: no"),
    ],
)
def test_messages_that_fail(server: Stub, answer: Answerer, detail: str) -> None:
    """If /v1/messages returns no message, only that check fails, with the gateway's message."""
    server.faults["/v1/messages"] = answer
    report = ask(server)
    assert having(report, FAILED) == (MESSAGES,)
    assert check(report, MESSAGES).detail.startswith(detail)
    assert check(report, MESSAGES).hint


STOP = MESSAGE_EVENTS[-1]


@pytest.mark.parametrize(
    ("events", "detail"),
    [
        (MESSAGE_EVENTS[:-1], "the stream ended after 3 events without message_stop"),
        ((MESSAGE_EVENTS[0], STOP), "the answer has no text"),
        (('{"type": "error", "error": {"message": "Overloaded"}}',), "error in the stream: Overloaded"),
        (("[DONE]",), "the stream ended after 1 event without message_stop"),
    ],
)
def test_a_stream_of_messages_that_fails(server: Stub, events: tuple[str, ...], detail: str) -> None:
    """A stream of /v1/messages must have text and end with message_stop, otherwise the failure says what came."""
    server.faults["streamed /v1/messages"] = streams(*events)
    report = ask(server)
    assert having(report, FAILED) == (MESSAGES_STREAMED,)
    assert check(report, MESSAGES_STREAMED).detail == detail


def test_a_response_that_fails(server: Stub) -> None:
    """An invalid answer of /v1/responses is detected."""
    server.faults["/v1/responses"] = completion(content="pong")
    report = ask(server)
    assert having(report, FAILED) == (RESPONSES,)
    assert check(report, RESPONSES).detail.startswith("not a response: HTTP 200")


@pytest.mark.parametrize(
    ("events", "detail"),
    [
        (RESPONSE_EVENTS[:-1], "the stream ended after 2 events without response.completed"),
        (
            ('{"type": "response.failed", "error": {"message": "throttled"}}', RESPONSE_EVENTS[-1]),
            "error in the stream: throttled",
        ),
    ],
)
def test_a_stream_of_a_response_that_fails(server: Stub, events: tuple[str, ...], detail: str) -> None:
    """A streamed response must be completed, otherwise the report has what came instead."""
    server.faults["streamed /v1/responses"] = streams(*events)
    report = verify(Gateway(server.url, KEY), Scope(MODELS, full=True))
    assert having(report, FAILED) == ("responses primary, streamed (/v1/responses)",)
    assert check(report, "responses primary, streamed (/v1/responses)").detail == detail


def with_tools(first: Answerer, second: Answerer) -> Answerer:
    """Answer a request with tools with `first`, and the result of the tool with `second`."""

    def answer(handler: Handler) -> None:
        if not handler.body.get("tools"):
            healthy(handler)
        elif handler.body["messages"][-1]["role"] == "tool":
            second(handler)
        else:
            first(handler)

    return answer


@pytest.mark.parametrize(
    ("first", "second", "outcome", "detail"),
    [
        (completion(content="I can't."), healthy, WARNING, "it didn't call the tool: “I can't.”"),
        (healthy, completion(content="I forgot."), WARNING, "it called the tool, but its answer doesn't contain"),
        (
            healthy,
            lambda handler: handler.reply(400, {"detail": "no ids"}),
            FAILED,
            "after the tool's result: HTTP 400",
        ),
        (lambda handler: handler.reply(400, {"detail": "tools?"}), healthy, FAILED, "HTTP 400: tools?"),
        (
            completion(tool_calls=[{"id": "x", "function": {"name": "rm"}}]),
            healthy,
            WARNING,
            "it didn't call the tool",
        ),
        (completion(tool_calls="none"), healthy, WARNING, "it didn't call the tool"),
    ],
)
def test_tools_that_fail(server: Stub, first: Answerer, second: Answerer, outcome: Outcome, detail: str) -> None:
    """A model that calls no tool or ignores its result is a warning; a refused request is a failure."""
    server.faults["/v1/chat/completions"] = with_tools(first, second)
    report = ask(server)
    assert having(report, outcome) == (TOOLS,)
    assert check(report, TOOLS).detail.startswith(detail)
    assert check(report, TOOLS).hint


# --- load ---


def at_once(answer: Answerer) -> Answerer:
    """Answer plain chats with `answer`: the first at once, the next five when all five have arrived."""
    together, asked = threading.Barrier(5, timeout=20), iter(range(6))

    def meet(handler: Handler) -> None:
        if not handler.body.get("tools") and not handler.body.get("stream"):
            if next(asked) == 0:
                healthy(handler)
            else:
                together.wait()
                answer(handler)
        else:
            healthy(handler)

    return meet


def test_concurrent_requests(server: Stub) -> None:
    """The requests of --concurrency are in flight at the same time, and the report has their latencies."""
    server.faults["/v1/chat/completions"] = at_once(healthy)
    found = check(verify(Gateway(server.url, KEY), Scope(MODELS, concurrency=5)), "5 at once primary")
    assert (found.outcome, found.data["requests"], found.data["failed"]) == (OK, 5, 0)
    assert found.detail.startswith("all 5 answered, median ")
    assert found.data["output_tokens"] == 5
    assert 0 < found.data["median_seconds"] <= found.data["slowest_seconds"] <= found.data["wall_seconds"]


def test_concurrent_requests_that_fail(server: Stub) -> None:
    """If some simultaneous requests fail, the report has their number and the cause."""
    limit = iter([200, 200, 429, 429, 429])

    def throttle(handler: Handler) -> None:
        if (status := next(limit)) == 200:
            healthy(handler)
        else:
            handler.reply(status, {"error": {"message": "Too many requests"}})

    server.faults["/v1/chat/completions"] = at_once(throttle)
    found = check(verify(Gateway(server.url, KEY), Scope(MODELS, concurrency=5)), "5 at once primary")
    assert (found.outcome, found.data["failed"]) == (FAILED, 3)
    assert found.detail == "3 of 5 failed, the first with: HTTP 429: Too many requests"
    assert "throttles" in found.hint


def test_a_long_prompt(server: Stub) -> None:
    """With --full a long prompt is sent; a model that does not find the word in it is a warning."""
    report = verify(Gateway(server.url, KEY), Scope(MODELS, full=True))
    found = check(report, "long prompt primary")
    assert found.outcome is WARNING
    assert found.data["characters"] > 30_000
    assert "lacks the word" in found.detail
    mocked = verify(Gateway(server.url, KEY), Scope(MODELS, full=True, mocked=frozenset(MODELS)))
    assert check(mocked, "long prompt primary").outcome is OK


def test_a_prompt_that_is_too_long_for_a_proxy(server: Stub) -> None:
    """--full detects a reverse proxy that rejects large bodies."""

    def limit(handler: Handler) -> None:
        if int(handler.headers["content-length"]) > 16_384:
            page = "<html><head><title>413 Request Entity Too Large</title></head></html>"
            handler.reply(413, page, "text/html")
        else:
            healthy(handler)

    server.faults["/v1/chat/completions"] = limit
    report = verify(Gateway(server.url, KEY), Scope(MODELS, full=True))
    assert having(report, FAILED) == ("long prompt primary",)
    assert "413 Request Entity Too Large" in check(report, "long prompt primary").detail


def test_embeddings(server: Stub) -> None:
    """A model that LiteLLM knows as an embedding model gets a request for an embedding, not a chat."""
    info = {"data": [{"model_name": "vectors", "model_info": {"mode": "embedding"}, "litellm_params": {}}]}
    server.faults["/v1/model/info"] = lambda handler: handler.reply(200, info)
    server.faults["/v1/embeddings"] = lambda handler: handler.reply(200, {"data": [{"embedding": [0.1, 0.2, 0.3]}]})
    report = ask(server)
    assert having(report, OK) == (*NAMES, "embeddings vectors (/v1/embeddings)")
    assert check(report, "embeddings vectors (/v1/embeddings)").detail == "3 dimensions"
    server.faults["/v1/embeddings"] = lambda handler: handler.reply(200, {"data": []})
    assert having(ask(server), FAILED) == ("embeddings vectors (/v1/embeddings)",)


# --- in a line ---


def test_quiet(server: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    """With --quiet, which the timer uses, a healthy gateway gets no output, and an unhealthy one a line with the
    remedy.
    """
    arguments = ["verify", "--base-url", server.url, "--api-key", KEY, "--no-spend", "--quiet"]
    assert run_command(arguments) == 0
    assert capsys.readouterr() == ("", "")
    server.faults["/health/readiness"] = lambda handler: handler.reply(503, {"detail": "Service Unhealthy"})
    assert run_command(arguments) == 1
    out, err = capsys.readouterr()
    assert out.startswith(
        f"{server.url} is unhealthy: 1 of 5 checks failed: readiness: HTTP 503: Service Unhealthy. "
    )
    assert "--wait" in out
    assert (out.count("\n"), err) == (1, "")


@pytest.mark.parametrize("option", ["--no-spend", "--full", "--base-url=http://127.0.0.1:1", "--concurrency=3"])
def test_fallbacks_reject_other_options(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Options that have no meaning with --fallbacks are rejected before anything starts."""
    assert run_command(["verify", "--fallbacks", option]) == 64
    assert "--fallbacks can be combined with" in capsys.readouterr().err


def test_a_configuration_requires_fallbacks(capsys: pytest.CaptureFixture[str]) -> None:
    """-c is rejected without --fallbacks, because it cannot change what the running gateway serves."""
    assert run_command(["verify", "-c", "demo.yml"]) == 64
    assert "--fallbacks" in capsys.readouterr().err
