"""Write what the installed LiteLLM knows to a file, for `gateway.snapshot`: `python -m …litellm_snapshot FILE`.

`--shipped` instead of a file writes the one in this package, after the LiteLLM of the lock has changed. Without an
argument it is printed.

The trial of a release runs it with the release's Python. LiteLLM is imported, which takes seconds, unless its version
is that of the snapshot in this package: then that is copied.
"""

from __future__ import annotations

import ast
import contextlib
import enum
import gc
import importlib
import inspect
import json
import os
import re
import socket
import sys
import textwrap
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from litellm_systemd.contract import OFFLINE_VARIABLES
from litellm_systemd.gateway.snapshot import FORMAT, SHIPPED, Need, Setting, read_snapshot
from litellm_systemd.releases.litellm_needs import Imports
from litellm_systemd.releases.litellm_routes import Resolver
from litellm_systemd.releases.litellm_sections import build_sections
from litellm_systemd.releases.litellm_source import Lookups, Source, branches
from litellm_systemd.releases.litellm_variables import find_variable_kinds

#: The fields of the model map that are used: limits, prices, regions, ends and what the rules of the linter ask.
_MODEL_FIELDS = (
    *("litellm_provider", "mode", "deprecation_date", "supported_regions"),
    *("max_tokens", "max_input_tokens", "max_output_tokens"),
    *("input_cost_per_token", "output_cost_per_token"),
    *("cache_read_input_token_cost", "cache_creation_input_token_cost"),
    *("supports_prompt_caching", "supports_prompt_cache_breakpoint", "supports_sampling_params", "supports_vision"),
)

#: The words of the top-level statements that look up a setting or a variable.
_LOOKED_UP = "|".join(
    (
        *("general_settings", "litellm_settings", r"model_info(\.get\(|\[\")", r"\(litellm, "),
        *("environ", "getenv", "get_secret", "envvar", r"env\w*\(\s*\"[A-Z]", r"in litellm\.\w*callback"),
    )
)

#: The lists of callbacks, in which LiteLLM looks for names.
_CALLBACK_LISTS = ("success_callback", "failure_callback", "service_callback", "input_callback")

_STRATEGIES = "VALID_ROUTING_STRATEGIES"

#: Before the import: no download, and no file of the machine that runs this.
_ENVIRONMENT = {**OFFLINE_VARIABLES, "LITELLM_MODE": "PRODUCTION", "AWS_EC2_METADATA_DISABLED": "true"}


def write_snapshot(path: Path) -> None:
    """Write the snapshot of the LiteLLM that this Python has.

    Raises:
        Exception: whatever the import of LiteLLM raises, or AttributeError and ImportError if it has moved something.
    """
    shipped = read_snapshot(SHIPPED)
    if shipped is not None and shipped.version == metadata.version("litellm"):
        path.write_bytes(SHIPPED.read_bytes())
    else:
        path.write_text(build_snapshot(), encoding="utf-8")


def build_snapshot() -> str:
    """The snapshot of the LiteLLM that this Python has, as JSON: the same text for the same version."""
    os.environ.update(_ENVIRONMENT)
    # The collector would traverse what the import made, again and again.
    gc.disable()
    with contextlib.redirect_stdout(sys.stderr):
        return _dump(_collect(), 3) + "\n"


def _collect() -> dict[str, Any]:
    _refuse_connections()
    importlib.import_module("litellm.proxy.proxy_server")
    litellm: Any = importlib.import_module("litellm")
    folder = Path(litellm.__file__).parent
    enterprise = Path(importlib.import_module("litellm_enterprise").__file__ or "").parent
    source = Source(folder, enterprise)
    lookups = source.find_lookups(_LOOKED_UP)
    models = source.find_lookups(
        r"optional_params|litellm_params|non_default_params|class \w+Config\b", folder / "llms"
    )
    # Before a provider is called, completion() reads some parameters alone.
    models.keys["kwargs"] |= source.find_lookups(r"\bkwargs\.", folder / "main.py").keys["kwargs"]
    bedrock = source.find_lookups(
        r"optional_params|litellm_params|inference_params|class \w+Config\b", folder / "llms" / "bedrock"
    )
    caches = source.find_lookups("redis_kwargs", folder / "_redis.py")
    configuration = tuple(
        source.find_functions(
            r"^class ProxyConfig\b|\bconfig(\.get\(|\[)\"(model_list|\w+_settings)", folder / "proxy"
        )
    )
    # This function gets the models of general_settings as `settings`.
    bodies = source.find_lookups(r"\bsettings\.get\(", folder / "proxy/common_utils/http_parsing_utils.py")
    lookups.keys["general_settings"] |= bodies.keys["settings"]
    for name, path in (("server_config", "_experimental/mcp_server"), ("endpoint_data", "pass_through_endpoints")):
        lookups.keys[name] |= source.find_lookups(rf"\b{name}\.get\(", folder / "proxy" / path).keys[name]
    validators = [_find_class(folder, path, name) for path, name in source.find_validators("general_settings")]
    imports, features = Imports(), _Features(folder)
    litellm.model_cost.pop("sample_spec", None)
    resolver = Resolver()
    sections = build_sections(lookups, models, bedrock, caches, configuration, validators)
    return {
        "format": FORMAT,
        "version": metadata.version("litellm"),
        "sections": {name: _render(settings) for name, settings in sections.items()},
        "providers": sorted(resolver.providers),
        "callbacks": _needs(features.callbacks(imports, lookups)),
        "proxy_callbacks": features.proxy_callbacks(),
        "guardrails": _needs(features.guardrails(imports)),
        "cache_types": _needs(features.cache_types(imports)),
        "provider_needs": _needs(features.providers(imports, resolver.providers)),
        "guardrail_hooks": {
            name: [each.value for each in hooks]
            for name, owner in features.guardrail_classes.items()
            if (hooks := getattr(owner, "get_supported_event_hooks", lambda: None)())
        },
        "guardrail_modes": _members("litellm.types.guardrails", "GuardrailEventHooks"),
        "model_modes": sorted({str(each["mode"]) for each in litellm.model_cost.values() if each.get("mode")}),
        "log_levels": ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"],
        "routing_strategies": _routing_strategies() or sections["router_settings"]["routing_strategy"].values,
        "variables": sorted(each for each in lookups.variables if each.isupper()),
        "variable_kinds": find_variable_kinds(),
        "models": {
            name: {field: values[field] for field in _MODEL_FIELDS if values.get(field) is not None}
            for name, values in litellm.model_cost.items()
        },
        "routes": resolver.build(),
    }


def _dump(value: Any, depth: int) -> str:
    """JSON with one name per line, so that a difference of two versions can be read."""
    match value:
        case dict() if depth > 1 or (depth and len(value) > 20):
            lines = [f"{json.dumps(name)}:{_dump(each, depth - 1)}" for name, each in sorted(value.items())]
            return "{\n" + ",\n".join(lines) + "\n}"
        case list() if depth and len(value) > 20:
            return "[\n" + ",\n".join(_dump(each, 0) for each in value) + "\n]"
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _refuse_connections() -> None:
    """Make sure that nothing that LiteLLM's providers do when they are asked reaches the network."""

    def refuse(*_: object) -> typing.NoReturn:
        raise OSError("no network")

    for owner, name in ((socket, "getaddrinfo"), (socket.socket, "connect")):
        setattr(owner, name, refuse)


def _members(module: str, name: str) -> list[str]:
    found: type[enum.Enum] = getattr(importlib.import_module(module), name)
    return [str(each.value) for each in found]


def _find_class(folder: Path, path: Path, name: str) -> Any:
    parts = path.relative_to(folder.parent).with_suffix("").parts
    return getattr(importlib.import_module(".".join(parts)), name)


def _routing_strategies() -> list[str]:
    """What the Router compares with, which is more than the type of its argument says; empty if it is gone."""
    # Its module is another one in LiteLLM 1.110.
    modules = [vars(each) for name, each in list(sys.modules.items()) if name.startswith("litellm.")]
    return next((list(each[_STRATEGIES]) for each in modules if _STRATEGIES in each), [])


def _render(settings: Mapping[str, Setting]) -> dict[str, list[Any]]:
    return {name: [" ".join(sorted(each.kinds)), list(each.values)] for name, each in settings.items()}


def _needs(found: Mapping[str, Need]) -> dict[str, list[Any]]:
    return {
        name: [list(each.modules), list(each.packages), *([list(each.variables)] if each.variables else [])]
        for name, each in found.items()
    }


class _Features:
    """The callbacks, guardrails, caches and providers of LiteLLM, each with the modules of LiteLLM that it uses."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guardrails: Any = importlib.import_module("litellm.proxy.guardrails.guardrail_registry")
        self.guardrail_classes: Mapping[str, Any] = self._guardrails.guardrail_class_registry

    def callbacks(self, imports: Imports, lookups: Lookups) -> dict[str, Need]:
        """The names in LiteLLM's list and registry of callbacks, and those that its code compares a callback with."""
        litellm: Any = importlib.import_module("litellm")
        registry: Any = importlib.import_module(
            "litellm.litellm_core_utils.custom_logger_registry"
        ).CustomLoggerRegistry
        classes = dict(registry.CALLBACK_CLASS_STR_TO_CLASS_TYPE)
        code: dict[str, list[ast.stmt]] = {}
        for name in ("_service_logger", "litellm_core_utils.litellm_logging", "proxy.common_utils.callback_utils"):
            module = importlib.import_module(f"litellm.{name}")
            tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
            functions = [each for each in tree.body if isinstance(each, ast.FunctionDef)]
            for variable in ("callback", "logging_integration", "service_callback"):
                for key, body in branches(tree, variable).items():
                    code.setdefault(key, []).extend(_with_modules(body, vars(module)))
                    # Such as `initialize_sentry`.
                    code[key].extend(each for each in functions if each.name.endswith(f"_{key}"))
        names = {*code, *classes, *litellm._known_custom_logger_compatible_callbacks}
        names |= {name for group in _CALLBACK_LISTS for name in lookups.keys[group]}
        names |= self._generic_callbacks()
        needs = {
            name: imports.need([classes[name].__module__] if name in classes else [], code.get(name, ()))
            for name in sorted(names)
        }
        keys = self._callback_keys(lookups.variables)
        return {name: replace(need, variables=keys.get(name, ())) for name, need in needs.items()}

    def _callback_keys(self, variables: Collection[str]) -> dict[str, tuple[str, ...]]:
        """The keys that the Admin UI asks for, if they are variables that LiteLLM reads as well.

        Addresses are left out: most callbacks have a default, or another variable for them.
        """
        path = self._folder / "integrations" / "callback_configs.json"
        configs = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        return {
            each["id"]: tuple(
                name.upper()
                for name, field in each["dynamic_params"].items()
                if field.get("required") and name.upper().endswith("_KEY") and name.upper() in variables
            )
            for each in configs
        }

    def proxy_callbacks(self) -> list[str]:
        """The names that initialize_callbacks_on_proxy does not take for a Python file of the user."""
        litellm: Any = importlib.import_module("litellm")
        module = importlib.import_module("litellm.proxy.common_utils.callback_utils")
        names = branches(ast.parse(inspect.getsource(module.initialize_callbacks_on_proxy)), "callback")
        return sorted({*names, *litellm._known_custom_logger_compatible_callbacks, *self._generic_callbacks()})

    def _generic_callbacks(self) -> set[str]:
        path = self._folder / "integrations" / "generic_api" / "generic_api_compatible_callbacks.json"
        return set(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else set()

    def guardrails(self, imports: Imports) -> dict[str, Need]:
        """The names in the enumeration of guardrails and in their registries."""
        modules = dict.fromkeys(_members("litellm.types.guardrails", "SupportedGuardrailIntegrations"), "")
        shared = importlib.import_module("litellm.proxy.guardrails.guardrail_initializers")
        code: dict[str, list[ast.stmt]] = {}
        for name, each in [*self._guardrails.guardrail_initializer_registry.items(), *self.guardrail_classes.items()]:
            if each.__module__ == shared.__name__:
                code[name] = ast.parse(textwrap.dedent(inspect.getsource(each))).body
            else:
                modules[name] = each.__module__
        return {
            name: imports.need([each] if (each := modules.get(name)) else [], code.get(name, ()))
            for name in sorted({*modules, *code})
        }

    def cache_types(self, imports: Imports) -> dict[str, Need]:
        caching: Any = importlib.import_module("litellm.caching.caching")
        tree = ast.parse(Path(caching.__file__).read_text(encoding="utf-8"))
        members = importlib.import_module("litellm.types.caching").LiteLLMCacheType
        found = branches(tree, "type")
        return {
            str(each.value): imports.need([], _with_modules(found.get(each.name, ()), vars(caching)))
            for each in members
        }

    def providers(self, imports: Imports, providers: Iterable[str]) -> dict[str, Need]:
        """What the modules for chat and for credentials need; those for other APIs are rarely used."""
        folder = self._folder / "llms"
        return {
            name: imports.need([f"litellm.llms.{each}" for each in _chat_modules(folder, name)], follow=False)
            for name in sorted(providers)
        }


def _chat_modules(folder: Path, provider: str) -> Iterator[str]:
    if not (folder / provider).is_dir() and "_" in provider:
        # `vertex_ai_beta` is in the folder `vertex_ai`.
        yield from _chat_modules(folder, provider.rpartition("_")[0])
    for path in (folder / provider).rglob("*.py"):
        if path.parent.name in ("chat", "completion") or re.search(r"^(base|common)_|_base\.py$", path.name):
            yield ".".join(path.relative_to(folder).with_suffix("").parts)


def _with_modules(body: Iterable[ast.stmt], names: Mapping[str, Any]) -> Iterator[ast.stmt]:
    """Statements, with an import of the module of each class of LiteLLM that they use."""
    for statement in body:
        yield statement
        for each in ast.walk(statement):
            owner = names.get(each.id) if isinstance(each, ast.Name) else None
            module = getattr(owner, "__module__", "") if isinstance(owner, type) else ""
            if re.match(r"litellm\.(integrations|caching|proxy)\.|litellm_enterprise\.", module or ""):
                yield ast.Import([ast.alias(module)])


if __name__ == "__main__":
    if sys.argv[1:] == ["--shipped"]:
        SHIPPED.write_text(build_snapshot(), encoding="utf-8")
    elif sys.argv[1:]:
        write_snapshot(Path(sys.argv[1]))
    else:
        sys.stdout.write(build_snapshot())
