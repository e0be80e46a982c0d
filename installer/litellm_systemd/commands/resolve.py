"""Choose the environment and the configuration that a verb works on.

All verbs choose here, by one precedence: docs/operations.md, "Which environment, which configuration".
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from fnmatch import fnmatch
from pathlib import Path

from litellm_systemd.commands.config_files import read_gateway
from litellm_systemd.contract import RETIRED_KEYS, SERVICE_USER
from litellm_systemd.env.settings import (
    CONFIG_VARIABLE,
    REGION_VARIABLES,
    Dotenv,
    Settings,
    build_settings,
    read_dotenv,
)
from litellm_systemd.env.variables import Section, drop_unset, names_in
from litellm_systemd.errors import InputError, InstallerError, MissingError, NotInstalled, PermissionDenied
from litellm_systemd.gateway.config import ConfigChoice, ConfigOrigin, LintFinding, resolve_name
from litellm_systemd.gateway.config_types import Place
from litellm_systemd.gateway.environment import environment_findings
from litellm_systemd.host.aws_profile import find_profile_region
from litellm_systemd.host.effective import observe_environment
from litellm_systemd.host.files import observe_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import active_config, read_installed, read_manifest
from litellm_systemd.host.state import FileKind, FileState, link
from litellm_systemd.resources import config_names
from litellm_systemd.resources import read_config as read_shipped
from litellm_systemd.user_files import find_home, read_regular

DEFAULT_CONFIG = "iam_role_config.yml"
_DATABASE = frozenset(names_in(Section.DATABASE))


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line requests.

    `env_file`, `config`: the values of -e and -c. `cwd`: the folder in which .env and relative paths are looked up.
    `installed_only`: ignore the .env there. `region`: the value of --region.

    What `resolve_service` does in addition: with `ask_instance` it gets a missing region from the EC2 instance
    metadata; with `prove_access` it checks the credentials and the files that the environment names. `today` is the
    day for end-of-life checks, None for no such checks; `allow_ended` accepts models after their end of life. `take`
    are the paths of installed files to replace although the user edited them. `database` is the URL of the database
    that `install --with-postgres` sets up, empty to use it no longer, None to keep what is installed.
    `without_database`: ignore the variables of a database, as a rehearsal does. `variables`: the environment, for a
    process that gets it from the manager of its container and from no file; None to read a file.
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
    take: frozenset[str] = frozenset()
    database: str | None = None
    without_database: bool = False
    variables: Mapping[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Selection:
    """The environment and the configuration that were chosen.

    `dotenv`: the variables and where they come from; `settings`: the same, validated. `installed`: the installed
    environment, empty if there is none. `is_installed`: the chosen environment is the installed one. `unknown`: why
    no environment is known; then `settings` are defaults. `config`: the configuration, not read yet.
    """

    dotenv: Dotenv
    settings: Settings
    config: ConfigChoice
    installed: Mapping[str, str] = field(default_factory=dict, repr=False)
    is_installed: bool = False
    unknown: str = ""

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment of the service; empty if none is known."""
        return {} if self.unknown else self.settings.environment

    def locate(self, findings: Iterable[LintFinding]) -> tuple[LintFinding, ...]:
        """The findings, each about a variable with the file and the line that set it."""
        return tuple(_locate(each, self.dotenv) for each in findings)


def _locate(finding: LintFinding, dotenv: Dotenv) -> LintFinding:
    if finding.place.file is not None or finding.place.key not in dotenv.values:
        return finding
    return replace(
        finding,
        place=Place(dotenv.file_of(finding.place.key), dotenv.lines.get(finding.place.key), key=finding.place.key),
    )


def resolve(request: Request, *, read_only: bool = False) -> Selection:
    """Choose the environment and the configuration. Changes nothing.

    A verb that only reads (`read_only`) also works for a user who cannot read the installed environment, which then
    counts as absent.

    Raises:
        MissingError: there is no environment, and -c is not given.
        PermissionDenied: the installed environment is needed, and this user cannot read it.
        InputError: the environment is invalid, or the link to the active configuration was replaced.
        UsageError: there is no configuration with that name.
    """
    current, refusal = _read_installed(request.layout, read_only=read_only)
    installed = current.values
    dotenv = _choose_environment(request, current)
    unknown = ""
    if dotenv is None:
        _require_config(request, refusal)
        dotenv, unknown = Dotenv(request.layout.environment_file, {}), _no_environment(request, refusal)
    is_installed = dotenv.values is installed
    warnings: tuple[str, ...] = ()
    if request.without_database:
        kept = {name: value for name, value in dotenv.values.items() if name not in _DATABASE}
        dotenv, is_installed = replace(dotenv, values=kept), False
    if RETIRED_KEYS in dotenv.values and not is_installed:
        dotenv, warnings = _without_retired_keys(dotenv)
    try:
        settings = build_settings(
            dotenv,
            installed=installed,
            new_key=lambda: f"sk-{secrets.token_urlsafe(32)}",
            database="" if request.without_database else request.database,
        )
    except InputError as error:
        error.others = _other_findings(request, dotenv, error.message)
        raise
    settings = replace(settings, warnings=(*settings.warnings, *warnings))
    settings = _with_profile_region(request.layout, settings, read_only=read_only)
    return Selection(
        dotenv=dotenv,
        settings=settings,
        config=find_config(request, _choose_config(request, settings, installed)),
        installed=installed,
        is_installed=is_installed,
        unknown=unknown,
    )


def _without_retired_keys(dotenv: Dotenv) -> tuple[Dotenv, tuple[str, ...]]:
    """A .env without the replaced keys, such as one that was copied from another host, and a warning."""
    values = {name: value for name, value in dotenv.values.items() if name != RETIRED_KEYS}
    where = dotenv.where(RETIRED_KEYS)
    text = f"{where}: {RETIRED_KEYS} is ignored: only 'litellmctl rotate-key' sets it. Remove the line."
    return replace(dotenv, values=values), (text,)


def _with_profile_region(layout: Layout, settings: Settings, *, read_only: bool) -> Settings:
    """Settings with the region of the AWS profile, if no variable names one.

    The service has a home of its own. A verb that only reads also looks into the ~/.aws of the user who runs it.
    """
    if settings.region is not None:
        return settings
    homes = (layout.real(layout.state), *((find_home(os.environ),) if read_only else ()))
    region = find_profile_region(settings.environment, *homes)
    if region is None:
        return settings
    return replace(settings, region=region, environment={**settings.environment, REGION_VARIABLES[0]: region})


def _other_findings(request: Request, dotenv: Dotenv, reported: str) -> tuple[str, ...]:
    """What else the linter finds in a .env, so that the user can fix all of it at once."""
    try:
        name = request.config or dotenv.values.get(CONFIG_VARIABLE) or find_active_config(request.layout)
        gateway = read_gateway(request.layout, find_config(request, name or DEFAULT_CONFIG))
    except InstallerError:
        return ()  # without the configuration, it is not known which variables it refers to
    found = (_locate(each, dotenv) for each in environment_findings(gateway, drop_unset(dotenv.values)))
    others = (each for each in found if not reported.startswith(f"{each.place.position}: {each.place.key}"))
    return tuple(each.render() for each in others)


def _read_installed(layout: Layout, *, read_only: bool) -> tuple[Dotenv, PermissionDenied | None]:
    """What an install keeps: the installed file. For a verb that only reads: what the service has, with drop-ins."""
    if not read_only:
        return Dotenv(layout.environment_file, read_installed(layout)), None
    try:
        return observe_environment(layout).dotenv, None
    except MissingError:
        return Dotenv(layout.environment_file, {}), None
    except PermissionDenied as error:
        return Dotenv(layout.environment_file, {}), error


def _choose_environment(request: Request, installed: Dotenv) -> Dotenv | None:
    """The environment: that of the process on request, else -e, else .env here, else the installed one, or None."""
    if request.variables is not None:
        return Dotenv("the environment", request.variables)
    if request.env_file is not None:
        return read_dotenv(request.env_file)
    # A link that leads nowhere counts: what was meant is not the installed environment.
    if not request.installed_only and os.path.lexists(request.cwd / ".env"):
        return read_dotenv(request.cwd / ".env")
    return installed if installed.values else None


def _require_config(request: Request, refusal: PermissionDenied | None) -> None:
    """Check that a configuration can be chosen without an environment: only one that the command line names."""
    if request.config is not None and not request.installed_only:
        return
    if refusal is not None:
        raise refusal
    folder = request.layout.real(request.layout.etc)
    if folder.is_dir() and not os.access(folder, os.X_OK):
        raise PermissionDenied(f"{folder} can't be read by this user", "Run the command with sudo.")
    if request.installed_only:
        raise NotInstalled
    raise MissingError(
        "there is no .env here, and nothing is installed yet",
        "'litellmctl init' writes a .env. Or name a configuration: -c demo.yml needs no AWS account.",
    )


def _no_environment(request: Request, refusal: PermissionDenied | None) -> str:
    path = request.layout.environment_file
    reason = f"nor {path}" if refusal is None else f"and {path} can't be read by this user"
    return f"there is no .env here, {reason}"


def _choose_config(request: Request, settings: Settings, installed: Mapping[str, str]) -> str:
    """The configuration: -c, else a CONFIG_FILE that is not the installed one, else the active one, else the default.

    A CONFIG_FILE that the last install has seen does not undo a later `config use`.
    """
    changed = settings.config if settings.config != installed.get(CONFIG_VARIABLE) else None
    return request.config or changed or find_active_config(request.layout) or settings.config or DEFAULT_CONFIG


def find_active_config(layout: Layout) -> str | None:
    """The active configuration; if the link to it was removed, the one that it led to.

    Raises:
        InputError: the link was replaced by something else, such as a file that an editor wrote: no other
            configuration may be chosen silently.
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
        f"{layout.config_link} is no longer a link to an installed configuration",
        f"To run its content: -c {layout.config_link}. To run another one: -c NAME ('litellmctl config list').",
    )


def find_config(request: Request, name: str) -> ConfigChoice:
    """The configuration with that name, for a user in the request's folder.

    Raises:
        UsageError: there is none.
        PermissionDenied: it is not a path, and this user can't list the installed configurations.
    """
    return resolve_name(
        name,
        shipped=frozenset(config_names()),
        installed=frozenset(() if "/" in name else installed_configs(request.layout)),
        installed_dir=request.layout.real(request.layout.configs),
        folder=request.cwd,
    )


def skipped_note(choice: ConfigChoice) -> tuple[str, ...]:
    """A note about a file in the current folder that has the name of the chosen configuration and was not used.

    None if the two have the same content, as after an install of that file.
    """
    if choice.passed_over is None or _is_same(choice.passed_over, choice):
        return ()
    return (f"{choice.passed_over} was not used. To use it: -c ./{choice.passed_over.name}",)


def _is_same(own: Path, choice: ConfigChoice) -> bool:
    try:
        used = read_shipped(choice.name).encode() if choice.path is None else read_regular(choice.path)
        return read_regular(own) == used
    except (OSError, ValueError):
        return False


def installed_configs(layout: Layout) -> tuple[str, ...]:
    """The file names of the installed configurations, sorted.

    Raises:
        PermissionDenied: this user can't list them.
    """
    folder = layout.real(layout.configs)
    try:
        # Path.glob() skips a folder that it may not read, and Path.is_dir() depends on the version of Python.
        return tuple(sorted(name for name in os.listdir(folder) if fnmatch(name, "*.y*ml")))  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except PermissionError:
        raise PermissionDenied(
            f"{folder} is readable by root and the user {SERVICE_USER} only",
            "Run the command with sudo. For a file of your own give a path with a slash, such as ./my.yml.",
        ) from None


def build_config_link(layout: Layout, name: str) -> FileState:
    """The link that makes a configuration the active one (docs/adr/0004)."""
    return link(layout.config_link, f"configs/{name}")


def is_given(choice: ConfigChoice) -> bool:
    """Whether the user gave the configuration as a file of their own."""
    return choice.origin is ConfigOrigin.PATH
