"""Faults of LiteLLM on Bedrock that coding agents notice, and what the service does instead (docs/agents.md)."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest

from tests.fakes import Cloud, run_cloud
from tests.fakes.http import Reply, Request, serving
from tests.fakes.thinking import THOUGHT
from tests.integration.runtime_service import KEY, Service, environment, wait_for

CONFIGS = Path(__file__).parents[2] / "configs"
MODEL, COUNTED = "claude-sonnet-5-5", "claude-sonnet-4-6"
QUESTION = [{"role": "user", "content": "hi"}]
NATIVE_SEARCH = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
FUNCTION = {"type": "function", "name": "shell", "parameters": {"type": "object", "properties": {}}}
#: Models next to the shipped ones: one whose packets are dropped, and one whose provider stores responses itself.
MODELS = """
model_list:
  - model_name: dropped
    litellm_params: {{model: bedrock/us.anthropic.claude-sonnet-4-6, aws_bedrock_runtime_endpoint: "{black_hole}"}}
  - model_name: native
    litellm_params: {{model: openai/gpt-5, api_base: "{native}", api_key: none, num_retries: 0}}
"""


@dataclass
class Gateway:
    """The service with the default configuration. `native` are the bodies that the other provider has refused."""

    service: Service
    aws: Cloud
    native: list[dict[str, Any]]
    url: str = field(init=False)

    def __post_init__(self) -> None:
        self.url = f"http://127.0.0.1:{self.service.port}"

    def post(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any]:
        connection = self.service.connect()
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    def count(self, model: str) -> Any:
        status, body = self.post("/v1/messages/count_tokens", {"model": model, "messages": QUESTION})
        assert status == 200, body
        return body

    def seen(self) -> list[str]:
        """The models that Bedrock was asked for, with the operation."""
        return [each.target.removeprefix("POST /model/") for each in self.aws.seen if "/model/" in each.target]


@contextmanager
def black_hole() -> Iterator[str]:
    """The address of a port that drops packets: its queue of connections is full, so that it ignores another SYN."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=0) as server,
        socket.socket() as first,
        socket.socket() as more,
    ):
        for each in (first, more):
            each.setblocking(False)
            each.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("agents")
    shutil.copytree(CONFIGS / "shared", folder / "shared")
    bodies: list[dict[str, Any]] = []

    def refuse(request: Request) -> Reply:
        bodies.append(json.loads(request.body))
        return Reply(400)

    text = (CONFIGS / "iam_role_config.yml").read_text()
    with run_cloud() as aws, black_hole() as dropped, serving(refuse) as native:
        models = MODELS.format(black_hole=dropped, native=native.url)
        (folder / "shared/my_models.yml").write_text(models)
        with Service(folder, text, AWS_REGION_NAME="us-east-1", **aws.environment) as service:
            service.await_ready()
            yield Gateway(service, aws, bodies)


def test_thinking_arrives_once(gateway: Gateway) -> None:
    """Anthropic's SDK joins a streamed thought as the model sent it, and the next turn accepts its signature."""
    client = anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0)
    tools: Any = [{"name": "Read", "input_schema": {"type": "object", "properties": {}}}]
    options: Any = {"model": MODEL, "max_tokens": 2000, "thinking": {"type": "adaptive"}, "tools": tools}
    asked: Any = {"role": "user", "content": "CALL Read {}"}
    with client.messages.stream(messages=[asked], **options) as stream:
        answer = stream.get_final_message()
    thought, *_, call = answer.content
    assert thought.type == "thinking"
    assert thought.thinking == THOUGHT
    assert call.type == "tool_use"
    result: Any = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "x"}]}
    reply: Any = {"role": "assistant", "content": answer.content}
    with client.messages.stream(messages=[asked, reply, result], **options) as stream:
        assert stream.get_final_message().stop_reason == "end_turn"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        # As Claude Code's WebSearch: a request with this tool alone.
        ("/v1/messages", {"messages": QUESTION, "max_tokens": 99, "tools": [NATIVE_SEARCH]}),
        ("/v1/messages", {"messages": QUESTION, "max_tokens": 99, "tools": [NATIVE_SEARCH], "stream": True}),
        ("/v1/responses", {"input": "hi", "tools": [{"type": "web_search"}]}),
        (
            "/v1/responses",
            {"input": "hi", "tools": [{"type": "web_search"}, FUNCTION], "tool_choice": {"type": "web_search"}},
        ),
        ("/v1/chat/completions", {"messages": QUESTION, "web_search_options": {}}),
        ("/v1/chat/completions", {"messages": QUESTION, "tools": [NATIVE_SEARCH]}),
    ],
)
def test_web_search_is_refused(gateway: Gateway, path: str, body: dict[str, Any]) -> None:
    """A request that needs a web search gets a 400 that says what to deny, and no model invents results."""
    before = len(gateway.aws.runtime.bodies)
    status, answer = gateway.post(path, {"model": MODEL, **body})
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert (
        'Deny it in the client, in Claude Code with "permissions": {"deny": ["WebSearch"]}'
        in answer["error"]["message"]
    )
    assert answer.get("type") == ("error" if path == "/v1/messages" else None)
    assert len(gateway.aws.runtime.bodies) == before


def test_a_model_does_without_web_search(gateway: Gateway) -> None:
    """A request of Codex, which offers web search next to its own tools, is served with its own tools."""
    body = {"model": MODEL, "input": "CALL shell {}", "tools": [{"type": "web_search"}, FUNCTION], "store": False}
    status, answer = gateway.post("/v1/responses", body)
    assert (status, answer["output"][-1]["type"]) == (200, "function_call"), answer


def test_a_lost_response_is_refused(gateway: Gateway) -> None:
    """Without a database, `previous_response_id` gets OpenAI's error with the remedy, and no answer."""
    client = openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0)
    first = client.responses.create(model=MODEL, input="I am Ada.")
    with pytest.raises(openai.BadRequestError, match="Send the whole conversation in `input`") as caught:
        client.responses.create(model=MODEL, input="Who am I?", previous_response_id=first.id)
    assert caught.value.code == "previous_response_not_found"
    assert caught.value.param == "previous_response_id"


def test_other_providers_decide_themselves(gateway: Gateway) -> None:
    """A provider with a Responses API of its own gets `previous_response_id` and its web search."""
    body = {"model": "native", "input": "hi", "previous_response_id": "resp_1", "tools": [{"type": "web_search"}]}
    gateway.post("/v1/responses", body)
    assert gateway.native, gateway.service.log()
    sent = gateway.native[-1]
    assert (sent["previous_response_id"], sent["tools"]) == ("resp_1", [{"type": "web_search"}])


def test_tokens_are_counted_by_the_model_itself(gateway: Gateway) -> None:
    """Bedrock counts for a model that has CountTokens; for another one LiteLLM estimates, and asks no other model."""
    before = len(gateway.seen())
    assert gateway.count(COUNTED)["litellm_count_source"] == "token_count_model"
    assert gateway.seen()[before:] == ["anthropic.claude-sonnet-4-6/count-tokens"]
    assert gateway.count(MODEL)["litellm_count_source"] == "local_estimate"
    assert gateway.seen()[before + 1 :] == []


def test_mantle_is_never_asked(gateway: Gateway) -> None:
    """If Bedrock refuses to count, LiteLLM estimates. It doesn't ask bedrock-mantle, which no setting redirects."""
    gateway.aws.catalogue.put("anthropic.claude-sonnet-4-6", counts=False)
    try:
        assert gateway.count(COUNTED)["litellm_count_source"] == "local_estimate"
    finally:
        gateway.aws.catalogue.put("anthropic.claude-sonnet-4-6", counts=True)
    assert "mantle" not in gateway.service.log()


def test_counting_takes_less_than_a_second_where_packets_are_dropped(gateway: Gateway) -> None:
    """Where packets to Bedrock are dropped, the estimate comes within a second."""

    def measure() -> float:
        start = time.monotonic()
        assert gateway.count("dropped")["litellm_count_source"] == "local_estimate"
        return time.monotonic() - start

    # It takes 0.7 s, but more in a worker that counts for the first time, and while the machine is busy.
    wait_for("an estimate in time", lambda: measure() < 2)


@pytest.mark.parametrize(
    ("name", "called"),
    [
        ("claude-opus-5-5", "us.anthropic.claude-sonnet-5-5"),
        ("claude-fable-5-2", "us.anthropic.claude-sonnet-5-5"),
        ("claude-sonnet-4-5-20250929", "us.anthropic.claude-sonnet-4-6"),
        ("claude-haiku-4-5-20251001", "us.anthropic.claude-haiku-5-5"),
    ],
)
def test_names_of_claude_code(gateway: Gateway, name: str, called: str) -> None:
    """The names that Claude Code sends without settings are served, as configs/shared/routing.yml says."""
    status, answer = gateway.post("/v1/messages", {"model": name, "max_tokens": 99, "messages": QUESTION})
    assert (status, gateway.seen()[-1]) == (200, f"{called}/invoke"), answer


def test_discovery_in_the_form_of_anthropic(gateway: Gateway) -> None:
    """Anthropic's SDK lists the models, each of which is called under its own name."""
    listed = [each.id for each in anthropic.Anthropic(base_url=gateway.url, api_key=KEY).models.list()]
    assert {MODEL, COUNTED, "claude-haiku-5-5"} < set(listed)
    assert "claude-opus-5-5" not in listed


#: Calls the functions of LiteLLM that `litellm_fixes` wraps, as they are, and prints a line for each fault.
FAULTS = """
import asyncio, litellm
from litellm.llms.bedrock.common_utils import BedrockError
from litellm.llms.bedrock.count_tokens.bedrock_token_counter import BedrockTokenCounter
from litellm.responses.litellm_completion_transformation.session_handler import ResponsesSessionHandler
from litellm.responses.litellm_completion_transformation.transformation import LiteLLMCompletionResponsesConfig

MODEL = "us.anthropic.claude-sonnet-5-5"

class Handler:
    def __init__(self, name):
        self.name = name

    async def handle_count_tokens_request(self, **_):
        if self.name == "mantle":
            print("count_tokens asks bedrock-mantle")
        raise BedrockError(status_code=400, message="The provided model doesn't support counting tokens.")

counter = BedrockTokenCounter(Handler("runtime"), Handler("mantle"))
asyncio.run(counter.count_tokens(MODEL, [{"role": "user", "content": "hi"}], None))
if litellm.model_cost[MODEL]["token_count_model"]["model"] != MODEL:
    print("count_tokens asks another model")

find = ResponsesSessionHandler.get_chat_completion_message_history_for_previous_response_id
if asyncio.run(find("resp_unknown"))["messages"] == []:
    print("previous_response_id is ignored")

convert = LiteLLMCompletionResponsesConfig.transform_responses_api_tools_to_chat_completion_tools
tools, options = convert([{"type": "web_search"}])
parameters = litellm.utils.get_optional_params(
    model=MODEL, custom_llm_provider="bedrock", web_search_options=options, drop_params=True
)
if not tools and options is not None and "search" not in str(parameters):
    print("web search is dropped")
"""


def test_litellm_still_has_the_faults() -> None:
    """LiteLLM still has each fault that `litellm_fixes` works around. If this fails, remove that fix."""
    argv = (sys.executable, "-c", FAULTS)
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines() == [
        "count_tokens asks bedrock-mantle",
        "count_tokens asks another model",
        "previous_response_id is ignored",
        "web search is dropped",
    ], done.stderr
