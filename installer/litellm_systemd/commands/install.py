"""install: plan, apply, start and verify."""

from __future__ import annotations

from dataclasses import replace

from litellm_systemd import contract
from litellm_systemd.aws.credentials import bedrock_models
from litellm_systemd.client.gateway import Gateway
from litellm_systemd.commands.install_plan import InstallOptions, InstallPlan, prepare_install, render_kept
from litellm_systemd.commands.preflight import NOT_ASKED
from litellm_systemd.commands.resolve import Request
from litellm_systemd.commands.service_config import ServiceConfig
from litellm_systemd.commands.transaction import Say, changing, prove_service
from litellm_systemd.contract import ExitCode
from litellm_systemd.env.settings import Settings
from litellm_systemd.env.variables import MASTER_KEY
from litellm_systemd.errors import Unavailable
from litellm_systemd.host.diff import render_diff
from litellm_systemd.host.state import Plan, Verb
from litellm_systemd.install.apply import apply_install
from litellm_systemd.instances.runtime_calls import port_trouble
from litellm_systemd.report.report import Check, Outcome, Report
from litellm_systemd.verify.run import Scope, verify

NOTHING_TO_DO = "nothing to do: all is in place"


def install(options: InstallOptions, say: Say = lambda _line: None) -> Report:
    """Bring the host to the state that `.env` and the configuration ask for.

    Args:
        options: the request and the flags.
        say: told what is going on, a line each.

    Raises:
        InstallerError: nothing was changed, or what was changed has been put back.
    """
    layout = options.request.layout
    options = replace(options, request=_asking(options))
    if options.dry_run:
        return _planned(options, prepare_install(options))
    with changing(layout, "install", say, wait=options.wait) as executor:
        draft = prepare_install(options)
        _check_port(draft)
        proofs: list[Report] = []

        def prove() -> None:
            if _is_served(options) and options.verify:
                proofs.append(prove_service(draft.service))

        executor = replace(executor, source=draft.source, starts=_is_served(options))
        apply_install(executor, draft.plan, draft.desired, draft.host, prove)
    return _installed(options, draft, *proofs)


def _asking(options: InstallOptions) -> Request:
    """The request, with what may be asked: nothing by a dry run, and for an image only what this host is."""
    online = not (options.dry_run or options.offline)
    return replace(
        options.request,
        ask_instance=options.request.ask_instance and online,
        prove_access=online and options.request.layout.is_host,
    )


def _check_port(draft: InstallPlan) -> None:
    """Say who holds the port before anything is changed.

    Raises:
        Unavailable: somebody else holds it, or the address isn't one of this host.
    """
    verbs = {(action.verb, contract.SOCKET in action.target) for action in draft.plan.actions}
    takes_it = any(verb is Verb.START or (verb is Verb.RESTART and socket) for verb, socket in verbs)
    gives_way = any(verb is Verb.STOP for verb, _ in verbs)
    if not takes_it or gives_way or draft.host.unit(contract.SOCKET).is_active:
        return
    if trouble := port_trouble(draft.service.settings.listen):
        # The line has the remedy already, short of where PORT stands.
        raise Unavailable(trouble, "PORT is set in .env.")


def _planned(options: InstallOptions, draft: InstallPlan) -> Report:
    plan, service = draft.plan, draft.service
    steps = tuple(
        Check(f"{action.verb.value} {action.target}", Outcome.SKIPPED, action.reason) for action in plan.actions
    )
    title = f"{len(plan.actions)} steps to take; {plan.effect}; nothing was changed" if plan else NOTHING_TO_DO
    diffs = tuple(
        render_diff(draft.host.files.get(action.target), action.after)
        for action in plan.actions
        if action.after is not None
    )
    return Report(
        title=title,
        checks=steps,
        notes=(*service.notes, *_access_notes(options, service), *_kept_notes(plan)),
        data=_data(draft),
        diffs=(*diffs, *_kept_diffs(plan)),
        code=ExitCode.CHANGES if plan else ExitCode.OK,
    )


def _access_notes(options: InstallOptions, service: ServiceConfig) -> tuple[str, ...]:
    return () if options.request.prove_access or not bedrock_models(service.gateway) else (NOT_ASKED,)


def _kept_notes(plan: Plan) -> tuple[str, ...]:
    return tuple(
        f"{kept.path} was edited here and stays as it is"
        + (", though a new one is there: --take-ours puts yours aside." if kept.is_news else ".")
        for kept in plan.kept
    )


def _kept_diffs(plan: Plan) -> tuple[str, ...]:
    return tuple(render_kept(kept) for kept in plan.kept if kept.is_news)


def _data(draft: InstallPlan) -> dict[str, object]:
    plan, service = draft.plan, draft.service
    return {
        "changed": bool(plan),
        "effect": plan.effect,
        "config": service.choice.name,
        "base_url": service.settings.base_url,
        "models": list(service.gateway.names),
        "actions": [str(action) for action in plan.actions],
        "kept": [kept.path for kept in plan.kept],
    }


def _is_served(options: InstallOptions) -> bool:
    return options.start and options.request.layout.is_host


def _installed(options: InstallOptions, draft: InstallPlan, proven: Report | None = None) -> Report:
    plan, service = draft.plan, draft.service
    data, diffs = _data(draft), _kept_diffs(plan)
    notes = (*service.notes, *_access_notes(options, service), *_kept_notes(plan), *_key_notes(service.settings))
    where = f"LiteLLM with {service.choice.name}"
    if not _is_served(options):
        return Report(f"installed {where}" if plan else NOTHING_TO_DO, notes=notes, data=data, diffs=diffs)
    if not options.verify:
        return Report(f"{where} serves on {service.settings.base_url}", notes=notes, data=data, diffs=diffs)
    gateway = Gateway(service.settings.base_url, api_key=service.settings.master_key)
    scope = Scope(service.gateway.names, spend=options.spend, mocked=service.gateway.mocked_names)
    proof = verify(gateway, scope, proven=proven)
    return Report(
        proof.title if plan else f"{NOTHING_TO_DO}; {proof.title}",
        proof.checks,
        notes=(*notes, *proof.notes),
        data={**data, "verify": dict(proof.data)},
        diffs=diffs,
    )


def _key_notes(settings: Settings) -> tuple[str, ...]:
    if settings.generated_key is None:
        return ()
    return (
        f"{MASTER_KEY.name}={settings.generated_key} was made for this service and is shown this once. To read"
        f" it again: sudo grep {MASTER_KEY.name} {contract.ENV_FILE}",
    )
