"""Models on Bedrock: the regions and inference profiles they are called by, their ids, and their quotas. Pure.

Newer models can be called only by the id of an inference profile: the model's id after a geography, `us.`, `eu.`,
`jp.`, `au.`, or `global.` (user guide of Bedrock, "Supported Regions and models for inference profiles").

Service Quotas identifies the model only by the quota's name: "Cross-region model inference tokens per minute for
Anthropic Claude Sonnet 4.5 V1" (General Reference of AWS, "Amazon Bedrock endpoints and quotas"). If a name does not
match a model with certainty, it counts as another model's. Only tokens per minute are considered: Bedrock no longer
enforces its quotas of requests, and the default quotas of tokens per day are the same times 1,440 (user guide of
Bedrock, "Quotas for the bedrock-runtime endpoint").
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from litellm_systemd.errors import InputError

#: The form of a region's name, wide enough for future regions; mars-1 does not match.
_SHAPE = re.compile(r"[a-z]{2,4}(-[a-z]+){1,2}-\d{1,2}")

#: The regions of EC2 in botocore's table; a test compares the two.
# fmt: off
REGIONS = frozenset((
    "af-south-1", "ap-east-1", "ap-east-2", "ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-south-1",
    "ap-south-2", "ap-southeast-1", "ap-southeast-2", "ap-southeast-3", "ap-southeast-4", "ap-southeast-5",
    "ap-southeast-6", "ap-southeast-7", "ca-central-1", "ca-west-1", "cn-north-1", "cn-northwest-1",
    "eu-central-1", "eu-central-2", "eu-north-1", "eu-south-1", "eu-south-2", "eu-west-1", "eu-west-2",
    "eu-west-3", "il-central-1", "me-central-1", "me-south-1", "mx-central-1", "sa-east-1", "us-east-1",
    "us-east-2", "us-gov-east-1", "us-gov-west-1", "us-west-1", "us-west-2",
))
# fmt: on

#: The profiles of the models in the shipped configurations, from Bedrock's ListInferenceProfiles in October 2026;
#: those of GovCloud from LiteLLM's model map. LiteLLM's map alone is not sufficient: it lists `apac.` and `jp.`
#: profiles that Bedrock does not offer for these models. A test checks that LiteLLM's map contains each of them.
PROFILES: dict[str, frozenset[str]] = {
    "anthropic.claude-sonnet-5-5": frozenset({"us", "eu", "au", "us-gov", "global"}),
    "anthropic.claude-sonnet-4-6": frozenset({"us", "eu", "jp", "au", "global"}),
    "anthropic.claude-haiku-5-5": frozenset({"us", "eu", "jp", "au", "us-gov", "global"}),
}

#: Models that are called through inference profiles, by the geographies of these: ListFoundationModels in all
#: commercial regions, in October 2026. Left out are models that have ended or that several regions offer on demand,
#: and those of OpenAI, which LiteLLM also calls by other endpoints.
# fmt: off
_PROFILED = {
    "us": (
        "anthropic.claude-opus-4-1-20250805-v1:0", "deepseek.r1-v1:0", "meta.llama4-maverick-17b-instruct-v1:0",
        "meta.llama4-scout-17b-instruct-v1:0", "stability.stable-conservative-upscale-v1:0",
        "stability.stable-creative-upscale-v1:0", "stability.stable-fast-upscale-v1:0",
        "stability.stable-image-control-sketch-v1:0", "stability.stable-image-control-structure-v1:0",
        "stability.stable-image-erase-object-v1:0", "stability.stable-image-inpaint-v1:0",
        "stability.stable-image-remove-background-v1:0", "stability.stable-image-search-recolor-v1:0",
        "stability.stable-image-search-replace-v1:0", "stability.stable-image-style-guide-v1:0",
        "stability.stable-outpaint-v1:0", "stability.stable-style-transfer-v1:0", "writer.palmyra-x4-v1:0",
        "writer.palmyra-x5-v1:0",
    ),
    "us eu": ("mistral.pixtral-large-2502-v1:0",),
    "us eu apac": ("twelvelabs.marengo-embed-2-7-v1:0",),
    "us eu au global": ("anthropic.claude-opus-4-6-v1", "anthropic.claude-sonnet-5-5"),
    "us eu au in global": ("anthropic.claude-opus-5", "anthropic.claude-sonnet-5"),
    "us eu global": ("anthropic.claude-opus-4-5-20251101-v1:0",),
    "us eu jp au global": (
        "anthropic.claude-haiku-5-5", "anthropic.claude-opus-4-7", "anthropic.claude-opus-4-8",
        "anthropic.claude-opus-5-5", "anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic.claude-sonnet-4-6",
    ),
    "us eu jp au in global": ("anthropic.claude-haiku-4-5-20251001-v1:0",),
    "us eu jp global": ("amazon.nova-2-lite-v1:0",),
    "us global": (
        "anthropic.claude-fable-5", "anthropic.claude-fable-5-1", "twelvelabs.pegasus-1-5-v1:0", "xai.grok-4.6",
        "xai.grok-4.7", "zai.glm-5.3",
    ),
    "us in global": ("moonshotai.kimi-k3",),
}
# fmt: on
PROFILED: dict[str, tuple[str, ...]] = {
    model: tuple(geographies.split()) for geographies, models in _PROFILED.items() for model in models
}

#: The one region that offers some of them on demand as well, and which (the same source).
_LONDON = "eu-west-2"
_IN_LONDON = frozenset(f"anthropic.claude-{name}" for name in ("opus-4-6-v1", "opus-5-5", "sonnet-4-6", "sonnet-5"))

#: Fields of the requests of models on Bedrock that LiteLLM passes on without a name for them (user guide of Bedrock,
#: "Anthropic Claude Messages API", and of Nova, "Complete request schema").
REQUEST_FIELDS = frozenset(
    ("anthropic_beta", "anthropic_version", "context_management", "inferenceConfig", "reasoningConfig", "top_k")
)

#: The prefixes of the regions that can call the profiles of a geography. Wider than what AWS documents, so that only
#: combinations that can never work are excluded.
CALLING_REGIONS: dict[str, tuple[str, ...]] = {
    "us": ("us-east-", "us-west-", "ca-", "mx-", "sa-"),
    "eu": ("eu-", "il-", "me-"),
    "jp": ("ap-northeast-",),
    "au": ("ap-southeast-",),
    "apac": ("ap-",),
    "in": ("ap-south-",),
    "us-gov": ("us-gov-",),
}

#: The regions to which Bedrock may route requests for the profiles of a geography, in addition to the region that
#: gets the request (user guide of Bedrock, "Geographic cross-Region inference"; GetInferenceProfile lists them for
#: each profile). `global.` has none: its models have ARNs without a region.
# fmt: off
DESTINATIONS: dict[str, tuple[str, ...]] = {
    "us": ("us-east-1", "us-east-2", "us-west-2"),
    "eu": ("eu-central-1", "eu-north-1", "eu-south-1", "eu-south-2", "eu-west-1", "eu-west-3"),
    "jp": ("ap-northeast-1", "ap-northeast-3"),
    "au": ("ap-southeast-2", "ap-southeast-4"),
    "apac": (
        "ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-south-1", "ap-south-2", "ap-southeast-1",
        "ap-southeast-2", "ap-southeast-4",
    ),
    "in": ("ap-south-1", "ap-south-2"),
    "us-gov": ("us-gov-east-1", "us-gov-west-1"),
}
# fmt: on

#: Region prefixes of the partitions that are isolated from the commercial regions and have none of these models.
_ISOLATED = ("cn-", "us-iso", "eu-iso", "eusc-")

_PROFILE_ID = re.compile(
    r"\b(?:us|eu|jp|au|apac|us-gov|global)\.(?P<model>" + "|".join(map(re.escape, PROFILES)) + r")(?![\w.:-])"
)


def looks_like_region(region: str) -> bool:
    """Whether `region` has the form of a region's name; it may still not exist."""
    return _SHAPE.fullmatch(region) is not None


def partition(region: str) -> str:
    """The partition of a region, such as `aws-cn`: the second part of its ARNs."""
    return next((name for start, name in _PARTITIONS.items() if region.startswith(start)), "aws")


def default_endpoint(region: str, service: str) -> str:
    """The URL of a service in a region; `service` as in AWS's host names."""
    suffix = {"aws-cn": "amazonaws.com.cn", "aws-eusc": "amazonaws.eu"}.get(partition(region), "amazonaws.com")
    return f"https://{service}.{region}.{suffix}"


#: Region prefixes outside of the commercial partition (botocore's partitions.json).
_PARTITIONS = {
    "cn-": "aws-cn",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
    "eu-isoe-": "aws-iso-e",
    "us-isof-": "aws-iso-f",
    "eusc-": "aws-eusc",
}


def geography(region: str) -> str:
    """The prefix of the profiles that are closest to `region`; `global` if it has no geography of its own.

    Canada calls the `us.` profiles, which then include Canada. InputError for China, for the isolated and sovereign
    partitions, and if `region` is not a region.
    """
    if not looks_like_region(region):
        raise InputError(f"{region} is not an AWS region", "Set AWS_REGION_NAME to one, such as us-east-1.")
    if region.startswith(_ISOLATED):
        hint = "Set AWS_REGION_NAME to a region that has them, or write your own configuration."
        raise InputError(f"Amazon Bedrock offers none of these models in {region}", hint)
    if region.startswith("us-gov-"):
        return "us-gov"
    if region in ("ap-northeast-1", "ap-northeast-3"):
        return "jp"
    if region in ("ap-southeast-2", "ap-southeast-4"):
        return "au"
    return {"us": "us", "ca": "us", "eu": "eu"}.get(region.split("-")[0], "global")


def profile(model: str, region: str) -> str:
    """The inference profile with which `region` calls a model of PROFILES, such as `eu.anthropic.claude-sonnet-5-5`.

    `global.` if the model has no profile in that geography. InputError as for `geography`, and if the model is not
    available in GovCloud.
    """
    prefix = geography(region)
    if prefix in PROFILES[model]:
        return f"{prefix}.{model}"
    if prefix == "us-gov":
        raise InputError(f"{model} is not available in {region}", "Remove the model from the configuration.")
    return f"global.{model}"


def localize(text: str, region: str) -> str:
    """A shipped configuration with its inference profiles rewritten for `region`; every other byte stays.

    InputError as for `profile`.
    """
    return _PROFILE_ID.sub(lambda match: profile(match["model"], region), text)


def profiles_outside_geography(text: str, region: str) -> tuple[str, ...]:
    """The `global.` profiles in a localized `text` whose `region` has its own geography, each once.

    Any commercial region may process their requests, which matters where data must stay in a geography.
    """
    return () if geography(region) == "global" else tuple(dict.fromkeys(_global_profiles(text)))


def _global_profiles(text: str) -> Iterator[str]:
    return (match.group() for match in _PROFILE_ID.finditer(text) if match.group().startswith("global."))


#: The providers (the part before the first slash) of models that LiteLLM calls at Bedrock's runtime.
PROVIDERS = ("bedrock", "bedrock_converse")

#: The prefixes of the ids of system-defined inference profiles.
GEOGRAPHIES = frozenset({*CALLING_REGIONS, "global"})

#: Routes that do not call a model by its id (get_bedrock_route in litellm/llms/bedrock/common_utils.py).
_OTHER_SERVICES = frozenset({"agent", "agentcore", "claude_platform", "mantle"})

_ARN = re.compile(
    r"arn:(?P<partition>[\w-]+):bedrock:(?P<region>[\w-]*):(?P<account>\d*):(?P<kind>[\w-]+)/(?P<id>.+)"
)
#: LiteLLM's suffixes, not part of the model's name: `:51k` for provisioned throughput, `[1m]` for a context window.
_SUFFIX = re.compile(r"(?<=:\d)(:\d+k)$|\[\w+\]$")


class IdKind(Enum):
    """The kind of resource that an id names.

    `OTHER`: resources whose ARN contains no model name (provisioned, imported and custom models, prompt routers).
    `OTHER_SERVICE`: agents and other services, which are not called like a model.
    """

    MODEL = "foundation-model"
    PROFILE = "inference-profile"
    APPLICATION_PROFILE = "application-inference-profile"
    OTHER = "other"
    OTHER_SERVICE = "elsewhere"


@dataclass(frozen=True, slots=True)
class BedrockId:
    """The id of a model on Bedrock.

    `text` is what LiteLLM sends: an id or an ARN. `region` is the region in it, `geography` the prefix of an
    inference profile (`us`, `global`), `model` the id of the foundation model. Each is None if the id does not
    contain it; an application inference profile, for example, contains no model.
    """

    text: str
    kind: IdKind
    region: str | None = None
    geography: str | None = None
    model: str | None = None

    @property
    def is_arn(self) -> bool:
        return self.text.startswith("arn:")


def parse_bedrock_id(called: str, model_id: object = None) -> BedrockId | None:
    """The Bedrock id in `called`, the `model` of `litellm_params`; None if the model is not on Bedrock.

    Accepts `bedrock/ID`, routes (`bedrock/converse/ID`), regions (`bedrock/us-east-1/ID`), and an ARN after any of
    them. `model_id`, also from `litellm_params`, is what LiteLLM sends instead: usually the ARN of an application
    inference profile, while `called` names its model.
    """
    provider, _, rest = called.partition("/")
    if provider not in PROVIDERS or not rest:
        return None
    head, arn, tail = rest.partition("arn:")
    *routes, name = (head if arn else rest).split("/")
    own = _read(f"arn:{tail}" if arn else name, routes)
    if not isinstance(model_id, str) or not model_id or own.kind is IdKind.OTHER_SERVICE:
        return own
    sent = _read(model_id, [])
    return BedrockId(sent.text, sent.kind, sent.region, sent.geography, sent.model or own.model)


def _read(text: str, routes: list[str]) -> BedrockId:
    region = next((part for part in routes if looks_like_region(part)), None)
    if _OTHER_SERVICES & set(routes):
        return BedrockId(text, IdKind.OTHER_SERVICE, region)
    found = _ARN.fullmatch(text)
    if found is None:
        geography, model = _split(_SUFFIX.sub("", text))
        return BedrockId(text, IdKind.PROFILE if geography else IdKind.MODEL, region, geography, model)
    region = found["region"] or region
    kind = next((kind for kind in IdKind if kind.value == found["kind"]), IdKind.OTHER)
    if kind not in (IdKind.MODEL, IdKind.PROFILE):
        return BedrockId(text, kind, region)
    geography, model = _split(found["id"])
    return BedrockId(text, kind, region, geography, model)


def _split(name: str) -> tuple[str | None, str]:
    prefix, dot, model = name.partition(".")
    return (prefix, model) if dot and prefix in GEOGRAPHIES else (None, name)


def required_profiles(found: BedrockId, region: str | None) -> tuple[str, ...] | None:
    """The inference profiles that `region` can call in place of this id, the closest first; empty if there is none.

    None if the id itself can be called, as far as this release knows. `region` is None if it is not known.
    """
    if found.kind is not IdKind.MODEL or (region or "").startswith(("us-gov-", *_ISOLATED)):
        return None  # other partitions are not in the table
    if found.model not in PROFILED or (found.model in _IN_LONDON and region in (None, _LONDON)):
        return None
    offered = [each for each in PROFILED[found.model] if region is None or _can_call(region, each)]
    closest = geography(region) if region is not None and looks_like_region(region) else ""
    ordered = sorted(offered, key=lambda each: (each != closest, each == "global"))
    return tuple(f"{each}.{found.model}" for each in ordered)


def _can_call(region: str, prefix: str) -> bool:
    return prefix == "global" or region.startswith(CALLING_REGIONS[prefix])


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
