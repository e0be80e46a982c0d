"""The response headers that prove a fallback."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from litellm_systemd.client.gateway import Gateway, Response
from litellm_systemd.gateway.config import parse_config
from litellm_systemd.report.report import Outcome
from litellm_systemd.verify.run import verify_fallbacks
from litellm_systemd.verify.steps import Link, check_link

PONG = {"choices": [{"message": {"content": "pong"}}], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
LINK = Link("fallbacks", "a", "a", ("b", "c"), 2)
ALIASES = {"old-c": "c"}


class Answering(Gateway):
    """A gateway that gives every request the same response, and records the requests."""

    __slots__ = ("answer", "asked")
    answer: Response
    asked: list[tuple[str, Mapping[str, Any]]]

    def post(self, path: str, body: Mapping[str, Any], **_: object) -> Response:
        self.asked.append((path, body))
        return self.answer

    def get(self, *_: object, **__: object) -> Response:
        return Response(404, {}, "{}", 0.0)


def answering(status: int, body: object, **headers: str) -> Answering:
    gateway = Answering("http://h", "sk-canary")
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    object.__setattr__(gateway, "answer", Response(status, named, json.dumps(body), 0.0))
    object.__setattr__(gateway, "asked", [])
    return gateway


@pytest.mark.parametrize("group", ["c", "old-c"])
def test_the_named_model_answered(group: str) -> None:
    """A fallback is proven if LiteLLM's headers say that a fallback was used and name the target or its alias."""
    gateway = answering(200, PONG, x_litellm_attempted_fallbacks="2", x_litellm_model_group=group)
    found = check_link(gateway, LINK, ALIASES)
    assert (found.outcome, found.detail) == (Outcome.OK, "c answered for a")
    assert found.data == {
        "kind": "fallbacks",
        "model": "a",
        "target": "c",
        "position": 2,
        "answered": group,
        "attempted_fallbacks": 2,
        "input_tokens": 9,
        "output_tokens": 1,
    }
    (path, body), *_ = gateway.asked
    assert (path, body["model"], body["mock_testing_fallbacks"]) == ("/v1/chat/completions", "a", True)


@pytest.mark.parametrize(
    ("status", "body", "headers", "detail"),
    [
        (200, PONG, {}, "no fallback was called: a itself answered"),
        (200, PONG, {"x_litellm_attempted_fallbacks": "0"}, "no fallback was called: a itself answered"),
        (200, PONG, {"x_litellm_attempted_fallbacks": "1", "x_litellm_model_group": "b"}, "b answered, and not c"),
        (200, PONG, {"x_litellm_attempted_fallbacks": "1"}, "another model answered, and not c"),
        (200, {"choices": []}, {"x_litellm_attempted_fallbacks": "1"}, "not a chat completion: HTTP 200"),
        (500, {"error": {"message": "no more"}}, {}, "HTTP 500: no more"),
        (400, {"error": {"message": "mock testing is disabled"}}, {}, "HTTP 400: mock testing is disabled"),
    ],
)
def test_other_answers_fail_the_link(status: int, body: object, headers: dict[str, str], detail: str) -> None:
    """An answer of the model itself or of another target, without text or with an error, fails the link."""
    found = check_link(answering(status, body, **headers), LINK, ALIASES)
    assert found.outcome is Outcome.FAILED
    assert found.detail.startswith(detail)
    assert found.hint


@pytest.mark.parametrize(
    ("settings", "title"),
    [
        ("", "c.yml has no fallbacks"),
        ("router_settings: {fallbacks: [{a: [b]}]}", "the fallback of c.yml answers"),
        ("router_settings: {fallbacks: [{a: [a, b]}]}", "the fallback of c.yml answers, 1 can't be tried"),
        ("router_settings: {fallbacks: [{a: [a]}]}", "no fallback of c.yml can be tried"),
        ("router_settings: {fallbacks: [{a: [b]}, {c: [b]}]}", "fallbacks of c.yml: all 2 answer"),
        ("router_settings: {fallbacks: [{a: [b, c]}]}", "fallbacks of c.yml: 1 of 2 failed"),
    ],
)
def test_the_title_counts(settings: str, title: str) -> None:
    """One failed link does not hide the others, and links that cannot be tested do not count as proven."""
    models = "".join(f"  - {{model_name: {name}, litellm_params: {{model: openai/{name}}}}}\n" for name in "abc")
    config = parse_config(f"model_list:\n{models}{settings}\n", "c.yml")
    gateway = answering(200, PONG, x_litellm_attempted_fallbacks="1", x_litellm_model_group="b")
    assert verify_fallbacks(gateway, config).title == title
