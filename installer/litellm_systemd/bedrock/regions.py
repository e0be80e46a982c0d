"""AWS regions, and the Bedrock inference profiles that each region can call.

Newer models can be called only by the id of an inference profile: the model's id after a geography, `us.`, `eu.`,
`jp.`, `au.`, or `global.` (user guide of Bedrock, "Supported Regions and models for inference profiles").
"""

from __future__ import annotations

import re
from collections.abc import Iterator

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

#: The prefixes of the regions that can call the profiles of a geography. Wider than what AWS documents, so that only
#: combinations that can never work are excluded.
CALLING_REGIONS: dict[str, tuple[str, ...]] = {
    "us": ("us-east-", "us-west-", "ca-", "mx-", "sa-"),
    "eu": ("eu-", "il-", "me-"),
    "jp": ("ap-northeast-",),
    "au": ("ap-southeast-",),
    "apac": ("ap-",),
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
