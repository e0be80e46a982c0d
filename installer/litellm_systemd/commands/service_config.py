"""Work out and check what the service will run with: settings, configuration, and the configurations to install."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from litellm_systemd.aws.credentials import bedrock_models, require_one_identity
from litellm_systemd.bedrock.regions import looks_like_region
from litellm_systemd.commands.end_of_life import check_ends
from litellm_systemd.commands.preflight import find_instance_region, require_files, require_pair, require_role
from litellm_systemd.commands.resolve import Request, Selection, is_given, read_gateway, resolve, skipped_note
from litellm_systemd.env.settings import REGION_VARIABLES, Settings
from litellm_systemd.errors import InputError, UsageError
from litellm_systemd.gateway.config import (
    ConfigChoice,
    GatewayConfig,
    Severity,
    check,
    lint,
    localize,
    parse_config,
    profiles_outside_geography,
    read_config,
)
from litellm_systemd.host.files import observe_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import read_manifest
from litellm_systemd.host.state import is_edited
from litellm_systemd.resources import config_names
from litellm_systemd.resources import read_config as read_shipped


@dataclass(frozen=True, slots=True)
class ServiceConfig:
    """What the service will run with, checked.

    `configs`: the configurations to install, text by file name. `own`: the chosen configuration if it is a file of
    the user's, given by path or edited where it is installed. `keeps_environment`: the installed environment stays as
    it is. `notes`: what the user should know.
    """

    settings: Settings
    choice: ConfigChoice
    gateway: GatewayConfig
    configs: Mapping[str, bytes]
    keeps_environment: bool
    own: Path | None = None
    notes: tuple[str, ...] = ()


def resolve_service(request: Request) -> ServiceConfig:
    """Choose environment and configuration, complete the region, and check all of it. Changes nothing.

    Raises:
        InstallerError: the first problem, with its file, its line or key, and the remedy.
    """
    if request.region is not None and not looks_like_region(request.region):
        raise UsageError(f"--region {request.region} is not an AWS region", "Write it as AWS does: us-east-1.")
    selection = resolve(request)
    choice, installed, dotenv = selection.config, selection.installed, selection.dotenv
    chosen = read_gateway(choice)
    require_one_identity(chosen, choice.name, selection.settings.environment, dotenv.where)
    proven = _check_before_region(request, selection, chosen)
    settings = _with_region(selection.settings, chosen, request, installed)
    configs = _shipped_configs(settings)
    own = _own_file(request.layout, choice, configs)
    if own is None:
        gateway = parse_config(configs[choice.name].decode(), request.layout.config(choice.name))
    else:
        gateway = read_config(own)
    if is_given(choice):
        configs |= copy_given_config(request.layout, choice, gateway)
    check(gateway, settings.environment)
    ends = _end_of_life_notes(request, gateway, settings)
    if request.prove_access:
        proven += require_pair(gateway, dotenv, settings.environment, installed)
    return ServiceConfig(
        settings=settings,
        choice=choice,
        gateway=gateway,
        configs=configs,
        keeps_environment=selection.is_installed and dict(settings.environment) == installed,
        own=own,
        notes=(*settings.warnings, *proven, *_notes(choice, gateway, settings, configs), *ends),
    )


def copy_given_config(layout: Layout, choice: ConfigChoice, gateway: GatewayConfig) -> dict[str, bytes]:
    """The files to install below /etc for a configuration that the user gave by its path: text by file name.

    Raises:
        InputError: it includes other files.
    """
    if choice.path is None or gateway.includes:
        raise InputError(
            f"{choice.path} includes other files, which are not copied",
            f"Copy all of them to {layout.configs} and use -c {choice.name}.",
        )
    return {choice.name: choice.path.read_bytes()}


def _check_before_region(request: Request, selection: Selection, chosen: GatewayConfig) -> tuple[str, ...]:
    """Check files and role first: outside EC2 the cause to report is the missing role, not the missing region."""
    if not request.prove_access:
        return ()
    environ = selection.settings.environment
    require_files(selection.dotenv, environ, request.layout)
    return require_role(chosen, environ, request.layout)


def _with_region(
    settings: Settings, chosen: GatewayConfig, request: Request, installed: Mapping[str, str]
) -> Settings:
    """Settings with a region, if the environment has none and the configuration calls Bedrock.

    It is that of the request, else the instance's, or, without a query to the instance, the installed one.
    """
    if settings.region is not None or not bedrock_models(chosen):
        return settings
    region = request.region
    if region is None and request.ask_instance:
        region = find_instance_region(settings.environment)
    elif region is None:
        region = installed.get(REGION_VARIABLES[0])
    if region is None:
        return settings
    return replace(settings, region=region, environment={**settings.environment, REGION_VARIABLES[0]: region})


def _shipped_configs(settings: Settings) -> dict[str, bytes]:
    """The shipped configurations, for the region of this host."""
    texts = {name: read_shipped(name) for name in config_names()}
    return {
        name: (localize(text, settings.region) if settings.region else text).encode() for name, text in texts.items()
    }


def _own_file(layout: Layout, choice: ConfigChoice, configs: Mapping[str, bytes]) -> Path | None:
    """The chosen configuration if it is the user's, by path, by name or by an edit, and so stays as it is."""
    if choice.path is None or is_given(choice):
        return choice.path
    path = layout.config(choice.name)
    is_own = choice.name not in configs or is_edited(observe_file(layout, path), read_manifest(layout).get(path))
    return choice.path if is_own else None


def _end_of_life_notes(request: Request, gateway: GatewayConfig, settings: Settings) -> tuple[str, ...]:
    if request.today is None:
        return ()
    environ = settings.environment
    return check_ends(request.layout, gateway, environ, request.today, allow=request.allow_ended)


def _notes(
    choice: ConfigChoice, gateway: GatewayConfig, settings: Settings, configs: Mapping[str, bytes]
) -> tuple[str, ...]:
    findings = lint(gateway, settings.environment)
    notes = [f"{item}. {item.remedy}" for item in findings if item.severity is Severity.WARNING]
    notes += skipped_note(choice)
    if settings.region and choice.name in configs:
        text = configs[choice.name].decode()
        notes += [
            f"{name} may answer from any AWS region." for name in profiles_outside_geography(text, settings.region)
        ]
    return tuple(notes)
