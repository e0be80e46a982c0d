"""Checks of the other APIs: Anthropic's Messages, OpenAI's Responses, tools and embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from litellm_systemd.client.errors import extract_error
from litellm_systemd.client.gateway import Gateway, Response, ServerSentEvent, Stream
from litellm_systemd.report.report import Outcome
from litellm_systemd.verify.answers import (
    MAX_TOKENS,
    CheckResult,
    Deltas,
    FailureScope,
    build_question,
    failed_result,
    finish_stream,
    part_of,
    stream_failure,
    text_of,
    text_result,
    tokens_of,
)
from litellm_systemd.verify.checks import CHAT, LONGER_PROMPT, PROMPT

MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"

#: Known to the tool alone, so that the last answer proves that the model read its result.
CODE = "7319"
_TOOL = "look_up_code"
_TOOLS = (
    {
        "type": "function",
        "function": {
            "name": _TOOL,
            "description": "Gives the access code of a door.",
            "parameters": {"type": "object", "properties": {"door": {"type": "string"}}, "required": ["door"]},
        },
    },
)
_TOOL_PROMPT = f"Call {_TOOL} for the door named north, then reply with the code alone."
_NO_CALL_HINT = "Not every model can call tools; agents need one that does."


def check_messages(gateway: Gateway, model: str) -> CheckResult:
    """`model` answers a request to Anthropic's Messages API with the key in Anthropic's own header.

    The streamed check sends a bearer token: Anthropic's clients use both (ANTHROPIC_API_KEY, ANTHROPIC_AUTH_TOKEN).
    """
    answer = gateway.with_key_in("x-api-key").post(MESSAGES, build_question(model, PROMPT))
    if not answer.ok:
        return failed_result(gateway, answer)
    body = answer.json()
    blocks = body.get("content") if isinstance(body, dict) else None
    if not isinstance(blocks, list):
        return failed_result(gateway, answer, "not a message")
    return text_result(gateway, answer, _joined(blocks, "text"), _joined(blocks, "thinking"), tokens_of(body))


def check_messages_stream(gateway: Gateway, model: str) -> CheckResult:
    """`model` answers a streamed request to Anthropic's Messages API; the stream ends with `message_stop`."""
    stream = gateway.stream(MESSAGES, {**build_question(model, LONGER_PROMPT), "stream": True})
    if (trouble := stream_failure(gateway, stream)) is not None:
        return trouble
    deltas, end = Deltas(), ""
    for event, body in _bodies(stream):
        end = str(body.get("type", ""))
        if end == "error":
            deltas.error = deltas.error or extract_error(body, "")
        delta = body.get("delta")
        if isinstance(delta, dict):
            deltas.add(event.seconds, text_of(delta, "text"), text_of(delta, "thinking"))
        # The first event has the input tokens, the last but one the output tokens.
        message = body.get("message")
        deltas.tokens = {**deltas.tokens, **tokens_of(message), **tokens_of(body)}
    return finish_stream(gateway, stream, deltas, done=end == "message_stop", end="message_stop")


def check_responses(gateway: Gateway, model: str) -> CheckResult:
    """`model` answers a request to OpenAI's Responses API."""
    answer = gateway.post(RESPONSES, _response_question(model, PROMPT))
    if not answer.ok:
        return failed_result(gateway, answer)
    body = answer.json()
    if not isinstance(body, dict) or not isinstance(body.get("output"), list):
        return failed_result(gateway, answer, "not a response")
    contents = (item.get("content") for item in body["output"] if isinstance(item, dict))
    said = "".join(_joined(content, "text") for content in contents if isinstance(content, list))
    return text_result(gateway, answer, said, "", tokens_of(body))


def check_responses_stream(gateway: Gateway, model: str) -> CheckResult:
    """`model` answers a streamed request to OpenAI's Responses API; the stream ends with `response.completed`."""
    stream = gateway.stream(RESPONSES, {**_response_question(model, LONGER_PROMPT), "stream": True})
    if (trouble := stream_failure(gateway, stream)) is not None:
        return trouble
    deltas, ends = Deltas(), set[str]()
    for event, body in _bodies(stream):
        kind = str(body.get("type", ""))
        ends.add(kind)
        if kind in ("error", "response.failed"):
            deltas.error = deltas.error or extract_error(body, "")
        if kind == "response.output_text.delta":
            deltas.add(event.seconds, text_of(body, "delta"))
        deltas.tokens = tokens_of(body.get("response")) or deltas.tokens
    # After the last token that was allowed it is the other event; the stream is complete as well.
    done = bool(ends & {"response.completed", "response.incomplete"})
    return finish_stream(gateway, stream, deltas, done=done, end="response.completed")


def check_tools(gateway: Gateway, model: str) -> CheckResult:
    """`model` calls a tool, gets its result, and answers with a value that only the result contains."""
    question = {**build_question(model, _TOOL_PROMPT), "tools": _TOOLS}
    answer = gateway.post(CHAT, question)
    message = part_of(answer.json(), "message") if answer.ok else None
    if message is None:
        return failed_result(gateway, answer, "not a chat completion" if answer.ok else "")
    call = _call_of(message)
    if call is None:
        detail = f"it didn't call the tool: “{gateway.line(text_of(message, 'content'), 40)}”"
        return CheckResult(Outcome.WARNING, detail, _NO_CALL_HINT, FailureScope.NOTHING, tokens_of(answer.json()))
    turn = {"role": "assistant", "content": text_of(message, "content") or None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": call.get("id"), "content": json.dumps({"code": CODE})}
    second = gateway.post(CHAT, {**question, "messages": [*question["messages"], turn, result]})
    return _judge_result(gateway, second, _sum(tokens_of(answer.json()), tokens_of(second.json())))


def _judge_result(gateway: Gateway, answer: Response, tokens: Mapping[str, int]) -> CheckResult:
    message = part_of(answer.json(), "message") if answer.ok else None
    if message is None:
        return failed_result(gateway, answer, "after the tool's result")
    found = text_result(gateway, answer, text_of(message, "content"), text_of(message, "reasoning_content"), tokens)
    if found.outcome is Outcome.OK and CODE not in text_of(message, "content"):
        detail = f"it called the tool, but its answer doesn't contain the result: {found.detail}"
        return CheckResult(Outcome.WARNING, detail, _NO_CALL_HINT, FailureScope.NOTHING, found.data, found.facts)
    return found


def check_embeddings(gateway: Gateway, model: str) -> CheckResult:
    """`model` returns an embedding of a word."""
    return check_embedding_answer(gateway, gateway.post(EMBEDDINGS, {"model": model, "input": "pong"}))


def check_embedding_answer(gateway: Gateway, answer: Response) -> CheckResult:
    """The answer contains an embedding."""
    if not answer.ok:
        return failed_result(gateway, answer)
    body = answer.json()
    try:
        vector = body["data"][0]["embedding"]
    except (KeyError, IndexError, TypeError):
        vector = None
    # Text is base64, which is not requested here, but which a gateway may send.
    if not isinstance(vector, (list, str)) or not vector:
        return failed_result(gateway, answer, "not an embedding")
    size = len(vector)
    return CheckResult(Outcome.OK, f"{size} dimensions", data={"dimensions": size, **tokens_of(body)})


def _response_question(model: str, prompt: str) -> dict[str, Any]:
    return {"model": model, "input": prompt, "max_output_tokens": MAX_TOKENS}


def _bodies(stream: Stream) -> Iterator[tuple[ServerSentEvent, Mapping[str, Any]]]:
    for event in stream.events:
        try:
            body = json.loads(event.data)
        except ValueError:
            continue
        if isinstance(body, dict):
            yield event, body


def _joined(blocks: list[Any], name: str) -> str:
    return "".join(text_of(block, name) for block in blocks if isinstance(block, dict))


def _call_of(message: Mapping[str, Any]) -> Mapping[str, Any] | None:
    calls = message.get("tool_calls")
    call = calls[0] if isinstance(calls, list) and calls else None
    function = call.get("function") if isinstance(call, dict) else None
    return call if isinstance(function, dict) and function.get("name") == _TOOL else None


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in {**one, **other}}
