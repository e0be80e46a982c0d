"""The fake Bedrock runtime, tested with boto3: chats, streams, tools, thinking, the prompt cache, and refusals."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer
from botocore.exceptions import ClientError, EventStreamError
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import API_KEY, USER, Cloud, Key, Script, eventstream
from tests.fakes.prompt import Part
from tests.fakes.prompt_cache import PromptCache
from tests.fakes.refusals import SCRIPTED
from tests.unit.fake_aws import client, code, pointed_at

MODEL = "us.anthropic.claude-sonnet-5-5"
ASKED = [{"role": "user", "content": [{"text": "Reply with the single word: pong"}]}]
MARK = {"cachePoint": {"type": "default"}}


@pytest.fixture
def aws() -> Iterator[Cloud]:
    with pointed_at() as cloud:
        yield cloud


def converse(model: str = MODEL, key: Key = USER, **further: Any) -> Any:
    return client("bedrock-runtime", key).converse(modelId=model, messages=ASKED, **further)


def stream(model: str = MODEL) -> list[dict[str, Any]]:
    return list(client("bedrock-runtime").converse_stream(modelId=model, messages=ASKED)["stream"])


# --- framing ---


@given(st.dictionaries(st.text(min_size=1, max_size=20), st.text(max_size=99), max_size=4), st.binary(max_size=999))
def test_botocore_reads_the_framing(headers: dict[str, str], payload: bytes) -> None:
    """botocore parses any encoded stream, with checksums and in small pieces, to the original events."""
    buffer, found = EventStreamBuffer(), []
    data = eventstream.encode(headers, payload) * 2
    for start in range(0, len(data), 7):
        buffer.add_data(data[start : start + 7])
        found += list(buffer)
    assert [(message.headers, message.payload) for message in found] == [(headers, payload)] * 2


def test_botocore_notices_a_wrong_checksum() -> None:
    """botocore verifies the checksums: one changed byte is an error."""
    data = bytearray(eventstream.event("messageStart", {"role": "assistant"}))
    data[-6] ^= 1
    buffer = EventStreamBuffer()
    buffer.add_data(bytes(data))
    with pytest.raises(ChecksumMismatch):
        next(buffer)


# --- chats ---


def test_converse(aws: Cloud) -> None:
    """A signed chat is answered with text and tokens."""
    answer = converse()
    assert answer["output"]["message"]["content"] == [{"text": "pong"}]
    assert answer["stopReason"] == "end_turn"
    assert answer["usage"]["inputTokens"] > 0
    assert aws.seen[-1].key == USER.access_key


def test_converse_stream(aws: Cloud) -> None:
    """A stream consists of events that botocore parses, with the tokens at the end."""
    events = stream()
    assert [next(iter(event)) for event in events] == [
        *("messageStart", "contentBlockDelta", "contentBlockDelta", "contentBlockStop", "messageStop", "metadata")
    ]
    text = "".join(each["contentBlockDelta"]["delta"]["text"] for each in events if "contentBlockDelta" in each)
    assert text == "pong"
    assert events[-1]["metadata"]["usage"]["outputTokens"] > 0


def test_a_tool(aws: Cloud) -> None:
    """A scripted tool call is returned in one piece, and as a stream of parts of its input."""
    aws.runtime.scripts[MODEL] = Script(text="", tool=("weather", {"city": "Graz"}))
    answer = converse()
    assert answer["stopReason"] == "tool_use"
    assert answer["output"]["message"]["content"][0]["toolUse"]["input"] == {"city": "Graz"}
    deltas = [each["contentBlockDelta"]["delta"] for each in stream() if "contentBlockDelta" in each]
    assert json.loads("".join(delta["toolUse"]["input"] for delta in deltas)) == {"city": "Graz"}


def test_an_offered_tool(aws: Cloud) -> None:
    """Without a script the model calls the offered tool and returns its result."""
    schema = {"json": {"type": "object", "properties": {"city": {"type": "string"}}}}
    tools = {"tools": [{"toolSpec": {"name": "weather", "inputSchema": schema}}]}
    call = converse(toolConfig=tools)["output"]["message"]
    assert call["content"][0]["toolUse"]["input"] == {"city": "one"}
    result = {"toolUseId": call["content"][0]["toolUse"]["toolUseId"], "content": [{"text": "rain-4711"}]}
    messages = [*ASKED, call, {"role": "user", "content": [{"toolResult": result}]}]
    answer = client("bedrock-runtime").converse(modelId=MODEL, messages=messages, toolConfig=tools)
    assert "rain-4711" in answer["output"]["message"]["content"][0]["text"]


def test_invoke_model(aws: Cloud) -> None:
    """InvokeModel answers in Anthropic's format, plain and streamed."""
    runtime = client("bedrock-runtime")
    body = json.dumps(
        {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    )
    answer = json.loads(runtime.invoke_model(modelId=MODEL, body=body)["body"].read())
    assert answer["content"] == [{"type": "text", "text": "pong"}]
    events = runtime.invoke_model_with_response_stream(modelId=MODEL, body=body)["body"]
    kinds = [json.loads(event["chunk"]["bytes"])["type"] for event in events]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


def test_the_cache(aws: Cloud) -> None:
    """A long prompt before a cache point is written once and read after that; a short one is not cached."""
    long = [{"text": "A manual of many words. " * 400}, MARK]

    def usage(system: Any, model: str = MODEL) -> tuple[int, int]:
        found = converse(model, system=system)["usage"]
        return found["cacheWriteInputTokens"], found["cacheReadInputTokens"]

    written, read = usage(long)
    assert (written > 1024, read) == (True, 0)
    assert usage(long) == (0, written)
    assert usage([{"text": "short"}, MARK]) == (0, 0)
    assert usage(long, "us.anthropic.claude-haiku-5-5")[0] > 0


def messages(text: str, *more: Any, **fields: Any) -> dict[str, Any]:
    """A body for InvokeModel in Anthropic's format."""
    conversation = [{"role": "user", "content": text}, *more]
    return {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 4096, "messages": conversation, **fields}


def invoke(body: dict[str, Any], model: str = MODEL, **further: Any) -> dict[str, Any]:
    answer = client("bedrock-runtime").invoke_model(modelId=model, body=json.dumps(body), **further)
    found: dict[str, Any] = json.loads(answer["body"].read())
    return found


def invoke_stream(body: dict[str, Any], model: str = MODEL) -> list[dict[str, Any]]:
    events = client("bedrock-runtime").invoke_model_with_response_stream(modelId=model, body=json.dumps(body))["body"]
    return [json.loads(event["chunk"]["bytes"]) for event in events]


def cached(*texts: str, marks: dict[int, str], tools: Any = (), **fields: Any) -> tuple[int, int, int]:
    """Tokens read, written for five minutes and written for an hour, of a message with one block for each text.

    `marks`: the TTL of the mark at that block.
    """
    blocks = [
        {"type": "text", "text": text}
        | ({"cache_control": {"type": "ephemeral", "ttl": marks[index]}} if index in marks else {})
        for index, text in enumerate(texts)
    ]
    body = {**messages("", **fields), "messages": [{"role": "user", "content": blocks}]}
    usage = invoke(body | ({"tools": tools} if tools else {}))["usage"]
    split = usage["cache_creation"]
    assert usage["cache_creation_input_tokens"] == sum(split.values())
    return (usage["cache_read_input_tokens"], split["ephemeral_5m_input_tokens"], split["ephemeral_1h_input_tokens"])


LONG = "A manual of many words. " * 400


def test_the_cache_grows_with_a_prompt(aws: Cloud) -> None:
    """A mark at the end reads what the mark of the request before wrote, and writes only what is new."""
    _, first, _ = cached(LONG, marks={0: "5m"})
    read, written, _ = cached(LONG, "an answer", "a question", marks={2: "5m"})
    assert (read, 0 < written < 50) == (first, True)
    assert cached(LONG, "an answer", "a question", marks={2: "5m"}) == (first + written, 0, 0)


def test_the_cache_compares_exact_prefixes(aws: Cloud) -> None:
    """A changed character, tool, order of keys, `thinking` or model misses everything behind it."""
    tool = {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}
    tools = [tool, {**tool, "name": "listen"}]
    assert cached(LONG, marks={0: "5m"}, tools=tools)[0] == 0
    assert cached(LONG, marks={0: "5m"}, tools=tools)[0] > 0
    assert cached(LONG, marks={0: "5m"})[0] == 0
    assert cached(f"x{LONG}", marks={0: "5m"}, tools=tools)[0] == 0
    assert cached(LONG, marks={0: "5m"}, tools=[dict(reversed(tool.items())), tools[1]])[0] == 0
    assert cached(LONG, marks={0: "5m"}, tools=tools, thinking={"type": "adaptive"})[0] == 0
    assert cached(LONG, marks={0: "5m"}, tools=tools)[0] > 0


def test_the_look_back(aws: Cloud) -> None:
    """A mark sees what was written 19 blocks before it, and not what was written 20 blocks before it."""
    cached(LONG, marks={0: "5m"})
    near = [f"turn {number}" for number in range(18)]
    assert cached(LONG, *near, "end", marks={19: "5m"})[0] > 0
    far = [f"step {number}" for number in range(19)]
    assert cached(LONG, *far, "end", marks={20: "5m"})[0] == 0
    assert cached(LONG, *far, "end", marks={0: "5m", 20: "5m"})[0] > 0, "a mark near the written prefix finds it"


def test_the_lifetime_of_the_cache(aws: Cloud) -> None:
    """A prefix lives five minutes or an hour after its last use, and its tokens are counted for that time."""
    now = datetime.now(timezone.utc)
    aws.account.clock = lambda: now
    read, short, hour = cached(LONG, "more", LONG, marks={0: "1h", 2: "5m"})
    assert (read, short > 1024, hour > 1024) == (0, True, True)
    cache = PromptCache(lambda: now)
    for minutes, found in ((0, False), (59, True), (118, True), (179, False)):
        cache.clock = lambda later=now + timedelta(minutes=minutes): later  # type: ignore[misc]
        part = Part("system.0", "system", {"text": LONG}, "1h")
        assert (cache.use("model", 512, [part], None).read > 0) is found


def test_what_the_cache_refuses(aws: Cloud) -> None:
    """More than four marks, five minutes before an hour, or an hour where the model has none, is a 400."""
    with pytest.raises(ClientError, match=r"A maximum of 4 blocks with cache_control may be provided. Found 5"):
        cached(*"abcde", marks=dict.fromkeys(range(5), "5m"))
    with pytest.raises(ClientError, match="a ttl='1h' cache_control block must not come after a ttl='5m'"):
        cached(LONG, "b", "c", marks={0: "5m", 2: "1h"})
    hour = {"cachePoint": {"type": "default", "ttl": "1h"}}
    assert converse(system=[{"text": LONG}, hour])["usage"]["cacheDetails"][0]["ttl"] == "1h"
    with pytest.raises(ClientError, match=r"cache_control.ephemeral.ttl: Extra inputs are not permitted"):
        converse("amazon.nova-2-lite-v1:0", system=[{"text": LONG}, hour])


# --- tool loops and long streams ---


def test_a_tool_loop(aws: Cloud) -> None:
    """Each CALL of a prompt is made once, in order and after the result of the one before, in both APIs."""
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in ("read", "write")]
    prompt = 'First CALL read {"path": "a"}, then CALL write {"path": "b", "data": {"x": 1}}. Not CALL read {x'
    body = messages(prompt, tools=tools)
    ids = set()
    for name, expected in (("read", {"path": "a"}), ("write", {"path": "b", "data": {"x": 1}})):
        answer = invoke(body)
        (call,) = answer["content"]
        assert (answer["stop_reason"], call["name"], call["input"]) == ("tool_use", name, expected)
        ids.add(call["id"])
        result = {"type": "tool_result", "tool_use_id": call["id"], "content": f"done {name}"}
        reminder = {"type": "text", "text": "<system-reminder>as Claude Code adds it</system-reminder>"}
        body["messages"] += [
            {"role": "assistant", "content": [call]},
            {"role": "user", "content": [result, reminder]},
        ]
    assert "done write" in invoke(body)["content"][0]["text"]
    assert len(ids) == 2
    body["messages"] += [{"role": "assistant", "content": "It says"}, {"role": "user", "content": "Thank you."}]
    assert invoke(body)["content"][0]["text"] == "pong"
    assert "I have no tool read" in invoke(messages(prompt))["content"][0]["text"]


def test_a_long_stream(aws: Cloud) -> None:
    """A prompt that asks for a stream of n events gets n different deltas, with the pause that it asks for."""
    begin = time.monotonic()
    deltas = [
        event for event in invoke_stream(messages("STREAM 40 EVENTS EVERY 10 MS")) if event["type"].endswith("delta")
    ]
    assert len(deltas) == 41, "and one delta of the message"
    assert len({str(event["delta"]) for event in deltas}) == 41
    assert time.monotonic() - begin > 0.4


# --- thinking ---


@pytest.mark.parametrize("model", [MODEL, "us.anthropic.claude-haiku-4-5-20251001-v1:0"])
def test_thinking(aws: Cloud, model: str) -> None:
    """With thinking an answer starts with a signed block, whole and streamed, and only that one is accepted again."""
    kind = {"type": "adaptive"} if model == MODEL else {"type": "enabled", "budget_tokens": 1024}
    body = messages("hello", thinking=kind)
    first = invoke(body, model)["content"][0]
    events = invoke_stream(body, model)
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta" and event["index"] == 0]
    assert "".join(delta.get("thinking", "") for delta in deltas) == first["thinking"]
    assert deltas[-1] == {"type": "signature_delta", "signature": first["signature"]}

    def again(**changes: str) -> Any:
        earlier = {"role": "assistant", "content": [{**first, **changes}, {"type": "text", "text": "pong"}]}
        return invoke({**body, "messages": [*body["messages"], earlier, {"role": "user", "content": "and?"}]}, model)

    assert again()["content"][0] == first
    for changes, words in (
        ({"signature": first["signature"][::-1]}, "messages.1.content.0: Invalid `signature` in `thinking` block"),
        ({"thinking": "something else"}, "messages.1.content.0: Invalid `signature` in `thinking` block"),
        ({"signature": ""}, "messages.1.content.0.thinking.signature: Field required"),
    ):
        with pytest.raises(ClientError, match=words):
            again(**changes)


def test_thinking_by_converse(aws: Cloud) -> None:
    """Converse returns and checks the same block as reasoning content."""
    fields: dict[str, Any] = {"additionalModelRequestFields": {"thinking": {"type": "adaptive"}}}
    message = converse(**fields)["output"]["message"]
    reasoning = message["content"][0]["reasoningContent"]["reasoningText"]
    events = client("bedrock-runtime").converse_stream(modelId=MODEL, messages=ASKED, **fields)["stream"]
    deltas = [each["contentBlockDelta"]["delta"] for each in events if "contentBlockDelta" in each]
    assert {"reasoningContent": {"signature": reasoning["signature"]}} in deltas
    runtime = client("bedrock-runtime")
    runtime.converse(modelId=MODEL, messages=[*ASKED, message, *ASKED], **fields)
    reasoning["text"] += "!"
    with pytest.raises(
        ClientError, match=r"returned the following errors: messages.1.content.0: Invalid `signature`"
    ):
        runtime.converse(modelId=MODEL, messages=[*ASKED, message, *ASKED], **fields)


def test_what_thinking_refuses(aws: Cloud) -> None:
    """Newer models refuse a budget, older ones adaptive thinking, and a tool loop without its thinking is refused."""
    older = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
    enabled = {"type": "enabled", "budget_tokens": 2048}
    call = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {}}]}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "seen"}]}
    cases = (
        (MODEL, messages("hi", thinking=enabled), 'Use "thinking.type.adaptive"'),
        (older, messages("hi", thinking={"type": "adaptive"}), "adaptive thinking is not supported on this model"),
        (older, messages("hi", thinking={"type": "enabled", "budget_tokens": 9}), "greater than or equal to 1024"),
        (older, messages("hi", thinking=enabled, max_tokens=2048), "`max_tokens` must be greater"),
        (older, messages("hi", call, result, thinking=enabled), "Expected `thinking` or `redacted_thinking`"),
    )
    for model, body, words in cases:
        with pytest.raises(ClientError, match=words):
            invoke(body, model)


# --- who may, and what ---


def test_unknown_fields(aws: Cloud) -> None:
    """Bedrock refuses fields and beta flags that it does not know, in both APIs, and accepts those that it knows."""
    tool = {"name": "look", "input_schema": {"type": "object"}, "eager_input_streaming": True}
    edits = {"edits": [{"type": "clear_tool_uses_20250919"}]}
    managed = {"context_management": edits, "anthropic_beta": ["context-management-2025-06-27"]}
    cases = (
        (messages("hi", chat_id="x"), r"extraneous key \[chat_id\] is not permitted"),
        (messages("hi", context_management=edits), r"extraneous key \[context_management\] is not permitted"),
        (
            messages("hi", **{**managed, "context_management": {"edits": [{"type": "clear_thinking_20251015"}]}}),
            "context_management: Extra inputs are not permitted",
        ),
        (messages("hi", anthropic_beta=["no-such-beta"]), "invalid beta flag"),
        (messages("hi", tools=[tool]), r"tools.0.custom.eager_input_streaming: Extra inputs are not permitted"),
        (messages("hi", tools=[{"type": "web_search_20250305", "name": "web_search"}]), "request is not valid"),
        (
            messages(
                "hi", system=[{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "scope": 1}}]
            ),
            r"cache_control.ephemeral.scope: Extra inputs are not permitted",
        ),
        (messages("hi", {"role": "assistant", "content": "The"}), "does not support assistant message prefill"),
    )
    for body, words in cases:
        with pytest.raises(ClientError, match=words):
            invoke(body)
    assert invoke(messages("hi", **managed, metadata={"user_id": "x"}, output_config={"effort": "high"}))
    with pytest.raises(ClientError, match=r"errors: Malformed input request: #: extraneous key \[chat_id\]"):
        converse(additionalModelRequestFields={"chat_id": "x"})
    for model in (
        "us.anthropic.claude-sonnet-4-6",
        "us.amazon.nova-2-lite-v1:0",
        "us.meta.llama3-3-70b-instruct-v1:0",
    ):
        with pytest.raises(ClientError, match=r"#: extraneous key \[max_token\] is not permitted"):
            converse(model, additionalModelRequestFields={"max_token": 4000})
    assert converse(additionalModelRequestFields={"top_k": 5})
    prefilled = messages("hi", {"role": "assistant", "content": "The"})
    assert invoke(prefilled, "us.anthropic.claude-haiku-4-5-20251001-v1:0")


def test_service_tiers(aws: Cloud) -> None:
    """A service tier is confirmed in the answer; a reserved or unknown one is refused."""
    assert converse(serviceTier={"type": "flex"})["serviceTier"] == {"type": "flex"}
    answer = client("bedrock-runtime").invoke_model(
        modelId=MODEL, body=json.dumps(messages("hi")), serviceTier="priority"
    )
    assert answer["serviceTier"] == "priority"
    assert aws.runtime.headers[-1]["x-amzn-bedrock-service-tier"] == "priority"
    for tier, words in (("reserved", "Reservation not found."), ("cheapest", "service tier provided is invalid")):
        with pytest.raises(ClientError, match=words):
            converse(serviceTier={"type": tier})


def test_count_tokens(aws: Cloud) -> None:
    """CountTokens counts what a call is billed for, in both forms, and only by the id of a model that has it."""
    runtime, counted = client("bedrock-runtime"), "anthropic.claude-sonnet-4-6"
    body = messages(LONG)
    number = runtime.count_tokens(modelId=counted, input={"invokeModel": {"body": json.dumps(body)}})["inputTokens"]
    assert number == invoke(body, f"us.{counted}")["usage"]["input_tokens"]
    asked = {"converse": {"messages": ASKED}}
    assert runtime.count_tokens(modelId=counted, input=asked)["inputTokens"] == converse()["usage"]["inputTokens"]
    for model in (f"us.{counted}", "anthropic.claude-sonnet-5-5", "amazon.nova-2-lite-v1:0"):
        with pytest.raises(ClientError, match="The provided model doesn't support counting tokens"):
            runtime.count_tokens(modelId=model, input=asked)
    aws.account.denied.add("bedrock:CountTokens")
    with pytest.raises(ClientError, match="no identity-based policy allows the bedrock:CountTokens action"):
        runtime.count_tokens(modelId=counted, input=asked)


def test_the_models_that_can_be_called(aws: Cloud) -> None:
    """A model id that AWS refuses is refused with AWS's code and message."""
    aws.catalogue.put("meta.ended", profiles=("us",))
    aws.catalogue.end_in("meta.ended", days=-1)
    aws.account.denied.add("bedrock:InvokeModel")
    with pytest.raises(ClientError, match="no identity-based policy allows the bedrock:InvokeModel action") as error:
        converse()
    assert code(error) == "AccessDeniedException"
    aws.account.denied.clear()
    cases = {
        "anthropic.claude-sonnet-5-5": ("ValidationException", "on-demand throughput isn\u2019t supported"),
        "eu.anthropic.claude-sonnet-5-5": ("ValidationException", "model identifier is invalid"),
        "us.meta.ended": ("ResourceNotFoundException", "end of its life"),
    }
    for model, (expected, words) in cases.items():
        with pytest.raises(ClientError, match=words) as error:
            converse(model)
        assert code(error) == expected
    assert converse("amazon.nova-2-lite-v1:0")
    assert converse(f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{MODEL}")
    with pytest.raises(ClientError, match="temperature"):
        converse(inferenceConfig={"temperature": 0.0})


def test_a_bearer_key(aws: Cloud) -> None:
    """A Bedrock API key replaces a signature, and a wrong one is refused as by AWS."""

    def ask(key: str) -> int:
        request = urllib.request.Request(
            f"{aws.api_url}/model/{MODEL}/converse",
            json.dumps({"messages": ASKED}).encode(),
            {"Authorization": f"Bearer {key}"},
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)

    assert ask(API_KEY) == 200
    with pytest.raises(urllib.error.HTTPError) as error:
        ask("ABSKwrong")
    assert error.value.code == 403
    assert "Authentication failed" in json.load(error.value)["Message"]


@pytest.mark.parametrize("name", SCRIPTED)
def test_scripted_refusals(aws: Cloud, name: str) -> None:
    """A refusal by name has the status that botocore's model gives its code, if it knows the code."""
    aws.runtime.scripts[MODEL] = Script(refusal=name, times=1)
    runtime = client("bedrock-runtime")
    with pytest.raises(ClientError) as error:
        runtime.converse(modelId=MODEL, messages=ASKED)
    refusal = SCRIPTED[name]
    assert (code(error), error.value.response["Error"]["Message"]) == (refusal.code, refusal.message)
    status = error.value.response["ResponseMetadata"]["HTTPStatusCode"]
    service = runtime.meta.service_model
    assert status == refusal.status
    if refusal.code in service.shape_names:
        assert status == service.shape_for(refusal.code).metadata["error"]["httpStatusCode"]
    assert converse(), "a script for one time is over after it"


def test_streams_that_break(aws: Cloud) -> None:
    """A stream can end with an error event or with a cut connection."""
    aws.runtime.scripts[MODEL] = Script(broken_off_by="too-many-requests")
    with pytest.raises(EventStreamError, match="Too many requests"):
        stream()
    aws.runtime.scripts[MODEL] = Script(cut=True)
    with pytest.raises(Exception, match=r"Connection broken|IncompleteRead|ended prematurely"):
        stream()
