"""iam-policy: what the service's identity must be allowed, and no more."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from litellm_systemd.aws.bedrock import BedrockCatalogue, ask_bedrock
from litellm_systemd.aws.credentials import callers
from litellm_systemd.aws.policy import (
    Grant,
    build_grant,
    build_guardrail,
    build_policy,
    render_cloudformation,
    render_policy,
    render_terraform,
)
from litellm_systemd.bedrock.ids import IdKind
from litellm_systemd.commands.chosen import Chosen, read_chosen
from litellm_systemd.commands.desired import Request
from litellm_systemd.env.aws import ROLE
from litellm_systemd.env.expiry import BEARER_VARIABLE
from litellm_systemd.env.settings import REGION_VARIABLES
from litellm_systemd.errors import InputError, UsageError
from litellm_systemd.gateway.config_types import resolve_reference
from litellm_systemd.gateway.served_models import ServedModel
from litellm_systemd.report.report import Report

FORMS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "json": render_policy,
    "terraform": render_terraform,
    "cloudformation": render_cloudformation,
}


def iam_policy(request: Request, form: str = "json", *, offline: bool = False, account: str | None = None) -> Report:
    """The policy for a configuration; `data["text"]` is what to print, the notes are for people.

    Args:
        request: the configuration, and where its environment is.
        form: one of FORMS.
        offline: don't ask Bedrock which models and regions are behind a profile.
        account: the AWS account to write into the ARNs; without it they hold for any.

    Raises:
        UsageError: `account` isn't an account's number.
        InputError: a model has no region, or none of the models is Bedrock's.
        InstallerError: there is no such configuration, or it can't be read.
    """
    if account is not None and not re.fullmatch(r"\d{12}", account):
        raise UsageError(f"--account {account}: not the number of an AWS account", "It has twelve digits.")
    chosen = read_chosen(request)
    answers = {} if offline else _ask(chosen)
    grants = tuple(_grants(chosen, answers, account or "*"))
    if not grants:
        raise InputError(f"{chosen.gateway.source} calls no model on Bedrock", "It needs no policy.")
    policy = build_policy(grants, tuple(_guardrails(chosen, account or "*")))
    return Report(
        f"the policy for {chosen.gateway.source}",
        notes=tuple(_notes(chosen, answers)),
        data={"policy": policy, "text": FORMS[form](policy)},
    )


def _grants(chosen: Chosen, answers: Mapping[str, BedrockCatalogue], account: str) -> Iterator[Grant]:
    for served in chosen.served:
        if (
            served.is_called
            and served.region is None
            and served.found
            and served.found.kind is not IdKind.OTHER_SERVICE
        ):
            hint = "Set AWS_REGION_NAME in .env, or give --region."
            raise InputError(f"{served.model.name} is on Bedrock, and no region is set", hint)
        told = answers.get(served.region or "", BedrockCatalogue())
        behind = told.profiles.get(served.found.text) if served.found is not None else None
        grant = build_grant(served, behind, account=account)
        if grant is not None:
            yield grant


def _guardrails(chosen: Chosen, account: str) -> Iterator[str]:
    """The guardrails that models name themselves, and those that LiteLLM applies on its own."""
    gateway, environ = chosen.gateway, chosen.environ
    for served in chosen.served:
        own = gateway.params(served.model).get("guardrailConfig")
        name = resolve_reference(own.get("guardrailIdentifier"), environ) if isinstance(own, Mapping) else None
        if served.is_called and served.region is not None and name is not None:
            yield build_guardrail(name, served.region, account=account)
    entries = gateway.document.get("guardrails")
    for entry in entries if isinstance(entries, list) else ():
        params = entry.get("litellm_params") if isinstance(entry, Mapping) else None
        if not isinstance(params, Mapping) or params.get("guardrail") != "bedrock":
            continue
        name = resolve_reference(params.get("guardrailIdentifier"), environ)
        own_region = resolve_reference(params.get("aws_region_name"), environ)
        region = own_region or next((environ[each] for each in REGION_VARIABLES if environ.get(each)), None)
        if name is not None and region is not None:
            yield build_guardrail(name, region, account=account)


def _ask(chosen: Chosen) -> dict[str, BedrockCatalogue]:
    """What Bedrock says of the profiles of each region."""
    regions = sorted({each.region for each in chosen.served if each.region and _is_profile(each)})
    return {
        region: ask_bedrock(
            chosen.environ,
            region,
            profiles=tuple(
                sorted(
                    {
                        each.found.text
                        for each in chosen.served
                        if each.found and each.region == region and _is_profile(each)
                    }
                )
            ),
        )
        for region in regions
    }


def _is_profile(served: ServedModel) -> bool:
    kinds = (IdKind.PROFILE, IdKind.APPLICATION_PROFILE)
    return served.is_called and served.found is not None and served.found.kind in kinds


def _notes(chosen: Chosen, answers: Mapping[str, BedrockCatalogue]) -> Iterator[str]:
    refusal = next((each.refusal for each in answers.values() if each.refusal is not None), None)
    if refusal is not None:
        yield f"The regions of the profiles are those known to this release; Bedrock wasn't asked: {refusal}."
    for region, told in answers.items():
        for name in sorted(told.unknown):
            yield f"Bedrock has no {name} in {region}."
    for served in chosen.served:
        if served.found is not None and served.found.kind is IdKind.OTHER_SERVICE and not served.model.mocked:
            yield f"{served.model.name} is not in it: {served.model.provider_model} isn't called as a model is."
        elif served.is_called and served.found is not None and "*" in served.found.text:
            yield f"{served.model.name} lets clients name the model: inference profiles that they name are not in it."
    yield from _roles(chosen)


def _roles(chosen: Chosen) -> Iterator[str]:
    role = chosen.environ.get(ROLE)
    if role:
        yield f"It is for {role}; the identity that assumes this role needs sts:AssumeRole on it and nothing else."
    for caller in callers(chosen.gateway, chosen.served, chosen.environ):
        own = caller.environ.get(ROLE)
        if own and own != role and not caller.environ.get(BEARER_VARIABLE):
            names = ", ".join(each.model.name for each in caller.models)
            yield f"{names}: called as {own}, which needs what is here for that; who assumes it needs sts:AssumeRole."
