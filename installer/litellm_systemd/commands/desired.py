"""From what the user asks for, and what is installed already, to the state that the host should have."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from litellm_systemd.aws.credentials import bedrock_models, require_one_identity
from litellm_systemd.bedrock.regions import looks_like_region
from litellm_systemd.commands.end_of_life import check_ends
from litellm_systemd.commands.preflight import find_instance_region, require_files, require_pair, require_role
from litellm_systemd.env.settings import (
    CONFIG_VARIABLE,
    REGION_VARIABLES,
    Dotenv,
    Settings,
    build_settings,
    read_dotenv,
)
from litellm_systemd.errors import InputError, MissingError, UsageError
from litellm_systemd.gateway.config import (
    ConfigChoice,
    ConfigOrigin,
    GatewayConfig,
    Severity,
    check,
    lint,
    localize,
    parse_config,
    profiles_outside_geography,
    read_config,
    resolve_name,
)
from litellm_systemd.host.files import observe_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import active_config, read_installed, read_manifest
from litellm_systemd.host.state import FileKind, FileState, link
from litellm_systemd.resources import config_names
from litellm_systemd.resources import read_config as read_shipped

DEFAULT_CONFIG = "iam_role_config.yml"


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asks for: a `.env` and a configuration.

    Without `env_file` it is the `.env` in `cwd`, unless `installed_only` is set, and else what is installed.
    Where nothing else names the AWS region it is `region`; without that the EC2 instance is asked for it, if
    `ask_instance` is set. With `prove_access` it is looked at whether the service will get into AWS, too: that the
    instance has a role, that STS knows a new key pair, and that the files which `.env` names can be read.
    `today` is the day against which the ends of models are held, None to leave them be; `allow_ended` takes models
    that have ended.
    """

    layout: Layout
    env_file: Path | None = None
    config: str | None = None
    cwd: Path = Path()
    installed_only: bool = False
    ask_instance: bool = True
    prove_access: bool = False
    region: str | None = None
    today: date | None = None
    allow_ended: bool = False


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the request comes to: settings, the configuration, and all that is to be said.

    `configs` are the texts to install, by name. `own` is the chosen configuration where it is a file of the user's,
    given by path or edited where it is installed.
    """

    settings: Settings
    choice: ConfigChoice
    gateway: GatewayConfig
    configs: Mapping[str, bytes]
    keeps_environment: bool
    own: Path | None = None
    notes: tuple[str, ...] = ()


def installed_configs(layout: Layout) -> tuple[str, ...]:
    """The file names of the installed configurations, sorted."""
    folder = layout.real(layout.configs)
    return tuple(sorted(path.name for path in folder.glob("*.y*ml"))) if folder.is_dir() else ()


def build_config_link(layout: Layout, name: str) -> FileState:
    """The link that says which configuration is active (docs/adr/0004)."""
    return link(layout.config_link, f"configs/{name}")


def work_out(request: Request) -> Wanted:
    """Read, choose and check. Changes nothing.

    Raises:
        InstallerError: the first thing that can't be used, with its file, its line or key, and the remedy.
    """
    installed = read_installed(request.layout)
    dotenv, is_installed = _dotenv(request, installed)
    settings = build_settings(dotenv, installed=installed, new_key=lambda: f"sk-{secrets.token_urlsafe(32)}")
    choice = choose_config(request, settings, installed)
    if request.region is not None and not looks_like_region(request.region):
        raise UsageError(f"--region {request.region} doesn't look like an AWS region", "Such as us-east-1.")
    chosen = read_choice(choice)
    require_one_identity(chosen, choice.name, settings.environment, dotenv.where)
    proven = _prove_before(request, dotenv, settings, chosen)
    settings = _with_region(settings, chosen, request, installed)
    configs = _shipped(settings)
    own = _own_file(request.layout, choice, configs)
    if own is None:
        gateway = parse_config(configs[choice.name].decode(), request.layout.config(choice.name))
    else:
        gateway = read_config(own)
    if choice.origin is ConfigOrigin.PATH:
        configs[choice.name] = _taken_along(request.layout, choice, gateway)
    check(gateway, settings.environment)
    ends = _ends(request, gateway, settings)
    if request.prove_access:
        proven += require_pair(gateway, dotenv, settings.environment, installed)
    return Wanted(
        settings=settings,
        choice=choice,
        gateway=gateway,
        configs=configs,
        keeps_environment=is_installed and dict(settings.environment) == installed,
        own=own,
        notes=(*settings.warnings, *proven, *_notes(choice, gateway, settings, configs), *ends),
    )


def _dotenv(request: Request, installed: Mapping[str, str]) -> tuple[Dotenv, bool]:
    """The variables to use, and whether they are those that are installed already."""
    if request.env_file is not None:
        return read_dotenv(request.env_file), False
    if not request.installed_only and (request.cwd / ".env").exists():
        return read_dotenv(request.cwd / ".env"), False
    if installed or (request.config is not None and not request.installed_only):
        return Dotenv(request.layout.environment_file, installed), True
    if request.installed_only:
        raise MissingError("nothing is installed here", "'litellmctl install' comes first.")
    raise MissingError(
        "there is no .env here, and nothing is installed yet",
        "'litellmctl init' writes one; '-c demo.yml' tries the service without AWS.",
    )


def choose_config(request: Request, settings: Settings, installed: Mapping[str, str]) -> ConfigChoice:
    """The configuration to run: the one asked for, else that of `.env`, else the active one, else the default.

    A CONFIG_FILE that was there at the last install gives way to the active one: since then somebody has switched.

    Raises:
        InputError: nothing is named, and what was the link to the active one is something else now.
        UsageError: there is no configuration of that name.
    """
    named = settings.config if settings.config != installed.get(CONFIG_VARIABLE) else None
    name = request.config or named or find_active_config(request.layout) or settings.config or DEFAULT_CONFIG
    return find_config(request, name)


def find_active_config(layout: Layout) -> str | None:
    """The active configuration, or if somebody removed the link to it, the one that it led to.

    Another one must not be chosen in silence because an editor put a file in place of the link.

    Raises:
        InputError: what was the link is something else now.
    """
    record, found = read_manifest(layout).get(layout.config_link), observe_file(layout, layout.config_link)
    if record is None:
        return active_config(layout)
    names = {build_config_link(layout, name).digest: name for name in installed_configs(layout)}
    if found is None:
        return names.get(record.digest)
    if found.kind is FileKind.LINK and found.digest in names:
        return names[found.digest]
    raise InputError(
        f"{layout.config_link} is no link to an installed configuration any more",
        f"To run what stands there: -c {layout.config_link}. To run another one: -c NAME ('litellmctl config list').",
    )


def find_config(request: Request, name: str) -> ConfigChoice:
    """The configuration of that name, for a user in the request's folder.

    Raises:
        UsageError: there is none.
    """
    return resolve_name(
        name,
        shipped=frozenset(config_names()),
        installed=frozenset(installed_configs(request.layout)),
        installed_dir=request.layout.real(request.layout.configs),
        folder=request.cwd,
    )


def read_choice(choice: ConfigChoice) -> GatewayConfig:
    """The chosen configuration as it stands; a shipped one as it ships.

    Raises:
        InstallerError: it can't be read or used.
    """
    return parse_config(read_shipped(choice.name), choice.name) if choice.path is None else read_config(choice.path)


def _prove_before(request: Request, dotenv: Dotenv, settings: Settings, chosen: GatewayConfig) -> tuple[str, ...]:
    """What is looked at before the region is: outside EC2 a missing region isn't what is the matter."""
    if not request.prove_access:
        return ()
    require_files(dotenv, settings.environment, request.layout)
    return require_role(chosen, settings.environment, request.layout)


def _with_region(
    settings: Settings, chosen: GatewayConfig, request: Request, installed: Mapping[str, str]
) -> Settings:
    """Settings with the instance's own region, where `.env` names none and the configuration goes to Bedrock.

    Where the instance isn't asked it is the one that the last install found.
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


def _shipped(settings: Settings) -> dict[str, bytes]:
    """The configurations that ship, for the region of this host."""
    texts = {name: read_shipped(name) for name in config_names()}
    return {
        name: (localize(text, settings.region) if settings.region else text).encode() for name, text in texts.items()
    }


def _own_file(layout: Layout, choice: ConfigChoice, configs: Mapping[str, bytes]) -> Path | None:
    """The chosen configuration if it is the user's, by path, by name or by an edit, and so stays as it is."""
    if choice.path is None or choice.origin is ConfigOrigin.PATH:
        return choice.path
    found = observe_file(layout, layout.config(choice.name))
    written = read_manifest(layout).get(layout.config(choice.name))
    edited = found is not None and (written is None or written.digest != found.digest)
    is_own = choice.name not in configs or edited
    return choice.path if is_own else None


def _taken_along(layout: Layout, choice: ConfigChoice, gateway: GatewayConfig) -> bytes:
    """The text of a file that the user gave by its path, for the copy below /etc."""
    if choice.path is None or gateway.includes:
        raise InputError(
            f"{choice.path} includes other files, which can't be taken along",
            f"Copy all of them to {layout.configs} and name this one with -c {choice.name}.",
        )
    return choice.path.read_bytes()


def _ends(request: Request, gateway: GatewayConfig, settings: Settings) -> tuple[str, ...]:
    if request.today is None:
        return ()
    environ = settings.environment
    return check_ends(request.layout, gateway, environ, request.today, allow=request.allow_ended)


def _notes(
    choice: ConfigChoice, gateway: GatewayConfig, settings: Settings, configs: Mapping[str, bytes]
) -> tuple[str, ...]:
    findings = lint(gateway, settings.environment)
    notes = [f"{item}. {item.remedy}" for item in findings if item.severity is Severity.WARNING]
    if choice.passed_over is not None:
        notes.append(f"{choice.passed_over} was not used: write -c ./{choice.passed_over.name} for that one.")
    if settings.region and choice.name in configs:
        text = configs[choice.name].decode()
        notes += [
            f"{name} may answer from any AWS region." for name in profiles_outside_geography(text, settings.region)
        ]
    return tuple(notes)
