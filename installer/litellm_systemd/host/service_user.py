"""Run programs as the service does: as its user, with its environment."""

from __future__ import annotations

from collections.abc import Mapping

from litellm_systemd.command import minimal_environment
from litellm_systemd.contract import SERVICE_USER
from litellm_systemd.host.files import user_exists
from litellm_systemd.host.layout import Layout


def as_service_user(layout: Layout, argv: tuple[str, ...]) -> tuple[str, ...]:
    """The command line that runs a program as the service's user; unchanged if there is no such user yet."""
    if not user_exists(layout, SERVICE_USER):
        return argv
    return ("setpriv", f"--reuid={SERVICE_USER}", f"--regid={SERVICE_USER}", "--init-groups", "--", *argv)


def service_environment(layout: Layout, variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of the service with these variables, as its unit sets it."""
    own = {"HOME": layout.state, "XDG_CACHE_HOME": layout.cache}
    return {**minimal_environment(), **own, **variables}
