"""Which AWS regions there are, and which of Bedrock's inference profiles a region may call.

Newer models answer only under the id of an inference profile: the model's id behind a geography, `us.`, `eu.`,
`jp.`, `au.`, or `global.` (user guide of Bedrock, "Supported Regions and models for inference profiles").
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from litellm_systemd.errors import InputError

#: What a region looks like: mars-1 doesn't. Wide enough for regions that AWS will add.
_SHAPE = re.compile(r"[a-z]{2,4}(-[a-z]+){1,2}-\d{1,2}")

#: The regions of EC2 in botocore's own table; a test compares the two.
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

#: Profiles that a model of the shipped configurations has, as Bedrock's ListInferenceProfiles gave them in October
#: 2026; GovCloud's from LiteLLM's model map. LiteLLM's map alone won't do: it lists `apac.` and `jp.` profiles that
#: Bedrock doesn't offer for these models. A test holds that each of them is in LiteLLM's map too.
PROFILES: dict[str, frozenset[str]] = {
    "anthropic.claude-sonnet-5-5": frozenset({"us", "eu", "au", "us-gov", "global"}),
    "anthropic.claude-sonnet-4-6": frozenset({"us", "eu", "jp", "au", "global"}),
    "anthropic.claude-haiku-5-5": frozenset({"us", "eu", "jp", "au", "us-gov", "global"}),
}

#: How the regions begin that may call the profiles of a geography. Wider than what AWS documents, so that only
#: what can never work is outside.
REACH: dict[str, tuple[str, ...]] = {
    "us": ("us-east-", "us-west-", "ca-", "mx-", "sa-"),
    "eu": ("eu-", "il-", "me-"),
    "jp": ("ap-northeast-",),
    "au": ("ap-southeast-",),
    "apac": ("ap-",),
    "us-gov": ("us-gov-",),
}

#: Where Bedrock may route a request for a profile of a geography, besides the region that it was sent to (user guide
#: of Bedrock, "Geographic cross-Region inference"; GetInferenceProfile has it for each profile). `global.` has none:
#: its models have ARNs without a region.
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

#: Partitions with no way to the commercial regions and no model here, by how their regions begin.
_APART = ("cn-", "us-iso", "eu-iso", "eusc-")

_PROFILE_ID = re.compile(
    r"\b(?:us|eu|jp|au|apac|us-gov|global)\.(?P<model>" + "|".join(map(re.escape, PROFILES)) + r")(?![\w.:-])"
)


def looks_like_region(region: str) -> bool:
    """Whether `region` has the shape of a region's name. It may still not exist."""
    return _SHAPE.fullmatch(region) is not None


def partition(region: str) -> str:
    """The partition of a region, as the second word of its ARNs has it."""
    return next((name for start, name in _PARTITIONS.items() if region.startswith(start)), "aws")


def default_endpoint(region: str, service: str) -> str:
    """The URL of a service in a region; `service` as AWS writes it in the name of the host."""
    suffix = {"aws-cn": "amazonaws.com.cn", "aws-eusc": "amazonaws.eu"}.get(partition(region), "amazonaws.com")
    return f"https://{service}.{region}.{suffix}"


#: How the regions outside the commercial partition begin (botocore's partitions.json).
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
    """The prefix of the profiles that stay closest to `region`; `global` where none does.

    Canada calls the `us.` profiles, which for it include Canada. InputError for China, for the isolated and the
    sovereign partitions, and for what is no region.
    """
    if not looks_like_region(region):
        raise InputError(f"{region} is not an AWS region", "Set AWS_REGION_NAME to one, such as us-east-1.")
    if region.startswith(_APART):
        hint = "Set AWS_REGION_NAME to a region that has them, or write a configuration of your own."
        raise InputError(f"Amazon Bedrock has none of these models in {region}", hint)
    if region.startswith("us-gov-"):
        return "us-gov"
    if region in ("ap-northeast-1", "ap-northeast-3"):
        return "jp"
    if region in ("ap-southeast-2", "ap-southeast-4"):
        return "au"
    return {"us": "us", "ca": "us", "eu": "eu"}.get(region.split("-")[0], "global")


def profile(model: str, region: str) -> str:
    """The inference profile by which `region` calls a model of PROFILES: `eu.anthropic.claude-sonnet-5-5`.

    `global.` where the model has none in that geography. InputError as for `geography`, and where AWS keeps a
    partition apart (GovCloud) and the model isn't in it.
    """
    prefix = geography(region)
    if prefix in PROFILES[model]:
        return f"{prefix}.{model}"
    if prefix == "us-gov":
        raise InputError(f"{model} isn't offered in {region}", "Take the model out of the configuration.")
    return f"global.{model}"


def localize(text: str, region: str) -> str:
    """A shipped configuration for `region`: its inference profiles rewritten, every other byte kept.

    InputError as for `profile`.
    """
    return _PROFILE_ID.sub(lambda match: profile(match["model"], region), text)


def leaving(text: str, region: str) -> tuple[str, ...]:
    """The `global.` profiles in a localized `text` although `region` has a geography of its own, each once.

    Their requests may be answered in any commercial region: who must keep data in one place has to know.
    """
    return () if geography(region) == "global" else tuple(dict.fromkeys(_global_profiles(text)))


def _global_profiles(text: str) -> Iterator[str]:
    return (match.group() for match in _PROFILE_ID.finditer(text) if match.group().startswith("global."))
