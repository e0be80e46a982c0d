"""AWS, as the service has it: role, key, and each model. Nothing here is billed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone

from litellm_systemd.aws.access import needs_metadata, uses_pair
from litellm_systemd.aws.bedrock import try_model
from litellm_systemd.aws.identity import identify
from litellm_systemd.aws.instance import DISABLED_VARIABLE, observe_instance
from litellm_systemd.aws.profiles import Credentials
from litellm_systemd.bedrock.refusals import find_refusal
from litellm_systemd.doctor.cause import Cause, Finding, looks_for
from litellm_systemd.doctor.scene import Scene
from litellm_systemd.errors import InputError, Unavailable
from litellm_systemd.expiry import BEARER_VARIABLE
from litellm_systemd.gateway.model import Severity
from litellm_systemd.gateway.served import build_served, end_findings
from litellm_systemd.report import Outcome
from litellm_systemd.settings_aws import KEY_ID, PAIR

_TOLD = ("files-not-installed", "files-gone", "environment-unusable", "configuration-unusable")
_NETWORK = (
    *("network-sandbox", "network-dns", "network-proxy", "network-unreachable", "network-certificate"),
    "environment-credentials",
)
#: Where the instance's metadata is, is the host's business: whoever calls may say so as well.
_METADATA = (DISABLED_VARIABLE, "AWS_EC2_METADATA_SERVICE_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE")

ROLE = Cause(
    "aws-role",
    "The service takes its credentials from the EC2 instance, and that gives it none: every call fails.",
    "{remedy}",
    needs=(*_TOLD, "environment-credentials"),
    follows=("host-clock",),
)


@looks_for(ROLE)
def role(scene: Scene) -> Iterator[Finding]:
    """Whether the instance has a role whose credentials can be had, if the configuration needs that."""
    if not needs_metadata(scene.gateway, scene.environment):
        return
    host = {name: os.environ[name] for name in _METADATA if name in os.environ}
    trouble = observe_instance({**host, **scene.environment}).trouble
    if trouble is not None:
        yield ROLE.found(trouble.message, remedy=trouble.hint)


KEY = Cause(
    "aws-key",
    "AWS refuses the access key of the environment: every call fails.",
    "{remedy}",
    needs=(*_TOLD, *_NETWORK),
    follows=("host-clock",),
)


@looks_for(KEY)
def key(scene: Scene) -> Iterator[Finding]:
    """Whether STS knows the access key, if one is used."""
    environ = scene.environment
    if not uses_pair(scene.gateway, environ) or environ.get(BEARER_VARIABLE) or not environ.get(PAIR[1]):
        return
    pair = Credentials(
        environ[KEY_ID], environ[PAIR[1]], environ.get("AWS_SESSION_TOKEN") or None, scene.settings.region
    )
    try:
        identity = identify(pair, environ, scene.layout.environment_file)
    except InputError as error:
        yield KEY.found(error.message, remedy=error.hint)
        return
    if identity.doubt is not None:
        raise Unavailable(identity.doubt)


ENDED = Cause(
    "aws-model-ended",
    "Bedrock ends models on a day that it announces: after it every call is refused.",
    "sudoedit {path}    # {remedy} What there is: litellmctl models",
    needs=_TOLD,
)


@looks_for(ENDED)
def ended(scene: Scene) -> Iterator[Finding]:
    """Whether a model has ended, or ends soon, as far as this release knows."""
    served = build_served(scene.gateway, scene.environment)
    for item in end_findings(scene.gateway, served, datetime.now(timezone.utc).date()):
        outcome = Outcome.FAILED if item.severity is Severity.ERROR else Outcome.WARNING
        path = scene.layout.config_link
        yield ENDED.found(str(item), outcome=outcome, path=path, remedy=item.remedy)


ACCESS = Cause(
    "aws-model-refused",
    "AWS doesn't let the service call the model. It was asked with an empty body, which costs nothing.",
    "{remedy}",
    needs=(*_TOLD, *_NETWORK, "aws-role", "aws-key"),
    follows=("aws-model-ended", "host-clock"),
)


@looks_for(ACCESS)
def access(scene: Scene) -> Iterator[Finding]:
    """Whether each model may be called with the service's credentials."""
    yield from _tell(ACCESS, (each for each in _refused(scene) if not each.is_throttled))


THROTTLED = Cause(
    "aws-throttled",
    "AWS throttles the account's calls of the model, even one with an empty body: clients wait for retries, or get a"
    " fallback's answer or an error.",
    "{remedy}",
    outcome=Outcome.WARNING,
    needs=ACCESS.needs,
    follows=ACCESS.follows,
)


@looks_for(THROTTLED)
def throttled(scene: Scene) -> Iterator[Finding]:
    """Whether a model is throttled at this moment."""
    yield from _tell(THROTTLED, (each for each in _refused(scene) if each.is_throttled))


@dataclass(frozen=True, slots=True)
class _Refused:
    """A model of the configuration that AWS refuses, as `name (id in region)`, and AWS's words."""

    model: str
    words: str

    @property
    def is_throttled(self) -> bool:
        return "(ThrottlingException)" in self.words


def _refused(scene: Scene) -> tuple[_Refused, ...]:
    found: tuple[_Refused, ...] = scene.once("refused models", lambda: _try_models(scene))
    return found


def _try_models(scene: Scene) -> tuple[_Refused, ...]:
    wanted = {
        (each.region, each.found.text): each.model.name
        for each in build_served(scene.gateway, scene.environment)
        if each.is_called and each.found is not None and each.region is not None
    }
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda asked: try_model(scene.environment, *asked), wanted))
    rows = zip(wanted.items(), answers, strict=True)
    return tuple(
        _Refused(f"{name} ({called} in {region})", words) for ((region, called), name), words in rows if words
    )


def _tell(cause: Cause, refused: Iterable[_Refused]) -> Iterator[Finding]:
    """A finding for each kind of refusal: what AWS says of the first model, and which others it says that of."""
    kinds: dict[str, list[_Refused]] = {}
    for each in refused:
        known = find_refusal(each.words)
        kinds.setdefault(known.name if known else each.words, []).append(each)
    for first, *others in kinds.values():
        known = find_refusal(first.words)
        remedy = known.hint if known else "sudo litellmctl verify    # what a client gets"
        also = f"; and so of {', '.join(each.model for each in others)}" if others else ""
        yield cause.found(f"{first.model}: {first.words}{also}", remedy=remedy)
