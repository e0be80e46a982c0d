"""The entries of models in LiteLLM's model map: limits, prices, prompt caching, end of life on Bedrock."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date

from litellm_systemd.bedrock.models import GEOGRAPHIES, PROFILED, PROVIDERS, BedrockId, IdKind, parse_bedrock_id
from litellm_systemd.gateway.config_types import GatewayConfig, Model
from litellm_systemd.gateway.snapshot import load_snapshot


def map_values(config: GatewayConfig, model: Model) -> Mapping[str, object]:
    """The map's entry for a model, or that of its `base_model`; empty if the map has neither."""
    base = config.info(model).get("base_model") or config.params(model).get("base_model")
    names = [base, model.called] if isinstance(base, str) else [model.called]
    found = (_values(name, config, model) for name in names)
    return next((values for values in found if values), {})


def caches_prompts(config: GatewayConfig, model: Model) -> bool | None:
    """Whether a model caches prompts according to the map; None if the map does not contain it."""
    values = map_values(config, model)
    if not values:
        return None
    # On Bedrock the first value takes precedence if it is set, as in _entry below.
    marks = values.get("supports_prompt_cache_breakpoint") if model.provider in PROVIDERS else None
    return (values.get("supports_prompt_caching") if marks is None else marks) is True


def _values(name: str, config: GatewayConfig, model: Model) -> Mapping[str, object]:
    entries = load_snapshot().models
    bedrock = parse_bedrock_id(name, config.called_params(model).get("model_id"))
    if bedrock is not None:
        entry = find_entry(bedrock, bedrock.region)
        return {} if entry is None else entries.get(entry.key, {})
    return entries.get(name) or entries.get(name.partition("/")[2]) or {}


def foundation_model(config: GatewayConfig, model: Model) -> str | None:
    """The foundation model that a model of the configuration calls; None if it cannot be determined."""
    bedrock: BedrockId | None = parse_bedrock_id(model.called, config.called_params(model).get("model_id"))
    return None if bedrock is None else bedrock.model


#: The date and the revision at the end of an id (`-20251001-v1:0`), and a geography that is written in another way.
_REVISION = re.compile(r"(?:-20\d{6})?(?:-v\d+)?(?::\d+)?$")
_GEOGRAPHY = re.compile(rf"({'|'.join(sorted(GEOGRAPHIES, reverse=True))})[.-]")


def bedrock_models() -> frozenset[str]:
    """The foundation models on Bedrock in the map, in AWS's table of profiles, and those that Bedrock has ended."""
    entries = load_snapshot().models.items()
    names = (name for name, values in entries if values.get("litellm_provider") in PROVIDERS)
    found = (parse_bedrock_id(f"bedrock/{name}") for name in names)
    return frozenset(PROFILED) | ENDED.keys() | {each.model for each in found if each is not None and each.model}


def misspelt_model(found: BedrockId, known: frozenset[str]) -> str | None:
    """The id that was meant by one whose model is not in `known`; None if it resembles none.

    It differs in the letters of one word, or in a missing or needless vendor, date or revision: other numbers may be
    those of a newer model.
    """
    model = found.model
    if found.kind not in (IdKind.MODEL, IdKind.PROFILE) or model is None or model in known or "*" in model:
        return None
    low, prefix = model.lower(), f"{found.geography}." if found.geography else ""
    if not prefix and (written := _GEOGRAPHY.match(low)):
        low, prefix = low[written.end() :], f"{written[1]}."
    meant = (each for each in sorted(known) if low == each or _is_version_of(low, each) or _is_typo(low, each))
    return next((f"{prefix}{each}" for each in meant), None)


def _is_version_of(model: str, known: str) -> bool:
    """Whether an id lacks the vendor or a part of the revision, or has one that the model does not have."""
    one, other = (_REVISION.sub("", each, count=1) for each in (model, known))
    ends = model[len(one) :], known[len(other) :]
    return one in (other, other.partition(".")[2]) and (ends[0].startswith(ends[1]) or ends[1].startswith(ends[0]))


def _is_typo(model: str, known: str) -> bool:
    """Whether two ids differ in one word, which has the same digits and nearly the same letters."""
    words = [re.split(r"[-.:]", each) for each in (model, known)]
    different = [pair for pair in zip(*words, strict=False) if pair[0] != pair[1]]
    if len(words[0]) != len(words[1]) or len(different) != 1:
        return False
    one, other = different[0]
    same_digits = re.sub(r"\D", "", one) == re.sub(r"\D", "", other)
    return same_digits and difflib.SequenceMatcher(None, one, other).ratio() > _ALIKE


#: Of the letters of `sonet` and `sonnet`, but not of `mistral` and `pixtral`.
_ALIKE = 0.8


#: Models that Bedrock has ended (except in GovCloud) although the map has no date for them (user guide of Bedrock,
#: "Model lifecycle"). A test fails when the map has caught up.
ENDED: Mapping[str, date] = {
    "anthropic.claude-3-5-sonnet-20240620-v1:0": date(2026, 3, 1),
    "anthropic.claude-3-5-sonnet-20241022-v2:0": date(2026, 3, 1),
    "anthropic.claude-3-7-sonnet-20250219-v1:0": date(2026, 4, 28),
    "anthropic.claude-opus-4-20250514-v1:0": date(2026, 5, 31),
    "anthropic.claude-3-5-haiku-20241022-v1:0": date(2026, 6, 19),
}


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """The lifecycle of a model.

    `status` is Bedrock's (`active`), None if Bedrock was not queried. `ends` is the date on which the model ends,
    None if unknown.
    """

    status: str | None = None
    ends: date | None = None


@dataclass(frozen=True, slots=True)
class MapEntry:
    """The map's entry of a model.

    `key` is its key in the map. `context` and `output` are the maximum tokens of a prompt and of a response, `caches`
    says whether a prompt may have cache points, `ends` is the date from which Bedrock no longer serves the model. A
    field is None if the map does not have it.
    """

    key: str
    context: int | None = None
    output: int | None = None
    caches: bool | None = None
    ends: date | None = None


def find_entry(found: BedrockId, region: str | None, entries: Mapping[str, object] | None = None) -> MapEntry | None:
    """The map's entry of a model that is called in `region`; None if nothing is known about it.

    The limits are those of the inference profile if the map has it, else those of the model. `entries` defaults to
    the map of the snapshot.
    """
    entries = load_snapshot().models if entries is None else entries
    # GovCloud has its own end dates: those of other regions do not apply there.
    in_govcloud = found.geography == "us-gov" or (region or "").startswith("us-gov-")
    ended = None if in_govcloud else ENDED.get(found.model or "")
    keys = [key for key in _keys(found, region) if isinstance(entries.get(key), Mapping)]
    if not keys:
        return MapEntry(str(found.model), ends=ended) if ended else None
    entry = _entry(entries, keys[0])
    # If the map dates only one profile and not the model itself, that is more likely an error of the map than an end.
    values = _mapping(entries[keys[0] if in_govcloud else keys[-1]])
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
    # The first value takes precedence if set (bedrock_model_accepts_cache_points in llms/bedrock/common_utils.py).
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
