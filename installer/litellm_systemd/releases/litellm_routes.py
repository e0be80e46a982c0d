"""How LiteLLM finds the provider of a model's name: `get_llm_provider` asked with many names, and what it answered.

Its rules are code: lists of names, prefixes, URLs, exceptions. Instead of a copy of that code, the snapshot has its
answers, for every name that LiteLLM has in a list or in its model map, every provider and every known URL. Rules for
other names are found by asking for names made from the constants in the function.
"""

from __future__ import annotations

import importlib
import re
import types
from collections.abc import Iterable, Iterator
from typing import Any

#: A name that no list has.
_PROBE = "zz-probe"

_MODULE = "litellm.litellm_core_utils.get_llm_provider_logic"


class Resolver:
    """Asks LiteLLM for the provider of names."""

    def __init__(self) -> None:
        self._litellm: Any = importlib.import_module("litellm")
        self._module: Any = importlib.import_module(_MODULE)
        vars(self._litellm)["suppress_debug_info"] = True
        json_providers: Any = importlib.import_module("litellm.llms.openai_like.json_loader").JSONProviderRegistry
        self.providers = {str(getattr(each, "value", each)) for each in self._litellm.provider_list}
        self.providers |= set(json_providers.list_providers())
        # Their login would start.
        self._unasked: frozenset[str] = getattr(
            self._module, "PROVIDERS_THAT_AUTHENTICATE_ON_PROVIDER_INFO", frozenset()
        )
        self._unasked |= {"github_copilot", "chatgpt"}

    def build(self) -> dict[str, Any]:
        """The data of gateway.snapshot._Routes."""
        known = self._known_names()
        constants = self._constants(self._module.get_llm_provider)
        names = {name: found[0] for name in known | constants if self._is_bare(name) and (found := self.ask(name))}
        exceptions, joined = self._exceptions(known)
        return {
            "exceptions": exceptions,
            "joined": joined,
            "renamed": {
                each: found[0]
                for each in sorted(self.providers)
                if (found := self.ask(f"{each}/{_PROBE}")) and found != (each, _PROBE)
            },
            "whole": [
                each
                for each in sorted(self.providers)
                if (found := self.ask(f"{each}/{_PROBE}", each)) and found[1] != _PROBE
            ],
            "regional": [
                each for each in sorted(self.providers) if self.ask(f"{each}/us-east-1/{_PROBE}") == (each, _PROBE)
            ],
            "unchecked": sorted(self._litellm._known_custom_logger_compatible_callbacks),
            "endpoints": [
                [url, found[0] if (found := self.ask(_PROBE, base=url)) else None]
                for url in self._litellm.openai_compatible_endpoints
            ],
            "names": names,
            "rules": list(self._rules(constants)),
        }

    def ask(self, name: str, provider: str | None = None, base: str | None = None) -> tuple[str, str] | None:
        """Provider and model of a name; None if LiteLLM finds no provider, or one that it does not support."""
        if {name.partition("/")[0], provider} & self._unasked:
            return (provider or name.partition("/")[0], name.partition("/")[2])
        try:
            model, owner, *_ = self._module.get_llm_provider(name, custom_llm_provider=provider, api_base=base)
        except Exception:  # it raises whatever a provider's code raises
            return None
        owner = str(getattr(owner, "value", owner))
        return (owner, model) if owner in self.providers else None

    def _is_bare(self, name: str) -> bool:
        return name.partition("/")[0] not in self.providers

    def _known_names(self) -> set[str]:
        """The keys of the model map, and what LiteLLM's lists of models have."""
        lists = [
            each for name, each in vars(self._litellm).items() if name.endswith(("_models", "model_list", "_set"))
        ]
        texts = {str(each) for group in lists if isinstance(group, (list, set, tuple, dict)) for each in group}
        return texts | set(self._litellm.model_cost)

    def _exceptions(self, known: Iterable[str]) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Names whose prefix is not their provider, as written and after a provider of their own."""
        constants = {name for each in self._helpers() for name in self._constants(each)}
        special = sorted((constants | self._constants(self._module.get_llm_provider)) & self.providers)
        # A sample of each provider's models shows which prefixes have exceptions.
        plain: dict[str, set[str]] = {}
        for name in known:
            owner, slash, rest = name.partition("/")
            plain.setdefault(owner if slash else "", set()).add(rest if slash else name)
        names = sorted({each for group in plain.values() for each in group if "/" not in each})
        exceptions, joined = {}, {}
        for prefix in special:
            asked = names if prefix in constants or prefix == "azure" else []
            for name in asked:
                full = f"{prefix}/{name}"
                if (found := self.ask(full)) and found != (prefix, name):
                    exceptions[full] = list(found)
                if (found := self.ask(name, prefix)) and found != (prefix, name):
                    joined[full] = list(found)
        return exceptions, joined

    def _helpers(self) -> Iterator[Any]:
        """The functions of the module that get_llm_provider calls, without the one for URLs and keys."""
        for name in self._module.get_llm_provider.__code__.co_names:
            each = getattr(self._module, name, None)
            if isinstance(each, types.FunctionType) and each.__module__ == _MODULE and "provider_info" not in name:
                yield each

    def _constants(self, function: Any) -> set[str]:
        return {each for each in _strings(function.__code__) if re.fullmatch(r"[\w*][\w*:/.-]*", each)}

    def _rules(self, constants: Iterable[str]) -> Iterator[list[str]]:
        """Patterns for names in no list, from the constants that a name may contain; then LiteLLM's own patterns."""
        for text in sorted(constants):
            if not self._is_bare(text) or len(text) < 3:
                continue
            within, first = self.ask(f"{_PROBE}{text}{_PROBE}"), self.ask(f"{text}{_PROBE}")
            if within or first:
                yield [("" if within else "^") + re.escape(text), (within or first or ("",))[0]]
        digits = int(getattr(self._module, "REPLICATE_MODEL_NAME_WITH_ID_LENGTH", 64))
        if found := self.ask(f"{_PROBE}/{_PROBE}:{'0' * digits}"):
            yield [rf"^[^:]*:[^:]{{{digits}}}(:|$)", found[0]]
        yield from self._generalizations()

    def _generalizations(self) -> Iterator[list[str]]:
        """LiteLLM's own patterns, which its model map has."""
        import json
        from pathlib import Path

        path = Path(self._litellm.__file__).with_name("model_prices_and_context_window_backup.json")
        rules = json.loads(path.read_text(encoding="utf-8")).get("fallback_generalizations", {}).get("rules", ())
        for rule in rules:
            owner = rule.get("model_info", {}).get("litellm_provider")
            if owner:
                yield [f"(?i:{rule['pattern']})", owner]


def _strings(code: types.CodeType) -> Iterator[str]:
    for each in code.co_consts:
        if isinstance(each, str):
            yield each
        elif isinstance(each, (tuple, frozenset)):
            yield from (item for item in each if isinstance(item, str))
        elif isinstance(each, types.CodeType):
            yield from _strings(each)
