"""Models of a configuration that are at, or near, their end of life on Bedrock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from litellm_systemd.errors import InputError, InstallerError
from litellm_systemd.gateway.config import GatewayConfig, LintFinding, Severity, read_config
from litellm_systemd.gateway.models import build_served, end_findings
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import active_config


def find_ends(
    layout: Layout, gateway: GatewayConfig, environ: Mapping[str, str], today: date, *, allow: bool = False
) -> tuple[LintFinding, ...]:
    """Findings about models after their end of life (errors) or near it (warnings).

    The dates are those of LiteLLM's model map and of our own table; no request is sent. A model that the active
    configuration already calls is a warning only: a second run, an upgrade and a rollback continue.
    """
    served = build_served(gateway, environ)
    known = _called(gateway, environ) if allow else _active(layout, environ)
    return tuple(end_findings(gateway, served, today, known=known))


def check_ends(
    layout: Layout, gateway: GatewayConfig, environ: Mapping[str, str], today: date, *, allow: bool = False
) -> tuple[str, ...]:
    """The warnings of `find_ends`, one line each.

    Raises:
        InputError: a model is after its end of life, `allow` is not set, and the active configuration lacks it.
    """
    findings = find_ends(layout, gateway, environ, today, allow=allow)
    for finding in findings:
        if finding.severity is Severity.ERROR:
            raise InputError(str(finding), f"{finding.remedy} Or accept it: --allow-eol of install and config use.")
    return tuple(f"{finding}. {finding.remedy}" for finding in findings)


def active_ends(layout: Layout, environ: Mapping[str, str], today: date) -> tuple[str, ...]:
    """The same for the active configuration, without errors; empty if it can't be read."""
    gateway = _read_active(layout)
    return () if gateway is None else check_ends(layout, gateway, environ, today, allow=True)


def _active(layout: Layout, environ: Mapping[str, str]) -> frozenset[str]:
    gateway = _read_active(layout)
    return frozenset() if gateway is None else _called(gateway, environ)


def _read_active(layout: Layout) -> GatewayConfig | None:
    name = active_config(layout)
    try:
        return None if name is None else read_config(layout.real(layout.config(name)))
    except InstallerError:
        return None


def _called(gateway: GatewayConfig, environ: Mapping[str, str]) -> frozenset[str]:
    """The models of a configuration, by their ids on Bedrock."""
    return frozenset(
        each.found.model for each in build_served(gateway, environ) if each.found and each.found.model is not None
    )
