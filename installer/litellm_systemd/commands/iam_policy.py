"""iam-policy: the least privileges that the identity of the service needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from litellm_systemd.aws.client import BedrockCatalogue, ask_bedrock
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
from litellm_systemd.bedrock.models import IdKind
from litellm_systemd.commands.config_files import read_gateway
from litellm_systemd.commands.resolve import Request, resolve
from litellm_systemd.env.aws import BEARER_VARIABLE, ROLE
from litellm_systemd.env.settings import REGION_VARIABLES
from litellm_systemd.errors import InputError, UsageError
from litellm_systemd.gateway.config import GatewayConfig
from litellm_systemd.gateway.config_types import resolve_reference
from litellm_systemd.gateway.models import ServedModel, build_served
from litellm_systemd.report.report import Report

FORMS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "json": render_policy,
    "terraform": render_terraform,
    "cloudformation": render_cloudformation,
}


@dataclass(frozen=True, slots=True)
class _Subject:
    """The configuration that the policy is for, the service's environment, and the models that it serves there."""

    gateway: GatewayConfig
    environ: Mapping[str, str] = field(repr=False)
    served: tuple[ServedModel, ...]


def iam_policy(request: Request, form: str = "json", *, offline: bool = False, account: str | None = None) -> Report:
    """The policy for a configuration. `data["text"]` is its text, the notes are for the user.

    Args:
        request: names the environment and the configuration.
        form: one of FORMS.
        offline: do not query Bedrock for the models and regions of a profile.
        account: the AWS account number for the ARNs; without it they match any account.

    Raises:
        UsageError: `account` is no account number.
        InputError: a model has no region, or no model is on Bedrock.
        InstallerError: there is no such configuration, or it can't be read.
    """
    if account is not None and not re.fullmatch(r"\d{12}", account):
        raise UsageError(f"--account {account} is not an AWS account number", "It has 12 digits.")
    subject = _read_subject(request)
    answers = {} if offline else _query_bedrock(subject)
    grants = tuple(_grants(subject, answers, account or "*"))
    if not grants:
        raise InputError(f"{subject.gateway.source} calls no model on Bedrock", "It needs no policy.")
    policy = build_policy(grants, tuple(_guardrails(subject, account or "*")))
    return Report(
        f"the policy for {subject.gateway.source}",
        notes=tuple(_notes(subject, answers)),
        data={"policy": policy, "text": FORMS[form](policy)},
    )


def _read_subject(request: Request) -> _Subject:
    selection = resolve(request, read_only=True)
    environ = selection.environ
    if request.region is not None:
        environ = {**environ, REGION_VARIABLES[0]: request.region}
    gateway = read_gateway(request.layout, selection.config, request.region or selection.settings.region)
    return _Subject(gateway, environ, build_served(gateway, environ))


def _grants(subject: _Subject, answers: Mapping[str, BedrockCatalogue], account: str) -> Iterator[Grant]:
    for served in subject.served:
        if (
            served.is_called
            and served.region is None
            and served.found
            and served.found.kind is not IdKind.OTHER_SERVICE
        ):
            hint = "Set AWS_REGION_NAME in .env, or use --region."
            raise InputError(f"{served.model.name} is on Bedrock, and no region is set", hint)
        catalogue = answers.get(served.region or "", BedrockCatalogue())
        behind = catalogue.profiles.get(served.found.text) if served.found is not None else None
        grant = build_grant(served, behind, account=account)
        if grant is not None:
            yield grant


def _guardrails(subject: _Subject, account: str) -> Iterator[str]:
    """The guardrails that models name themselves, and those that LiteLLM applies on its own."""
    gateway, environ = subject.gateway, subject.environ
    for served in subject.served:
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


def _query_bedrock(subject: _Subject) -> dict[str, BedrockCatalogue]:
    """What Bedrock reports for the profiles, by region."""
    regions = sorted({each.region for each in subject.served if each.region and _is_profile(each)})
    return {
        region: ask_bedrock(
            subject.environ,
            region,
            profiles=tuple(
                sorted(
                    {
                        each.found.text
                        for each in subject.served
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


def _notes(subject: _Subject, answers: Mapping[str, BedrockCatalogue]) -> Iterator[str]:
    refusal = next((each.refusal for each in answers.values() if each.refusal is not None), None)
    if refusal is not None:
        yield f"The regions of the profiles are those that this release knows; Bedrock was not queried: {refusal}."
    for region, catalogue in answers.items():
        for name in sorted(catalogue.unknown):
            yield f"Bedrock has no {name} in {region}."
    for served in subject.served:
        if served.found is not None and served.found.kind is IdKind.OTHER_SERVICE and not served.model.mocked:
            yield f"{served.model.name} is not in it: {served.model.provider_model} is not called like a model."
        elif served.is_called and served.found is not None and "*" in served.found.text:
            yield f"{served.model.name} lets clients name the model: inference profiles that they name are not in it."
    yield from _roles(subject)


def _roles(subject: _Subject) -> Iterator[str]:
    role = subject.environ.get(ROLE)
    if role:
        yield f"It is for {role}; the identity that assumes this role needs sts:AssumeRole on it and nothing else."
    for caller in callers(subject.gateway, subject.served, subject.environ):
        own = caller.environ.get(ROLE)
        if own and own != role and not caller.environ.get(BEARER_VARIABLE):
            names = ", ".join(each.model.name for each in caller.models)
            yield f"{names}: called as {own}, which needs the statements for it alone; callers need sts:AssumeRole."
