"""The fake Bedrock runtime, tested with boto3: chats, binary streams, the prompt cache, and refusals."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer
from botocore.exceptions import ClientError, EventStreamError
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import API_KEY, USER, Cloud, Key, Script, eventstream
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


# --- who may, and what ---


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
