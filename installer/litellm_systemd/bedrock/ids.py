"""Parse the id of a Bedrock model as it appears in a LiteLLM configuration."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from litellm_systemd.bedrock.regions import CALLING_REGIONS, looks_like_region

#: The providers (the part before the first slash) of models that LiteLLM calls at Bedrock's runtime.
PROVIDERS = ("bedrock", "bedrock_converse")

#: The prefixes of the ids of system-defined inference profiles. `in` occurs in LiteLLM's model map.
GEOGRAPHIES = frozenset({*CALLING_REGIONS, "global", "in"})

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
        """Whether the id is an ARN."""
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
