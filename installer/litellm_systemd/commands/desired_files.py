"""From what the request comes to, to the files and folders that the host should have."""

from __future__ import annotations

from collections.abc import Container

from litellm_systemd import contract
from litellm_systemd.commands.desired import Wanted, build_config_link
from litellm_systemd.gateway.config import ConfigOrigin
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import DesiredState, FileState, HostState, Running, folder, link
from litellm_systemd.install.render import (
    render_command,
    render_environment,
    render_service,
    render_socket,
    render_sysusers,
    render_tmpfiles,
    render_verify_service,
    render_verify_timer,
)
from litellm_systemd.install.verify_timer import OFF


def build_desired(
    layout: Layout,
    wanted: Wanted,
    host: HostState,
    *,
    release: str,
    systemd: int,
    version: str,
    running: Running,
    take: Container[str] = (),
    verify_every: str = OFF,
) -> DesiredState:
    """The state of the host that the request comes to.

    `take`: files to write although the user edited them. `verify_every`: how often the service is checked by itself.
    """
    folders = (
        folder(layout.etc, 0o750, group=contract.SERVICE_USER),
        folder(layout.configs, 0o750, group=contract.SERVICE_USER),
    )
    settings = wanted.settings
    texts = {
        layout.service: render_service(layout, settings, systemd, version),
        layout.socket: render_socket(layout, settings),
        layout.sysusers: render_sysusers(),
        layout.tmpfiles: render_tmpfiles(folders),
    }
    checks = {
        layout.verify_service: render_verify_service(layout, version),
        layout.verify_timer: render_verify_timer(verify_every),
    }
    if verify_every != OFF:
        texts |= checks
    command = FileState(layout.command, render_command(layout, version).encode(), mode=0o755, keep_edits=True)
    files = (
        *(FileState(path, text.encode(), keep_edits=True) for path, text in texts.items()),
        _environment_file(layout, wanted, host),
        *(build_config_file(layout, wanted, name) for name in wanted.configs),
        build_config_link(layout, wanted.choice.name),
        link(layout.current, f"releases/{release}"),
        command,
    )
    taken = frozenset(file.path for file in files if file.path in take)
    absent = tuple(checks) if verify_every == OFF else ()
    return DesiredState(release, folders, files, running=running, take=taken, absent=absent)


def _environment_file(layout: Layout, wanted: Wanted, host: HostState) -> FileState:
    """The rendered file; where nothing new was given, the installed one as it stands, comments by hand included."""
    found = host.files.get(layout.environment_file)
    if wanted.keeps_environment and found is not None:
        return FileState(layout.environment_file, found.content, mode=0o600)
    text = render_environment(wanted.settings)
    return FileState(layout.environment_file, text.encode(), mode=0o600, keep_edits=True)


def build_config_file(layout: Layout, wanted: Wanted, name: str) -> FileState:
    """An installed configuration: the user's from his first edit on, unless he has just given the file himself."""
    given = wanted.choice.origin is ConfigOrigin.PATH and wanted.choice.name == name
    return FileState(
        layout.config(name),
        wanted.configs[name],
        mode=0o640,
        group=contract.SERVICE_USER,
        keep_edits=not given,
    )
