"""The rules of verify that need no connection: names, deltas, hints, order, skipped checks, titles."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from litellm_systemd.client.gateway import FailureKind, Gateway, GatewayError, Response, ServerSentEvent, Stream
from litellm_systemd.report.report import Check, Outcome
from litellm_systemd.verify.answers import CheckResult, FailureScope, hint_for, hint_for_text, read_deltas, tokens_of
from litellm_systemd.verify.checks import LIVELINESS, compare_names
from litellm_systemd.verify.run import _Run, _title, verify
from litellm_systemd.verify.steps import Scope, Step, choose_models, read_known

OK, FAILED, SKIPPED, WARNING = Outcome.OK, Outcome.FAILED, Outcome.SKIPPED, Outcome.WARNING


@pytest.mark.parametrize(
    ("expected", "listed", "outcome", "detail"),
    [
        (None, ("a", "b"), OK, "2 listed: a, b"),
        ((), (), OK, "none listed, and none is configured"),
        ((), ("a",), WARNING, "not in the configuration: a"),
        (("a", "b"), ("b", "a"), OK, "2 listed: b, a"),
        (("a", "a"), ("a",), OK, "1 listed: a"),
        (("a", "c", "b"), ("b",), FAILED, "missing: a, c"),
        (("a",), ("a", "z"), WARNING, "not in the configuration: z"),
        (("a",), ("z",), FAILED, "missing: a; not in the configuration: z"),
        (("bedrock/*",), ("bedrock/x", "bedrock/y"), OK, "2 listed: bedrock/x, bedrock/y"),
        (("bedrock/*", "a"), ("bedrock/x",), FAILED, "missing: a"),
    ],
)
def test_names(expected: tuple[str, ...] | None, listed: tuple[str, ...], outcome: Outcome, detail: str) -> None:
    """A name that is missing from the list is a failure, an additional one a warning."""
    assert compare_names(expected, listed) == (outcome, detail)


def _stream(*events: object) -> Stream:
    data = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return Stream(
        Response(200, {}, "", 9.0), tuple(ServerSentEvent(float(at), one) for at, one in enumerate(data, 1))
    )


def _delta(**delta: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": delta}]}


def test_deltas_are_joined_and_the_first_token_is_timed() -> None:
    """The first token is the first text, not the first event, because an event with only a role has no token."""
    deltas = read_deltas(
        _stream(_delta(role="assistant"), _delta(content="po"), _delta(content="ng"), _delta(), "[DONE]")
    )
    assert (deltas.said, deltas.thought, deltas.first, deltas.last, deltas.error) == ("pong", "", 2.0, 3.0, "")


def test_reasoning_counts_as_the_first_token() -> None:
    """Reasoning counts as the first token of an answer."""
    deltas = read_deltas(_stream(_delta(content=None, reasoning_content="hm"), _delta(content="pong")))
    assert (deltas.said, deltas.thought, deltas.first) == ("pong", "hm", 1.0)


def test_the_first_error_in_a_stream_is_kept() -> None:
    """An error that arrives as an event, after status 200, is detected."""
    stream = _stream(_delta(content="po"), {"error": {"message": "too busy"}}, {"error": "late"}, "[DONE]")
    assert read_deltas(stream).error == "too busy"


def test_the_rate_is_that_between_the_first_and_the_last_token() -> None:
    """The rate excludes the time to the first token; an answer in one piece has no rate."""
    usage = {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 21}}
    assert read_deltas(_stream(_delta(content="1 2"), _delta(content=" 3"), _delta(content="."), usage)).numbers == {
        "input_tokens": 9,
        "output_tokens": 21,
        "first_token_seconds": 1.0,
        "tokens_per_second": 10.0,
    }
    assert "tokens_per_second" not in read_deltas(_stream(_delta(content="1 2 3"), usage)).numbers


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}, {"input_tokens": 3, "output_tokens": 4}),
        ({"usage": {"input_tokens": 3, "output_tokens": 4}}, {"input_tokens": 3, "output_tokens": 4}),
        ({"usage": {"output_tokens": 4}}, {"output_tokens": 4}),
        ({"usage": None}, {}),
        ({"usage": "3"}, {}),
        ({"usage": {"input_tokens": "3"}}, {}),
        ({}, {}),
        ([], {}),
        (None, {}),
    ],
)
def test_tokens(body: object, tokens: dict[str, int]) -> None:
    """Tokens have the same names for every API; an answer may omit them."""
    assert tokens_of(body) == tokens


@pytest.mark.parametrize(
    "event", ["not json", [], 7, {}, {"choices": []}, {"choices": [{}]}, {"choices": [{"delta": []}]}]
)
def test_unknown_events_are_ignored(event: object) -> None:
    """Events of other types, such as usage at the end, neither count as text nor fail the check."""
    deltas = read_deltas(_stream(event))
    assert (deltas.said, deltas.thought, deltas.error, deltas.numbers) == ("", "", "", {})


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ("BedrockException Invalid Authentication - Unable to locate credentials", "instance profile"),
        ("ExpiredTokenException: The security token included in the request is expired", "has expired"),
        ("The security token included in the request is invalid", "sts get-caller-identity"),
        ("AccessDeniedException: User: arn is not authorized to perform: bedrock:InvokeModel", "allow bedrock"),
        ("You don't have access to the model with the specified model ID.", "Bedrock console"),
        ("Invocation with on-demand throughput isn't supported", "profile for your region"),
        ("This model version has reached the end of its life.", "has ended"),
        ("Access denied. This Model is marked by provider as Legacy", "retiring"),
        ("The provided model identifier is invalid.", "model or profile with this id"),
        ("Invalid model name passed in model=nope.", "a name from the configuration"),
        ("No deployments available for selected model, Try again in 5 seconds", "has that error"),
        ("ThrottlingException: Too many requests, please wait", "throttles"),
        ("litellm.RateLimitError: this is a mock rate limit error", "throttles"),
        ("Cannot connect to host bedrock-runtime.us-east-1.amazonaws.com:443", "DNS"),
        ("litellm.Timeout: AnthropicException - Timeout error", "request_timeout"),
        ("This instance is about to drain. All other requests are served.", "leaves its load balancer"),
        ("something new", "journalctl"),
    ],
)
def test_each_known_cause_has_its_remedy(said: str, word: str) -> None:
    """The provider's message selects the remedy, in an answer as in a stream."""
    body = json.dumps({"error": {"message": said}})
    assert word in hint_for(Response(500, {}, body, 0.0))
    assert word in hint_for_text(said)


@pytest.mark.parametrize(
    ("status", "word"),
    [(302, "--base-url"), (404, "/v1"), (502, "reverse proxy"), (503, "--wait"), (504, "reverse proxy")],
)
def test_an_empty_error_page_has_a_remedy(status: int, word: str) -> None:
    """An empty error page has a remedy too."""
    assert word in hint_for(Response(status, {}, "", 0.0))


def _steps(*rows: tuple[str, str, CheckResult | GatewayError]) -> tuple[Step, ...]:
    def play(line: CheckResult | GatewayError) -> CheckResult:
        if isinstance(line, GatewayError):
            raise line
        return line

    return tuple(Step(name, lambda line=line: play(line), needs) for name, needs, line in rows)  # type: ignore[misc]


def _played(*rows: tuple[str, str, CheckResult | GatewayError]) -> list[tuple[str, Outcome]]:
    run = _Run(lambda: 0.0)
    run.run_steps(_steps(*rows))
    return [(check.name, check.outcome) for check in run.checks]


def test_checks_that_need_a_failed_one_are_skipped() -> None:
    """A failure skips the checks that depend on it, directly or indirectly, and no others."""
    run = _Run(lambda: 0.0)
    run.run_steps(
        _steps(
            ("a", "", CheckResult(FAILED)),
            ("b", "a", CheckResult(OK)),
            ("c", "b", CheckResult(OK)),
            ("d", "", CheckResult(OK)),
            ("e", "d", CheckResult(OK)),
        )
    )
    assert [check.outcome for check in run.checks] == [FAILED, SKIPPED, SKIPPED, OK, OK]
    assert run.checks[2].detail == "not checked, because “a” failed"
    assert run.checks[2].seconds is None


def test_missing_names_skip_no_check() -> None:
    """Missing names do not prevent the checks of the other models."""
    assert _played(("a", "", CheckResult(FAILED, stops=FailureScope.NOTHING)), ("b", "a", CheckResult(OK)))[1] == (
        "b",
        OK,
    )


@pytest.mark.parametrize("trouble", list(FailureKind))
def test_only_permanent_errors_end_the_run(trouble: FailureKind) -> None:
    """A closed port ends the run; a slow or dropped answer skips only the checks that depend on it."""
    played = _played(("a", "", GatewayError(trouble, "x")), ("b", "", CheckResult(OK)))
    passing = trouble in {FailureKind.TIMEOUT, FailureKind.DROPPED, FailureKind.GARBLED}
    assert played == [("a", FAILED), ("b", OK if passing else SKIPPED)]


def test_seconds_are_those_of_the_check() -> None:
    """The latency in the report is the wall time of that check alone."""
    ticks = iter([10.0, 10.25, 20.0, 23.0])
    run = _Run(lambda: next(ticks))
    run.run_steps(_steps(("a", "", CheckResult(OK)), ("b", "", GatewayError(FailureKind.TIMEOUT, "x"))))
    assert [check.seconds for check in run.checks] == [0.25, 3.0]


class Modes(Gateway):
    """A gateway with three models, which fails the test on any other request."""

    __slots__ = ()

    def get(self, path: str, **_: object) -> Response:
        assert path == "/v1/model/info"
        rows = [("vectors", "embedding"), ("primary", "chat"), ("second", None)]
        data = [{"model_name": name, "model_info": {"mode": mode}} for name, mode in rows]
        return Response(200, {}, json.dumps({"data": data}), 0.0)


LISTED = ["alias", "vectors", "primary", "second"]


@pytest.mark.parametrize(
    ("expected", "models", "listed", "all_models", "chosen"),
    [
        (("second", "primary"), (), LISTED, False, ["second"]),
        ((), (), LISTED, False, ["primary"]),
        (("vectors", "second"), (), LISTED, False, ["second"]),
        (("bedrock/*", "second"), (), LISTED, False, ["second"]),
        ((), ("x", "y", "x"), LISTED, False, ["x", "y"]),
        ((), ("vectors",), LISTED, False, ["vectors"]),
        (("primary",), ("second",), LISTED, True, ["second"]),
        ((), (), LISTED, True, ["alias", "-vectors", "primary", "second"]),
        (("primary", "vectors", "b/*"), (), LISTED, True, ["primary", "-vectors", "-b/*"]),
        (("primary",), (), [], False, ["primary"]),
        ((), (), [], False, ["-"]),
        ((), (), [], True, ["-"]),
    ],
)
def test_which_models_are_tested(
    expected: tuple[str, ...], models: tuple[str, ...], listed: list[str], all_models: bool, chosen: list[str]
) -> None:
    """By default the primary model is tested, a given one by its name; --all-models reports every model that it
    skips.
    """
    scope = Scope(expected, models, all_models)
    rows = choose_models(scope, listed, read_known(Modes("http://h")) if listed else {})
    assert [("-" if obstacle else "") + name for name, obstacle in rows] == chosen


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["data", "id", "error", "message", "detail", "choices", "delta", "content", "status", "model_name"]
            ),
            inner,
            max_size=4,
        )
    ),
)
ANSWERS = st.builds(
    Response,
    status=st.sampled_from([200, 204, 302, 400, 500]),
    headers=st.fixed_dictionaries(
        {"content-type": st.sampled_from(["text/event-stream", "text/html"])},
        optional={"location": st.text(max_size=8) | st.sampled_from(["http://[", "//h:x", "http://h\x1b/"])},
    ),
    text=JSON.map(json.dumps) | st.text(),
    seconds=st.just(0.0),
)


class Anything(Gateway):
    """A gateway that answers each request with arbitrary data."""

    __slots__ = ("draw",)
    draw: Callable[[st.SearchStrategy[Any]], Any]

    def get(self, path: str, **_: object) -> Response:
        if path == LIVELINESS:
            return Response(200, {}, '"alive"', 0.0)
        return cast(Response, self.draw(ANSWERS))

    def with_refused_key(self, _: str) -> Gateway:
        return self

    def with_key_in(self, _: str) -> Gateway:
        return self

    def post(self, *_: object, **__: object) -> Response:
        return cast(Response, self.draw(ANSWERS))

    def stream(self, *_: object, **__: object) -> Stream:
        events = self.draw(st.lists(JSON.map(json.dumps) | st.text(max_size=8), max_size=3))
        return Stream(self.draw(ANSWERS), tuple(ServerSentEvent(1.0, data) for data in events))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_answer_breaks_verify(data: st.DataObject) -> None:
    """Whatever a gateway answers, verify ends with a report that a terminal can show."""
    gateway = Anything("http://h", "sk-canary")
    object.__setattr__(gateway, "draw", data.draw)
    report = verify(gateway, Scope(("primary",), models=("primary", "second")))
    assert len(report.checks) >= 17
    assert all(check.detail.isprintable() for check in report.checks)
    assert all(check.hint for check in report.checks if check.outcome is FAILED)
    json.loads(report.as_json())


@pytest.mark.parametrize(
    ("outcomes", "title"),
    [
        ([OK, OK], "verified http://h: 2 checks passed"),
        ([OK, WARNING, SKIPPED], "verified http://h: 2 checks passed, 1 with a warning, 1 skipped"),
        ([OK, FAILED, FAILED], "http://h is unhealthy: 2 of 3 checks failed"),
        ([FAILED, SKIPPED, WARNING], "http://h is unhealthy: 1 of 3 checks failed, 1 skipped"),
    ],
)
def test_title(outcomes: list[Outcome], title: str) -> None:
    """The title has the counts, and never calls a gateway with a failed check verified."""
    assert _title("http://h", [Check("x", outcome) for outcome in outcomes]) == title
