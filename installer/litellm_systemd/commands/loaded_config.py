"""The configuration that the service has loaded, and whether the file has changed since."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from litellm_systemd.errors import InstallerError
from litellm_systemd.gateway.yaml_source import read_document
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import active_config

_RELOAD = "sudo systemctl reload litellm"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration: its name below /etc/litellm/configs, and the SHA-256 of the file and its includes, in hex.

    `edited`: whether the file has changed since it was loaded; None if the service does not report what it has
    loaded, and this is the file.
    """

    name: str
    sha256: str
    edited: bool | None

    def as_dict(self) -> dict[str, Any]:
        """For programs: name, sha256, edited."""
        return asdict(self)


def observe_loaded(layout: Layout, runtime: Mapping[str, Any]) -> Loaded | None:
    """The loaded configuration as the main process reports it, else the installed one; None if neither is known."""
    found, digest = observe_file_now(layout), runtime.get("sha256")
    if not digest:
        return found
    # A file that can't be read any more differs from what was loaded.
    edited = found is None or found.sha256 != digest
    return Loaded(runtime.get("config_name") or active_config(layout) or "", digest, edited)


def observe_file_now(layout: Layout) -> Loaded | None:
    """The configuration that a reload would load; None if it can't be read or is no YAML."""
    try:
        digest = read_document(layout.real(layout.config_link)).digest
    except (InstallerError, OSError):
        return None
    return Loaded(active_config(layout) or "", digest, None)


def edited_notes(layout: Layout, loaded: Loaded | None) -> tuple[str, ...]:
    """What to do if the service has loaded another configuration than the active one."""
    if loaded is None or not loaded.edited:
        return ()
    name = active_config(layout)
    if name in (None, loaded.name):
        return (f"{loaded.name} was edited since the service loaded it: {_RELOAD}",)
    return (f"{name} is the active configuration, but the service has loaded {loaded.name}: {_RELOAD}",)
