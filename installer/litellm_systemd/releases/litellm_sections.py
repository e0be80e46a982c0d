"""The settings of each section of a configuration, with the kinds of values that LiteLLM declares for them.

Asked of LiteLLM itself: fields of its pydantic models and typed dictionaries, arguments of its functions, values of
its module. Names that it only looks up come from its source (`litellm_source`).
"""

from __future__ import annotations

import enum
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from litellm_systemd.gateway.snapshot import Setting
from litellm_systemd.releases.litellm_source import Lookups

Settings = dict[str, Setting]

_SECTIONS = frozenset({"model_list", "general_settings", "litellm_settings", "router_settings"})

_KINDS: Mapping[Any, str] = {
    str: "string",
    bool: "boolean",
    int: "integer",
    float: "integer number",
    list: "array",
    tuple: "array",
    set: "array",
    frozenset: "array",
    dict: "object",
    type(None): "null",
}


def build_sections(
    lookups: Lookups,
    models: Lookups,
    bedrock: Lookups,
    caches: Lookups,
    readers: Iterable[tuple[tuple[str, ...], Lookups]],
    validators: Iterable[Any],
) -> dict[str, Settings]:
    """The settings of all sections, by the names that Snapshot.sections has.

    Args:
        lookups: what LiteLLM looks up in its settings.
        models: what its providers look up in the parameters of a model.
        bedrock: what those of Bedrock look up there.
        caches: what it looks up in the options of Redis.
        readers: the arguments of functions that may read a configuration, and what each looks up.
        validators: the pydantic models that validate general_settings.

    Raises:
        ImportError, AttributeError: LiteLLM has moved something that declares settings.
    """
    keys = lookups.keys
    found = [each for arguments, each in readers if "config" in arguments or each.keys["config"] & _SECTIONS]
    # What the loader treats in its own way may have other kinds than the value of the module, except a switch.
    treated = {key for each in found if "litellm_settings" in each.keys["config"] for key in each.compared["key"]}
    proxy, router, utils = (
        importlib.import_module(f"litellm.{name}") for name in ("proxy._types", "types.router", "types.utils")
    )
    guardrails, caching = (
        importlib.import_module("litellm.types.guardrails"),
        importlib.import_module("litellm.caching"),
    )
    registry = importlib.import_module("litellm.proxy.guardrails.guardrail_registry")
    alerts = importlib.import_module("litellm.types.integrations.slack_alerting")
    helper = importlib.import_module("litellm.litellm_core_utils.model_param_helper").ModelParamHelper
    tools = importlib.import_module("litellm.types.mcp_server.mcp_server_manager")
    constants: Any = importlib.import_module("litellm.constants")
    redis: Any = importlib.import_module("litellm._redis")
    litellm: Any = importlib.import_module("litellm")
    info = _hints(utils.ModelInfo)
    prices = {key for values in litellm.model_cost.values() for key in values}
    return {
        "": {"include": Setting(frozenset({"array"}))}
        | _named(*(each.keys["config"] for each in found))
        | _fields(proxy.ConfigYAML),
        "general_settings": _named(*_below(keys, "general_setting"), *_below(lookups.calls, "general_setting"))
        | {name: each for model in validators for name, each in _fields(model).items()}
        | _fields(proxy.ConfigGeneralSettings),
        "litellm_settings": _named(
            keys["litellm"], lookups.calls["litellm"], *_below(keys, "litellm_settings"), treated
        )
        | {name: each for name, each in _values(litellm).items() if name not in treated or each.kinds <= {"boolean"}},
        "router_settings": {
            name: each
            for name, each in (_fields(router.UpdateRouterConfig) | _arguments(litellm.Router.__init__)).items()
            if name not in constants.ROUTER_SETTINGS_MANAGED_OUTSIDE_CONFIG
            and name in litellm.Router.get_valid_args()
        },
        "litellm_params": _named(
            models.keys["optional_params"],
            models.keys["litellm_params"],
            models.keys["non_default_params"],
            models.fields,
            constants.DEFAULT_CHAT_COMPLETION_PARAM_VALUES,
        )
        | _named(utils.all_litellm_params, helper.get_all_llm_api_params(), models.keys["kwargs"])
        | _named(utils.DynamicPromptManagementParamLiteral.list_all_params(), *_calls(litellm))
        # LiteLLM takes any value of these: a dictionary of OpenAI's may be what the type says is a text.
        | _named(inspect.signature(litellm.completion).parameters, _hints(router.LiteLLMParamsTypedDict))
        | _named(_hints(importlib.import_module("litellm.types.llms.bedrock").CommonRequestObject))
        | _fields(router.LiteLLM_Params),
        # Each call validates what the models of its name have together.
        "model_info": _named(keys["model_info"], prices, info)
        | {name: each for name, each in _fields(router.ModelGroupInfo).items() if name in info}
        | _fields(router.ModelInfo),
        # The fields are those of all guardrails together. Some have more in their constructor.
        "guardrail": _named(*(_arguments(each.__init__) for each in registry.guardrail_class_registry.values()))
        | _fields(guardrails.LitellmParams),
        "retry_policy": _fields(router.RetryPolicy),
        "allowed_fails_policy": _fields(router.AllowedFailsPolicy),
        "alert_types": _named(each.value for each in alerts.AlertType),
        "mcp_server": _named(keys["server_config"], ("auth_value", "description")) | _fields(tools.MCPServer),
        "pass_through_endpoint": _named(keys["endpoint_data"]) | _fields(proxy.PassThroughGenericEndpoint),
        "search_tool": {"search_provider": describe(utils.SearchProviders)},
        "bedrock_params": _bedrock_params(bedrock),
        # What the cache does not know goes to the client of Redis.
        "cache_params": _named(
            caches.keys["redis_kwargs"], redis._get_redis_kwargs(), redis._get_redis_cluster_kwargs()
        )
        | _arguments(caching.RedisCache.__init__)
        | _arguments(caching.Cache.__init__),
    }


def _bedrock_params(bedrock: Lookups) -> Settings:
    """The parameters of a model on Bedrock that LiteLLM keeps, converts, or has a field of the request for.

    It sends any other as it is, and Bedrock refuses it.
    """
    utils, router, requests, messages = (
        importlib.import_module(f"litellm.types.{name}")
        for name in ("utils", "router", "llms.bedrock", "llms.anthropic")
    )
    constants, litellm = (importlib.import_module(name) for name in ("litellm.constants", "litellm"))
    bodies = [
        each
        for name, each in vars(requests).items()
        if name.endswith(("Request", "RequestObject")) and hasattr(each, "__total__")
    ]
    keys = bedrock.keys
    found = _named(
        *(utils.all_litellm_params, constants.OPENAI_CHAT_COMPLETION_PARAMS),
        *(constants.DEFAULT_CHAT_COMPLETION_PARAM_VALUES, router.LiteLLM_Params.model_fields),
        *(utils.DynamicPromptManagementParamLiteral.list_all_params(), *_calls(litellm)),
        *(keys["optional_params"], keys["litellm_params"], keys["inference_params"], bedrock.fields),
        *(_hints(each) for each in (*bodies, messages.AnthropicMessagesRequestOptionalParams)),
    )
    # An argument of these functions that has a meaning for OpenAI's API alone.
    return {name: each for name, each in found.items() if name != "extra_body"}


def _calls(litellm: Any) -> Iterator[Iterable[str]]:
    """The arguments of LiteLLM's functions for models that do not chat."""
    for name in ("embedding", "image_generation", "image_edit", "transcription", "speech", "rerank", "moderation"):
        yield inspect.signature(getattr(litellm, name)).parameters


def _named(*names: Iterable[str]) -> Settings:
    return {name: Setting() for group in names for name in group if re.fullmatch(r"[a-z][\w-]*", name)}


def _below(keys: Mapping[str, Iterable[str]], word: str) -> Iterable[Iterable[str]]:
    """What is looked up in any mapping with this word in its name, such as `proxy_general_settings`."""
    return [found for name, found in keys.items() if word in name]


def _fields(model: Any) -> Settings:
    """The fields of a pydantic model or a typed dictionary."""
    hints = {name: field.annotation for name, field in getattr(model, "model_fields", {}).items()}
    return {name: describe(hint) for name, hint in (hints or _hints(model)).items()}


def _arguments(function: Any) -> Settings:
    hints = _hints(function)
    found = inspect.signature(function).parameters.values()
    named = [each for each in found if each.kind in (each.POSITIONAL_OR_KEYWORD, each.KEYWORD_ONLY)]
    # A signature that LiteLLM sets itself has hints of its own.
    return {each.name: _lenient(describe(hints.get(each.name, each.annotation))) for each in named}


def _lenient(setting: Setting) -> Setting:
    """An argument that is text may be a number too, such as a port: nothing checks it."""
    if "string" in setting.kinds and not setting.values:
        return Setting(setting.kinds | {"integer", "number"})
    return setting


def _hints(subject: Any) -> Mapping[str, Any]:
    try:
        return typing.get_type_hints(subject)
    except (NameError, TypeError):
        # A name that only type checkers import: the other hints are good.
        module = sys.modules[subject.__module__]
        return {name: _resolve(hint, module) for name, hint in getattr(subject, "__annotations__", {}).items()}


def _values(module: Any) -> Settings:
    """The values of LiteLLM's module that a configuration may set: no functions, classes, tables of model names."""
    declared = getattr(module, "__annotations__", {})
    return {
        name: describe(_resolve(declared.get(name, type(value)), module))
        for name, value in vars(module).items()
        if re.fullmatch(r"[a-z][a-z0-9_]*", name)
        and not name.endswith("_models")
        and isinstance(value, (str, bool, int, float, list, tuple, set, frozenset, dict, type(None)))
    }


def _resolve(hint: Any, module: Any) -> Any:
    try:
        return typing.get_type_hints(types.SimpleNamespace(__annotations__={"x": hint}), vars(module))["x"]
    except Exception:  # a hint may be any expression
        return Any


def describe(hint: Any) -> Setting:
    """The kinds of JSON values, and the strings, that a type hint accepts; any, if it accepts no JSON type."""
    parts = list(_parts(hint))
    plain = {kind for part in parts if not isinstance(part, str) for kind in _kind(part).split()}
    if Any in parts or object in parts or inspect.Parameter.empty in parts:
        return Setting()
    values = tuple(part for part in parts if isinstance(part, str))
    kinds = frozenset(plain | ({"string"} if values else set()))
    return Setting(kinds, () if "string" in plain else values) if kinds - {"null"} else Setting()


def _parts(hint: Any) -> Iterable[Any]:
    """The members of a union, flat; the strings of a Literal or an enumeration."""
    origin = typing.get_origin(hint)
    if origin is typing.Union or isinstance(hint, types.UnionType):
        return [part for each in typing.get_args(hint) for part in _parts(each)]
    if origin is typing.Literal:
        return [each.value if isinstance(each, enum.Enum) else each for each in typing.get_args(hint)]
    if origin is typing.Annotated or str(origin) in (
        "typing.Required",
        "typing.NotRequired",
        "typing_extensions.ReadOnly",
    ):
        return _parts(typing.get_args(hint)[0])
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return [each.value for each in hint]
    return [hint]


def _kind(hint: Any) -> str:
    """The kinds of one type; "" for one that YAML has no value of, such as a function."""
    origin = typing.get_origin(hint) or hint
    if origin in _KINDS:
        return _KINDS[origin]
    if not isinstance(origin, type):
        return ""
    if hasattr(origin, "model_fields") or hasattr(origin, "__total__") or issubclass(origin, Mapping):
        return "object"
    return "array" if issubclass(origin, Sequence) else ""
