"""The demo configuration through the real runtime and LiteLLM, with the SDKs of OpenAI and Anthropic."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from openai import BadRequestError, OpenAI

from litellm_systemd.client.gateway import Gateway
from litellm_systemd.gateway.config import read_config
from litellm_systemd.report.report import Outcome
from litellm_systemd.verify.run import Scope, verify
from tests.integration.runtime_service import KEY, Service

CONFIGS = Path(__file__).parents[2] / "configs"
MODEL = "claude-sonnet-5-5"
SAID = f"This is the demo configuration, in place of {MODEL}. No model was called."
QUESTION = "What's the weather in Paris?"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
MESSAGES_TOOLS: Any = [{"name": "get_weather", "input_schema": SCHEMA}]
RESPONSES_TOOLS: Any = [{"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False}]
RESULT = "17 degrees and rain"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with the shipped demo configuration, linked as an install links it. No region and no credentials."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(CONFIGS, folder / "configs")
    service = Service(folder)
    service.config.unlink()
    service.config.symlink_to("configs/demo.yml")
    with service:
        service.await_ready()
        yield service


@pytest.fixture(scope="module")
def openai(service: Service) -> OpenAI:
    return OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key=KEY, max_retries=0)


@pytest.fixture(scope="module")
def anthropic(service: Service) -> Anthropic:
    return Anthropic(base_url=f"http://127.0.0.1:{service.port}", api_key=KEY, max_retries=0)


def user(text: object) -> Any:
    return {"role": "user", "content": text}


def test_chat(openai: Any) -> None:
    """A chat says that no model was called, counts its tokens, and costs nothing."""
    raw = openai.chat.completions.with_raw_response.create(model=MODEL, messages=[user("Hello")])
    answer = raw.parse()
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (SAID, "stop")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 0 < answer.usage.completion_tokens
    costs = {name: value for name, value in raw.headers.items() if name.startswith("x-litellm-response-cost")}
    assert costs
    assert {float(value) for value in costs.values()} == {0.0}


def test_chat_streamed(openai: Any) -> None:
    """A streamed chat arrives in pieces and ends with its tokens."""
    options: Any = {"include_usage": True}
    chunks = list(
        openai.chat.completions.create(model=MODEL, messages=[user("Hello")], stream=True, stream_options=options)
    )
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert "".join(pieces) == SAID
    assert len(pieces) > 5
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 5


@pytest.mark.parametrize("stream", [False, True])
def test_chat_tools(openai: Any, stream: bool) -> None:
    """A chat calls the tool that the prompt asks for, and answers with the tool's result."""
    messages = [user(QUESTION)]
    if stream:
        with openai.chat.completions.stream(model=MODEL, messages=messages, tools=CHAT_TOOLS) as events:
            choice: Any = events.get_final_completion().choices[0]
    else:
        choice = openai.chat.completions.create(model=MODEL, messages=messages, tools=CHAT_TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    assistant = {
        "role": "assistant",
        "tool_calls": [
            {
                **call.model_dump(include={"id", "type"}),
                "function": {"name": call.function.name, "arguments": call.function.arguments},
            }
        ],
    }
    messages += [assistant, {"role": "tool", "tool_call_id": call.id, "content": RESULT}]
    end = openai.chat.completions.create(model=MODEL, messages=messages, tools=CHAT_TOOLS).choices[0]
    assert (end.finish_reason, RESULT in (end.message.content or "")) == ("stop", True)


@pytest.mark.parametrize("stream", [False, True])
def test_chat_malformed_tool(openai: Any, stream: bool) -> None:
    """A tool whose schema is no schema is the fault of the client: 400."""
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": ["q"]}}}
    with pytest.raises(BadRequestError, match="form of chat completions"):
        openai.chat.completions.create(model=MODEL, messages=[user("Use the find tool")], tools=[tool], stream=stream)


def test_messages(anthropic: Any) -> None:
    """Anthropic's Messages API answers with the same text, and with the tokens that count_tokens gives."""
    answer = anthropic.messages.create(model=MODEL, max_tokens=100, messages=[user("Hello")])
    assert (answer.content[0].type, answer.stop_reason) == ("text", "end_turn")
    assert answer.content[0].text == SAID
    assert answer.usage.output_tokens > 5
    counted = anthropic.messages.count_tokens(model=MODEL, messages=[user("Hello")])
    assert counted.input_tokens == answer.usage.input_tokens > 0


def test_messages_streamed(anthropic: Any) -> None:
    """Anthropic's Messages API streams the text in pieces, once, and ends with its tokens."""
    with anthropic.messages.stream(model=MODEL, max_tokens=100, messages=[user("Hello")]) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == SAID
    assert len(pieces) > 5
    assert final.usage.output_tokens > 5


@pytest.mark.parametrize("stream", [False, True])
def test_messages_tools(anthropic: Any, stream: bool) -> None:
    """Anthropic's Messages API calls the tool that the prompt asks for, and answers with the tool's result."""
    messages = [user(QUESTION)]
    if stream:
        with anthropic.messages.stream(
            model=MODEL, max_tokens=100, messages=messages, tools=MESSAGES_TOOLS
        ) as events:
            answer: Any = events.get_final_message()
    else:
        answer = anthropic.messages.create(model=MODEL, max_tokens=100, messages=messages, tools=MESSAGES_TOOLS)
    call = answer.content[-1]
    assert (answer.stop_reason, call.type, call.name, call.input) == (
        "tool_use",
        "tool_use",
        "get_weather",
        {"city": "Paris"},
    )
    assistant = {"role": "assistant", "content": [call.model_dump(include={"type", "id", "name", "input"})]}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": RESULT}
    messages += [assistant, user([result, {"type": "text", "text": "<system-reminder>Be brief.</system-reminder>"}])]
    end = anthropic.messages.create(model=MODEL, max_tokens=100, messages=messages, tools=MESSAGES_TOOLS)
    assert (end.stop_reason, end.content[0].type) == ("end_turn", "text")
    assert RESULT in end.content[0].text


def test_messages_limit(anthropic: Any) -> None:
    """The limit of tokens cuts the answer, with the reason that Anthropic's API gives."""
    answer = anthropic.messages.create(model=MODEL, max_tokens=3, messages=[user("Hello")])
    assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 3)


def test_responses(openai: Any) -> None:
    """OpenAI's Responses API answers with the same text and its tokens."""
    answer = openai.responses.create(model=MODEL, input="Hello")
    assert (answer.output_text, answer.status) == (SAID, "completed")
    assert answer.usage is not None
    assert answer.usage.input_tokens > 0 < answer.usage.output_tokens


def test_responses_streamed(openai: Any) -> None:
    """OpenAI's Responses API streams the text in pieces and ends with the whole response."""
    events = list(openai.responses.create(model=MODEL, input="Hello", stream=True))
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(pieces) == SAID
    assert len(pieces) > 5
    assert events[-1].type == "response.completed"
    assert events[-1].response.usage is not None
    assert events[-1].response.usage.output_tokens > 5


@pytest.mark.parametrize("stream", [False, True])
def test_responses_tools(openai: Any, stream: bool) -> None:
    """OpenAI's Responses API calls the tool that the prompt asks for, and answers with the tool's result."""
    question: Any = [user(QUESTION)]
    if stream:
        *_, last = openai.responses.create(model=MODEL, input=question, tools=RESPONSES_TOOLS, stream=True)
        answer: Any = last.response
    else:
        answer = openai.responses.create(model=MODEL, input=question, tools=RESPONSES_TOOLS)
    call = next(each for each in answer.output if each.type == "function_call")
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": RESULT}
    question += [call.model_dump(exclude_none=True), result]
    end = openai.responses.create(model=MODEL, input=question, tools=RESPONSES_TOOLS)
    assert RESULT in end.output_text


def test_a_custom_tool_of_codex(openai: Any) -> None:
    """A patch tool with free-form input, as Codex defines it, is called with a patch."""
    tools: Any = [
        {"type": "custom", "name": "apply_patch", "description": "Edits files.", "format": {"type": "text"}}
    ]
    *_, last = openai.responses.create(model=MODEL, input='Create a.txt with "Hi"', tools=tools, stream=True)
    call = last.response.output[-1]
    assert call.type == "custom_tool_call"
    assert call.input == "*** Begin Patch\n*** Add File: a.txt\n+Hi\n*** End Patch"


def test_verify_skips_nothing(service: Service) -> None:
    """Every check of verify passes on the demo, and none is skipped or billed."""
    config = read_config(CONFIGS / "demo.yml")
    scope = Scope(config.names, all_models=True, full=True, concurrency=8, mocked=config.mocked_names)
    report = verify(Gateway(f"http://127.0.0.1:{service.port}", KEY), scope)
    assert {each.outcome for each in report.checks} == {Outcome.OK}, report.as_json()
    assert len(report.checks) > 70
    assert report.notes == ()
    assert not any("billed" in each.data for each in report.checks)


def test_the_journal_has_no_warning(service: Service) -> None:
    """The demo starts without a warning or an error of LiteLLM in the journal."""
    start, ready, _ = service.log().partition("serving on ")
    assert ready
    assert [line for line in start.splitlines() if line[:3] in ("<3>", "<4>")] == []
