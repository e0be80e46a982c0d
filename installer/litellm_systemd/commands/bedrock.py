"""models and iam-policy: what a configuration calls on Bedrock, and the least privileges that it needs there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from litellm_systemd.aws.client import BedrockCatalogue, ask_bedrock, query_lifecycles
from litellm_systemd.aws.credentials import callers
from litellm_systemd.aws.policy import (
    Grant,
    build_cloudwatch,
    build_elasticache,
    build_grant,
    build_guardrail,
    build_policy,
    build_rds,
    render_cloudformation,
    render_policy,
    render_terraform,
)
from litellm_systemd.bedrock.models import IdKind
from litellm_systemd.commands.config_check import environment_check
from litellm_systemd.commands.config_files import read_gateway
from litellm_systemd.commands.resolve import Request, resolve
from litellm_systemd.env.aws import BEARER_VARIABLE, ROLE
from litellm_systemd.env.database import find_token_region
from litellm_systemd.env.redis import read_iam, uses_iam
from litellm_systemd.env.secret_references import find_references
from litellm_systemd.env.settings import REGION_VARIABLES
from litellm_systemd.env.variables import DATABASE_USER, IAM_TOKEN_DB_AUTH
from litellm_systemd.errors import InputError, UsageError
from litellm_systemd.gateway.config import GatewayConfig, LintFinding, Severity
from litellm_systemd.gateway.config_types import resolve_reference
from litellm_systemd.gateway.models import ServedModel, build_served, end_findings, missing_credential
from litellm_systemd.report.report import Check, Outcome, Report, Table, render_count

_COLUMNS = ("MODEL AND ITS ID", "REGION", "IN", "OUT", "CACHE", "LIFECYCLE")
#: Why a lifecycle is not that of Bedrock.
_NOT_QUERIED = "it was not queried (--offline)"

FORMS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "json": render_policy,
    "terraform": render_terraform,
    "cloudformation": render_cloudformation,
}


def models(request: Request, today: date, *, offline: bool = False) -> Report:
    """The models of a configuration; the lifecycle is that of Bedrock if it answers, else of LiteLLM's map.

    `today`: the day for the end of life.

    Raises:
        InstallerError: there is no such configuration, or it can't be read.
    """
    selection = resolve(request, read_only=True)
    gateway, environ = read_gateway(request.layout, selection.config, selection.settings.region), selection.environ
    served = build_served(gateway, environ)
    served, refusal = (served, _NOT_QUERIED) if offline else query_lifecycles(gateway, served, environ)
    report = build_report(gateway, served, refusal, today)
    return replace(report, checks=(*report.checks, *environment_check(selection)))


def build_report(gateway: GatewayConfig, served: tuple[ServedModel, ...], refusal: str | None, today: date) -> Report:
    """The report. `refusal`: why Bedrock did not answer, None if it did."""
    rows = tuple(_row(each, today) for each in served)
    unasked = [each for each in served if each.is_called and each.life.status is None]
    notes = (
        [f"(map): by LiteLLM's model map and this release, not by Bedrock: {refusal}."] if unasked and refusal else []
    )
    findings = tuple(end_findings(gateway, served, today))
    return Report(
        f"{gateway.source} serves {render_count(len(gateway.names), 'model')}",
        tuple(_check(finding) for finding in findings),
        facts=tuple(_chains(gateway)),
        notes=tuple(notes),
        table=Table(_COLUMNS, rows) if rows else None,
        data={
            "source": gateway.source,
            "bedrock": {"asked": refusal is None, "refusal": refusal},
            "models": [_as_data(gateway, each, today) for each in served],
            "aliases": dict((*gateway.aliases, *gateway.hidden_aliases)),
            "fallbacks": {
                name: list(targets) for name in _all_names(gateway) if (targets := _targets(gateway, name))
            },
        },
    )


def _check(finding: LintFinding) -> Check:
    # A warning only: Bedrock decides whether it still serves the model.
    name = "ended" if finding.severity is Severity.ERROR else "ends"
    return Check(name, Outcome.WARNING, str(finding), finding.remedy)


def _row(served: ServedModel, today: date) -> tuple[str, ...]:
    entry, found = served.entry, served.found
    calls = found.text if found is not None else served.model.provider_model
    return (
        # Two lines, since neither can be shortened and a terminal can have 80 columns.
        f"{served.model.name}\n  {calls}",
        served.region or "-",
        _tokens(entry.context if entry is not None else None),
        _tokens(entry.output if entry is not None else None),
        {True: "yes", False: "no", None: "-"}[entry.caches if entry is not None else None],
        _lifecycle(served, today),
    )


def _tokens(count: int | None) -> str:
    """1000000 as `1M`, 128000 as `128k`, 8191 as `8,191`."""
    if count is None:
        return "-"
    units = ((1_000_000, "M"), (1_000, "k"))
    return next((f"{count // size}{unit}" for size, unit in units if count and count % size == 0), f"{count:,}")


def _lifecycle(served: ServedModel, today: date) -> str:
    if not served.is_called:
        return "mocked" if served.model.mocked else "-"
    status, ends = served.life.status, served.life.ends
    end = None if ends is None else f"{'ended' if ends <= today else 'ends'} {ends}"
    if status is not None:
        return status if end is None else f"{status}, {end}"
    return f"{end or 'no end'} (map)" if served.entry is not None else "not in the map"


def _chains(gateway: GatewayConfig) -> Iterator[tuple[str, str]]:
    """Each alias and each model with fallbacks, with their targets."""
    aliases = dict((*gateway.aliases, *gateway.hidden_aliases))
    for name in _all_names(gateway):
        steps = ([aliases[name]] if name in aliases else []) + [f"then {each}" for each in _targets(gateway, name)]
        if steps:
            yield name, ", ".join(steps)


def _all_names(gateway: GatewayConfig) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*gateway.names, *(alias for alias, _ in gateway.hidden_aliases))))


def _targets(gateway: GatewayConfig, name: str) -> tuple[str, ...]:
    """The models that are called if a model fails for any reason: its own fallbacks, else the default ones."""
    chains = {
        each.model: each.targets for each in gateway.fallbacks if each.kind in ("fallbacks", "default_fallbacks")
    }
    return tuple(each for each in chains.get(name, chains.get("*", ())) if each != name)


def _as_data(gateway: GatewayConfig, served: ServedModel, today: date) -> dict[str, Any]:
    found, entry, life = served.found, served.entry, served.life
    source = None if not served.is_called else "bedrock" if life.status is not None else "map" if entry else None
    return {
        "name": served.model.name,
        "aliases": [
            alias for alias, target in (*gateway.aliases, *gateway.hidden_aliases) if target == served.model.name
        ],
        "calls": served.model.provider_model,
        "mocked": served.model.mocked,
        "id": found.text if found is not None else None,
        "model": found.model if found is not None else None,
        "profile": found.geography if found is not None else None,
        "region": served.region,
        "context": entry.context if entry is not None else None,
        "output": entry.output if entry is not None else None,
        "caches": entry.caches if entry is not None else None,
        "lifecycle": {
            "status": life.status,
            "ends": None if life.ends is None else life.ends.isoformat(),
            "has_ended": life.ends is not None and life.ends <= today,
            "source": source,
        },
        "fallbacks": list(_targets(gateway, served.model.name)),
    }


@dataclass(frozen=True, slots=True)
class _Subject:
    """The configuration that the policy is for, the service's environment, and the models that it serves there."""

    gateway: GatewayConfig
    environ: Mapping[str, str] = field(repr=False)
    served: tuple[ServedModel, ...]


def iam_policy(
    request: Request,
    form: str = "json",
    *,
    offline: bool = False,
    account: str | None = None,
    cloudwatch: bool = False,
    rds: bool = False,
    elasticache: bool = False,
) -> Report:
    """The policy for a configuration. `data["text"]` is its text, the notes are for the user.

    The text is empty if the configuration needs no policy: IAM takes none without statements.

    Args:
        request: names the environment and the configuration.
        form: one of FORMS.
        offline: do not query Bedrock for the models and regions of a profile.
        account: the AWS account number for the ARNs; without it they match any account.
        cloudwatch: add what the CloudWatch agent needs.
        rds: add what the database needs, also if the environment has no IAM authentication.
        elasticache: the same for Redis.

    Raises:
        UsageError: `account` is no account number.
        InputError: a model or the database has no region, or the database has no user.
        InstallerError: there is no such configuration, or it can't be read.
    """
    if account is not None and not re.fullmatch(r"\d{12}", account):
        raise UsageError(f"--account {account} is not an AWS account number", "It has 12 digits.")
    subject = _read_subject(request)
    answers = {} if offline else _query_bedrock(subject)
    grants = tuple(_grants(subject, answers, account or "*"))
    references = find_references(subject.environ)
    regions = (*(subject.environ.get(name) for name in REGION_VARIABLES), *(grant.region for grant in grants))
    region = next(filter(None, regions), None)
    more = build_cloudwatch(region, account=account or "*") if cloudwatch else []
    notes = [*_notes(subject, answers)]
    if rds or IAM_TOKEN_DB_AUTH.read(subject.environ):
        more += _rds(subject.environ, account or "*")
        notes.append(_ANY_DATABASE)
    if elasticache or uses_iam(subject.environ):
        more += _elasticache(subject.environ, account or "*")
    if not grants and not references and not more:
        title = f"{subject.gateway.source} calls no model on Bedrock and needs no policy"
        return Report(title, notes=(f"{title}.",), data={"policy": None, "text": ""})
    guardrails = tuple(_guardrails(subject, account or "*"))
    policy = build_policy(grants, guardrails, references, account=account or "*", more=more)
    return Report(
        f"the policy for {subject.gateway.source}",
        notes=tuple(notes),
        data={"policy": policy, "text": FORMS[form](policy)},
    )


_ANY_DATABASE = (
    "The permission for the database is for each database of the region that has the user. To restrict it, replace *"
    " in dbuser:* by the id of its resource (db-..., or cluster-... with Aurora). It is DbiResourceId of 'aws rds"
    " describe-db-instances', or DbClusterResourceId of 'aws rds describe-db-clusters'."
)


def _rds(environ: Mapping[str, str], account: str) -> list[dict[str, Any]]:
    region, user = find_token_region(environ), environ.get(DATABASE_USER.name)
    if not region or not user:
        missing = DATABASE_USER.name if region else REGION_VARIABLES[0]
        raise InputError(f"the permission for the database needs {missing}", f"Set {missing} in .env.")
    return build_rds(region, user, account=account)


def _elasticache(environ: Mapping[str, str], account: str) -> list[dict[str, Any]]:
    login = read_iam(environ)
    return build_elasticache(
        login.region, login.cache, login.user, is_serverless=login.is_serverless, account=account
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
            and missing_credential(subject.gateway, served.model, subject.environ) is None
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
        own = gateway.called_params(served.model).get("guardrailConfig")
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
        missing = missing_credential(subject.gateway, served.model, subject.environ)
        if missing is not None and served.is_called and served.region is None:
            yield f"{served.model.name} is not in it: it names the credential {missing}"
    yield from _roles(subject)


def _roles(subject: _Subject) -> Iterator[str]:
    role = subject.environ.get(ROLE)
    if role and find_references(subject.environ):
        yield f"The secrets are read by the identity that assumes {role}, which needs the statements for them."
    elif role:
        yield f"It is for {role}; the identity that assumes this role needs sts:AssumeRole on it and nothing else."
    for caller in callers(subject.gateway, subject.served, subject.environ):
        own = caller.environ.get(ROLE)
        if own and own != role and not caller.environ.get(BEARER_VARIABLE):
            names = ", ".join(each.model.name for each in caller.models)
            yield f"{names}: called as {own}, which needs the statements for it alone; callers need sts:AssumeRole."
