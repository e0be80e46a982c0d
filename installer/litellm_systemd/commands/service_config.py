"""Work out and check what the service will run with: settings, configuration, and the configurations to install.

And prove that it serves, after a change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from litellm_systemd.aws.credentials import METADATA_ADDRESSES, bedrock_models, may_use_metadata, require_one_identity
from litellm_systemd.bedrock.models import looks_like_region
from litellm_systemd.client.gateway import own_gateway
from litellm_systemd.commands.config_check import check_ends
from litellm_systemd.commands.config_files import loaded_names, read_for_install, shipped_texts
from litellm_systemd.commands.preflight import (
    find_instance_region,
    require_database,
    require_files,
    require_pair,
    require_redis,
    require_role,
    require_secrets,
    require_tls,
)
from litellm_systemd.commands.resolve import Request, Selection, is_given, resolve, skipped_note
from litellm_systemd.env.database import find_url
from litellm_systemd.env.secret_references import find_references, is_reference
from litellm_systemd.env.settings import REGION_VARIABLES, Settings
from litellm_systemd.errors import Unavailable, UsageError
from litellm_systemd.gateway.config import (
    ConfigChoice,
    ConfigError,
    GatewayConfig,
    Severity,
    check,
    lint,
    profiles_outside_geography,
    require_no_errors,
)
from litellm_systemd.gateway.environment import environment_findings
from litellm_systemd.host.files import observe_file
from litellm_systemd.host.observe import read_manifest
from litellm_systemd.host.sandbox import host_findings
from litellm_systemd.host.state import is_edited
from litellm_systemd.host.stored_secrets import find_key
from litellm_systemd.report.report import Outcome, Report
from litellm_systemd.verify.run import Scope, verify


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """What the service will run with, checked.

    `configs`: the configurations to install and the files that they include, text by path below /etc/litellm/configs.
    `loads`: the paths there of the chosen configuration and the files that it includes. `own`: the chosen
    configuration if it is a file of the user's, given by path or edited where it is installed. `keeps_environment`:
    the installed environment stays as it is. `notes`: what the user should know.
    """

    settings: Settings
    choice: ConfigChoice
    gateway: GatewayConfig
    configs: Mapping[str, bytes]
    keeps_environment: bool
    own: Path | None = None
    loads: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def has_database(self) -> bool:
        return bool(self.database_url)

    @property
    def database_url(self) -> str:
        """The URL of that database, empty without one; see `env.database.find_url`."""
        found = find_url(self.settings.environment, self.gateway.section("general_settings"))
        return "" if found is None else found[0]


def resolve_service(request: Request) -> ServiceConfig:
    """Choose environment and configuration, complete the region, and check all of it. Changes nothing.

    Raises:
        InstallerError: the first problem, with its file, its line or key, and the remedy.
    """
    if request.region is not None and not looks_like_region(request.region):
        raise UsageError(f"--region {request.region} is not an AWS region", "Write it as AWS does: us-east-1.")
    selection = resolve(request)
    choice, installed, dotenv = selection.config, selection.installed, selection.dotenv
    chosen, _ = read_for_install(request.layout, choice, shipped_texts(None), take=request.take)
    require_one_identity(chosen, selection.settings.environment, dotenv.where)
    proven = _check_before_region(request, selection, chosen)
    settings = _with_region(selection.settings, chosen, request, installed)
    references = find_references(settings.environment, dotenv.where)
    configs = shipped_texts(settings.region)
    own = _own_file(request, choice, configs)
    gateway, given = read_for_install(request.layout, choice, configs, take=request.take)
    configs |= given
    loads = loaded_names(request.layout, choice.name, gateway)
    _check(request, selection, gateway, settings)
    ends = _end_of_life_notes(request, gateway, settings)
    if request.prove_access:
        proven += require_pair(gateway, dotenv, settings.environment, installed)
        proven += require_secrets(references, settings.environment)
        require_database(dotenv, settings, gateway)
        proven += require_redis(dotenv, settings, gateway)
    return ServiceConfig(
        settings=settings,
        choice=choice,
        gateway=gateway,
        configs=configs,
        keeps_environment=selection.is_installed and dict(settings.environment) == installed,
        own=own,
        loads=loads,
        notes=(
            *(*settings.warnings, *proven, *_notes(request, selection, gateway, settings)),
            *_geography_notes(settings, [configs[name].decode() for name in loads if name in configs]),
            *ends,
        ),
    )


def _check(request: Request, selection: Selection, gateway: GatewayConfig, settings: Settings) -> None:
    """Raise ConfigError for the first error of the linter, with the line of .env if it is about a variable."""
    environ = settings.environment
    try:
        check(gateway, environ)
        require_no_errors(host_findings(request.layout, gateway, environ))
    except ConfigError as error:
        found = selection.locate(error.findings)
        errors = (each for each in lint(gateway, environ) if each.severity is Severity.ERROR)
        others = selection.locate((*errors, *environment_findings(gateway, environ)))
        raised = ConfigError(*found)
        raised.others = tuple(each.render() for each in dict.fromkeys(others) if each != found[0])
        raise raised from None


def _check_before_region(request: Request, selection: Selection, chosen: GatewayConfig) -> tuple[str, ...]:
    """Check files and role first: outside EC2 the cause to report is the missing role, not the missing region."""
    environ = selection.settings.environment
    if request.prove_access or request.layout.is_host:
        require_files(selection.dotenv, environ, chosen)
    if not request.prove_access:
        return ()
    warnings = require_tls(selection.dotenv, selection.settings, datetime.now(timezone.utc))
    return (*warnings, *require_role(chosen, environ, request.layout))


def _with_region(
    settings: Settings, chosen: GatewayConfig, request: Request, installed: Mapping[str, str]
) -> Settings:
    """Settings with a region, if the environment has none and the configuration calls Bedrock, or secrets are in AWS.

    It is that of the request, else the instance's, or, without a query to the instance, the installed one.
    """
    needs_region = bedrock_models(chosen, settings.environment) or any(
        map(is_reference, settings.environment.values())
    )
    if settings.region is not None or not needs_region:
        return settings
    region = request.region
    if region is None and request.ask_instance:
        region = find_instance_region(settings.environment)
    elif region is None:
        region = installed.get(REGION_VARIABLES[0])
    if region is None:
        return settings
    return replace(settings, region=region, environment={**settings.environment, REGION_VARIABLES[0]: region})


def _own_file(request: Request, choice: ConfigChoice, configs: Mapping[str, bytes]) -> Path | None:
    """The chosen configuration if it is the user's, by path, by name or by an edit, so that an install keeps it."""
    if choice.path is None or is_given(choice):
        return choice.path
    layout, path = request.layout, request.layout.config(choice.name)
    edited = is_edited(observe_file(layout, path), read_manifest(layout).get(path)) and path not in request.take
    return choice.path if choice.name not in configs or edited else None


def _end_of_life_notes(request: Request, gateway: GatewayConfig, settings: Settings) -> tuple[str, ...]:
    if request.today is None:
        return ()
    environ = settings.environment
    return check_ends(request.layout, gateway, environ, request.today, allow=request.allow_ended)


def _notes(request: Request, selection: Selection, gateway: GatewayConfig, settings: Settings) -> tuple[str, ...]:
    environ = settings.environment
    findings = selection.locate((*lint(gateway, environ), *host_findings(request.layout, gateway, environ)))
    warnings = (item.render() for item in findings if item.severity is Severity.WARNING)
    return (*warnings, *skipped_note(selection.config))


def _geography_notes(settings: Settings, texts: list[str]) -> tuple[str, ...]:
    if settings.region is None:
        return ()
    names = profiles_outside_geography("\n".join(texts), settings.region)
    return tuple(f"{name} may answer from any AWS region." for name in names)


def denied_addresses(service: ServiceConfig) -> tuple[str, ...]:
    """The addresses that the service has no use for: those of credentials of instances, if it needs none."""
    needs_them = may_use_metadata(service.gateway, service.settings.environment)
    return () if needs_them else METADATA_ADDRESSES


def prove_service(service: ServiceConfig) -> Report:
    """Verify quickly that the service serves after a change. No model is called: AWS is no reason to undo it.

    Raises:
        Unavailable: a check failed.
    """
    gateway = own_gateway(service.settings, find_key(service.settings))
    proof = verify(gateway, Scope(service.gateway.names, spend=False))
    failed = next((check for check in proof.checks if check.outcome is Outcome.FAILED), None)
    if failed is not None:
        raise Unavailable(
            f"the new service started, but fails the check “{failed.name}”: {failed.detail}", failed.hint
        )
    return proof
