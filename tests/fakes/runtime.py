"""A fake Bedrock runtime: Converse, ConverseStream, InvokeModel and InvokeModelWithResponseStream."""

from __future__ import annotations

import base64
import hashlib
import json
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tests.fakes import eventstream, refusals
from tests.fakes.account import Account, Key
from tests.fakes.catalogue import INVALID_MODEL, Catalogue, Model
from tests.fakes.default_behavior import behave
from tests.fakes.http import Reply, Request
from tests.fakes.refusals import Refused, denied, refuse
from tests.fakes.signature import identify

#: The minimum of tokens before a cache point, for Anthropic's models.
CACHE_MINIMUM = 1024
_OPERATIONS = {
    "converse": ("converse", False),
    "converse-stream": ("converse", True),
    "invoke": ("invoke", False),
    "invoke-with-response-stream": ("invoke", True),
}


@dataclass(frozen=True, slots=True)
class Script:
    """The response of a model.

    Attributes:
        text: the text of the response.
        tool: the name and the input of a tool that the model calls.
        refusal: respond with this error, a name in `refusals.SCRIPTED`.
        broken_off_by: send this error as an event after the first piece of text.
        first_token: seconds until the first piece.
        pause: seconds between two pieces.
        cut: close the connection after the first piece.
        times: use the script for this number of calls, then the default behavior.
    """

    text: str = "pong"
    tool: tuple[str, dict[str, Any]] | None = None
    refusal: str | None = None
    broken_off_by: str | None = None
    first_token: float = 0.0
    pause: float = 0.0
    cut: bool = False
    times: int | None = None


USUAL = Script()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens: sent without the cached part, answered, read from and written to the cache."""

    sent: int
    answered: int
    read: int = 0
    written: int = 0

    def as_converse(self) -> dict[str, int]:
        return {
            "inputTokens": self.sent,
            "outputTokens": self.answered,
            "totalTokens": self.sent + self.answered + self.read + self.written,
            "cacheReadInputTokens": self.read,
            "cacheWriteInputTokens": self.written,
        }

    def as_anthropic(self) -> dict[str, int]:
        return {
            "input_tokens": self.sent,
            "output_tokens": self.answered,
            "cache_read_input_tokens": self.read,
            "cache_creation_input_tokens": self.written,
        }


@dataclass
class Runtime:
    """Respond to chats. `scripts`: by the id of the called model or profile. `bodies`: the parsed request bodies."""

    account: Account
    catalogue: Catalogue
    scripts: dict[str, Script] = field(default_factory=dict)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    _cached: set[str] = field(default_factory=set)
    _calls: dict[str, int] = field(default_factory=dict)

    def answer(self, request: Request) -> tuple[Key, Reply]:
        """The key of the caller and the response. Raises Refused."""
        key = identify(request, self.account, "bedrock", (self.catalogue.region,))
        _, identifier, operation = request.segments
        if request.method != "POST" or operation not in _OPERATIONS:
            raise refuse(404, "UnknownOperationException", "Unknown operation")
        form, streamed = _OPERATIONS[operation]
        script = self._script(identifier)
        if script.refusal is not None:
            raise Refused(refusals.SCRIPTED[script.refusal])
        model = self._find(identifier, key, streamed)
        body = json.loads(request.body)
        self.bodies.append(body)
        _validate(model, body, form)
        if script is USUAL:
            script = replace(USUAL, **behave(body))
        usage = self._use(model, body, script.text)
        time.sleep(script.first_token)
        headers = {"x-amzn-RequestId": str(uuid.uuid4())}
        if streamed:
            events = (_converse_events if form == "converse" else _invoke_events)(script, model, usage)
            return key, _stream(script, events, headers)
        whole = (_converse if form == "converse" else _invoke)(script, model, usage)
        return key, Reply(200, json.dumps(whole).encode(), {**headers, "Content-Type": "application/json"})

    def _script(self, identifier: str) -> Script:
        script = self.scripts.get(identifier, USUAL)
        if script.times is not None:
            calls = self._calls[identifier] = self._calls.get(identifier, 0) + 1
            return script if calls <= script.times else USUAL
        return script

    def _find(self, identifier: str, key: Key, streamed: bool) -> Model:
        """The model of an id or ARN. Raises Refused if the call is not valid."""
        name = identifier.split("/")[-1] if identifier.startswith("arn:") else identifier
        profile, model = self.catalogue.profiles().get(name), self.catalogue.models.get(name)
        found = profile or model
        if found is None:
            raise Refused(INVALID_MODEL)
        action = "bedrock:InvokeModelWithResponseStream" if streamed else "bedrock:InvokeModel"
        if action in self.account.denied:
            arn = self.catalogue.profile_arn(name) if profile else self.catalogue.model_arn(found)
            raise denied(key.arn, action, arn)
        if found.has_ended(self.account.clock()):
            raise Refused(refusals.SCRIPTED["model-ended"])
        if model is not None and not model.on_demand:
            raise refusals.on_demand(model.id)
        return found

    def _use(self, model: Model, body: dict[str, Any], text: str) -> Usage:
        """Count tokens of four letters each. The part up to the last known cache point is read from the cache."""
        read = written = so_far = 0
        digest = hashlib.sha256(model.id.encode())
        for block in _blocks(body):
            if "cachePoint" in block:
                prefix = digest.hexdigest()
                if so_far >= CACHE_MINIMUM and prefix in self._cached:
                    read, written = so_far, 0
                elif so_far >= CACHE_MINIMUM:
                    written = so_far - read
                    self._cached.add(prefix)
            else:
                packed = json.dumps(block, sort_keys=True).encode()
                digest.update(packed)
                so_far += len(packed) // 4 + 1
        return Usage(so_far - read - written, len(text) // 4 + 1, read, written)


def _blocks(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The parts of a prompt in cache order, with Anthropic's cache_control as cache points of Converse."""
    parts = list(body.get("toolConfig", {}).get("tools", [])) + list(body.get("tools", []))
    system = body.get("system", [])
    parts += [{"text": system}] if isinstance(system, str) else system
    for message in body["messages"]:
        content = message["content"]
        parts += [{"text": content}] if isinstance(content, str) else content
    for part in parts:
        mark = part.get("cache_control")
        yield {name: value for name, value in part.items() if name != "cache_control"}
        if mark:
            yield {"cachePoint": mark}


def _validate(model: Model, body: dict[str, Any], form: str) -> None:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or messages[0].get("role") != "user":
        message = "A conversation must start with a user message. Try again with one that starts with a user message."
        raise refuse(400, "ValidationException", message)
    if form == "invoke" and body.get("anthropic_version") != "bedrock-2023-05-31":
        raise refuse(
            400, "ValidationException", "Malformed input request: required key [anthropic_version] not found"
        )
    sampling = body.get("inferenceConfig", body)
    if "5-5" in model.id and {"temperature", "topP", "top_p"} & set(sampling):
        raise Refused(refusals.SCRIPTED["parameter-refused"])
    marks = sum("cachePoint" in block for block in _blocks(body))
    if marks and not model.caches:
        raise Refused(refusals.SCRIPTED["no-caching"])
    if marks > 4:
        message = f"A maximum of 4 blocks with cache_control may be provided. Found {marks}."
        raise refuse(400, "ValidationException", message)


# --- Converse ---


def _converse(script: Script, _model: Model, usage: Usage) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"text": script.text}] if script.text else []
    if script.tool:
        name, given = script.tool
        content.append({"toolUse": {"toolUseId": "tooluse_fake1", "name": name, "input": given}})
    return {
        "metrics": {"latencyMs": 12},
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": "tool_use" if script.tool else "end_turn",
        "usage": usage.as_converse(),
    }


def _converse_events(script: Script, _model: Model, usage: Usage) -> Iterator[bytes]:
    yield eventstream.event("messageStart", {"role": "assistant"})
    for piece in _pieces(script.text):
        yield eventstream.event("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": piece}})
    yield eventstream.event("contentBlockStop", {"contentBlockIndex": 0})
    if script.tool:
        name, given = script.tool
        start = {"toolUse": {"toolUseId": "tooluse_fake1", "name": name}}
        yield eventstream.event("contentBlockStart", {"contentBlockIndex": 1, "start": start})
        for piece in _pieces(json.dumps(given)):
            delta = {"toolUse": {"input": piece}}
            yield eventstream.event("contentBlockDelta", {"contentBlockIndex": 1, "delta": delta})
        yield eventstream.event("contentBlockStop", {"contentBlockIndex": 1})
    yield eventstream.event("messageStop", {"stopReason": "tool_use" if script.tool else "end_turn"})
    yield eventstream.event("metadata", {"usage": usage.as_converse(), "metrics": {"latencyMs": 12}})


# --- InvokeModel, in the form of Anthropic's messages ---


def _invoke(script: Script, model: Model, usage: Usage) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": script.text}] if script.text else []
    if script.tool:
        name, given = script.tool
        content.append({"type": "tool_use", "id": "toolu_bdrk_fake1", "name": name, "input": given})
    return {
        "id": "msg_bdrk_fake1",
        "type": "message",
        "role": "assistant",
        "model": model.id.partition(".")[2],
        "content": content,
        "stop_reason": "tool_use" if script.tool else "end_turn",
        "stop_sequence": None,
        "usage": usage.as_anthropic(),
    }


def _invoke_events(script: Script, model: Model, usage: Usage) -> Iterator[bytes]:
    whole = _invoke(script, model, usage)
    yield _chunk({"type": "message_start", "message": {**whole, "content": [], "stop_reason": None}})
    for index, block in enumerate(whole["content"]):
        empty = {**block, "text": ""} if block["type"] == "text" else {**block, "input": {}}
        yield _chunk({"type": "content_block_start", "index": index, "content_block": empty})
        text = block["text"] if block["type"] == "text" else json.dumps(block["input"])
        kind = ("text_delta", "text") if block["type"] == "text" else ("input_json_delta", "partial_json")
        for piece in _pieces(text):
            delta = {"type": kind[0], kind[1]: piece}
            yield _chunk({"type": "content_block_delta", "index": index, "delta": delta})
        yield _chunk({"type": "content_block_stop", "index": index})
    stop = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield _chunk({"type": "message_delta", "delta": stop, "usage": {"output_tokens": usage.answered}})
    yield _chunk({"type": "message_stop"})


def _chunk(body: dict[str, Any]) -> bytes:
    return eventstream.event("chunk", {"bytes": base64.b64encode(json.dumps(body).encode()).decode()})


# --- streams ---


def _pieces(text: str) -> Iterator[str]:
    """Split a text into at least two pieces, not at the ends of words."""
    size = max(1, min(20, len(text) // 2))
    return (text[start : start + size] for start in range(0, len(text), size))


def _stream(script: Script, events: Iterable[bytes], headers: dict[str, str]) -> Reply:
    cut_short = script.cut or script.broken_off_by is not None
    headers = {**headers, "Content-Type": eventstream.CONTENT_TYPE}
    return Reply(200, b"", headers, _paced(script, events) if cut_short or script.pause else events, cut=script.cut)


def _paced(script: Script, events: Iterable[bytes]) -> Iterator[bytes]:
    for number, one in enumerate(events):
        yield one
        if number == 1 and script.cut:
            # Half of an event, as with a broken connection.
            yield one[: len(one) // 2]
            return
        if number == 1 and script.broken_off_by is not None:
            refusal = refusals.SCRIPTED[script.broken_off_by]
            yield eventstream.exception(refusal.code[0].lower() + refusal.code[1:], refusal.message)
            return
        time.sleep(script.pause)
