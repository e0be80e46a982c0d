"""What Bedrock's control plane says of models and inference profiles, asked as the service would ask.

Nothing is taken from the caller's own environment and ~/.aws: who runs litellmctl is another one than the service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from litellm_systemd.aws.client import Refused, connect, in_words, why
from litellm_systemd.aws.credentials import callers
from litellm_systemd.bedrock.ids import IdKind, parse_bedrock_id
from litellm_systemd.bedrock.quotas import Quota
from litellm_systemd.bedrock.refusals import find_refusal
from litellm_systemd.env.expiry import BEARER_VARIABLE
from litellm_systemd.errors import Unavailable
from litellm_systemd.gateway.config_types import GatewayConfig
from litellm_systemd.gateway.model_map import Lifecycle, find_entry
from litellm_systemd.gateway.served_models import ServedModel

#: The most that Service Quotas puts on a page. Bedrock has more than a thousand quotas, and there is no question for
#: those of one model.
_PAGE = 100
_DENIED = "the service may not ask Service Quotas: the statement AskForQuotas of 'litellmctl iam-policy' allows it"

Told = TypeVar("Told")

#: Refusals whose words could be about an empty body.
_ABOUT_THE_BODY = ("parameter-refused", "prompt-too-long")


@dataclass(frozen=True, slots=True)
class BedrockCatalogue:
    """What Bedrock told. `lives` by model id, `profiles` the ARNs of the models behind a profile, by its id.

    `unknown` are ids that Bedrock doesn't know in that region. `refusal` says why it couldn't be asked for the rest,
    None if it told all.
    """

    lives: Mapping[str, Lifecycle] = field(default_factory=dict)
    profiles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    refusal: str | None = None


def ask_bedrock(
    environ: Mapping[str, str], region: str, *, models: tuple[str, ...] = (), profiles: tuple[str, ...] = ()
) -> BedrockCatalogue:
    """Ask for the lifecycle of `models` and for what is behind `profiles`, with the service's environment.

    Honours its keys or API key, else the role of the EC2 instance, the role that it assumes by any of these
    (AWS_ROLE_NAME), its proxy, CA and AWS_ENDPOINT_URL_BEDROCK.
    Raises nothing: what went wrong is told in `refusal`, and the first refusal ends it.
    """
    lives: dict[str, Lifecycle] = {}
    behind: dict[str, tuple[str, ...]] = {}
    unknown: set[str] = set()
    refusal = None
    try:
        client = connect(environ, region)
        _learn(lives, unknown, models, lambda each: _lifecycle(client.get_foundation_model(modelIdentifier=each)))
        get_profile = client.get_inference_profile
        _learn(behind, unknown, profiles, lambda each: _behind(get_profile(inferenceProfileIdentifier=each)))
    except Refused as error:
        refusal = str(error)
    return BedrockCatalogue(lives, behind, frozenset(unknown), refusal)


def _learn(known: dict[str, Told], unknown: set[str], names: tuple[str, ...], ask: Callable[[str], Told]) -> None:
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    for name in names:
        try:
            known[name] = ask(name)
        except ParamValidationError:
            unknown.add(name)  # nothing that could be the id of a model
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code not in ("ResourceNotFoundException", "ValidationException"):
                raise Refused(in_words(error)) from None
            unknown.add(name)
        except BotoCoreError as error:
            raise Refused(why(error)) from None


def _lifecycle(answer: Mapping[str, Any]) -> Lifecycle:
    found = answer.get("modelDetails", {}).get("modelLifecycle", {})
    ends = found.get("endOfLifeTime")
    return Lifecycle(str(found.get("status", "unknown")).lower(), ends.date() if isinstance(ends, datetime) else None)


def _behind(answer: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(model["modelArn"]) for model in answer.get("models", ()) if "modelArn" in model)


def try_model(environ: Mapping[str, str], region: str, model: str) -> str | None:
    """Whether the service may call a model, or a profile: asked with an empty body, which isn't billed.

    AWS looks at credentials, permission and model before it looks at the body, and then calls it not valid.

    Returns:
        AWS's refusal in its own words; None if the body alone was refused.

    Raises:
        Unavailable: it couldn't be asked; the message says why.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        connect(environ, region, "bedrock-runtime").invoke_model(modelId=model, body=b"{}")
    except ClientError as error:
        code, said = error.response.get("Error", {}).get("Code", ""), str(error)
        found = find_refusal(said)
        about_the_body = code == "ValidationException" and (found is None or found.name in _ABOUT_THE_BODY)
        return None if about_the_body else said
    except BotoCoreError as error:
        raise Unavailable(why(error)) from None
    except Refused as error:
        raise Unavailable(str(error)) from None
    return None


def ask_lives(
    config: GatewayConfig, served: tuple[ServedModel, ...], environ: Mapping[str, str]
) -> tuple[tuple[ServedModel, ...], str | None]:
    """The models with what Bedrock says of them, and why it didn't, if so: those keep what the map has.

    Raises nothing.
    """
    told: dict[ServedModel, ServedModel] = {}
    refusals = []
    for caller in callers(config, served, environ):
        opaque = {each.found.text for each in caller.models if each.found is not None and _is_opaque(each)}
        profiles = (
            ask_bedrock(caller.environ, caller.region, profiles=tuple(sorted(opaque)))
            if opaque
            else BedrockCatalogue()
        )
        seen = {each: see_through(each, profiles) for each in caller.models}
        ids = {each.found.model for each in seen.values() if each.found is not None and each.found.model is not None}
        answers = ask_bedrock(caller.environ, caller.region, models=tuple(sorted(ids)))
        told |= {each: with_life(through, answers) for each, through in seen.items()}
        refusals += [refusal for refusal in (profiles.refusal, answers.refusal) if refusal is not None]
    return tuple(told.get(each, each) for each in served), next(iter(refusals), None)


def _is_opaque(served: ServedModel) -> bool:
    return served.found is not None and served.found.kind is IdKind.APPLICATION_PROFILE and served.found.model is None


def see_through(served: ServedModel, answers: BedrockCatalogue) -> ServedModel:
    """An application inference profile with the model that Bedrock has behind it; any other model as it is."""
    found = served.found
    arns = answers.profiles.get(found.text, ()) if found is not None else ()
    behind = parse_bedrock_id(f"bedrock/{arns[0]}") if arns else None
    if found is None or behind is None:
        return served
    found = replace(found, model=behind.model)
    entry = find_entry(found, served.region)
    return replace(served, found=found, entry=entry, life=Lifecycle(None, entry.ends if entry is not None else None))


def with_life(served: ServedModel, answers: BedrockCatalogue) -> ServedModel:
    """A model with the lifecycle that Bedrock tells; what Bedrock doesn't know keeps the end that the map has."""
    model = served.found.model if served.found is not None else None
    if model in answers.unknown:
        return replace(served, life=replace(served.life, status="unknown to Bedrock"))
    return replace(served, life=answers.lives.get(model or "", served.life))


def list_quotas(environ: Mapping[str, str], region: str) -> Iterator[Quota]:
    """Bedrock's quotas as they are applied to the service's account, asked for page by page.

    Raises:
        Unavailable: they can't be asked for, or not for the rest; the message says why.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    if environ.get(BEARER_VARIABLE):
        raise Unavailable("Service Quotas takes no Bedrock API key")
    try:
        pages = connect(environ, region, "service-quotas").get_paginator("list_service_quotas")
        for page in pages.paginate(ServiceCode="bedrock", PaginationConfig={"PageSize": _PAGE}):
            yield from map(_quota, page["Quotas"])
    except ClientError as error:
        denied = error.response.get("Error", {}).get("Code") == "AccessDeniedException"
        raise Unavailable(_DENIED if denied else f"Service Quotas: {in_words(error)}") from None
    except BotoCoreError as error:
        raise Unavailable(f"Service Quotas: {why(error)}") from None
    except Refused as error:
        raise Unavailable(str(error)) from None


def find_default(environ: Mapping[str, str], region: str, code: str) -> float | None:
    """What AWS gives of a quota by default, None where it can't be asked for that."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = connect(environ, region, "service-quotas")
        return float(client.get_aws_default_service_quota(ServiceCode="bedrock", QuotaCode=code)["Quota"]["Value"])
    except (BotoCoreError, ClientError, Refused):
        return None


def _quota(found: Mapping[str, Any]) -> Quota:
    return Quota(str(found["QuotaName"]), str(found["QuotaCode"]), float(found["Value"]), bool(found["Adjustable"]))
