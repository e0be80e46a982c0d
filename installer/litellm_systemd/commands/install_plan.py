"""The plan of an install, and all that it is made from. Changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from litellm_systemd.commands.desired import Request, Wanted, work_out
from litellm_systemd.commands.desired_files import build_desired
from litellm_systemd.host.diff import render_diff
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import observe_host, require_calm, require_systemd
from litellm_systemd.host.state import DesiredState, HostState, Kept, Plan, Running
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.install.plan import plan_install, require_ground
from litellm_systemd.install.verify_timer import find_interval
from litellm_systemd.releases.inventory import running_release
from litellm_systemd.releases.source import Source, find_source, installed_version

#: Asked whether a file that the user edited gives way: with the question, and the difference.
Ask = Callable[[str, str], bool]


def keep_mine(_question: str, _difference: str) -> bool:
    """The answer where nobody can be asked: what the user edited stays."""
    return False


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """What the flags of `install` say.

    `offline`: neither the instance metadata nor STS is asked. `take_ours`: files that the user edited give way, and
    nobody is asked. `spend`: whether `verify` calls a model. `verify_every`: how often the service is to be checked
    by itself, None for as it is.
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
    """A plan with all that it was made from."""

    wanted: Wanted
    source: Source | None
    host: HostState
    desired: DesiredState
    plan: Plan


def prepare_install(options: InstallOptions) -> InstallPlan:
    """Look at everything, and plan.

    Raises:
        InstallerError: the request, or the host, keeps it from working.
    """
    layout = options.request.layout
    systemctl = Systemctl(layout)
    systemd = require_systemd(systemctl) if layout.is_host else systemctl.version()
    if layout.is_host and options.start:
        require_calm(systemctl)
    wanted = work_out(options.request)
    release, source = _release(layout, options.bundle)
    host = observe_host(layout, systemctl, [layout.config(name) for name in wanted.configs])
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
    desired = build(wanted, take=take)
    require_ground(layout, desired, host)
    plan = plan_install(layout, desired, host)
    given_up = {kept.path for kept in plan.kept if kept.is_news and options.ask(*_question(layout, kept))}
    kept_environment = _kept_environment(layout, plan, given_up)
    if kept_environment is not None:
        # What `.env` says isn't taken up, so nothing else may be made from it either.
        wanted = work_out(replace(options.request, env_file=None, installed_only=True))
    if given_up or kept_environment is not None:
        desired = build(wanted, take=take | given_up)
        plan = plan_install(layout, desired, host)
    if kept_environment is not None:
        plan = replace(plan, kept=(*plan.kept, kept_environment))
    return InstallPlan(wanted, source, host, desired, plan)


def _release(layout: Layout, bundle: Path | None) -> tuple[str, Source | None]:
    if bundle is not None:
        # Late: it loads what the other verbs don't need.
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


def _question(layout: Layout, kept: Kept) -> tuple[str, str]:
    return f"{kept.path} was edited here. Put that aside and take the new one?", render_kept(layout, kept)


def render_kept(layout: Layout, kept: Kept) -> str:
    """The difference between a file that the user keeps and the one that he was offered."""
    return render_diff(kept.found, kept.offered, is_environment=kept.path == layout.environment_file)
