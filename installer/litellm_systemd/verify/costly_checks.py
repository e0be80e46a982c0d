"""Checks that cost more than one word: a long prompt, many requests at once, and the cache of the provider.

`verify` checks the cache on request alone, since a long prompt is billed twice. GatewayError is raised if no answer
arrives.
"""

from __future__ import annotations

import secrets
import statistics
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from litellm_systemd.client.gateway import Gateway, GatewayError, Response
from litellm_systemd.report.report import Outcome
from litellm_systemd.verify.answers import (
    FALLBACK_HINT,
    MAX_TOKENS,
    CheckResult,
    FailureScope,
    build_question,
    describe_failure,
    failed_result,
    fallback_of,
    hint_for,
    part_of,
    text_of,
    text_result,
    tokens_of,
)
from litellm_systemd.verify.checks import CHAT, MESSAGES, PROMPT, RESPONSES

#: About 10,000 tokens, like an agent's system prompt with its tools: a few cents with the most expensive models.
LONG_LINES = 900
_WORD = "heliotrope"

#: Approximate size of the prompt. The shortest prompt that Claude caches has 512 to 4096 tokens, by model
#: (`prompt_cache_min_tokens` in LiteLLM's model map); tokenizers differ by a third.
PROMPT_TOKENS = 6000
#: The second is repeated once if it missed the cache: an inference profile may choose another region.
MOST_REQUESTS = 3
_LINES = 300
_UNMARKED_HINT = (
    "The prompt is not marked for the cache: set litellm_settings.enable_anthropic_prompt_caching: true in the"
    " configuration. Not every model caches."
)
_UNREAD_HINT = (
    "Each request pays for the whole prompt. Try again: a busy inference profile changes regions, and each has its"
    " own cache. If it fails again, look for a proxy or callback that changes the prompt."
)
#: Claude Code's system prompt begins with such a block, different in each request.
_BILLING_HEADER = "x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli; cch={};"
_HEADER_HINT = (
    "The prompt began with a billing header that changes, as Claude Code's does. LiteLLM removes it for models of"
    " bedrock/ and keeps it for those of bedrock/converse/: leave converse/ out. If the model has no converse/: "
    f"{_UNREAD_HINT[0].lower()}{_UNREAD_HINT[1:]}"
)
_NO_USAGE_HINT = "A proxy in front of LiteLLM removes `usage`: give the gateway's own address as --base-url."


def check_long_prompt(gateway: Gateway, model: str, *, mocked: bool) -> CheckResult:
    """`model` accepts and reads a prompt of about 10,000 tokens; a `mocked` model is not expected to."""
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


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars for an input token: in full, written to the cache, and read from it."""

    full: float
    written: float
    read: float


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Tokens of one answer: of the whole prompt, written to the cache, and read from it."""

    prompt: int
    written: int
    read: int

    def cost(self, prices: Prices) -> float:
        """US dollars for the prompt."""
        fresh = self.prompt - self.written - self.read
        return fresh * prices.full + self.written * prices.written + self.read * prices.read


def check_caching(gateway: Gateway, model: str, path: str, prices: Prices | None) -> CheckResult:
    """The second of two equal prompts at the API `path` (CHAT, MESSAGES or RESPONSES) is read from the cache.

    CheckResult.data: `caching` with the tokens of each request (prompt, written, read), and with `prices` their costs
    in US dollars (cost).
    """
    nonce = secrets.token_hex(8)
    uses: list[CacheUse] = []
    others: dict[str, None] = {}
    for _ in range(MOST_REQUESTS):
        answer = gateway.post(path, build_caching_question(model, nonce, path))
        use = read_cache_use(answer.json()) if answer.ok else None
        if use is None:
            return _without_usage(gateway, answer)
        uses.append(use)
        others |= dict.fromkeys(filter(None, [fallback_of(gateway, answer)]))
        if len(uses) > 1 and (use.read or not use.written):
            break
    return _judge_caching(tuple(uses), tuple(others), path, prices)


def build_caching_question(model: str, nonce: str, path: str) -> dict[str, Any]:
    """Build a request with about PROMPT_TOKENS tokens, like an agent's system prompt; `nonce` makes it unique.

    At MESSAGES it begins with a billing header that is different in each request.
    """
    lines = (f"Rule {number} of {nonce}: leave the files of module {number * 7} alone." for number in range(_LINES))
    system = "\n".join(lines)
    turn = {"role": "user", "content": PROMPT}
    if path == RESPONSES:
        return {
            "model": model,
            "instructions": system,
            "input": [turn],
            "max_output_tokens": MAX_TOKENS,
            "store": False,
        }
    if path == MESSAGES:
        header = _BILLING_HEADER.format(secrets.token_hex(3))
        blocks = [{"type": "text", "text": header}, {"type": "text", "text": system}]
        return {"model": model, "system": blocks, "messages": [turn], "max_tokens": MAX_TOKENS}
    return {"model": model, "messages": [{"role": "system", "content": system}, turn], "max_tokens": MAX_TOKENS}


def read_cache_use(body: Any) -> CacheUse | None:
    """Return the tokens in `usage` of an answer, None without one.

    `prompt_tokens` and Responses' `input_tokens` count all tokens, Anthropic's `input_tokens` only those that are
    neither written nor read. For a chat LiteLLM sends Anthropic's names too; other gateways send OpenAI's alone.
    """
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return None
    nested: dict[str, Any] = {}
    for name in ("prompt_tokens_details", "input_tokens_details"):
        nested |= usage[name] if isinstance(usage.get(name), dict) else {}
    written = (
        _count(usage, "cache_creation_input_tokens")
        or _count(nested, "cache_creation_tokens")
        or _count(nested, "cache_write_tokens")
    )
    read = _count(usage, "cache_read_input_tokens") or _count(nested, "cached_tokens")
    prompt = _count(usage, "prompt_tokens") or _count(usage, "input_tokens")
    if body.get("type") == "message":
        prompt += written + read
    return CacheUse(prompt, written, read)


def _judge_caching(
    uses: tuple[CacheUse, ...], others: tuple[str, ...], path: str, prices: Prices | None
) -> CheckResult:
    rows = [{"prompt": use.prompt, "written": use.written, "read": use.read} for use in uses]
    costs = [round(use.cost(prices), 6) for use in uses] if prices else []
    data = {
        "caching": [{**row, "cost": cost} for row, cost in zip(rows, costs, strict=True)] if costs else rows,
        "input_tokens": sum(use.prompt for use in uses),
    }
    each = "; ".join(f"{use.written:,} written, {use.read:,} read" for use in uses)
    detail = f"{len(uses)} requests with {uses[0].prompt:,} tokens: {each}"
    if prices:
        paid, full = " and ".join(f"${cost:.4f}" for cost in costs), uses[0].prompt * prices.full
        detail += f"; {paid} in place of ${full:.4f} each"
    if others:
        detail = f"the fallback {', '.join(others)} answered instead: {detail}"
    if any(use.read for use in uses[1:]):
        outcome, hint = (Outcome.WARNING, FALLBACK_HINT) if others else (Outcome.OK, "")
        return CheckResult(outcome, detail, hint, data=data)
    unread = _HEADER_HINT if path == MESSAGES else _UNREAD_HINT
    hint = unread if any(use.written for use in uses) else _UNMARKED_HINT
    return CheckResult(Outcome.FAILED, detail, hint, FailureScope.NOTHING, data)


def _without_usage(gateway: Gateway, answer: Response) -> CheckResult:
    if not answer.ok:
        return CheckResult(Outcome.FAILED, describe_failure(gateway, answer), hint_for(answer), FailureScope.NOTHING)
    return CheckResult(Outcome.FAILED, "the answer has no usage", _NO_USAGE_HINT, FailureScope.NOTHING)


def _count(counts: Mapping[str, Any], name: str) -> int:
    value = counts.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
