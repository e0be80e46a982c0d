"""Judge answers: results of checks, streamed text, tokens, errors in one line, and hints."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from litellm_systemd.bedrock.refusals import find_refusal
from litellm_systemd.client.gateway import JOURNAL, Gateway, Response, Stream, extract_error
from litellm_systemd.report.report import Outcome, render_count

#: Enough for a model that reasons before it answers with one word; others stop after that word.
MAX_TOKENS = 256
FALLBACK_HINT = f"Clients are served, but the model itself fails. For the cause, read {JOURNAL}."

#: Messages of LiteLLM and their hints, searched before and after the refusals of AWS. The first match wins.
_BEFORE = (
    (
        re.compile(r"This instance is about to drain"),
        "The service was stopped and leaves its load balancer; `systemctl status litellm` shows until when. To serve"
        " again, run: sudo litellmctl start",
    ),
    (
        re.compile(r"invalid model name", re.IGNORECASE),
        "Request a name from the configuration. After a change of it: `sudo systemctl reload litellm`",
    ),
    (
        re.compile(r"in cooldown|No deployments available", re.IGNORECASE),
        f"LiteLLM does not use this model for a while after an error; {JOURNAL} has that error.",
    ),
)
_AFTER = (
    (
        re.compile(r"litellm\.Timeout|timed? ?out", re.IGNORECASE),
        "The provider was too slow for LiteLLM: raise request_timeout in the configuration.",
    ),
)

_BY_STATUS = {
    401: "The provider of the model rejects the credentials of the service: check those in .env.",
    403: "The credentials of the service have no permission for this model: check those in .env.",
    404: "Check that --base-url is the gateway's own address, without /v1.",
    502: f"A reverse proxy responds, but the gateway behind it does not: `systemctl status litellm`, {JOURNAL}.",
    503: f"The gateway is starting or overloaded: wait with --wait, then read {JOURNAL}.",
    504: "The gateway was too slow for the reverse proxy in front of it: raise the timeout of the proxy.",
}


class FailureScope(Enum):
    """Which later checks are skipped after a failure."""

    NOTHING = "nothing"
    DEPENDENTS = "dependents"
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check. `data` are its measurements; `facts` about the gateway go into the report's data."""

    outcome: Outcome
    detail: str = ""
    hint: str = ""
    stops: FailureScope = FailureScope.DEPENDENTS
    data: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def stream_failure(gateway: Gateway, stream: Stream, *, mocked: bool = False) -> CheckResult | None:
    """Return the failure of an answer that is not an event stream, otherwise None.

    If the model is `mocked`, a plain answer is no failure: LiteLLM's Responses API does not stream a `mock_response`,
    nor do Anthropic's Messages for models of OpenAI, which use it (litellm/responses/main.py).
    """
    if not stream.head.ok:
        return failed_result(gateway, stream.head)
    if stream.is_event_stream:
        return None
    if mocked:
        return CheckResult(Outcome.SKIPPED, "LiteLLM does not stream a mock_response here")
    return failed_result(gateway, stream.head, "not an event stream")


def finish_stream(gateway: Gateway, stream: Stream, deltas: Deltas, *, done: bool, end: str) -> CheckResult:
    """Judge a stream: it must be complete, have text and no error. `end` is the event that completes it."""
    events = render_count(len(stream.events), "event")
    if deltas.error:
        detail = gateway.line(f"error in the stream: {deltas.error}")
        return CheckResult(Outcome.FAILED, detail, hint_for_text(deltas.error))
    if stream.broken:
        detail = f"after {events}: {stream.broken.message}"
        return CheckResult(Outcome.FAILED, detail, stream.broken.hint)
    if not done:
        detail = f"the stream ended after {events} without {end}"
        return CheckResult(
            Outcome.FAILED, detail, "Look for a proxy that cuts streams, or for a crash in the journal."
        )
    return text_result(gateway, stream.head, deltas.said, deltas.thought, deltas.numbers)


@dataclass(slots=True)
class Deltas:
    """The parts of a streamed answer: text, reasoning, first error, when text arrived (seconds), billed tokens."""

    said: str = ""
    thought: str = ""
    error: str = ""
    first: float | None = None
    last: float | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)

    def add(self, seconds: float, said: str, thought: str = "") -> None:
        """Add the text of one event, which arrived `seconds` after the call."""
        self.said, self.thought = self.said + said, self.thought + thought
        if said or thought:
            self.first = seconds if self.first is None else self.first
            self.last = seconds

    @property
    def numbers(self) -> dict[str, float]:
        """The measurements, for the check's data."""
        numbers: dict[str, float] = dict(self.tokens)
        if self.first is not None and self.last is not None:
            numbers["first_token_seconds"] = round(self.first, 4)
            # From the first to the last token; a gateway that sends all at once has no rate.
            produced, took = self.tokens.get("output_tokens", 0) - 1, self.last - self.first
            if produced > 0 and took > 0.01:
                numbers["tokens_per_second"] = round(produced / took, 1)
        return numbers


def read_deltas(stream: Stream) -> Deltas:
    """Read a streamed chat of OpenAI's API."""
    deltas = Deltas()
    for event in stream.events:
        try:
            body = json.loads(event.data)
        except (ValueError, RecursionError):
            continue
        if isinstance(body, dict) and body.get("error"):
            deltas.error = deltas.error or extract_error(body, "")
        delta = part_of(body, "delta") or {}
        deltas.add(event.seconds, text_of(delta, "content"), text_of(delta, "reasoning_content"))
        deltas.tokens = tokens_of(body) or deltas.tokens
    return deltas


def tokens_of(body: Any) -> dict[str, int]:
    """Return the tokens in `usage` of an answer as input_tokens and output_tokens; empty if it has none."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return {}
    # OpenAI's chats name them prompt and completion; its Responses API and Anthropic name them input and output.
    both = (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"))
    found = {name: usage.get(name, usage.get(other)) for name, other in both}
    return {name: count for name, count in found.items() if isinstance(count, int)}


def build_question(model: str, prompt: str) -> dict[str, Any]:
    """Build a small chat. Without temperature, which some of today's models refuse."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": MAX_TOKENS}


def text_result(
    gateway: Gateway, head: Response, said: str, thought: str = "", numbers: Mapping[str, float] | None = None
) -> CheckResult:
    """Judge an answer by its text, and by whether the requested model gave it."""
    version = head.headers.get("x-litellm-version")
    data, facts = dict(numbers or {}), {"litellm_version": version} if version else {}
    timing = _render_timing(data)
    if not said.strip() and not thought.strip():
        return CheckResult(Outcome.FAILED, f"the answer has no text{timing}", hint_for(head), data=data, facts=facts)
    if not said.strip():
        detail = f"only reasoning, no text, within {MAX_TOKENS} tokens{timing}"
        hint = "This is normal for a model that reasons for long."
        return CheckResult(Outcome.WARNING, detail, hint, data=data, facts=facts)
    detail = f"“{gateway.line(said, 40)}”{timing}"
    if other := fallback_of(gateway, head):
        detail = f"the fallback {other} answered instead: {detail}"
        return CheckResult(Outcome.WARNING, detail, FALLBACK_HINT, data=data, facts=facts)
    return CheckResult(Outcome.OK, detail, data=data, facts=facts)


def fallback_of(gateway: Gateway, head: Response) -> str:
    """Return the fallback that answered in place of the requested model; empty if that one answered itself."""
    if head.headers.get("x-litellm-attempted-fallbacks", "0") == "0":
        return ""
    return gateway.line(head.headers.get("x-litellm-model-group", "another model"), 80)


def _render_timing(data: Mapping[str, float]) -> str:
    first, rate = data.get("first_token_seconds"), data.get("tokens_per_second")
    text = "" if first is None else f", first token after {first:.2f} s"
    return text if rate is None else f"{text}, {rate:.0f} tokens/s"


def failed_result(gateway: Gateway, answer: Response, what: str = "") -> CheckResult:
    """Build the result for an unusable answer; `what` says why, where its status doesn't."""
    said = describe_failure(gateway, answer)
    return CheckResult(Outcome.FAILED, f"{what}: {said}" if what else said, hint_for(answer))


def describe_failure(gateway: Gateway, answer: Response) -> str:
    """Return status and message of an answer in one line."""
    if 300 <= answer.status < 400:
        return gateway.line(f"HTTP {answer.status}: it redirects to {_origin(answer.headers.get('location', ''))}")
    said = gateway.explain(answer)
    return f"HTTP {answer.status}: {said}" if said else f"HTTP {answer.status}"


def _origin(url: str) -> str:
    """Return scheme and host alone, since path and query may contain a secret."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "nowhere"
    return f"{parts.scheme}://{parts.hostname}" if parts.hostname else "another path"


def part_of(body: Any, name: str) -> Mapping[str, Any] | None:
    """Return `message` or `delta` of a completion's first choice, None if the body isn't a completion."""
    try:
        part = body["choices"][0][name]
    except (KeyError, IndexError, TypeError):
        return None
    return part if isinstance(part, dict) else None


def text_of(part: Mapping[str, Any], name: str) -> str:
    """Return a field if it is text, otherwise an empty string."""
    value = part.get(name)
    return value if isinstance(value, str) else ""


def hint_for(answer: Response) -> str:
    """Return what to do about an unusable answer; never empty."""
    found = _hint_by_message(answer.text)
    if found:
        return found
    if 300 <= answer.status < 400:
        return "Give the address of the redirect as --base-url: the key is not sent after a redirect."
    return _BY_STATUS.get(answer.status, f"Read {JOURNAL}.")


def _hint_by_message(text: str) -> str:
    for pattern, hint in _BEFORE:
        if pattern.search(text):
            return hint
    refusal = find_refusal(text)
    if refusal is not None:
        return refusal.hint
    return next((hint for pattern, hint in _AFTER if pattern.search(text)), "")


def hint_for_text(text: str) -> str:
    """Return what to do about an error inside a stream."""
    return hint_for(Response(200, {}, text, 0.0))
