"""Query Bedrock and Service Quotas with the service's credentials: models, inference profiles, lifecycles, quotas.

The environment and ~/.aws of the user who runs litellmctl are not used, since the service doesn't have them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar

from litellm_systemd.aws.client import Refused, connect, describe_error, describe_refusal
from litellm_systemd.aws.credentials import callers
from litellm_systemd.bedrock.models import IdKind, Quota, parse_bedrock_id
from litellm_systemd.bedrock.refusals import find_refusal
from litellm_systemd.env.expiry import BEARER_VARIABLE
from litellm_systemd.errors import Unavailable
from litellm_systemd.gateway.config_types import GatewayConfig
from litellm_systemd.gateway.installed_litellm import Lifecycle, find_entry
from litellm_systemd.gateway.models import ServedModel

#: The largest page of Service Quotas. Bedrock has more than a thousand quotas, and they can't be filtered by model.
_PAGE = 100
_DENIED = "the service may not query Service Quotas: the statement AskForQuotas of 'litellmctl iam-policy' allows it"

Found = TypeVar("Found")

#: Refusals whose messages could refer to the empty body.
_BODY_REFUSALS = ("parameter-refused", "prompt-too-long")


@dataclass(frozen=True, slots=True)
class BedrockCatalogue:
    """What Bedrock returned: `lifecycles` by model id, and in `profiles` the ARNs of the models behind each profile.

    `unknown` are the ids that Bedrock doesn't know in that region. `refusal` is the reason why the rest is missing,
    None if the answer is complete.
    """

    lifecycles: Mapping[str, Lifecycle] = field(default_factory=dict)
    profiles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    refusal: str | None = None


def ask_bedrock(
    environ: Mapping[str, str], region: str, *, models: tuple[str, ...] = (), profiles: tuple[str, ...] = ()
) -> BedrockCatalogue:
    """Query the lifecycles of `models` and the models behind `profiles`, with the service's environment.

    Uses its keys or API key, otherwise the role of the EC2 instance; the role that it assumes with them
    (AWS_ROLE_NAME); its proxy, CA and AWS_ENDPOINT_URL_BEDROCK.
    Raises nothing: the first failure ends the query, and `refusal` has its reason.
    """
    lifecycles: dict[str, Lifecycle] = {}
    behind: dict[str, tuple[str, ...]] = {}
    unknown: set[str] = set()
    refusal = None
    try:
        client = connect(environ, region)
        _learn(
            lifecycles, unknown, models, lambda each: _lifecycle(client.get_foundation_model(modelIdentifier=each))
        )
        get_profile = client.get_inference_profile
        _learn(behind, unknown, profiles, lambda each: _behind(get_profile(inferenceProfileIdentifier=each)))
    except Refused as error:
        refusal = str(error)
    return BedrockCatalogue(lifecycles, behind, frozenset(unknown), refusal)


def _learn(known: dict[str, Found], unknown: set[str], names: tuple[str, ...], ask: Callable[[str], Found]) -> None:
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    for name in names:
        try:
            known[name] = ask(name)
        except ParamValidationError:
            unknown.add(name)  # not the format of a model id
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code not in ("ResourceNotFoundException", "ValidationException"):
                raise Refused(describe_refusal(error)) from None
            unknown.add(name)
        except BotoCoreError as error:
            raise Refused(describe_error(error)) from None


def _lifecycle(answer: Mapping[str, Any]) -> Lifecycle:
    found = answer.get("modelDetails", {}).get("modelLifecycle", {})
    ends = found.get("endOfLifeTime")
    return Lifecycle(str(found.get("status", "unknown")).lower(), ends.date() if isinstance(ends, datetime) else None)


def _behind(answer: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(model["modelArn"]) for model in answer.get("models", ()) if "modelArn" in model)


def try_model(environ: Mapping[str, str], region: str, model: str) -> str | None:
    """Check whether the service may call a model or profile, by a request with an empty body, which is not billed.

    AWS checks credentials, permission and model first, and then refuses the body as not valid.

    Returns:
        The message of AWS's refusal; None if AWS refused the body alone.

    Raises:
        Unavailable: AWS can't be reached; the message says why.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        connect(environ, region, "bedrock-runtime").invoke_model(modelId=model, body=b"{}")
    except ClientError as error:
        code, said = error.response.get("Error", {}).get("Code", ""), str(error)
        found = find_refusal(said)
        refers_to_body = code == "ValidationException" and (found is None or found.name in _BODY_REFUSALS)
        return None if refers_to_body else said
    except BotoCoreError as error:
        raise Unavailable(describe_error(error)) from None
    except Refused as error:
        raise Unavailable(str(error)) from None
    return None


def query_lifecycles(
    config: GatewayConfig, served: tuple[ServedModel, ...], environ: Mapping[str, str]
) -> tuple[tuple[ServedModel, ...], str | None]:
    """Return the models with the lifecycles that Bedrock reports, and the reason of the first failure, if any.

    Models without an answer keep the lifecycle of the model map. Raises nothing.
    """
    updated: dict[ServedModel, ServedModel] = {}
    refusals = []
    for caller in callers(config, served, environ):
        opaque = {each.found.text for each in caller.models if each.found is not None and _is_opaque(each)}
        profiles = (
            ask_bedrock(caller.environ, caller.region, profiles=tuple(sorted(opaque)))
            if opaque
            else BedrockCatalogue()
        )
        models = {each: _resolve_profile(each, profiles) for each in caller.models}
        ids = {
            each.found.model for each in models.values() if each.found is not None and each.found.model is not None
        }
        answers = ask_bedrock(caller.environ, caller.region, models=tuple(sorted(ids)))
        updated |= {each: _with_lifecycle(resolved, answers) for each, resolved in models.items()}
        refusals += [refusal for refusal in (profiles.refusal, answers.refusal) if refusal is not None]
    return tuple(updated.get(each, each) for each in served), next(iter(refusals), None)


def _is_opaque(served: ServedModel) -> bool:
    return served.found is not None and served.found.kind is IdKind.APPLICATION_PROFILE and served.found.model is None


def _resolve_profile(served: ServedModel, answers: BedrockCatalogue) -> ServedModel:
    """Return an application inference profile with its model; any other model unchanged."""
    found = served.found
    arns = answers.profiles.get(found.text, ()) if found is not None else ()
    behind = parse_bedrock_id(f"bedrock/{arns[0]}") if arns else None
    if found is None or behind is None:
        return served
    found = replace(found, model=behind.model)
    entry = find_entry(found, served.region)
    return replace(served, found=found, entry=entry, life=Lifecycle(None, entry.ends if entry is not None else None))


def _with_lifecycle(served: ServedModel, answers: BedrockCatalogue) -> ServedModel:
    """Return a model with the lifecycle that Bedrock reports; without one it keeps that of the model map."""
    model = served.found.model if served.found is not None else None
    if model in answers.unknown:
        return replace(served, life=replace(served.life, status="unknown to Bedrock"))
    return replace(served, life=answers.lifecycles.get(model or "", served.life))


def list_quotas(environ: Mapping[str, str], region: str) -> Iterator[Quota]:
    """Yield Bedrock's quotas of the service's account; each page is a request.

    Raises:
        Unavailable: a page can't be read; the message says why.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    if environ.get(BEARER_VARIABLE):
        raise Unavailable("Service Quotas accepts no Bedrock API key")
    try:
        pages = connect(environ, region, "service-quotas").get_paginator("list_service_quotas")
        for page in pages.paginate(ServiceCode="bedrock", PaginationConfig={"PageSize": _PAGE}):
            yield from map(_quota, page["Quotas"])
    except ClientError as error:
        denied = error.response.get("Error", {}).get("Code") == "AccessDeniedException"
        raise Unavailable(_DENIED if denied else f"Service Quotas: {describe_refusal(error)}") from None
    except BotoCoreError as error:
        raise Unavailable(f"Service Quotas: {describe_error(error)}") from None
    except Refused as error:
        raise Unavailable(str(error)) from None


def find_default(environ: Mapping[str, str], region: str, code: str) -> float | None:
    """Return the default of AWS for a quota, None if it can't be read."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = connect(environ, region, "service-quotas")
        return float(client.get_aws_default_service_quota(ServiceCode="bedrock", QuotaCode=code)["Quota"]["Value"])
    except (BotoCoreError, ClientError, Refused):
        return None


def _quota(found: Mapping[str, Any]) -> Quota:
    return Quota(str(found["QuotaName"]), str(found["QuotaCode"]), float(found["Value"]), bool(found["Adjustable"]))
