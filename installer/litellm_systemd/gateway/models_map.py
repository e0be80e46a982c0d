"""What LiteLLM's map of models says of the models of a configuration."""

from __future__ import annotations

from collections.abc import Mapping

from litellm_systemd.bedrock.ids import PROVIDERS, BedrockId, parse_bedrock_id
from litellm_systemd.bedrock.model_map import find_entry, read_model_map
from litellm_systemd.gateway.model import GatewayConfig, Model


def map_values(config: GatewayConfig, model: Model) -> Mapping[str, object]:
    """The map's entry for a model, or that of its `base_model`; empty for one that the map doesn't have."""
    base = config.info(model).get("base_model") or config.params(model).get("base_model")
    names = [base, model.provider_model] if isinstance(base, str) else [model.provider_model]
    found = (_values(name, config, model) for name in names)
    return next((values for values in found if values), {})


def caches_prompts(config: GatewayConfig, model: Model) -> bool | None:
    """Whether a model caches prompts as far as the map knows; None for one that the map doesn't have."""
    values = map_values(config, model)
    if not values:
        return None
    # On Bedrock the first, where it is given, wins; see bedrock.model_map.
    marks = values.get("supports_prompt_cache_breakpoint") if model.provider in PROVIDERS else None
    return (values.get("supports_prompt_caching") if marks is None else marks) is True


def _values(name: str, config: GatewayConfig, model: Model) -> Mapping[str, object]:
    entries = read_model_map()
    bedrock = parse_bedrock_id(name, config.params(model).get("model_id"))
    if bedrock is not None:
        entry = find_entry(bedrock, bedrock.region)
        return {} if entry is None else entries.get(entry.key, {})
    return entries.get(name) or entries.get(name.partition("/")[2]) or {}


def foundation_model(config: GatewayConfig, model: Model) -> str | None:
    """The model on Bedrock that is behind a model of the configuration; None where that can't be told."""
    bedrock: BedrockId | None = parse_bedrock_id(model.provider_model, config.params(model).get("model_id"))
    return None if bedrock is None else bedrock.model
