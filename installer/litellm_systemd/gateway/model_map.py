"""What LiteLLM's bundled table of models says of a model on Bedrock: limits, prompt caching, when it ends.

Read from the file beside the installed LiteLLM, which takes some 20 ms; importing LiteLLM takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path

from litellm_systemd.bedrock.ids import PROVIDERS, BedrockId, parse_bedrock_id
from litellm_systemd.gateway.config_types import GatewayConfig, Model
from litellm_systemd.gateway.installed_litellm import find_package


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


_FILE = "model_prices_and_context_window_backup.json"

#: Models of which the map gives no date, though Bedrock has ended them, GovCloud apart (user guide of Bedrock,
#: "Model lifecycle"). A test tells when the map has caught up.
ENDED: Mapping[str, date] = {
    "anthropic.claude-3-5-sonnet-20240620-v1:0": date(2026, 3, 1),
    "anthropic.claude-3-5-sonnet-20241022-v2:0": date(2026, 3, 1),
    "anthropic.claude-3-7-sonnet-20250219-v1:0": date(2026, 4, 28),
    "anthropic.claude-opus-4-20250514-v1:0": date(2026, 5, 31),
    "anthropic.claude-3-5-haiku-20241022-v1:0": date(2026, 6, 19),
}


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """How long a model goes on: its status in Bedrock's words (`active`), None where Bedrock wasn't asked, and the
    day on which it ends, None where none is known.
    """

    status: str | None = None
    ends: date | None = None


@dataclass(frozen=True, slots=True)
class MapEntry:
    """What the map knows of a model.

    `key` is where it stands there. `context` and `output` are the most tokens of a prompt and of an answer, `caches`
    whether cache points may be set in a prompt, `ends` the day from which Bedrock doesn't serve it. None where the
    map is silent.
    """

    key: str
    context: int | None = None
    output: int | None = None
    caches: bool | None = None
    ends: date | None = None


@cache
def read_model_map(path: Path | None = None) -> Mapping[str, Mapping[str, object]]:
    """The map of the installed LiteLLM, or the one at `path`: entries by the model's name.

    Empty where there is no such file or where it is no such map: then nothing is known of any model.
    """
    file = path or _bundled()
    try:
        loaded = json.loads(file.read_bytes()) if file is not None else {}
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _bundled() -> Path | None:
    folder = find_package()
    return folder / _FILE if folder is not None else None


def find_entry(found: BedrockId, region: str | None, entries: Mapping[str, object] | None = None) -> MapEntry | None:
    """What the map says of a model that is called in `region`; None for a model of which nothing is known.

    The limits are those of the inference profile where the map has it, else those of the model itself. `entries`
    defaults to the map of the installed LiteLLM.
    """
    entries = read_model_map() if entries is None else entries
    # GovCloud has a calendar of its own: what holds for a model elsewhere doesn't hold there.
    apart = found.geography == "us-gov" or (region or "").startswith("us-gov-")
    ended = None if apart else ENDED.get(found.model or "")
    keys = [key for key in _keys(found, region) if isinstance(entries.get(key), Mapping)]
    if not keys:
        return MapEntry(str(found.model), ends=ended) if ended else None
    entry = _entry(entries, keys[0])
    # A date at one profile, and none at the model itself, is a slip of the map more often than an end.
    values = _mapping(entries[keys[0] if apart else keys[-1]])
    return replace(entry, ends=ended or _date(values.get("deprecation_date")))


def _keys(found: BedrockId, region: str | None) -> Iterator[str]:
    if found.model is not None:
        if found.geography is not None:
            yield f"{found.geography}.{found.model}"
        if region is not None:
            yield f"bedrock/{region}/{found.model}"
        yield found.model


def _entry(entries: Mapping[str, object], key: str) -> MapEntry:
    values = _mapping(entries[key])
    # The first, where it is given, wins (bedrock_model_accepts_cache_points in litellm/llms/bedrock/common_utils.py).
    marks = values.get("supports_prompt_cache_breakpoint")
    caches = marks is True if marks is not None else values.get("supports_prompt_caching") is True
    return MapEntry(key, _count(values, "max_input_tokens"), _count(values, "max_output_tokens"), caches)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _count(values: Mapping[str, object], name: str) -> int | None:
    value = values.get(name)
    return value if isinstance(value, int) else None


def _date(value: object) -> date | None:
    try:
        return date.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
