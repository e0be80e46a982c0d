"""The checks of `verify`: the basic ones, Anthropic's Messages, OpenAI's Responses, tools and embeddings.

Each returns a `CheckResult`, or raises GatewayError if no answer arrives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from litellm_systemd.client.gateway import (
    DONE,
    READINESS,
    Gateway,
    GatewayError,
    Response,
    ServerSentEvent,
    Stream,
    extract_error,
)
from litellm_systemd.report.report import Outcome, render_count
from litellm_systemd.verify.answers import (
    MAX_TOKENS,
    CheckResult,
    Deltas,
    FailureScope,
    build_question,
    describe_failure,
    failed_result,
    finish_stream,
    hint_for,
    part_of,
    read_deltas,
    stream_failure,
    text_of,
    text_result,
    tokens_of,
)

LIVELINESS = "/health/liveliness"
MODELS = "/v1/models"
CHAT = "/v1/chat/completions"
PROMPT = "Reply with the single word: pong"
#: The answer has about fifty tokens: enough to measure their rate.
LONGER_PROMPT = "Count from 1 to 20, the numbers separated by spaces, and say nothing else."

_KEY_HINT = (
    "The service runs with another key. After an edit of /etc/litellm/litellm.env, or a change of the key in AWS:"
    " `sudo systemctl restart litellm`."
    " After an edit of .env: `sudo litellmctl install`. For another gateway, use --api-key."
)
_OPEN_HINT = "Anyone who can connect can call models: set LITELLM_MASTER_KEY in .env and install again."
_REFUSAL_HINT = (
    "Clients report only 401 and 403 as a wrong key. A service of an earlier version: `sudo litellmctl upgrade`."
    " Otherwise the journal has the cause: `litellmctl logs`."
)
_RELOAD_HINT = "After a change of the configuration: `sudo systemctl reload litellm`"

_DOCTOR_HINT = "For the cause: sudo litellmctl doctor"

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


def check_liveliness(gateway: Gateway) -> CheckResult:
    """LiteLLM answers. If it doesn't, all other checks are skipped."""
    answer = gateway.get(LIVELINESS)
    # LiteLLM answers with a JSON string; a web server that answers 200 to any path doesn't.
    if answer.ok and isinstance(answer.json(), str):
        return CheckResult(Outcome.OK, gateway.line(answer.json()))
    detail = describe_failure(gateway, answer)
    if answer.ok:
        detail = f"the program that responds is not LiteLLM: {detail}"
        return CheckResult(Outcome.FAILED, detail, "Check --base-url, HOST and PORT.")
    return CheckResult(Outcome.FAILED, detail, hint_for(answer))


def check_readiness(gateway: Gateway) -> CheckResult:
    """The gateway reports that it is ready."""
    answer = gateway.get(READINESS)
    if answer.status != 200:
        return CheckResult(Outcome.FAILED, describe_failure(gateway, answer), hint_for(answer))
    body = answer.json()
    if not isinstance(body, dict):
        return CheckResult(Outcome.OK)
    said, database = gateway.line(str(body.get("status", ""))), gateway.line(str(body.get("db") or "").lower())
    facts = {"database": database} if database else {}
    if database == "disconnected":
        return CheckResult(Outcome.WARNING, f"{said}, but the database is down", _DOCTOR_HINT, facts=facts)
    return CheckResult(Outcome.OK, said, facts=facts)


def check_models(gateway: Gateway, expected: tuple[str, ...] | None) -> CheckResult:
    """The gateway accepts the key and lists each `expected` name, or at least one name if that is None.

    Patterns (`*`) are not looked for. Additional names are a warning: a database may add some.
    """
    if not gateway.api_key:
        return CheckResult(Outcome.FAILED, "no API key is known", "Use --api-key, or run the command with sudo.")
    answer = gateway.get(MODELS)
    if not answer.ok:
        hint = _KEY_HINT if answer.status in (400, 401, 403) else hint_for(answer)
        return CheckResult(Outcome.FAILED, describe_failure(gateway, answer), hint)
    listed = _listed(answer)
    if not listed and (expected != () or not isinstance(answer.json(), dict)):
        detail = "it lists no model" if isinstance(answer.json(), dict) else describe_failure(gateway, answer)
        return CheckResult(Outcome.FAILED, detail, "Add a model_list to the configuration.")
    outcome, detail = compare_names(expected, listed)
    hint = "" if outcome is Outcome.OK else _RELOAD_HINT
    facts = {"models": list(listed)}
    return CheckResult(outcome, gateway.line(detail), hint, FailureScope.NOTHING, {"models": len(listed)}, facts)


def compare_names(expected: tuple[str, ...] | None, listed: tuple[str, ...]) -> tuple[Outcome, str]:
    """Compare the listed names with the expected ones; the outcome and a sentence."""
    patterns = any("*" in name for name in expected or ())
    missing = [name for name in dict.fromkeys(expected or ()) if "*" not in name and name not in listed]
    # LiteLLM decides what a pattern expands to.
    further = [name for name in listed if expected is not None and not patterns and name not in expected]
    whole = f"{len(listed)} listed: {', '.join(listed)}" if listed else "none listed, and none is configured"
    parts = [whole] if not (missing or further) else []
    parts += [f"missing: {', '.join(missing)}"] if missing else []
    parts += [f"not in the configuration: {', '.join(further)}"] if further else []
    outcome = Outcome.FAILED if missing else Outcome.WARNING if further else Outcome.OK
    return outcome, "; ".join(parts)


def check_metrics(metrics: Gateway) -> CheckResult:
    """Scrape the metrics. A failure is a warning: the gateway serves without them."""
    try:
        answer = metrics.get("/metrics")
    except GatewayError as error:
        return CheckResult(Outcome.WARNING, error.message, _DOCTOR_HINT)
    found = len(re.findall(r"^# TYPE ", answer.text, re.MULTILINE))
    if not answer.ok or not found:
        return CheckResult(Outcome.WARNING, f"{metrics.where} responds with HTTP {answer.status}", _DOCTOR_HINT)
    return CheckResult(Outcome.OK, f"{render_count(found, 'metric')} on {metrics.where}")


def check_refusal(gateway: Gateway, how: str) -> CheckResult:
    """A request with a wrong key, or without one, gets 401 or 403. `how` describes the key in the message."""
    answer = gateway.get(MODELS)
    if answer.ok:
        return CheckResult(Outcome.FAILED, f"HTTP {answer.status}: the gateway answers {how}", _OPEN_HINT)
    if answer.status not in (401, 403):
        return CheckResult(Outcome.FAILED, f"{describe_failure(gateway, answer)} (not 401 or 403)", _REFUSAL_HINT)
    return CheckResult(Outcome.OK, f"HTTP {answer.status}", data={"status": answer.status})


def check_chat(gateway: Gateway, model: str, path: str) -> CheckResult:
    """`model` answers a chat at `path` with text."""
    return check_chat_answer(gateway, gateway.post(path, build_question(model, PROMPT)))


def check_chat_answer(gateway: Gateway, answer: Response) -> CheckResult:
    """The answer is a chat completion with text."""
    if not answer.ok:
        return failed_result(gateway, answer)
    body = answer.json()
    message = part_of(body, "message")
    if message is None:
        return failed_result(gateway, answer, "not a chat completion")
    numbers = tokens_of(body)
    return text_result(gateway, answer, text_of(message, "content"), text_of(message, "reasoning_content"), numbers)


def check_chat_stream(gateway: Gateway, model: str, path: str) -> CheckResult:
    """`model` answers a streamed chat at `path` with text; the stream ends with `[DONE]`."""
    question = {**build_question(model, LONGER_PROMPT), "stream": True, "stream_options": {"include_usage": True}}
    stream = gateway.stream(path, question)
    if (trouble := stream_failure(gateway, stream)) is not None:
        return trouble
    deltas = read_deltas(stream)
    return finish_stream(gateway, stream, deltas, done=stream.done, end=DONE)


def _listed(answer: Response) -> tuple[str, ...]:
    body = answer.json()
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        return ()
    return tuple(row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str))


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


def check_messages_stream(gateway: Gateway, model: str, *, mocked: bool = False) -> CheckResult:
    """`model` answers a streamed request to Anthropic's Messages API; the stream ends with `message_stop`."""
    stream = gateway.stream(MESSAGES, {**build_question(model, LONGER_PROMPT), "stream": True})
    if (trouble := stream_failure(gateway, stream, mocked=mocked)) is not None:
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


def check_responses_stream(gateway: Gateway, model: str, *, mocked: bool = False) -> CheckResult:
    """`model` answers a streamed request to OpenAI's Responses API; the stream ends with `response.completed`."""
    stream = gateway.stream(RESPONSES, {**_response_question(model, LONGER_PROMPT), "stream": True})
    if (trouble := stream_failure(gateway, stream, mocked=mocked)) is not None:
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
        except (ValueError, RecursionError):
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
