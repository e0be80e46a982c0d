"""What is missing: packages that a configuration needs, and that the release in use does not have."""

from __future__ import annotations

from litellm_systemd.errors import InputError, InstallerError
from litellm_systemd.gateway.config import GatewayConfig, LintFinding, read_config
from litellm_systemd.gateway.config_types import render_key
from litellm_systemd.gateway.packages import Missing, locked_names, missing_packages
from litellm_systemd.host.layout import Layout
from litellm_systemd.releases.inventory import current_release, read_release_lock
from litellm_systemd.resources import read_lock


def render_need(missing: Missing) -> str:
    """A sentence about a package that a configuration needs, without the full stop."""
    return f"{render_key(missing.path)}: {missing.name} needs the package {missing.package}"


def require_packages(layout: Layout, gateway: GatewayConfig, command: str) -> None:
    """Check that the release in use has the packages of groups that a configuration needs.

    `command`: what installs with this configuration.

    Raises:
        InputError: it lacks one.
    """
    for each in _missing(layout, gateway)[0] if current_release(layout) else ():
        if each.group is not None or each.package in locked_names(read_lock()):
            raise InputError(
                f"{gateway.place(each.path)}: {each.name} needs the package {each.package}, which the release in use"
                " does not have",
                f"{_addition(each)}, run: {command}",
            )


def require_active_packages(layout: Layout) -> None:
    """The same for the active configuration. One that can't be read is left to the service to report."""
    gateway = _read_active(layout)
    if gateway is not None:
        require_packages(layout, gateway, "sudo litellmctl install")


def package_findings(layout: Layout, gateway: GatewayConfig) -> tuple[tuple[LintFinding, ...], tuple[str, ...]]:
    """Findings about packages that no install would add, or that the release in use lacks; notes about the others."""
    findings, notes = [], []
    missing, is_installed = _missing(layout, gateway)
    for each in missing:
        if each.group is None and each.package not in locked_names(read_lock()):
            message = f"{each.name} needs the package {each.package}, which releases do not have"
            remedy = f"To add it, run: sudo litellmctl install --with {each.package}"
        elif is_installed:
            message = f"{each.name} needs the package {each.package}, which the release in use does not have"
            remedy = f"{_addition(each)}, run: sudo litellmctl install"
        else:
            notes.append(f"{render_need(each)}. An install adds it, with the group {each.group}.")
            continue
        findings.append(gateway.warning("missing-package", each.path, message, remedy))
    return tuple(findings), tuple(notes)


def _addition(missing: Missing) -> str:
    return f"To add the group {missing.group}" if missing.group else "To get a release that has it"


def active_needs(layout: Layout) -> tuple[str, ...]:
    """The findings about the active configuration as notes; empty if it can't be read."""
    gateway = _read_active(layout)
    findings = () if gateway is None else package_findings(layout, gateway)[0]
    return tuple(finding.render() for finding in findings)


def _read_active(layout: Layout) -> GatewayConfig | None:
    try:
        return read_config(layout.real(layout.config_link))
    except InstallerError:
        return None


def _missing(layout: Layout, gateway: GatewayConfig) -> tuple[tuple[Missing, ...], bool]:
    """What the release in use lacks, or what ships if there is none; and whether there is one."""
    current = current_release(layout)
    lock = "" if current is None else read_release_lock(layout, current)
    return missing_packages(gateway, locked_names(lock or read_lock())), bool(lock)
