"""The id of a model on Bedrock, as a LiteLLM configuration writes it, taken apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from litellm_systemd.bedrock.regions import REACH, looks_like_region

#: What stands before the first slash of a model that LiteLLM calls on Bedrock's runtime.
PROVIDERS = ("bedrock", "bedrock_converse")

#: The geographies that a system-defined inference profile's id begins with. `in` stands in LiteLLM's model map.
GEOGRAPHIES = frozenset({*REACH, "global", "in"})

#: Routes that call no model by its id (get_bedrock_route in litellm/llms/bedrock/common_utils.py).
_ELSEWHERE = frozenset({"agent", "agentcore", "claude_platform", "mantle"})

_ARN = re.compile(
    r"arn:(?P<partition>[\w-]+):bedrock:(?P<region>[\w-]*):(?P<account>\d*):(?P<kind>[\w-]+)/(?P<id>.+)"
)
#: `:51k` of a provisioned throughput and `[1m]` of a context window are LiteLLM's, not part of the model's name.
_SUFFIX = re.compile(r"(?<=:\d)(:\d+k)$|\[\w+\]$")


class IdKind(Enum):
    """What Bedrock finds under an id.

    `OTHER` is what has an ARN and no model's name in it: provisioned, imported and custom models, prompt routers.
    `ELSEWHERE` are agents and other services, which are called another way than a model is.
    """

    MODEL = "foundation-model"
    PROFILE = "inference-profile"
    APPLICATION_PROFILE = "application-inference-profile"
    OTHER = "other"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True)
class BedrockId:
    """A model's id on Bedrock.

    `text` is what goes over the wire: an id or an ARN. `region` is the region that stands in it, `geography` the
    prefix of an inference profile (`us`, `global`), `model` the foundation model's own id. Each is None where the
    id doesn't tell, as an application inference profile tells no model.
    """

    text: str
    kind: IdKind
    region: str | None = None
    geography: str | None = None
    model: str | None = None

    @property
    def is_arn(self) -> bool:
        """Whether it is written as an ARN."""
        return self.text.startswith("arn:")


def parse_bedrock_id(called: str, model_id: object = None) -> BedrockId | None:
    """The Bedrock id in `called`, the `model` of `litellm_params`; None where it is not one of Bedrock's.

    Understands `bedrock/ID`, routes (`bedrock/converse/ID`), regions (`bedrock/us-east-1/ID`), and ARNs behind any of
    them. `model_id`, also of `litellm_params`, is what LiteLLM sends in place of it: most often the ARN of an
    application inference profile, while `called` tells the model behind.
    """
    provider, _, rest = called.partition("/")
    if provider not in PROVIDERS or not rest:
        return None
    head, arn, tail = rest.partition("arn:")
    *routes, name = (head if arn else rest).split("/")
    own = _read(f"arn:{tail}" if arn else name, routes)
    if not isinstance(model_id, str) or not model_id or own.kind is IdKind.ELSEWHERE:
        return own
    sent = _read(model_id, [])
    return BedrockId(sent.text, sent.kind, sent.region, sent.geography, sent.model or own.model)


def _read(text: str, routes: list[str]) -> BedrockId:
    region = next((part for part in routes if looks_like_region(part)), None)
    if _ELSEWHERE & set(routes):
        return BedrockId(text, IdKind.ELSEWHERE, region)
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
