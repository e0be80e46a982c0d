"""What the service sees of this host's files: findings that depend on its sandbox and on its home."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import replace

from litellm_systemd import contract
from litellm_systemd.gateway.config_types import GatewayConfig, LintFinding, Severity
from litellm_systemd.gateway.environment import hidden_file_findings, profile_findings
from litellm_systemd.host.effective import find_drop_ins
from litellm_systemd.host.layout import Layout

#: Settings of a unit by which a drop-in can show hidden files to the service (systemd.exec(5)).
_SHOWS_FILES = re.compile(r"^\s*(?:ProtectHome|PrivateTmp|Bind(?:ReadOnly)?Paths|Root\w+)\s*=", re.MULTILINE)


def host_findings(layout: Layout, gateway: GatewayConfig, environ: Mapping[str, str]) -> tuple[LintFinding, ...]:
    """Findings about files that the service cannot see, and profiles that it lacks."""
    hidden = tuple(hidden_file_findings(gateway, environ))
    if has_own_sandbox(layout):
        hidden = tuple(replace(each, severity=Severity.WARNING) for each in hidden)
    return (*hidden, *profile_findings(gateway, environ, has_profiles=own_profiles(layout)))


def own_profiles(layout: Layout) -> bool:
    """Whether the home of the service has AWS profiles, which boto3 prefers to the role of the instance.

    It counts as having some if this user cannot look.
    """
    try:
        return any(layout.real(f"{layout.state}/.aws/{name}").exists() for name in ("credentials", "config"))
    except PermissionError:
        return True


def has_own_sandbox(layout: Layout) -> bool:
    """Whether a drop-in changes which files the service sees."""
    with contextlib.suppress(OSError, ValueError):
        return any(_SHOWS_FILES.search(path.read_text()) for path in find_drop_ins(layout, contract.SERVICE))
    return False
