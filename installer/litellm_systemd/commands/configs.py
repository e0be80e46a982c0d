"""config list, show and use."""

from __future__ import annotations

from functools import partial

from litellm_systemd.commands.config_check import finding_checks
from litellm_systemd.commands.desired import (
    Request,
    build_config_link,
    find_config,
    installed_configs,
    read_choice,
    work_out,
)
from litellm_systemd.commands.desired_files import build_config_file
from litellm_systemd.commands.transaction import Say, changing, prove_service
from litellm_systemd.contract import ExitCode
from litellm_systemd.errors import MissingError
from litellm_systemd.gateway.config import lint
from litellm_systemd.host.files import observe_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import active_config, observe_host, read_installed, read_manifest
from litellm_systemd.host.state import DesiredState, HostState, Running, Verb
from litellm_systemd.install.apply import apply_install
from litellm_systemd.install.plan import plan_install, require_ground
from litellm_systemd.install.steps import Executor
from litellm_systemd.report.report import Report
from litellm_systemd.resources import config_names


def list_configs(layout: Layout) -> Report:
    """The configurations that `-c` takes by name: which is active, which were edited, and where each is from."""
    active, manifest = active_config(layout), read_manifest(layout)
    rows = []
    for name in sorted({*config_names(), *installed_configs(layout)}):
        found = observe_file(layout, layout.config(name))
        written = manifest.get(layout.config(name))
        words = {
            "shipped" if name in config_names() else "yours": True,
            "edited": found is not None and written is not None and written.digest != found.digest,
            "active": name == active,
        }
        rows.append((name, [word for word, holds in words.items() if holds]))
    return Report(
        f"{len(rows)} configurations",
        facts=tuple((name, ", ".join(words)) for name, words in rows),
        data={"active": active, "configs": [{"name": name, "is": words} for name, words in rows]},
    )


def show_config(request: Request) -> Report:
    """What a configuration serves, and what is wrong with it; the active one if the request names none.

    Raises:
        InstallerError: there is no such configuration, or it can't be used.
    """
    layout = request.layout
    name = request.config or active_config(layout)
    if name is None:
        raise MissingError("no configuration is active: nothing is installed", "Name one, such as demo.yml.")
    gateway = read_choice(find_config(request, name))
    # An empty environment is one that isn't there yet: nothing can be said of its variables.
    findings = lint(gateway, read_installed(layout) or None)
    return Report(
        f"{gateway.source} serves {len(gateway.names)} models",
        finding_checks(findings),
        facts=(*((model.name, model.provider_model) for model in gateway.models), *gateway.aliases),
        data={"source": gateway.source, "digest": gateway.digest, "models": list(gateway.names)},
        code=ExitCode.OK,
    )


def use_config(request: Request, say: Say = lambda _line: None, *, wait: bool = False) -> Report:
    """Make a configuration the active one; a service that runs takes it up by a reload.

    Raises:
        InstallerError: nothing was changed, or what was changed has been put back.
    """
    with changing(request.layout, "config use", say, wait=wait) as executor:
        return switch_config(request, executor)


def switch_config(request: Request, executor: Executor, *, take_up: bool = True) -> Report:
    """As `use_config`, within a change that is under way; without `take_up` a running service is left alone."""
    layout = request.layout
    wanted = work_out(request)
    host = observe_host(layout, executor.systemctl, [layout.config(wanted.choice.name)])
    own_file = wanted.choice.name in wanted.configs
    desired = DesiredState(
        release=_current_release(layout, host),
        files=(
            *((build_config_file(layout, wanted, wanted.choice.name),) if own_file else ()),
            build_config_link(layout, wanted.choice.name),
        ),
        enabled=False,
        running=Running.AS_IT_IS if take_up else Running.UNTOUCHED,
    )
    require_ground(layout, desired, host)
    plan = plan_install(layout, desired, host)
    reloads = any(action.verb is Verb.RELOAD for action in plan.actions)
    apply_install(executor, plan, desired, host, partial(prove_service, wanted) if reloads else lambda: None)
    return Report(
        f"{wanted.choice.name} is the active configuration",
        notes=wanted.notes,
        data={
            "config": wanted.choice.name,
            "changed": bool(plan),
            "models": list(wanted.gateway.names),
            "actions": [str(action) for action in plan.actions],
        },
    )


def _current_release(layout: Layout, host: HostState) -> str:
    found = host.files.get(layout.current)
    if found is None:
        raise MissingError("nothing is installed here", "'litellmctl install' comes first.")
    return found.content.decode().rsplit("/", 1)[-1]
