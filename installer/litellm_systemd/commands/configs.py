"""config list, show and use."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from litellm_systemd.commands.config_check import environment_check, exit_code_of, finding_checks
from litellm_systemd.commands.config_files import read_gateway
from litellm_systemd.commands.install import build_config_file, kept_notes
from litellm_systemd.commands.migration import plan_migration
from litellm_systemd.commands.resolve import (
    Request,
    Selection,
    build_config_link,
    installed_configs,
    resolve,
    skipped_note,
)
from litellm_systemd.commands.service_config import ServiceConfig, denied_addresses, prove_service, resolve_service
from litellm_systemd.errors import NotInstalled
from litellm_systemd.gateway.config import GatewayConfig, lint
from litellm_systemd.gateway.redis_settings import CACHE, COORDINATION, add_redis
from litellm_systemd.host.files import observe_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import active_config, observe_host, read_manifest
from litellm_systemd.host.state import DesiredState, FileState, HostState, Running, Verb, is_edited
from litellm_systemd.install.apply import Executor, Say, apply_install, changing
from litellm_systemd.install.plan import plan_install, require_no_conflicts
from litellm_systemd.install.render import without_denial
from litellm_systemd.releases.needs import package_findings, require_packages
from litellm_systemd.report.report import Report, render_count
from litellm_systemd.resources import config_names


def list_configs(layout: Layout) -> Report:
    """The configurations that `-c` takes by name: the active one, the edited ones, and where each is from."""
    active, manifest = active_config(layout), read_manifest(layout)
    rows = []
    for name in sorted({*config_names(), *installed_configs(layout)}):
        found = observe_file(layout, layout.config(name))
        written = manifest.get(layout.config(name))
        words = {
            "shipped" if name in config_names() else "yours": True,
            "edited": written is not None and is_edited(found, written),
            "active": name == active,
        }
        rows.append((name, [word for word, holds in words.items() if holds]))
    return Report(
        render_count(len(rows), "configuration"),
        facts=tuple((name, ", ".join(words)) for name, words in rows),
        data={"active": active, "configs": [{"name": name, "is": words} for name, words in rows]},
    )


def show_config(request: Request) -> Report:
    """The models of a configuration, and its problems.

    Raises:
        InstallerError: there is no such configuration, or it can't be used.
    """
    selection = resolve(request, read_only=True)
    gateway = read_gateway(request.layout, selection.config, selection.settings.region)
    lacking, needs = package_findings(request.layout, gateway)
    findings = (*lint(gateway, None if selection.unknown else selection.environ), *lacking)
    return Report(
        f"{gateway.source} serves {render_count(len(gateway.names), 'model')}",
        (*finding_checks(findings), *environment_check(selection)),
        facts=(*((model.name, model.provider_model) for model in gateway.models), *gateway.aliases),
        notes=(*needs, *_redis_note(gateway, selection), *skipped_note(selection.config)),
        data={"source": gateway.source, "digest": gateway.digest, "models": list(gateway.names)},
        code=exit_code_of(findings),
    )


def _redis_note(gateway: GatewayConfig, selection: Selection) -> tuple[str, ...]:
    """What the service adds to the configuration for the Redis of the environment."""
    added = add_redis(gateway, {} if selection.unknown else selection.environ)
    if added is gateway.document:
        return ()
    section = CACHE[0] if added.get(CACHE[0]) != gateway.document.get(CACHE[0]) else COORDINATION[0]
    key = "cache: true, cache_params: {type: redis, mode: default_off}" if section == CACHE[0] else COORDINATION[1]
    return (f"For the Redis of {selection.dotenv.source}, the service adds to {section}: {key} (docs/redis.md).",)


def use_config(request: Request, say: Say = lambda _line: None, *, wait: bool = False) -> Report:
    """Make a configuration the active one; a running service reloads it, or restarts if its unit changes.

    Raises:
        InstallerError: nothing was changed, or each change was undone.
    """
    with changing(request.layout, "config use", say, wait=wait) as executor:
        return switch_config(request, executor)


def switch_config(request: Request, executor: Executor, *, take_up: bool = True) -> Report:
    """The same within a transaction that has begun; without `take_up` a running service is not reloaded."""
    layout = request.layout
    service = resolve_service(request)
    require_packages(layout, service.gateway, f"sudo litellmctl install -c {service.own or service.choice.name}")
    written = [name for name in service.loads if name in service.configs]
    host = observe_host(layout, executor.systemctl, [layout.config(name) for name in written])
    release = current_release_of(layout, host)
    # The configuration may be the one that turns the database on.
    migration = plan_migration(layout, service.settings.environment, service.gateway, host, release)
    executor = replace(executor, database=migration.environment)
    desired = DesiredState(
        release=release,
        files=(
            *(build_config_file(layout, service, name, host) for name in written),
            build_config_link(layout, service.choice.name),
            *_unit_that_allows(layout, service, host),
        ),
        loads=tuple(layout.config(name) for name in service.loads),
        enabled=False,
        running=Running.AS_IT_IS if take_up else Running.UNTOUCHED,
        migrates=migration.reason,
    )
    require_no_conflicts(layout, desired, host)
    plan = plan_install(layout, desired, host)
    takes_effect = any(action.verb in (Verb.RELOAD, Verb.RESTART) for action in plan.actions)
    apply_install(executor, plan, desired, host, partial(prove_service, service) if takes_effect else lambda: None)
    news = replace(plan, kept=tuple(each for each in plan.kept if each.is_news))
    return Report(
        f"{service.choice.name} is the active configuration",
        notes=(*service.notes, *migration.notes, *kept_notes(layout, news)),
        data={
            "config": service.choice.name,
            "changed": bool(plan),
            "models": list(service.gateway.names),
            "actions": [str(action) for action in plan.actions],
        },
    )


def _unit_that_allows(layout: Layout, service: ServiceConfig, host: HostState) -> tuple[FileState, ...]:
    """The unit without its denial of the instance metadata, if the new configuration needs them."""
    found, written = host.files.get(layout.service), host.manifest.get(layout.service)
    if found is None or written is None or is_edited(found, written) or denied_addresses(service):
        return ()
    content = without_denial(found.content)
    return () if content == found.content else (FileState(layout.service, content),)


def current_release_of(layout: Layout, host: HostState) -> str:
    found = host.files.get(layout.current)
    if found is None:
        raise NotInstalled
    return found.content.decode().rsplit("/", 1)[-1]
