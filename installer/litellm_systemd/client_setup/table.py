"""The table of client programs: the files that each reads, and its settings for a gateway. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from string import Template
from typing import Any

from litellm_systemd.client_setup.merge import Format, merge

#: Stands for the key in settings that are only printed.
PLACEHOLDER = "sk-..."
#: The name of the gateway where a client lists several providers.
_PROVIDER = "litellm"
#: Zed requires a context window. This one is accepted by any model that an agent can use.
_UNKNOWN_CONTEXT = 128_000


@dataclass(frozen=True, slots=True)
class ClientModel:
    """One model of the gateway.

    `context` and `output` are the maximum tokens of a prompt and of a response; the costs are in US dollars per
    token. A field is None if it is unknown.
    """

    name: str
    context: int | None = None
    output: int | None = None
    input_cost: float | None = None
    output_cost: float | None = None
    cache_read_cost: float | None = None
    cache_write_cost: float | None = None
    images: bool = False


@dataclass(frozen=True, slots=True)
class Gateway:
    """What a client needs to know of a gateway. `base_url` has no /v1. The first model is the default of clients."""

    base_url: str
    models: tuple[ClientModel, ...]
    key: str = field(default=PLACEHOLDER, repr=False)

    @property
    def openai_url(self) -> str:
        """The base URL of the OpenAI APIs."""
        return f"{self.base_url}/v1"

    @property
    def main(self) -> ClientModel:
        """The model for the work itself."""
        return self.models[0]

    @property
    def small(self) -> ClientModel:
        """The cheapest model, for titles and summaries; of equal ones Haiku, and without prices the main one."""
        priced = [each for each in self.models if each.input_cost is not None and each.output_cost is not None]

        def rank(model: ClientModel) -> tuple[float, bool]:
            return (model.input_cost or 0) + (model.output_cost or 0), "haiku" not in model.name

        return min(priced, key=rank, default=self.main)

    def fill(self, template: str) -> str:
        """A template with the values of this gateway; `$$` is a dollar."""
        return Template(template).substitute(
            base_url=self.base_url,
            openai_url=self.openai_url,
            key=json.dumps(self.key),
            shell_key=shlex.quote(self.key),
            authorization=shlex.quote(f"Authorization: Bearer {self.key}"),
            model=self.main.name,
            small=self.small.name,
            context=self.main.context or "unknown",
        )


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """One file that a client reads.

    `paths` are relative to the user's home: the first one that exists is used, else the last. `build` returns the
    settings, empty for no file, and `initial` those that are added only where the file has none. `has_key`: the
    settings contain the gateway's key.
    """

    paths: tuple[str, ...]
    form: Format
    build: Callable[[Gateway], Any]
    initial: Mapping[str, Any] = field(default_factory=dict)
    has_key: bool = False


@dataclass(frozen=True, slots=True)
class Client:
    """A client program. `files` are what --write writes.

    `code` is what the user puts elsewhere, in the language `language`. `code` and `notes` are templates for
    `Gateway.fill`.
    """

    name: str
    title: str
    files: tuple[SettingsFile, ...] = ()
    code: str = ""
    language: str = "sh"
    notes: tuple[str, ...] = ()


def _claude_code(gateway: Gateway) -> Mapping[str, Any]:
    main, small = gateway.main.name, gateway.small.name
    return {
        "env": {
            "ANTHROPIC_BASE_URL": gateway.base_url,
            "ANTHROPIC_AUTH_TOKEN": gateway.key,
            "ANTHROPIC_MODEL": main,
            "ANTHROPIC_DEFAULT_FABLE_MODEL": main,
            "ANTHROPIC_DEFAULT_OPUS_MODEL": main,
            "ANTHROPIC_DEFAULT_SONNET_MODEL": main,
            "ANTHROPIC_DEFAULT_HAIKU_MODEL": small,
            "CLAUDE_CODE_ATTRIBUTION_HEADER": "0",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        },
        "permissions": {"deny": ["WebSearch"]},
    }


def _codex(gateway: Gateway) -> Mapping[str, Any]:
    return {
        "model": gateway.main.name,
        "model_provider": _PROVIDER,
        "web_search": "disabled",
        "model_providers": {
            _PROVIDER: {
                "name": "LiteLLM",
                "base_url": gateway.openai_url,
                "wire_api": "responses",
                "model_catalog_url": f"{gateway.openai_url}/models",
                "experimental_bearer_token": gateway.key,
            }
        },
    }


def _opencode(gateway: Gateway) -> Mapping[str, Any]:
    return {
        "model": f"{_PROVIDER}/{gateway.main.name}",
        "small_model": f"{_PROVIDER}/{gateway.small.name}",
        "provider": {
            _PROVIDER: {
                "npm": "@ai-sdk/openai-compatible",
                "name": "LiteLLM",
                "options": {"baseURL": gateway.openai_url, "apiKey": gateway.key},
                "models": {each.name: _opencode_model(each) for each in gateway.models},
            }
        },
    }


def _opencode_model(model: ClientModel) -> Mapping[str, Any]:
    costs = {
        "input": model.input_cost,
        "output": model.output_cost,
        "cache_read": model.cache_read_cost,
        "cache_write": model.cache_write_cost,
    }
    # In US dollars per million tokens. The schema requires the first two, and both limits.
    cost = {name: round(value * 1e6, 6) for name, value in costs.items() if value is not None}
    found: dict[str, Any] = {"name": model.name, "attachment": model.images}
    if model.context is not None and model.output is not None:
        found["limit"] = {"context": model.context, "output": model.output}
    return found | ({"cost": cost} if {"input", "output"} <= cost.keys() else {})


def _aider(gateway: Gateway) -> Mapping[str, Any]:
    return {
        "model": f"openai/{gateway.main.name}",
        "weak-model": f"openai/{gateway.small.name}",
        "openai-api-base": gateway.openai_url,
        "openai-api-key": gateway.key,
    }


def _aider_metadata(gateway: Gateway) -> Mapping[str, Any]:
    """Limits and prices in the form of LiteLLM's map (aider.chat/docs/config/adv-model-settings.html)."""
    return {
        f"openai/{each.name}": _known(
            max_tokens=each.output,
            max_input_tokens=each.context,
            max_output_tokens=each.output,
            input_cost_per_token=each.input_cost,
            output_cost_per_token=each.output_cost,
            cache_read_input_token_cost=each.cache_read_cost,
            cache_creation_input_token_cost=each.cache_write_cost,
            supports_vision=each.images,
            litellm_provider="openai",
            mode="chat",
        )
        for each in gateway.models
    }


def _aider_models(gateway: Gateway) -> list[Mapping[str, Any]]:
    # By default aider lets a model that it does not know rewrite whole files.
    return [
        {
            "name": f"openai/{each.name}",
            "edit_format": "diff",
            "use_repo_map": True,
            "weak_model_name": f"openai/{gateway.small.name}",
        }
        for each in gateway.models
    ]


def _cline(gateway: Gateway) -> Mapping[str, Any]:
    settings = {
        "provider": "openai-compatible",
        "apiKey": gateway.key,
        "model": gateway.main.name,
        "baseUrl": gateway.openai_url,
    }
    return {"lastUsedProvider": "openai-compatible", "providers": {"openai-compatible": {"settings": settings}}}


def _continue(gateway: Gateway) -> Mapping[str, Any]:
    return {
        "models": [
            {
                "name": each.name,
                "provider": "openai",
                "model": each.name,
                "apiBase": gateway.openai_url,
                "apiKey": gateway.key,
                "roles": ["chat", "edit", "apply"],
                "capabilities": ["tool_use", *(["image_input"] if each.images else [])],
                **({"defaultCompletionOptions": {"contextLength": each.context}} if each.context else {}),
            }
            for each in gateway.models
        ]
    }


def _zed(gateway: Gateway) -> Mapping[str, Any]:
    main, small = ({"provider": "LiteLLM", "model": each.name} for each in (gateway.main, gateway.small))
    return {
        "agent": {"default_model": main, "thread_summary_model": small, "commit_message_model": small},
        "language_models": {
            "openai_compatible": {
                "LiteLLM": {
                    "api_url": gateway.openai_url,
                    "available_models": [
                        _known(
                            name=each.name,
                            max_tokens=each.context or _UNKNOWN_CONTEXT,
                            max_output_tokens=each.output,
                            capabilities={"tools": True, "images": each.images},
                        )
                        for each in gateway.models
                    ],
                }
            }
        },
    }


def _llm(gateway: Gateway) -> list[Mapping[str, Any]]:
    return [
        {
            "model_id": f"{_PROVIDER}/{each.name}",
            "model_name": each.name,
            "api_base": gateway.openai_url,
            "api_key_name": _PROVIDER,
            "supports_tools": True,
            "supports_schema": True,
            "vision": each.images,
        }
        for each in gateway.models
    ]


def _known(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


CLIENTS: tuple[Client, ...] = (
    Client(
        "claude-code",
        "Claude Code",
        files=(SettingsFile((".claude/settings.json",), Format.JSON, _claude_code, has_key=True),),
        notes=(
            "Claude Code uses Anthropic's Messages API at `/v1/messages`: the base URL has no `/v1`. The variable"
            " `ANTHROPIC_API_KEY` must not be set.",
            "`ANTHROPIC_DEFAULT_HAIKU_MODEL` is the model of background tasks, in earlier versions"
            " `ANTHROPIC_SMALL_FAST_MODEL`. Without these variables, Claude Code uses names of Anthropic's models.",
            "`CLAUDE_CODE_ATTRIBUTION_HEADER=0` removes a text from the system prompt that differs in each request,"
            " and with which no prompt is read from the cache.",
            "WebSearch is denied: Bedrock has no web search, and the gateway refuses the request.",
            "`CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1` turns off telemetry, error reports and automatic updates,"
            " which fail in a private subnet. To update, run: `claude update`",
            "If Bedrock rejects a beta feature, add `CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS=1`.",
        ),
    ),
    Client(
        "codex",
        "Codex",
        files=(
            SettingsFile(
                (".codex/config.toml",),
                Format.TOML,
                _codex,
                initial={
                    "check_for_update_on_startup": False,
                    "analytics": {"enabled": False},
                    "features": {"api_key_model_discovery": True, "plugins": False},
                },
                has_key=True,
            ),
        ),
        notes=(
            "Codex uses the Responses API only.",
            "`model_catalog_url`: the gateway lists its models with their context windows in the form of Codex."
            " Without it, Codex warns and assumes a smaller context window.",
            "Web search is disabled: it is a tool of OpenAI's own servers.",
            "`plugins = false`: otherwise Codex contacts chatgpt.com and github.com at each start. An existing value"
            " is kept.",
        ),
    ),
    Client(
        "opencode",
        "opencode",
        files=(
            SettingsFile(
                (".config/opencode/opencode.jsonc", ".config/opencode/opencode.json"),
                Format.JSON,
                _opencode,
                initial={"$schema": "https://opencode.ai/config.json", "autoupdate": False, "share": "disabled"},
                has_key=True,
            ),
        ),
        notes=(
            "`small_model` writes the titles of sessions.",
            "In a private subnet, set the variable `OPENCODE_DISABLE_MODELS_FETCH=1`: otherwise opencode tries to"
            " load a list of models from the internet at each start.",
        ),
    ),
    Client(
        "aider",
        "aider",
        files=(
            SettingsFile(
                (".aider.conf.yml",),
                Format.YAML,
                _aider,
                initial={"check-update": False, "analytics-disable": True},
                has_key=True,
            ),
            SettingsFile((".aider.model.metadata.json",), Format.JSON, _aider_metadata),
            SettingsFile((".aider.model.settings.yml",), Format.YAML, _aider_models),
        ),
        notes=(
            "`openai/` selects the protocol; aider does not send it to the gateway.",
            "The metadata file has the context windows and prices. Without it, aider loads a list from the internet"
            " at each start, does not know the models and shows no costs.",
        ),
    ),
    Client(
        "cline",
        "Cline",
        files=(
            SettingsFile(
                (".cline/data/settings/providers.json",),
                Format.JSON,
                _cline,
                # Cline requires the time, and sets its own when it saves.
                initial={"version": 1, "providers": {"openai-compatible": {"updatedAt": "2026-01-01T00:00:00.000Z"}}},
                has_key=True,
            ),
        ),
        notes=(
            "This is the file of Cline's CLI. In the panel of the editor, open the settings (gear) and choose the API"
            " Provider OpenAI Compatible, the Base URL `$openai_url`, the API Key and the Model ID `$model`. Under"
            " Model Configuration, set the context window ($context) and Supports Images. Plan and Act can use"
            " different models.",
            "With the API Provider LiteLLM the Base URL is `$base_url`, without `/v1`, and Cline sets cache points"
            " itself if Use prompt caching is selected.",
            "In a private subnet, turn telemetry off in the settings of the editor.",
        ),
    ),
    Client(
        "continue",
        "Continue",
        files=(
            SettingsFile(
                (".continue/config.yaml",),
                Format.YAML,
                _continue,
                initial={"name": "gateway", "version": "1.0.0", "schema": "v1"},
                has_key=True,
            ),
        ),
        notes=("In a private subnet, turn Allow Anonymous Telemetry off in Continue's settings.",),
    ),
    Client(
        "zed",
        "Zed",
        files=(SettingsFile((".config/zed/settings.json",), Format.JSON, _zed),),
        notes=(
            "Zed keeps the key in the keychain of the system: enter it in the Agent Panel, under the settings of the"
            " provider LiteLLM, or set the variable `LITELLM_API_KEY`.",
            'In a private subnet, add: `"auto_update": false, "telemetry": {"diagnostics": false, "metrics": false}`',
        ),
    ),
    Client(
        "llm",
        "llm",
        files=(
            SettingsFile((".config/io.datasette.llm/extra-openai-models.yaml",), Format.YAML, _llm),
            SettingsFile(
                (".config/io.datasette.llm/keys.json",),
                Format.JSON,
                lambda gateway: {_PROVIDER: gateway.key},
                has_key=True,
            ),
        ),
        notes=("To make a model the default, run: `llm models default litellm/$model`",),
    ),
    Client(
        "openai-python",
        "OpenAI's SDK for Python",
        language="python",
        code="""\
from openai import OpenAI

client = OpenAI(base_url="$openai_url", api_key=$key)
answer = client.chat.completions.create(model="$model", messages=[{"role": "user", "content": "ping"}])
""",
        notes=(
            "The SDK, and many programs that use it, also read the variables `OPENAI_BASE_URL` and `OPENAI_API_KEY`.",
        ),
    ),
    Client(
        "openai-node",
        "OpenAI's SDK for Node",
        language="typescript",
        code="""\
import OpenAI from "openai";

const client = new OpenAI({ baseURL: "$openai_url", apiKey: $key });
const answer = await client.chat.completions.create({
  model: "$model",
  messages: [{ role: "user", content: "ping" }],
});
""",
        notes=("The SDK also reads the variables `OPENAI_BASE_URL` and `OPENAI_API_KEY`.",),
    ),
    Client(
        "anthropic-python",
        "Anthropic's SDK for Python",
        language="python",
        code="""\
from anthropic import Anthropic

client = Anthropic(base_url="$base_url", auth_token=$key)
answer = client.messages.create(
    model="$model", max_tokens=1024, messages=[{"role": "user", "content": "ping"}]
)
""",
        notes=("The SDK also reads the variables `ANTHROPIC_BASE_URL` and `ANTHROPIC_AUTH_TOKEN`.",),
    ),
    Client(
        "anthropic-node",
        "Anthropic's SDK for Node",
        language="typescript",
        code="""\
import Anthropic from "@anthropic-ai/sdk";

const client = new Anthropic({ baseURL: "$base_url", authToken: $key });
const answer = await client.messages.create({
  model: "$model",
  max_tokens: 1024,
  messages: [{ role: "user", content: "ping" }],
});
""",
        notes=("The SDK also reads the variables `ANTHROPIC_BASE_URL` and `ANTHROPIC_AUTH_TOKEN`.",),
    ),
    Client(
        "langchain",
        "LangChain",
        language="python",
        code="""\
from langchain_openai import ChatOpenAI

model = ChatOpenAI(model="$model", base_url="$openai_url", api_key=$key)
answer = model.invoke("ping")
""",
    ),
    Client(
        "curl",
        "curl",
        code="""\
curl $openai_url/chat/completions -H $authorization -H 'Content-Type: application/json' \\
  -d '{"model": "$model", "messages": [{"role": "user", "content": "Reply with the single word: pong"}]}'
""",
        notes=("To list the models: `curl $openai_url/models -H $authorization`",),
    ),
)


def new_text(file: SettingsFile, gateway: Gateway) -> str:
    return merge("", file.form, file.build(gateway), file.paths[-1], file.initial)
