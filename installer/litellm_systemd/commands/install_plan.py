"""Make the plan of an install: the desired state of the host, against the observed one. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.commands.config_files import installed_paths
from litellm_systemd.commands.resolve import Request, build_config_link, is_given
from litellm_systemd.commands.service_config import ServiceConfig, resolve_service
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import observe_host, require_normal_state, require_systemd
from litellm_systemd.host.state import (
    DesiredState,
    FileState,
    HostState,
    Kept,
    Plan,
    Running,
    folder,
    link,
    render_diff,
)
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.install.plan import plan_install, require_no_conflicts
from litellm_systemd.install.render import (
    OFF,
    find_interval,
    render_command,
    render_environment,
    render_service,
    render_socket,
    render_sysusers,
    render_tmpfiles,
    render_verify_service,
    render_verify_timer,
)
from litellm_systemd.releases.inventory import running_release
from litellm_systemd.releases.source import Source, find_source, installed_version
from litellm_systemd.resources import USER_FILE, read_config

#: Asks the user whether to replace a file that they edited: the question, and the difference.
Ask = Callable[[str, str], bool]


def keep_mine(_question: str, _difference: str) -> bool:
    """The answer without a terminal: what the user edited stays."""
    return False


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """The options of `install`.

    `offline`: query neither the instance metadata nor STS. `take_ours`: replace files that the user edited, without a
    question. `spend`: `verify` may call a model. `verify_every`: the interval of the verify timer, None to keep it.
    """

    request: Request
    dry_run: bool = False
    offline: bool = False
    start: bool = True
    verify: bool = True
    spend: bool = True
    wait: bool = False
    take_ours: bool = False
    bundle: Path | None = None
    verify_every: str | None = None
    ask: Ask = keep_mine


@dataclass(frozen=True, slots=True)
class InstallPlan:
    """A plan, and what it was made from. `source` is None if the release exists already."""

    service: ServiceConfig
    source: Source | None
    host: HostState
    desired: DesiredState
    plan: Plan


def prepare_install(options: InstallOptions) -> InstallPlan:
    """Observe the host, work out its desired state, and plan.

    Raises:
        InstallerError: the request can't be used, or the host does not allow the install.
    """
    layout = options.request.layout
    systemctl = Systemctl(layout)
    systemd = require_systemd(systemctl) if layout.is_host else systemctl.version()
    if layout.is_host and options.start:
        require_normal_state(systemctl)
    request = replace(options.request, take=installed_paths(layout) if options.take_ours else frozenset())
    service = resolve_service(request)
    release, source = _release(layout, options.bundle)
    host = observe_host(layout, systemctl, [layout.config(name) for name in service.configs])
    build = partial(
        build_desired,
        layout,
        host=host,
        release=release,
        systemd=systemd,
        version=installed_version(),
        running=Running.STARTED if options.start else Running.UNTOUCHED,
        verify_every=options.verify_every or find_interval(layout, host),
    )
    take: frozenset[str] = frozenset(host.files) if options.take_ours else frozenset()
    desired = build(service, take=take)
    require_no_conflicts(layout, desired, host)
    plan = plan_install(layout, desired, host)
    given_up = {kept.path for kept in plan.kept if kept.is_news and options.ask(*_question(kept))}
    kept_environment = _kept_environment(layout, plan, given_up)
    if kept_environment is not None:
        # The edited environment file stays, so that nothing may be made from .env.
        request = replace(request, env_file=None, installed_only=True)
    if given_up or kept_environment is not None:
        service = resolve_service(replace(request, take=request.take | given_up))
        desired = build(service, take=take | given_up)
        plan = plan_install(layout, desired, host)
    if kept_environment is not None:
        plan = replace(plan, kept=(*plan.kept, kept_environment))
    return InstallPlan(service, source, host, desired, plan)


def _release(layout: Layout, bundle: Path | None) -> tuple[str, Source | None]:
    if bundle is not None:
        # A late import: it loads what the other verbs do not need.
        from litellm_systemd.releases.bundle import open_own_bundle

        source = open_own_bundle(bundle)
        return source.identifier, source
    running = running_release(layout)
    if running is not None:
        return running, None
    source = find_source()
    return source.identifier, source


def _kept_environment(layout: Layout, plan: Plan, take: Container[str]) -> Kept | None:
    kept = next((each for each in plan.kept if each.path == layout.environment_file), None)
    return None if kept is None or kept.path in take else kept


def _question(kept: Kept) -> tuple[str, str]:
    return f"{kept.path} was edited here. Keep that copy aside and write the new one?", render_kept(kept)


def render_kept(kept: Kept) -> str:
    """The difference between a file that the user keeps and the new one."""
    return render_diff(kept.found, kept.offered)


def build_desired(
    layout: Layout,
    service: ServiceConfig,
    host: HostState,
    *,
    release: str,
    systemd: int,
    version: str,
    running: Running,
    take: Container[str] = (),
    verify_every: str = OFF,
) -> DesiredState:
    """The desired state of the host: folders, files, release, and the service enabled and running.

    `take`: files to write although the user edited them. `verify_every`: the interval of the verify timer.
    """
    folders = (
        folder(layout.etc, 0o750, group=contract.SERVICE_USER),
        folder(layout.configs, 0o750, group=contract.SERVICE_USER),
        folder(layout.shared, 0o750, group=contract.SERVICE_USER),
    )
    settings = service.settings
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
        _environment_file(layout, service, host),
        *(build_config_file(layout, service, name, host) for name in service.configs),
        build_config_link(layout, service.choice.name),
        link(layout.current, f"releases/{release}"),
        command,
    )
    taken = frozenset(file.path for file in files if file.path in take)
    absent = tuple(checks) if verify_every == OFF else ()
    loads = tuple(layout.config(name) for name in service.loads)
    return DesiredState(release, folders, files, running=running, take=taken, absent=absent, loads=loads)


def _environment_file(layout: Layout, service: ServiceConfig, host: HostState) -> FileState:
    """The rendered file; without new variables the installed one, with the user's comments."""
    found = host.files.get(layout.environment_file)
    if service.keeps_environment and found is not None:
        return FileState(layout.environment_file, found.content, mode=0o600)
    text = render_environment(service.settings)
    return FileState(layout.environment_file, text.encode(), mode=0o600, keep_edits=True)


def build_config_file(layout: Layout, service: ServiceConfig, name: str, host: HostState) -> FileState:
    """An installed configuration. An edited one stays, unless the user gave the file itself by its path.

    The file with the user's own models is kept, without a comparison with the shipped one.
    """
    path, content = layout.config(name), service.configs[name]
    found = host.files.get(path)
    if name == USER_FILE and found is not None and content == read_config(USER_FILE).encode():
        content = found.content
    given = is_given(service.choice) and service.choice.name == name
    return FileState(path, content, mode=0o640, group=contract.SERVICE_USER, keep_edits=not given)
