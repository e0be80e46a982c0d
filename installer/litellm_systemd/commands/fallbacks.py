"""verify --fallbacks: each fallback, on a throwaway instance that allows mock testing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace

from litellm_systemd import contract
from litellm_systemd.commands.config_files import standalone
from litellm_systemd.commands.resolve import Request
from litellm_systemd.commands.service import installed_settings
from litellm_systemd.commands.service_config import resolve_service
from litellm_systemd.commands.transaction import Say
from litellm_systemd.gateway.config import read_config
from litellm_systemd.host.observe import is_booted
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.instances.throwaway import throwaway_process, throwaway_unit
from litellm_systemd.report.report import Report
from litellm_systemd.verify.run import verify_fallbacks

_UNIT_NOTE = "Tried on a throwaway unit with the service's release, environment, configuration, user and sandbox."
_PROCESS_NOTE = "Tried on a throwaway process, without the service's user and sandbox."


def prove_fallbacks(
    request: Request, environ: Mapping[str, str], *, timeout: float, say: Say = lambda _line: None
) -> Report:
    """Start a throwaway instance, try each fallback on it, and remove it.

    For root, on a host with the service, and without -c and -e, it is a copy of the service, with the installed
    environment and the active configuration. Otherwise it is a process with those of the request.

    Raises:
        InstallerError: there is nothing to start, or it doesn't start. The service itself was not changed.
    """
    layout, systemctl = request.layout, Systemctl(request.layout)
    if _is_of_service(request) and systemctl.unit_state(contract.SERVICE).load == "loaded":
        settings, config = installed_settings(layout), read_config(layout.real(layout.config_link))
        say("starting a throwaway instance next to the service")
        with throwaway_unit(layout, systemctl, settings.master_key, timeout) as gateway:
            report = verify_fallbacks(gateway, config)
        return replace(report, notes=(_UNIT_NOTE, *report.notes))
    service = resolve_service(request)
    say("starting a throwaway instance as a process")
    with throwaway_process(
        standalone(service.own, service.gateway),
        {**environ, **service.settings.environment},
        key=service.settings.master_key,
        timeout=timeout,
        start_timeout=service.settings.start_timeout,
    ) as gateway:
        report = verify_fallbacks(gateway, service.gateway)
    return replace(report, notes=(_PROCESS_NOTE, *report.notes))


def _is_of_service(request: Request) -> bool:
    asks = request.env_file is not None or request.config is not None
    return request.layout.is_host and not asks and os.geteuid() == 0 and is_booted()
