"""version: what is installed, for people and bug reports."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of

from litellm_systemd.errors import InstallerError
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.releases.inventory import current_release, read_release
from litellm_systemd.report.report import Report


def version(layout: Layout) -> Report:
    """The versions of this litellmctl, of the release in use with its LiteLLM and Python, and of systemd.

    The data has None for what is not there. Any user can read all of it.
    """
    own, name = version_of("litellm-systemd"), current_release(layout)
    release = None if name is None else read_release(layout, name)
    try:
        systemd = Systemctl(layout).version()
    except InstallerError:
        systemd = None
    data = {
        "litellmctl": own,
        "release": name,
        "litellm": None if release is None else release.litellm or None,
        "python": platform.python_version() if release is None else release.python_version or None,
        "systemd": systemd,
    }
    facts = {**data, "release": name or "none is installed", "systemd": systemd or "there is none"}
    return Report(
        f"litellmctl {own}", facts=tuple((key, str(value)) for key, value in facts.items() if value), data=data
    )
