"""The configuration that a verb looks at without changing anything, with the environment that goes with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from litellm_systemd.commands.desired import DEFAULT_CONFIG, Request, find_active_config, find_config, read_choice
from litellm_systemd.env.settings import CONFIG_VARIABLE, REGION_VARIABLES, read_dotenv
from litellm_systemd.gateway.config import GatewayConfig, localize, parse_config
from litellm_systemd.gateway.served_models import ServedModel, build_served
from litellm_systemd.host.observe import read_installed
from litellm_systemd.resources import read_config as read_shipped


@dataclass(frozen=True, slots=True)
class Chosen:
    """A configuration, the service's environment, and what the two come to."""

    gateway: GatewayConfig
    environ: Mapping[str, str] = field(repr=False)
    served: tuple[ServedModel, ...]


def read_chosen(request: Request) -> Chosen:
    """The configuration that the request names, else the active one, else the one that an install would take.

    A shipped one is read as an install would write it for the region.

    Raises:
        InstallerError: there is no such configuration, or it, or the environment, can't be read.
    """
    environ = _environment(request)
    name = request.config or find_active_config(request.layout) or environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG
    choice = find_config(request, name)
    region = next((environ[name] for name in REGION_VARIABLES if environ.get(name)), None)
    if choice.path is None and region is not None:
        gateway = parse_config(localize(read_shipped(choice.name), region), choice.name)
    else:
        gateway = read_choice(choice)
    return Chosen(gateway, environ, build_served(gateway, environ))


def _environment(request: Request) -> Mapping[str, str]:
    """The environment of the file that the request names, else the installed one, else that of a `.env` here."""
    if request.env_file is not None:
        environ: Mapping[str, str] = read_dotenv(request.env_file).values
    else:
        environ = read_installed(request.layout)
        if not environ and (request.cwd / ".env").exists():
            environ = read_dotenv(request.cwd / ".env").values
    return environ if request.region is None else {**environ, REGION_VARIABLES[0]: request.region}
