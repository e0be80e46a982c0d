"""What LiteLLM knows: its settings, providers, callbacks and models, read from a snapshot (docs/adr/0012).

Importing LiteLLM takes seconds. So `releases.litellm_snapshot` asks it once and writes `litellm.json`; this module
reads the file in milliseconds and imports nothing of LiteLLM.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from litellm_systemd.bedrock.models import looks_like_region

#: The name of the file: in a release, and next to this module.
SNAPSHOT: Final = "litellm.json"

#: The version of the file's structure. A file with another one is not used.
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of a section.

    `kinds` are the kinds of JSON values that it may have: string, integer, number, boolean, array, object, null;
    empty if LiteLLM declares none. `values` are the strings that it may have; empty if any.
    """

    kinds: frozenset[str] = frozenset()
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Need:
    """What a callback, guardrail, cache or provider imports that LiteLLM itself does not depend on.

    `modules` are import names (`langfuse`, `azure.identity`), `packages` the distributions that contain them.
    `variables` are the keys that it takes from the environment (`LANGFUSE_SECRET_KEY`), for callbacks.
    """

    modules: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resolved:
    """What LiteLLM makes of the name of a model: the provider, and the name that it sends to the provider."""

    provider: str
    model: str


@dataclass(frozen=True, slots=True)
class _Routes:
    """How LiteLLM finds the provider of a name, in the order in which it looks.

    `exceptions` are names with a prefix, and `joined` names after a provider of their own, that do not resolve to
    that provider. `renamed` are prefixes that stand for another provider, `whole` the providers whose prefix stays
    when it is also given as provider, `regional` those that may have a region before the model, `unchecked` the
    prompt managers, whose model is chosen later. `endpoints` are pairs of URL and provider, `names` the known names
    without a prefix, `rules` regular expressions for the others.
    """

    exceptions: Mapping[str, tuple[str, str]]
    joined: Mapping[str, tuple[str, str]]
    renamed: Mapping[str, str]
    whole: frozenset[str]
    regional: frozenset[str]
    unchecked: frozenset[str]
    endpoints: tuple[tuple[str, str | None], ...]
    names: Mapping[str, str]
    rules: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one version of LiteLLM knows.

    `sections` has the settings of each section by its name: "" for the top level, general_settings,
    litellm_settings, router_settings, litellm_params, bedrock_params (those that LiteLLM does not send to Bedrock as
    they are), model_info, guardrail (the `litellm_params` of a guardrail), cache_params. `callbacks`, `guardrails`,
    `cache_types` and `provider_needs` have each known name, with what it needs in addition. `proxy_callbacks` are the
    callbacks that the setting `callbacks` accepts: LiteLLM takes any other name there for a Python file.
    `guardrail_hooks` are the modes that a guardrail supports; one that is missing supports all of `guardrail_modes`.
    `variables` are the environment variables that LiteLLM reads; `variable_kinds` has what it converts their values
    to (boolean, integer, number, true, True, text), and whether a bad one stops its start. `models` is the model map:
    limits, prices, regions, end dates by name.
    """

    version: str
    sections: Mapping[str, Mapping[str, Setting]]
    providers: frozenset[str]
    callbacks: Mapping[str, Need]
    proxy_callbacks: frozenset[str]
    guardrails: Mapping[str, Need]
    cache_types: Mapping[str, Need]
    provider_needs: Mapping[str, Need]
    guardrail_modes: tuple[str, ...]
    guardrail_hooks: Mapping[str, tuple[str, ...]]
    model_modes: tuple[str, ...]
    log_levels: tuple[str, ...]
    routing_strategies: tuple[str, ...]
    variables: frozenset[str]
    variable_kinds: Mapping[str, tuple[str, bool]]
    models: Mapping[str, Mapping[str, object]]
    routes: _Routes

    def resolve(
        self,
        model: str,
        *,
        provider: str | None = None,
        api_base: str | None = None,
        custom_providers: tuple[str, ...] = (),
    ) -> Resolved | None:
        """The provider of a model, as LiteLLM's get_llm_provider finds it; None if LiteLLM would drop the model.

        Args:
            model: the `model` of `litellm_params`, with references resolved.
            provider: its `custom_llm_provider`.
            api_base: its `api_base`.
            custom_providers: the names in `custom_provider_map`.
        """
        found = self._resolve(model, provider, api_base, custom_providers)
        if found is None or found.provider in self.providers or found.provider in custom_providers:
            return found
        # A prompt manager chooses the model at run time, so LiteLLM does not check its provider.
        return found if model.partition("/")[0] in self.routes.unchecked else None

    def _resolve(
        self, model: str, provider: str | None, api_base: str | None, custom_providers: tuple[str, ...]
    ) -> Resolved | None:
        routes = self.routes
        written, slash, rest = model.partition("/")
        if slash and written in routes.unchecked and written not in self.providers:
            return Resolved(written, rest)
        if model in routes.exceptions:
            return Resolved(*routes.exceptions[model])
        if provider and written != provider:
            model = f"{provider}/{model}"
            if model in routes.joined:
                return Resolved(*routes.joined[model])
        head, slash, rest = model.partition("/")
        if slash and provider in routes.whole and "/" not in rest:
            return Resolved(str(provider), model)
        if head in self.providers:
            region, _, name = rest.partition("/")
            rest = name if head in routes.regional and name and looks_like_region(region) else rest
            # A provider alone is no model.
            return Resolved(routes.renamed.get(head, head), rest) if slash else None
        if slash and head in custom_providers:
            return Resolved(head, rest)
        if api_base:
            for endpoint, owner in routes.endpoints:
                if _is_below(api_base, endpoint):
                    return Resolved(owner, model) if owner else None
        owner = routes.names.get(model) or next(self._matching(model), None) or provider
        return Resolved(owner, model) if owner else None

    def _matching(self, model: str) -> Iterator[str]:
        return (owner for pattern, owner in self.routes.rules if re.search(pattern, model))


def _is_below(url: str, endpoint: str) -> bool:
    """Whether a URL has the host of an endpoint, and its path or one below it; both may lack the scheme."""
    try:
        given, known = (urlsplit(text if "://" in text else f"https://{text}") for text in (url, endpoint))
        if not known.hostname or known.hostname != given.hostname:
            return False
    except ValueError:
        return False
    path, base = given.path.rstrip("/"), known.path.rstrip("/")
    return path == base or path.startswith(f"{base}/") or not base


@cache
def load_snapshot() -> Snapshot:
    """The snapshot of the release that this process runs from; the shipped one if it has none or cannot be read.

    It takes about 20 ms and some megabytes: `load_snapshot.cache_clear()` frees them.
    """
    return read_snapshot(Path(sys.prefix) / SNAPSHOT) or read_shipped()


def read_shipped() -> Snapshot:
    """The snapshot in this package.

    Raises:
        ValueError: the package is damaged.
    """
    found = read_snapshot(SHIPPED)
    if found is None:
        raise ValueError(f"{SHIPPED} is missing or damaged")
    return found


SHIPPED: Final = Path(__file__).with_name(SNAPSHOT)


def read_snapshot(path: Path) -> Snapshot | None:
    """The snapshot in a file; None if it is missing, damaged, or of another format."""
    try:
        return _parse(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, re.error):
        return None


def _parse(data: dict[str, Any]) -> Snapshot:
    if data["format"] != FORMAT:
        raise ValueError
    return Snapshot(
        version=str(data["version"]),
        sections={
            name: {key: Setting(frozenset(each[0].split()), tuple(each[1])) for key, each in settings.items()}
            for name, settings in data["sections"].items()
        },
        providers=frozenset(data["providers"]),
        callbacks=_parse_needs(data["callbacks"]),
        proxy_callbacks=frozenset(data["proxy_callbacks"]),
        guardrails=_parse_needs(data["guardrails"]),
        cache_types=_parse_needs(data["cache_types"]),
        provider_needs=_parse_needs(data["provider_needs"]),
        guardrail_modes=tuple(data["guardrail_modes"]),
        guardrail_hooks={name: tuple(modes) for name, modes in data["guardrail_hooks"].items()},
        model_modes=tuple(data["model_modes"]),
        log_levels=tuple(data["log_levels"]),
        routing_strategies=tuple(data["routing_strategies"]),
        variables=frozenset(data["variables"]),
        variable_kinds={name: (str(each[0]), bool(each[1])) for name, each in data.get("variable_kinds", {}).items()},
        models=dict(data["models"]),
        routes=_parse_routes(data["routes"]),
    )


def _parse_needs(data: dict[str, Any]) -> dict[str, Need]:
    return {name: Need(*map(tuple, parts)) for name, parts in data.items()}


def _parse_routes(data: dict[str, Any]) -> _Routes:
    return _Routes(
        exceptions={name: (owner, model) for name, (owner, model) in data["exceptions"].items()},
        joined={name: (owner, model) for name, (owner, model) in data["joined"].items()},
        renamed=dict(data["renamed"]),
        whole=frozenset(data["whole"]),
        regional=frozenset(data["regional"]),
        unchecked=frozenset(data["unchecked"]),
        endpoints=tuple((url, owner) for url, owner in data["endpoints"]),
        names=dict(data["names"]),
        rules=tuple((pattern, owner) for pattern, owner in data["rules"]),
    )
