"""What an answer comes to: findings, text that came in pieces, tokens, and errors in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from litellm_systemd.client.errors import extract_error
from litellm_systemd.client.gateway import Gateway, Response, Stream
from litellm_systemd.report.report import Outcome
from litellm_systemd.verify.answers import hint_for, hint_for_text

#: Enough for a model that thinks before it says one word; the others stop after that word.
MAX_TOKENS = 256
FALLBACK_HINT = "Clients are served, but the model itself fails: `journalctl -u litellm -n 50` says why."


class FailureScope(Enum):
    """How far a failure reaches: which later checks it makes meaningless."""

    NOTHING = "nothing"
    DEPENDENTS = "dependents"
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found. `data` are its numbers, `facts` what it tells about the gateway: the report's data."""

    outcome: Outcome
    detail: str = ""
    hint: str = ""
    stops: FailureScope = FailureScope.DEPENDENTS
    data: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


def trouble_of(gateway: Gateway, stream: Stream) -> CheckResult | None:
    """What kept an event stream from coming; None if one came."""
    if not stream.head.ok:
        return failed(gateway, stream.head)
    return None if stream.is_event_stream else failed(gateway, stream.head, "not an event stream")


def finish_stream(gateway: Gateway, stream: Stream, deltas: Deltas, *, done: bool, end: str) -> CheckResult:
    """The finding for a stream: whole, without an error in it, and with text. `end` is what it has to end with."""
    count = len(stream.events)
    if deltas.error:
        detail = gateway.line(f"error in the stream: {deltas.error}")
        return CheckResult(Outcome.FAILED, detail, hint_for_text(deltas.error))
    if stream.broken:
        detail = f"after {count} events: {stream.broken.message}"
        return CheckResult(Outcome.FAILED, detail, stream.broken.hint)
    if not done:
        detail = f"the stream ended after {count} events without {end}"
        return CheckResult(
            Outcome.FAILED, detail, "Look for a proxy that cuts streams, or for a crash in the journal."
        )
    return spoken(gateway, stream.head, deltas.said, deltas.thought, deltas.numbers)


@dataclass(slots=True)
class Deltas:
    """A streamed answer put together: text, reasoning, the first error, when text came (seconds), tokens billed."""

    said: str = ""
    thought: str = ""
    error: str = ""
    first: float | None = None
    last: float | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)

    def add(self, seconds: float, said: str, thought: str = "") -> None:
        """Take one event's text, which came `seconds` after the call."""
        self.said, self.thought = self.said + said, self.thought + thought
        if said or thought:
            self.first = seconds if self.first is None else self.first
            self.last = seconds

    @property
    def numbers(self) -> dict[str, float]:
        """What was measured, for the check's data."""
        numbers: dict[str, float] = dict(self.tokens)
        if self.first is not None and self.last is not None:
            numbers["first_token_seconds"] = round(self.first, 4)
            # Between the first and the last; one that sends all at once has no rate.
            produced, took = self.tokens.get("output_tokens", 0) - 1, self.last - self.first
            if produced > 0 and took > 0.01:
                numbers["tokens_per_second"] = round(produced / took, 1)
        return numbers


def read_deltas(stream: Stream) -> Deltas:
    """A streamed chat, in the words of OpenAI's API."""
    deltas = Deltas()
    for event in stream.events:
        try:
            body = json.loads(event.data)
        except ValueError:
            continue
        if isinstance(body, dict) and body.get("error"):
            deltas.error = deltas.error or extract_error(body, "")
        delta = part_of(body, "delta") or {}
        deltas.add(event.seconds, text_of(delta, "content"), text_of(delta, "reasoning_content"))
        deltas.tokens = tokens_of(body) or deltas.tokens
    return deltas


def tokens_of(body: Any) -> dict[str, int]:
    """The tokens that an answer says were read and written: input_tokens, output_tokens; empty if it doesn't."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return {}
    # OpenAI's chats call them prompt and completion; its responses, and Anthropic, input and output.
    both = (("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"))
    found = {name: usage.get(name, usage.get(other)) for name, other in both}
    return {name: count for name, count in found.items() if isinstance(count, int)}


def build_question(model: str, prompt: str) -> dict[str, Any]:
    """A small chat. No temperature: some of today's models refuse any."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": MAX_TOKENS}


def spoken(
    gateway: Gateway, head: Response, said: str, thought: str = "", numbers: Mapping[str, float] | None = None
) -> CheckResult:
    """The finding for a question that was answered: was there text, and from the model that was asked."""
    version = head.headers.get("x-litellm-version")
    data, facts = dict(numbers or {}), {"litellm_version": version} if version else {}
    timing = _render_timing(data)
    if not said.strip() and not thought.strip():
        return CheckResult(Outcome.FAILED, f"the answer has no text{timing}", hint_for(head), data=data, facts=facts)
    if not said.strip():
        detail = f"only reasoning, no text, within {MAX_TOKENS} tokens{timing}"
        hint = "Fine if the model is meant to think that long."
        return CheckResult(Outcome.WARNING, detail, hint, data=data, facts=facts)
    detail = f"“{gateway.line(said, 40)}”{timing}"
    if other := fallback_of(gateway, head):
        detail = f"the fallback {other} answered instead: {detail}"
        return CheckResult(Outcome.WARNING, detail, FALLBACK_HINT, data=data, facts=facts)
    return CheckResult(Outcome.OK, detail, data=data, facts=facts)


def fallback_of(gateway: Gateway, head: Response) -> str:
    """The model that answered in the place of the one that was asked; empty if none did."""
    if head.headers.get("x-litellm-attempted-fallbacks", "0") == "0":
        return ""
    return gateway.line(head.headers.get("x-litellm-model-group", "another model"), 80)


def _render_timing(data: Mapping[str, float]) -> str:
    first, rate = data.get("first_token_seconds"), data.get("tokens_per_second")
    text = "" if first is None else f", first token after {first:.2f} s"
    return text if rate is None else f"{text}, {rate:.0f} tokens/s"


def failed(gateway: Gateway, answer: Response, what: str = "") -> CheckResult:
    """The finding for an answer that isn't the one hoped for; `what` says in which way, if its status doesn't."""
    said = failure(gateway, answer)
    return CheckResult(Outcome.FAILED, f"{what}: {said}" if what else said, hint_for(answer))


def failure(gateway: Gateway, answer: Response) -> str:
    """Status and message of an answer, in one line."""
    if 300 <= answer.status < 400:
        return gateway.line(f"HTTP {answer.status}: it redirects to {_origin(answer.headers.get('location', ''))}")
    said = gateway.explain(answer)
    return f"HTTP {answer.status}: {said}" if said else f"HTTP {answer.status}"


def _origin(url: str) -> str:
    """Scheme and host alone: path and query may hold anything."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "nowhere"
    return f"{parts.scheme}://{parts.hostname}" if parts.hostname else "another path"


def part_of(body: Any, name: str) -> Mapping[str, Any] | None:
    """`message` or `delta` of a completion's first choice, None if the body isn't a completion."""
    try:
        part = body["choices"][0][name]
    except (KeyError, IndexError, TypeError):
        return None
    return part if isinstance(part, dict) else None


def text_of(part: Mapping[str, Any], name: str) -> str:
    value = part.get(name)
    return value if isinstance(value, str) else ""
