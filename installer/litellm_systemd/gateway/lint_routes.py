"""Rules of the ways from one model to another, fallbacks and aliases: see `route_findings`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from litellm_systemd.gateway.model import Fallback, Finding, GatewayConfig, mappings
from litellm_systemd.gateway.models_map import caches_prompts

#: The environment's own switch of enable_anthropic_prompt_caching (litellm/__init__.py).
_CACHING = "LITELLM_ENABLE_ANTHROPIC_PROMPT_CACHING"


def route_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Fallbacks and aliases that lead to nothing, to where they come from, or out of the prompt cache."""
    yield from _fallbacks(config)
    yield from _aliases(config)
    yield from _lost_cache(config, environ)


def _deployed(config: GatewayConfig) -> frozenset[str]:
    """The names that lead to a provider at once: of models (patterns among them), their ids, routing groups."""
    groups = mappings(config.section("router_settings").get("routing_groups"))
    names = [*(model.name for model in config.models), *(group.get("group_name") for group in groups)]
    ids = (config.info(model).get("id") for model in config.models)
    return frozenset(str(name) for name in (*names, *ids) if name is not None)


def _all_aliases(config: GatewayConfig) -> tuple[tuple[str, str], ...]:
    return (*config.aliases, *config.hidden_aliases)


def _served(config: GatewayConfig) -> frozenset[str]:
    return _deployed(config) | {alias for alias, _ in _all_aliases(config)}


def _is_in(name: str, names: frozenset[str]) -> bool:
    return name in names or any("*" in pattern and fnmatchcase(name, pattern) for pattern in names)


def _fallbacks(config: GatewayConfig) -> Iterator[Finding]:
    served = _served(config)
    # A fallback for gpt-4 is one for openai/gpt-4 too (router_utils/fallback_event_handlers.py).
    asked_for = served | {name.partition("/")[2] for name in served if "/" in name}
    remedy = f"Name one of: {', '.join(config.names)}."
    for fallback in config.fallbacks:
        for target in dict.fromkeys(fallback.targets):
            yield from _target(config, fallback, target, served)
        if fallback.model != "*" and not _is_in(fallback.model, asked_for):
            message = f"is a fallback for {fallback.model}, which isn't there: it is never used"
            yield config.warning("fallback-for-nothing", fallback.key, message, remedy)


def _target(config: GatewayConfig, fallback: Fallback, target: str, served: frozenset[str]) -> Iterator[Finding]:
    aliases = dict(_all_aliases(config))
    model = aliases.get(fallback.model, fallback.model)
    if target == fallback.model:
        yield config.error("fallback-to-itself", fallback.key, "falls back to itself", "Name another model.")
    elif not _is_in(target, served):
        message = f"falls back to {target}, which isn't there"
        remedy = f"Name one of: {', '.join(config.names)}."
        yield config.error("fallback-to-nothing", fallback.key, message, remedy)
    elif aliases.get(target, target) == model:
        message = f"falls back to {target}, which is {model} again under another name"
        yield config.warning("fallback-to-itself", fallback.key, message, "Name another model.")


def _aliases(config: GatewayConfig) -> Iterator[Finding]:
    # The router follows an alias once: an alias of an alias leads nowhere.
    names = _deployed(config)
    with_fallbacks = {fallback.model for fallback in config.fallbacks}
    for alias, target in _all_aliases(config):
        path = ("router_settings", "model_group_alias", alias)
        if alias == target:
            yield config.warning("alias-to-itself", path, "stands for itself: it does nothing", "Remove it.")
        elif not _is_in(target, names):
            remedy = f"Name one of: {', '.join(sorted(names))}."
            is_alias = target in dict(_all_aliases(config))
            why = "is an alias itself: LiteLLM follows one, once" if is_alias else "isn't there"
            yield config.error("alias-to-nothing", path, f"stands for {target}, which {why}", remedy)
        elif alias in names:
            message = f"hides the model {alias}: every request for it goes to {target}"
            yield config.warning("alias-hides-model", path, message, "Give the alias another name.")
        elif target in with_fallbacks and not with_fallbacks & {alias, "*"}:
            message = f"doesn't inherit the fallbacks of {target}"
            remedy = f"Add to fallbacks: - {alias}: [MODEL]"
            yield config.warning("alias-without-fallback", path, message, remedy)


def _lost_cache(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Fallbacks from a model that is asked to cache prompts to one that doesn't."""
    everywhere = (
        config.section("litellm_settings").get("enable_anthropic_prompt_caching") is True
        or environ.get(_CACHING, "").lower() == "true"
    )
    marked = {model.name for model in config.models if config.params(model).get("cache_control_injection_points")}
    if not everywhere and not marked:
        return  # the map takes 20 ms to read
    caching, not_caching = _caching(config)
    aliases = dict(_all_aliases(config))
    for fallback in config.fallbacks:
        model = aliases.get(fallback.model, fallback.model)
        asked = caching if everywhere else marked & caching
        lost = [name for name in fallback.targets if aliases.get(name, name) in not_caching]
        if lost and (model in asked or (model == "*" and asked)):
            message = f"falls back to {lost[0]}, which doesn't cache prompts: it costs the full price"
            yield config.warning("lost-cache", fallback.key, message, "Fall back to models that cache.")


def _caching(config: GatewayConfig) -> tuple[frozenset[str], frozenset[str]]:
    """The names all of whose models cache prompts, and those of which one is known not to."""
    known = {(model.name, caches_prompts(config, model)) for model in config.models}
    not_caching = frozenset(name for name, caches in known if caches is False)
    return frozenset(name for name, caches in known if caches) - not_caching, not_caching
