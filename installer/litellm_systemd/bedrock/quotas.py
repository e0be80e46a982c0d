"""Which of Bedrock's quotas holds for a model, and whether a coding agent can work with it. Pure.

Service Quotas tells the model of a quota by its name alone: "Cross-region model inference tokens per minute for
Anthropic Claude Sonnet 4.5 V1" (General Reference of AWS, "Amazon Bedrock endpoints and quotas"). A name that isn't
surely the model's is taken for another's. Only tokens a minute are looked at: Bedrock doesn't enforce its quotas of
requests any more, and those of tokens a day are by default the same, times 1,440 (user guide of Bedrock, "Quotas for
the bedrock-runtime endpoint").
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from litellm_systemd.bedrock.ids import BedrockId, IdKind

#: A coding agent sends tens of thousands of tokens with each request, and until the answer is there Bedrock counts
#: max_tokens as well. Anthropic advises 200,000 a minute for a developer with Claude Code; AWS's own defaults for
#: today's models are above that. With less than half of it requests are refused as soon as one works.
ENOUGH_TOKENS = 100_000

#: The user guide writes InvokeModel where Service Quotas writes "model inference".
_NAME = re.compile(
    r"(?P<scope>Global cross-region|Cross-region|On-demand) (?:model inference|InvokeModel)"
    r" tokens per minute for (?P<model>.+)",
    re.IGNORECASE,
)
#: In an id, the day of a version, and the number of its revision with a context's length.
_DAY, _REVISION = re.compile(r"-20\d{6}(?=-|$)"), re.compile(r":\d+(:\w+)?$")
_VERSION = re.compile(r"-v(\d+)$")


@dataclass(frozen=True, slots=True)
class Quota:
    """What an account has in a region. `code` as in `L-15B8E632`; `is_adjustable`: whether a request can raise it."""

    name: str
    code: str
    value: float
    is_adjustable: bool


def has_quota(found: BedrockId) -> bool:
    """Whether an id tells enough to know its quota by: an application inference profile's doesn't."""
    return found.model is not None and _scope(found) is not None


def holds_for(quota: Quota, found: BedrockId) -> bool:
    """Whether this is the quota of tokens a minute that counts for calls by that id."""
    named, scope = _NAME.fullmatch(quota.name), _scope(found)
    if named is None or scope is None or found.model is None or named["scope"].lower() != scope:
        return False
    return _words(named["model"]) in _labels(found.model)


def is_too_small(quota: Quota, context: int | None) -> bool:
    """Whether an agent can't work with it; `context` is the longest prompt that the model takes, if that is known.

    A model that never takes so much, such as one for embeddings, needs no more than one such prompt a minute.
    """
    return quota.value < min(ENOUGH_TOKENS, context or ENOUGH_TOKENS)


def _scope(found: BedrockId) -> str | None:
    """How a quota's name begins that counts for these calls; None where the id doesn't tell."""
    if found.kind is IdKind.MODEL:
        return "on-demand"
    if found.kind is IdKind.PROFILE:
        return "global cross-region" if found.geography == "global" else "cross-region"
    return None


def _labels(model: str) -> frozenset[tuple[str, ...]]:
    """What a quota may call a model, as words: with its vendor or without, and a first version or none at all."""
    vendor, _, name = _DAY.sub("", _REVISION.sub("", model)).partition(".")
    found = _VERSION.search(name)
    version = found[1] if found else "1"
    bare = _words(_VERSION.sub("", name))
    names = {(*bare, "v", version), *([bare] if version == "1" else [])}
    return frozenset({*names, *((*_words(vendor), *each) for each in names)})


def _words(text: str) -> tuple[str, ...]:
    """Letters and numbers, each for itself: `4.5` and `4-5` are the same, `45` isn't."""
    return tuple(re.findall(r"[a-z]+|\d+", text.lower()))
