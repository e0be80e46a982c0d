"""Checks that cost more than one word: a long prompt, and many requests at once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from litellm_systemd.client.errors import GatewayError
from litellm_systemd.client.gateway import Gateway, Response
from litellm_systemd.report.report import Outcome
from litellm_systemd.verify.answers import (
    CheckResult,
    FailureScope,
    build_question,
    describe_failure,
    failed_result,
    hint_for,
    part_of,
    text_of,
    text_result,
    tokens_of,
)
from litellm_systemd.verify.checks import CHAT, PROMPT

#: About 10,000 tokens, like an agent's system prompt with its tools: a few cents with the most expensive models.
LONG_LINES = 900
_WORD = "heliotrope"


def check_long_prompt(gateway: Gateway, model: str, *, mocked: bool) -> CheckResult:
    """`model` accepts and reads a prompt of about 10,000 tokens; a `mocked` model reads nothing."""
    question = build_question(model, build_long_prompt())
    answer = gateway.post(CHAT, question)
    message = part_of(answer.json(), "message") if answer.ok else None
    if message is None:
        return failed_result(gateway, answer, "not a chat completion" if answer.ok else "")
    numbers = {"characters": len(question["messages"][0]["content"]), **tokens_of(answer.json())}
    said = text_of(message, "content")
    found = text_result(gateway, answer, said, text_of(message, "reasoning_content"), numbers)
    if found.outcome is Outcome.OK and not mocked and _WORD not in said.lower():
        detail = f"it was accepted, but the answer lacks the word from its middle: {found.detail}"
        return CheckResult(Outcome.WARNING, detail, "Choose a model for long prompts.", data=numbers)
    return found


def build_long_prompt() -> str:
    """Build lines of no importance, with one word in the middle that the last line requests."""
    lines = [f"Line {number} of the log: nothing to see here." for number in range(1, LONG_LINES + 1)]
    lines[LONG_LINES // 2] = f"The secret word is {_WORD}."
    return "\n".join((*lines, "Which is the secret word in the lines above? Reply with that word alone."))


def check_concurrency(gateway: Gateway, model: str, number: int) -> CheckResult:
    """All of `number` simultaneous requests are answered.

    CheckResult.data: requests, failed, wall_seconds, median_seconds, slowest_seconds, requests_per_second, tokens.
    """

    def ask(_: int) -> Response | GatewayError:
        try:
            return gateway.post(CHAT, build_question(model, PROMPT))
        except GatewayError as error:
            return error

    began = time.monotonic()
    with ThreadPoolExecutor(number) as pool:
        answers = tuple(pool.map(ask, range(number)))
    return _judge(gateway, answers, time.monotonic() - began)


def _judge(gateway: Gateway, answers: tuple[Response | GatewayError, ...], wall: float) -> CheckResult:
    answered = [each for each in answers if isinstance(each, Response) and each.ok]
    seconds = [each.seconds for each in answered] or [0.0]
    numbers = {
        "requests": len(answers),
        "failed": len(answers) - len(answered),
        "wall_seconds": round(wall, 4),
        "median_seconds": round(statistics.median(seconds), 4),
        "slowest_seconds": round(max(seconds), 4),
        "requests_per_second": round(len(answered) / wall, 1) if wall > 0 else 0.0,
        **_tokens(answered),
    }
    if len(answered) == len(answers):
        detail = (
            f"all {len(answers)} answered, median {numbers['median_seconds']:.2f} s, slowest {max(seconds):.2f} s"
        )
        return CheckResult(Outcome.OK, detail, data=numbers)
    first = next(each for each in answers if each not in answered)
    said, hint = (
        (first.message, first.hint)
        if isinstance(first, GatewayError)
        else (describe_failure(gateway, first), hint_for(first))
    )
    detail = f"{numbers['failed']} of {len(answers)} failed, the first with: {said}"
    return CheckResult(Outcome.FAILED, detail, hint, FailureScope.NOTHING, numbers)


def _tokens(answers: Iterable[Response]) -> dict[str, int]:
    total: dict[str, int] = {}
    for answer in answers:
        for name, count in tokens_of(answer.json()).items():
            total[name] = total.get(name, 0) + count
    return total
