"""Hosts for plan cases: plans are simulated on values, without a disk or systemd."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from litellm_systemd.commands.install import build_desired
from litellm_systemd.commands.service_config import ServiceConfig
from litellm_systemd.contract import METRICS_SOCKET, VERIFY_TIMER
from litellm_systemd.env.database import own_url
from litellm_systemd.env.settings import build_settings, parse_dotenv
from litellm_systemd.gateway.config import ConfigChoice, ConfigOrigin, parse_config
from litellm_systemd.host.layout import UNITS, Layout
from litellm_systemd.host.state import (
    Action,
    DesiredState,
    FileKind,
    FileState,
    HostState,
    Plan,
    PostgresState,
    Running,
    UnitState,
    Verb,
    folder,
    record_of,
)
from litellm_systemd.install.plan import plan_install

#: The folders of every host (file-hierarchy(7)).
STANDARD = (
    *("/etc", "/etc/systemd", "/etc/systemd/system", "/etc/sysusers.d", "/etc/tmpfiles.d"),
    *("/opt", "/srv", "/usr", "/usr/local", "/usr/local/bin", "/var", "/var/lib"),
)
MODEL = "model_list: [{model_name: m, litellm_params: {model: openai/m, mock_response: hi}}]\n"
CONFIGS = {"demo.yml": MODEL.encode(), "other.yml": (MODEL + "# other\n").encode()}


def make_layout(case: dict[str, Any]) -> Layout:
    return Layout(
        **{"root": Layout().root.joinpath(case.get("root", "/")), "prefix": case.get("prefix", Layout().prefix)}
    )


def make_service(asked: dict[str, Any]) -> ServiceConfig:
    settings = build_settings(
        parse_dotenv(asked.get("env", ""), ".env"), installed={}, new_key=lambda: "sk-made-for-the-case"
    )
    name = asked.get("config", "demo.yml")
    configs = {**CONFIGS, **{key: text.encode() for key, text in asked.get("configs", {}).items()}}
    return ServiceConfig(
        settings=settings,
        choice=ConfigChoice(name, ConfigOrigin(asked.get("origin", "shipped")), None),
        gateway=parse_config(configs.get(name, MODEL.encode()).decode(), name),
        configs=configs,
        keeps_environment=False,
        loads=tuple(asked.get("loads", (name,))),
    )


def make_desired(layout: Layout, asked: dict[str, Any], host: HostState) -> DesiredState:
    return build_desired(
        layout,
        make_service(asked),
        host,
        release=asked.get("release", "r1"),
        systemd=asked.get("systemd", 252),
        version="1.0",
        running=Running(asked.get("running", "started")),
        take=asked.get("take", ()),
        verify_every=asked.get("verify_every", "off"),
    )


def make_host(layout: Layout, case: dict[str, Any]) -> HostState:
    """A host with the changes of the case. With `installed` in the case, it has an installation."""
    host = HostState(files={path: folder(path, 0o755) for path in STANDARD})
    if "installed" in case:
        host = simulate(plan_install(layout, make_desired(layout, case["installed"], host), host), host)
    files = dict(host.files)
    for path, change in case.get("files", {}).items():
        if change is None:
            files.pop(path)
        else:
            before = files.get(path, FileState(path))
            text = change.pop("content", None)
            change = {**change, **({} if text is None else {"content": text.encode()})}
            change = {**change, **({"kind": FileKind(change["kind"])} if "kind" in change else {})}
            files[path] = replace(before, **change)
    names = (*UNITS, METRICS_SOCKET, VERIFY_TIMER)
    units = {name: replace(host.unit(name), **case.get("units", {}).get(name, {})) for name in names}
    postgres = PostgresState(own_url(), **case["postgres"]) if "postgres" in case else None
    releases = tuple(case.get("releases", host.releases))
    return replace(host, files=files, units=units, releases=releases, postgres=postgres)


def simulate(plan: Plan, host: HostState) -> HostState:
    """The host after the plan, if every step succeeds."""
    targets = [PurePosixPath(action.target) for action in plan.actions if action.verb is Verb.WRITE]
    paths = {str(parent) for target in targets for parent in target.parents} - {*host.files, "/"}
    made = {path: folder(path, 0o755) for path in paths}
    records = {path: record_of(state) for path, state in made.items()}
    host = replace(host, files={**host.files, **made}, manifest={**host.manifest, **records})
    for action in plan.actions:
        host = _step(action, host)
    return replace(host, manifest={**host.manifest, **{kept.path: record_of(kept.offered) for kept in plan.kept}})


def _step(action: Action, host: HostState) -> HostState:
    layout = Layout()
    if action.verb is Verb.WRITE and action.after is not None:
        files = {**host.files, action.target: action.after}
        return replace(host, files=files, manifest={**host.manifest, action.target: record_of(action.after)})
    if action.verb is Verb.CREATE_FOLDERS:
        made = [folder(path, 0o750, group="litellm") for path in (layout.etc, layout.configs, layout.shared)]
        own = [folder(path, 0o755) for path in (layout.releases, layout.own_state)]
        metrics = [folder(layout.metrics, 0o700, "litellm", "litellm"), folder(layout.verified, 0o755)]
        metrics = [each for each in metrics if each.path in action.reason]
        return replace(host, files={**host.files, **{state.path: state for state in (*made, *own, *metrics)}})
    if action.verb is Verb.CREATE_USER:
        return replace(host, user_exists=True)
    if action.verb in (Verb.SET_UP_POSTGRES, Verb.CREATE_ROLE, Verb.CREATE_DATABASE):
        return replace(host, postgres=PostgresState(own_url(), "", *[True] * 5))
    if action.verb is Verb.BUILD_RELEASE:
        return replace(host, releases=(*host.releases, action.target.rsplit("/", 1)[-1]))
    if action.verb is Verb.ENABLE:
        return _with_unit(host, replace(host.unit(action.target), enabled="enabled", load="loaded"))
    if action.verb is Verb.TAKE_AWAY:
        files, manifest = dict(host.files), dict(host.manifest)
        del files[action.target], manifest[action.target]
        return replace(host, files=files, manifest=manifest)
    if action.verb is Verb.START_TIMER:
        return _with_unit(host, replace(host.unit(action.target), active="active", load="loaded"))
    if action.verb is Verb.STOP_TIMER:
        return _with_unit(host, UnitState(action.target))
    if action.verb is Verb.START:
        wanted = (METRICS_SOCKET,) if layout.metrics_socket in host.files else ()
        for name in (*UNITS, *wanted):
            host = _with_unit(host, replace(host.unit(name), active="active", load="loaded"))
    if action.verb is Verb.CLOSE:
        return _with_unit(host, UnitState(action.target))
    return host


def _with_unit(host: HostState, unit: UnitState) -> HostState:
    return replace(host, units={**host.units, unit.name: unit})
