"""install: plan, apply, start and verify."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from litellm_systemd import contract
from litellm_systemd.apply import Executor, apply_install
from litellm_systemd.client import Gateway
from litellm_systemd.command import run
from litellm_systemd.commands.desired import Request, Wanted, build_desired, work_out
from litellm_systemd.contract import ExitCode
from litellm_systemd.errors import CommandError, PermissionDenied, Unavailable
from litellm_systemd.host import observe_host, require_systemd
from litellm_systemd.layout import Layout
from litellm_systemd.model import HostState, Plan, Running, Verb
from litellm_systemd.plan import plan_install
from litellm_systemd.releases import Source, find_source, installed_version, running_release
from litellm_systemd.report import Check, Outcome, Report
from litellm_systemd.settings import Settings
from litellm_systemd.systemctl import Systemctl
from litellm_systemd.verify import verify

Say = Callable[[str], None]

NOTHING_TO_DO = "nothing to do: all is in place"


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """What the flags of `install` say."""

    request: Request
    dry_run: bool = False
    start: bool = True
    verify: bool = True


def install(options: InstallOptions, say: Say = lambda _line: None) -> Report:
    """Bring the host to the state that `.env` and the configuration ask for.

    Args:
        options: the request and the flags.
        say: told what is going on, a line each.

    Raises:
        InstallerError: nothing was changed, or what was changed has been put back.
    """
    layout = options.request.layout
    systemctl = Systemctl(layout)
    systemd = require_systemd(systemctl) if layout.is_host else systemctl.version()
    if not options.dry_run:
        require_root("litellmctl install")
    wanted = work_out(options.request)
    release, source = _release(layout)
    paths = [layout.config(name) for name in wanted.configs]
    host = observe_host(layout, systemctl, paths)
    desired = build_desired(
        layout,
        wanted,
        host,
        release=release,
        systemd=systemd,
        version=installed_version(),
        running=Running.STARTED if options.start else Running.UNTOUCHED,
    )
    plan = plan_install(layout, desired, host)
    _check_port(plan, wanted.settings, host)
    if options.dry_run:
        return _planned(plan, wanted)
    apply_install(Executor(layout, systemctl, source, say), plan, host)
    return _installed(options, plan, wanted)


def require_root(what: str) -> None:
    """Refuse a user who can't write system files.

    Raises:
        PermissionDenied: the effective user isn't root.
    """
    if os.geteuid() != 0:
        raise PermissionDenied(f"{what} needs root", f"Run: sudo {' '.join([sys.argv[0], *sys.argv[1:]])}")


def _release(layout: Layout) -> tuple[str, Source | None]:
    running = running_release(layout)
    if running is not None:
        return running, None
    source = find_source()
    return source.identifier, source


def _check_port(plan: Plan, settings: Settings, host: HostState) -> None:
    """Say who holds the port before anything is changed.

    Raises:
        Unavailable: somebody else holds it, or the address isn't one of this host.
    """
    takes_it = any(
        action.verb is Verb.START or (action.verb is Verb.RESTART and contract.SOCKET in action.target)
        for action in plan.actions
    )
    if not takes_it or host.unit(contract.SOCKET).is_active:
        return
    argv = (sys.executable, "-I", "-m", "litellm_systemd.runtime", "port", settings.listen)
    try:
        run(argv)
    except CommandError as error:
        # The line has the remedy already, short of where PORT stands.
        raise Unavailable(error.stderr.strip().splitlines()[-1], "PORT is set in .env.") from None


def _planned(plan: Plan, wanted: Wanted) -> Report:
    steps = tuple(
        Check(f"{action.verb.value} {action.target}", Outcome.SKIPPED, action.reason) for action in plan.actions
    )
    title = f"{len(plan.actions)} steps to take; nothing was changed" if plan else NOTHING_TO_DO
    return Report(
        title=title,
        checks=steps,
        notes=wanted.notes + _kept_notes(plan),
        data=_data(plan, wanted),
        code=ExitCode.CHANGES if plan else ExitCode.OK,
    )


def _kept_notes(plan: Plan) -> tuple[str, ...]:
    return tuple(f"{path} was edited here and stays as it is." for path in plan.kept)


def _data(plan: Plan, wanted: Wanted) -> dict[str, object]:
    return {
        "changed": bool(plan),
        "config": wanted.choice.name,
        "base_url": wanted.settings.base_url,
        "models": list(wanted.gateway.names),
        "actions": [str(action) for action in plan.actions],
        "kept": list(plan.kept),
    }


def _installed(options: InstallOptions, plan: Plan, wanted: Wanted) -> Report:
    notes = (*wanted.notes, *_kept_notes(plan), *_key_notes(wanted.settings))
    data = _data(plan, wanted)
    where = f"LiteLLM with {wanted.choice.name}"
    if not (options.start and options.request.layout.is_host):
        return Report(f"installed {where}" if plan else NOTHING_TO_DO, notes=notes, data=data)
    if not options.verify:
        return Report(f"{where} serves on {wanted.settings.base_url}", notes=notes, data=data)
    gateway = Gateway(wanted.settings.base_url, api_key=wanted.settings.master_key)
    proof = verify(gateway, expected=wanted.gateway.names)
    return Report(
        proof.title if plan else f"{NOTHING_TO_DO}; {proof.title}",
        proof.checks,
        notes=(*notes, *proof.notes),
        data={**data, "verify": dict(proof.data)},
    )


def _key_notes(settings: Settings) -> tuple[str, ...]:
    if settings.generated_key is None:
        return ()
    return (
        f"{contract.MASTER_KEY}={settings.generated_key} was made for this service and is shown this once. To read"
        f" it again: sudo grep {contract.MASTER_KEY} {contract.ENV_FILE}",
    )
