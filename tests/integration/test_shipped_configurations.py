"""The shipped configurations, unchanged, in the real LiteLLM, with a loopback server in place of Bedrock."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from litellm_systemd.gateway.config import GatewayConfig, read_config
from litellm_systemd.gateway.snapshot import read_shipped
from tests.fakes.http import Reply, Request, serving
from tests.integration.litellm_process import OFFLINE, Gateway, run_litellm

CONFIGS = Path(__file__).parents[2] / "configs"
REGION = "eu-west-3"
SONNET, OLDER, HAIKU = (f"us.anthropic.claude-{name}" for name in ("sonnet-5-5", "sonnet-4-6", "haiku-5-5"))
WORKSHOP = "bedrock-converse-us-claude-3-7-sonnet-v1"
QUESTION = [{"role": "user", "content": "what llm are you"}]


class Bedrock:
    """Answers Converse, refuses the models in `failing`, and records each call: model, headers, body."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Mapping[str, str], dict[str, Any]]] = []
        self.failing: set[str] = set()
        self.url = ""

    @property
    def models(self) -> list[str]:
        return [model for model, _, _ in self.calls]

    def answer(self, request: Request) -> Reply:
        matched = re.fullmatch(r"/model/(.+)/converse", unquote(request.target))
        model = matched[1] if matched else request.target
        self.calls.append((model, request.headers, json.loads(request.body)))
        if matched and model not in self.failing:
            return _reply(200, _converse_answer(f"hello from {model}"))
        return _reply(403, {"message": "You don't have access to the model with the specified model ID."})


def _reply(status: int, content: dict[str, Any]) -> Reply:
    return Reply(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


def _converse_answer(text: str) -> dict[str, Any]:
    return {
        "output": {"message": {"role": "assistant", "content": [{"text": text}]}},
        "stopReason": "end_turn",
        "usage": {"inputTokens": 3, "outputTokens": 4, "totalTokens": 7},
        "metrics": {"latencyMs": 1},
    }


@pytest.fixture(scope="module")
def server() -> Iterator[Bedrock]:
    bedrock = Bedrock()
    with serving(bedrock.answer) as running:
        bedrock.url = running.url
        yield bedrock


@pytest.fixture
def bedrock(server: Bedrock) -> Bedrock:
    server.calls.clear()
    server.failing.clear()
    return server


def gateway_of(name: str, server: Bedrock, **environ: str) -> Any:
    return run_litellm(CONFIGS / name, {"AWS_BEDROCK_RUNTIME_ENDPOINT": server.url, **environ})


KEYS = {"AWS_ACCESS_KEY_ID": "AKIDFROMENV", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION_NAME": REGION}


@pytest.fixture(scope="module")
def demo() -> Iterator[Gateway]:
    # No region and no key: demo.yml must not need them.
    with run_litellm(CONFIGS / "demo.yml", {}) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def iam_role(server: Bedrock) -> Iterator[Gateway]:
    # The key pair replaces an instance profile: boto3's chain returns both, and the file names neither.
    with gateway_of("iam_role_config.yml", server, **KEYS) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def access_key(server: Bedrock) -> Iterator[Gateway]:
    with gateway_of("access_key_config.yml", server, **KEYS, AWS_SESSION_TOKEN="session-token") as gateway:
        yield gateway


@pytest.fixture(scope="module")
def prompt_caching(server: Bedrock) -> Iterator[Gateway]:
    with gateway_of("prompt_caching.yml", server, **KEYS) as gateway:
        yield gateway


NAMES = {
    "demo": "demo.yml",
    "iam_role": "iam_role_config.yml",
    "access_key": "access_key_config.yml",
    "prompt_caching": "prompt_caching.yml",
}


def config_of(fixture: str) -> GatewayConfig:
    return read_config(
        CONFIGS / {"demo": "demo.yml", "prompt_caching": "prompt_caching.yml"}.get(fixture, f"{fixture}_config.yml")
    )


def test_every_shipped_configuration_is_tested_here() -> None:
    """This module tests every shipped configuration."""
    assert set(NAMES.values()) == {path.name for path in CONFIGS.glob("*.yml")}


@pytest.mark.parametrize("fixture", NAMES)
def test_models_are_listed(fixture: str, request: pytest.FixtureRequest) -> None:
    """/v1/models lists exactly the names that our reader finds in the file."""
    gateway: Gateway = request.getfixturevalue(fixture)
    listed = [model["id"] for model in gateway.get("/v1/models").json["data"]]
    assert sorted(listed) == sorted(config_of(fixture).names)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
@pytest.mark.parametrize("model", [*config_of("demo").names, *dict(config_of("demo").hidden_aliases)])
def test_demo_answers_for_every_name(demo: Gateway, model: str, path: str) -> None:
    """Without AWS, each name of demo.yml is answered with its fixed text."""
    answer = demo.chat({"model": model, "messages": QUESTION}, path)
    assert answer.status == 200, answer.body
    assert "This is the demo configuration" in answer.json["choices"][0]["message"]["content"]


@pytest.mark.parametrize("model", config_of("demo").names)
def test_demo_streams_for_every_name(demo: Gateway, model: str) -> None:
    """Each name of demo.yml streams its text in pieces and ends with [DONE]."""
    answer = demo.chat({"model": model, "messages": QUESTION, "stream": True})
    events = [line.removeprefix("data: ") for line in answer.body.splitlines() if line.startswith("data: ")]
    assert answer.status == 200, answer.body
    assert events.pop() == "[DONE]"
    pieces = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events]
    assert "This is the demo configuration" in "".join(pieces)
    assert len([piece for piece in pieces if piece]) > 1


CALLED = [(WORKSHOP, SONNET), ("claude-sonnet-4-6", OLDER), ("claude-haiku-5-5", HAIKU)]


@pytest.mark.parametrize(("name", "model"), CALLED)
def test_iam_role_calls_the_model_in_the_region(iam_role: Gateway, bedrock: Bedrock, name: str, model: str) -> None:
    """Each name calls its inference profile, signed for AWS_REGION_NAME, without unsupported parameters."""
    answer = iam_role.chat({"model": name, "messages": QUESTION, "temperature": 0.5})
    assert answer.status == 200, answer.body
    assert answer.json["choices"][0]["message"]["content"] == f"hello from {model}"
    ((called, headers, body),) = bedrock.calls
    assert called == model
    assert re.search(rf"Credential=AKIDFROMENV/\d+/{REGION}/bedrock/", headers["authorization"])
    assert "x-amz-security-token" not in headers
    assert ("temperature" in body.get("inferenceConfig", {})) is (model == OLDER)


@pytest.mark.parametrize("name", [each.model for each in config_of("iam_role").fallbacks])
def test_a_failed_model_falls_back_in_order(iam_role: Gateway, bedrock: Bedrock, name: str) -> None:
    """If Bedrock refuses a model with fallbacks, they answer in their order, also for each alias."""
    config = config_of("iam_role")
    profiles = {model.name: model.provider_model.rpartition("/")[2] for model in config.models}
    profiles |= {alias: profiles[target] for alias, target in (*config.aliases, *config.hidden_aliases)}
    (targets,) = (each.targets for each in config.fallbacks if each.model == name)
    bedrock.failing |= {profiles[name], *(profiles[target] for target in targets[:-1])}
    answer = iam_role.chat({"model": name, "messages": QUESTION})
    assert answer.status == 200, answer.body
    assert answer.json["choices"][0]["message"]["content"] == f"hello from {profiles[targets[-1]]}"
    assert list(dict.fromkeys(bedrock.models)) == [profiles[each] for each in (name, *targets)]


def test_access_key_signs_with_the_pair_and_the_session_token(access_key: Gateway, bedrock: Bedrock) -> None:
    """The key pair of the environment signs, with the session token, which the file does not name."""
    answer = access_key.chat({"model": WORKSHOP, "messages": QUESTION})
    assert answer.status == 200, answer.body
    ((_, headers, _),) = bedrock.calls
    assert re.search(rf"Credential=AKIDFROMENV/\d+/{REGION}/bedrock/", headers["authorization"])
    assert headers["x-amz-security-token"] == "session-token"


@pytest.mark.parametrize("model", config_of("iam_role").names)
def test_default_configuration_marks_the_prompt(iam_role: Gateway, bedrock: Bedrock, model: str) -> None:
    """The requests of a client without cache points get them after the system prompt and the last message."""
    messages = [{"role": "system", "content": "be brief " * 2000}, *QUESTION]
    answer = iam_role.chat({"model": model, "messages": messages})
    assert answer.status == 200, answer.body
    ((_, _, body),) = bedrock.calls
    assert body["system"][-1] == {"cachePoint": {"type": "default"}}
    assert body["messages"][-1]["content"][-1] == {"cachePoint": {"type": "default"}}


RESOLVE = """
import json, sys, litellm
litellm.suppress_debug_info = True
def accepted(name):
    try:
        litellm.get_llm_provider(name)
    except Exception:
        return False
    return True
print("\\n" + json.dumps([name for name in json.load(sys.stdin) if accepted(name)]))
"""


def test_models_with_an_unknown_provider() -> None:
    """Of all names in LiteLLM's model map, the linter reports an unknown provider only for names that LiteLLM refuses
    too.
    """
    # Prices of images have size or quality before the slash; they are no names of models.
    price = re.compile(r"[\dmax]+-x-[\dmax]+/|(low|medium|high|standard|hd)/")
    shipped = read_shipped()
    doubted = [name for name in shipped.models if "/" in name and name.split("/")[0] not in shipped.providers]
    doubted = [name for name in doubted if not price.match(name)]
    done = subprocess.run(
        (sys.executable, "-c", RESOLVE),
        input=json.dumps([*doubted, "bedrok/x", "bedrock/x"]),
        env=OFFLINE,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1]) == ["bedrock/x"]
