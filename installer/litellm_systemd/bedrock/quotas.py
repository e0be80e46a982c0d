"""Match Bedrock quotas with models, and decide whether a quota is large enough for a coding agent. Pure.

Service Quotas identifies the model only by the quota's name: "Cross-region model inference tokens per minute for
Anthropic Claude Sonnet 4.5 V1" (General Reference of AWS, "Amazon Bedrock endpoints and quotas"). If a name does not
match a model with certainty, it counts as another model's. Only tokens per minute are considered: Bedrock no longer
enforces its quotas of requests, and the default quotas of tokens per day are the same times 1,440 (user guide of
Bedrock, "Quotas for the bedrock-runtime endpoint").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from litellm_systemd.bedrock.ids import BedrockId, IdKind

#: Tokens per minute. A coding agent sends tens of thousands of tokens with each request, and Bedrock also counts
#: max_tokens until the response is complete. Anthropic recommends 200,000 per minute for a developer with Claude
#: Code; AWS's defaults for current models are higher. With less than half of it, normal use is throttled.
ENOUGH_TOKENS = 100_000

#: The user guide writes "InvokeModel", Service Quotas "model inference".
_NAME = re.compile(
    r"(?P<scope>Global cross-region|Cross-region|On-demand) (?:model inference|InvokeModel)"
    r" tokens per minute for (?P<model>.+)",
    re.IGNORECASE,
)
#: In an id: the date of a version, and the revision number with an optional context length.
_DATE, _REVISION = re.compile(r"-20\d{6}(?=-|$)"), re.compile(r":\d+(:\w+)?$")
_VERSION = re.compile(r"-v(\d+)$")


@dataclass(frozen=True, slots=True)
class Quota:
    """A quota of an account in a region. `code`: such as `L-15B8E632`. `is_adjustable`: whether it can be raised."""

    name: str
    code: str
    value: float
    is_adjustable: bool


def has_quota(found: BedrockId) -> bool:
    """Whether the quota of an id can be determined; that of an application inference profile cannot."""
    return found.model is not None and _scope(found) is not None


def applies_to(quota: Quota, found: BedrockId) -> bool:
    """Whether this is the quota of tokens per minute for calls with that id."""
    named, scope = _NAME.fullmatch(quota.name), _scope(found)
    if named is None or scope is None or found.model is None or named["scope"].lower() != scope:
        return False
    return _words(named["model"]) in _labels(found.model)


def is_too_small(quota: Quota, context: int | None) -> bool:
    """Whether a quota is too small for an agent; `context` is the maximum prompt length of the model, if known.

    A model with a shorter context, such as one for embeddings, needs only one such prompt per minute.
    """
    return quota.value < min(ENOUGH_TOKENS, context or ENOUGH_TOKENS)


def _scope(found: BedrockId) -> str | None:
    """The first words of the quota names for calls with this id; None if they cannot be determined."""
    if found.kind is IdKind.MODEL:
        return "on-demand"
    if found.kind is IdKind.PROFILE:
        return "global cross-region" if found.geography == "global" else "cross-region"
    return None


def _labels(model: str) -> frozenset[tuple[str, ...]]:
    """The names of a model in quotas, as words: with or without the vendor, and with or without a version 1."""
    vendor, _, name = _DATE.sub("", _REVISION.sub("", model)).partition(".")
    found = _VERSION.search(name)
    version = found[1] if found else "1"
    bare = _words(_VERSION.sub("", name))
    names = {(*bare, "v", version), *([bare] if version == "1" else [])}
    return frozenset({*names, *((*_words(vendor), *each) for each in names)})


def _words(text: str) -> tuple[str, ...]:
    """The words and numbers of a text: `4.5` and `4-5` are equal, `45` differs."""
    return tuple(re.findall(r"[a-z]+|\d+", text.lower()))
