"""The checks of `verify`: each a function from a gateway to a `Finding`. GatewayError if no answer came."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

from litellm_systemd.client import DONE, Answer, Gateway, Stream
from litellm_systemd.client_errors import told
from litellm_systemd.readiness import READINESS
from litellm_systemd.report import Outcome
from litellm_systemd.verify_hints import hint_for, hint_for_text

LIVELINESS = "/health/liveliness"
MODELS = "/v1/models"
#: Enough for a model that thinks before it says one word; the others stop after that word.
MAX_TOKENS = 256
PROMPT = "Reply with the single word: pong"

_KEY_HINT = "The service runs with another key: `systemctl restart litellm` after a change of .env, or --api-key."
_OPEN_HINT = "Anyone who reaches the port can spend: set LITELLM_MASTER_KEY in .env and install again."
FALLBACK_HINT = "Clients are served, but the model itself fails: `journalctl -u litellm -n 50` says why."
_RESTART_HINT = "After a change of the configuration, `systemctl restart litellm`."


class Stops(Enum):
    """How far a failure reaches: which later checks it makes meaningless."""

    NOTHING = "nothing"
    DEPENDENTS = "dependents"
    EVERYTHING = "everything"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `data` goes into the report's data."""

    outcome: Outcome
    detail: str = ""
    hint: str = ""
    stops: Stops = Stops.DEPENDENTS
    data: Mapping[str, Any] = field(default_factory=dict)


def check_liveliness(gateway: Gateway) -> Finding:
    """Something that answers like LiteLLM is there. If it isn't, no other check means anything."""
    answer = gateway.get(LIVELINESS)
    # LiteLLM says a JSON string. A web server that answers 200 to any address doesn't.
    if answer.ok and isinstance(answer.json(), str):
        return Finding(Outcome.OK, gateway.line(answer.json()))
    detail = failure(gateway, answer)
    if answer.ok:
        detail = f"what answers is not LiteLLM: {detail}"
        return Finding(Outcome.FAILED, detail, "Check --base-url, HOST and PORT.")
    return Finding(Outcome.FAILED, detail, hint_for(answer))


def check_readiness(gateway: Gateway) -> Finding:
    """The gateway takes requests, as it sees it itself."""
    answer = gateway.get(READINESS)
    if answer.status != 200:
        return Finding(Outcome.FAILED, failure(gateway, answer), hint_for(answer))
    body = answer.json()
    return Finding(Outcome.OK, gateway.line(str(body.get("status", ""))) if isinstance(body, dict) else "")


def check_models(gateway: Gateway, expected: tuple[str, ...]) -> Finding:
    """The key is taken, and the list has each `expected` name; any name will do when none is expected.

    Names with a `*` stand for others and aren't looked for. Further names are a warning: a database may add some.
    """
    if not gateway.api_key:
        return Finding(Outcome.FAILED, "no API key is known", "Give it with --api-key, or run as root.")
    answer = gateway.get(MODELS)
    if not answer.ok:
        hint = _KEY_HINT if answer.status in (400, 401, 403) else hint_for(answer)
        return Finding(Outcome.FAILED, failure(gateway, answer), hint)
    listed = _listed(answer)
    if not listed:
        detail = "it lists no model" if isinstance(answer.json(), dict) else failure(gateway, answer)
        return Finding(Outcome.FAILED, detail, "Give the configuration a model_list.")
    outcome, detail = compare_names(expected, listed)
    hint = "" if outcome is Outcome.OK else _RESTART_HINT
    return Finding(outcome, gateway.line(detail), hint, Stops.NOTHING, {"models": list(listed)})


def compare_names(expected: tuple[str, ...], listed: tuple[str, ...]) -> tuple[Outcome, str]:
    """How the listed names fit the expected ones, and the same in words."""
    patterns = any("*" in name for name in expected)
    missing = [name for name in dict.fromkeys(expected) if "*" not in name and name not in listed]
    # What a pattern expands to is LiteLLM's business.
    further = [name for name in listed if expected and not patterns and name not in expected]
    parts = [f"{len(listed)} listed: {', '.join(listed)}"] if not (missing or further) else []
    parts += [f"missing: {', '.join(missing)}"] if missing else []
    parts += [f"not in the configuration: {', '.join(further)}"] if further else []
    outcome = Outcome.FAILED if missing else Outcome.WARNING if further else Outcome.OK
    return outcome, "; ".join(parts)


def check_refusal(gateway: Gateway, how: str) -> Finding:
    """A request with this gateway's (wrong or no) key is not answered with 2xx; `how` says which in words.

    LiteLLM without a database refuses with 500 or 400 where one expects 401.
    """
    answer = gateway.get(MODELS)
    if answer.ok:
        return Finding(Outcome.FAILED, f"HTTP {answer.status}: the gateway answers {how}", _OPEN_HINT)
    return Finding(Outcome.OK, f"HTTP {answer.status}")


def check_chat(gateway: Gateway, model: str, path: str) -> Finding:
    """`model` answers a question at `path` with some text, in one piece."""
    answer = gateway.post(path, _question(model, stream=False))
    if not answer.ok:
        return Finding(Outcome.FAILED, failure(gateway, answer), hint_for(answer))
    body = answer.json()
    message = _part(body, "message")
    if message is None:
        detail = f"not a chat completion: {failure(gateway, answer)}"
        return Finding(Outcome.FAILED, detail, hint_for(answer))
    return _spoken(gateway, answer, _text(message, "content"), _text(message, "reasoning_content"), "")


def check_chat_stream(gateway: Gateway, model: str, path: str) -> Finding:
    """`model` answers at `path` with some text, event by event, and the stream ends in `[DONE]`."""
    stream = gateway.stream(path, _question(model, stream=True))
    head = stream.head
    if not head.ok:
        return Finding(Outcome.FAILED, failure(gateway, head), hint_for(head))
    if not stream.is_event_stream:
        detail = f"not an event stream: {failure(gateway, head)}"
        return Finding(Outcome.FAILED, detail, hint_for(head))
    said, thought, first, error = read_deltas(stream)
    count = len(stream.events)
    if error:
        return Finding(Outcome.FAILED, gateway.line(f"error in the stream: {error}"), hint_for_text(error))
    if stream.broken:
        detail = f"after {count} events: {stream.broken.message}"
        return Finding(Outcome.FAILED, detail, stream.broken.hint)
    if not stream.done:
        detail = f"the stream ended after {count} events without {DONE}"
        return Finding(Outcome.FAILED, detail, "Look for a proxy that cuts streams, or for a crash in the journal.")
    timing = "" if first is None else f", first token after {first:.2f} s"
    return _spoken(gateway, head, said, thought, timing, {} if first is None else {"first_token": first})


def read_deltas(stream: Stream) -> tuple[str, str, float | None, str]:
    """Of a streamed chat: its text, its reasoning, the seconds to the first of either, its error if it has one."""
    said, thought, error = "", "", ""
    first: float | None = None
    for event in stream.events:
        try:
            body = json.loads(event.data)
        except ValueError:
            continue
        if isinstance(body, dict) and body.get("error"):
            error = error or told(body, "")
        delta = _part(body, "delta") or {}
        piece, reasoning = _text(delta, "content"), _text(delta, "reasoning_content")
        said, thought = said + piece, thought + reasoning
        if first is None and (piece or reasoning):
            first = event.seconds
    return said, thought, first, error


def _question(model: str, *, stream: bool) -> dict[str, Any]:
    # No temperature: some of today's models refuse any.
    return {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": MAX_TOKENS,
        "stream": stream,
    }


def _spoken(
    gateway: Gateway, head: Answer, said: str, thought: str, timing: str, data: Mapping[str, Any] | None = None
) -> Finding:
    """The finding for a chat that was answered: was there text, and from the model that was asked."""
    version = head.headers.get("x-litellm-version")
    facts = {**(data or {}), **({"litellm_version": version} if version else {})}
    if not said.strip() and not thought.strip():
        return Finding(Outcome.FAILED, f"the answer has no text{timing}", hint_for(head), data=facts)
    if not said.strip():
        detail = f"only reasoning, no text, within {MAX_TOKENS} tokens{timing}"
        return Finding(Outcome.WARNING, detail, "Fine if the model is meant to think that long.", data=facts)
    detail = f"“{gateway.line(said, 40)}”{timing}"
    if other := fallback_of(gateway, head):
        return Finding(Outcome.WARNING, f"the fallback {other} answered instead: {detail}", FALLBACK_HINT, data=facts)
    return Finding(Outcome.OK, detail, data=facts)


def fallback_of(gateway: Gateway, head: Answer) -> str:
    """The model that answered in the place of the one that was asked; empty if none did."""
    if head.headers.get("x-litellm-attempted-fallbacks", "0") == "0":
        return ""
    return gateway.line(head.headers.get("x-litellm-model-group", "another model"), 80)


def failure(gateway: Gateway, answer: Answer) -> str:
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


def _listed(answer: Answer) -> tuple[str, ...]:
    body = answer.json()
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        return ()
    return tuple(row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str))


def _part(body: Any, name: str) -> Mapping[str, Any] | None:
    """`message` or `delta` of a completion's first choice, None if the body isn't a completion."""
    try:
        part = body["choices"][0][name]
    except (KeyError, IndexError, TypeError):
        return None
    return part if isinstance(part, dict) else None


def _text(part: Mapping[str, Any], name: str) -> str:
    value = part.get(name)
    return value if isinstance(value, str) else ""
