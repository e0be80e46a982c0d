"""install: plan, apply, start and verify."""

from __future__ import annotations

from dataclasses import replace

from litellm_systemd import contract
from litellm_systemd.aws.credentials import bedrock_models
from litellm_systemd.client.gateway import Gateway
from litellm_systemd.commands.config_files import edited_note
from litellm_systemd.commands.install_plan import InstallOptions, InstallPlan, prepare_install, render_kept
from litellm_systemd.commands.preflight import NOT_ASKED
from litellm_systemd.commands.resolve import Request
from litellm_systemd.commands.service_config import ServiceConfig, prove_service
from litellm_systemd.contract import ExitCode
from litellm_systemd.env.settings import Settings
from litellm_systemd.env.variables import MASTER_KEY
from litellm_systemd.errors import Unavailable
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import port_trouble
from litellm_systemd.host.state import Kept, Plan, Verb, render_diff
from litellm_systemd.install.apply import Say, apply_install, changing
from litellm_systemd.report.report import Check, Outcome, Report, render_count
from litellm_systemd.verify.run import Scope, verify

NOTHING_TO_DO = "nothing to do: everything is in place"


def install(options: InstallOptions, say: Say = lambda _line: None) -> Report:
    """Bring the host to the state that `.env` and the configuration describe.

    Args:
        options: the request and the options.
        say: called with a line about each step.

    Raises:
        InstallerError: nothing was changed, or every change was undone.
    """
    layout = options.request.layout
    options = replace(options, request=_with_queries(options))
    if options.dry_run:
        return _planned(options, prepare_install(options))
    with changing(layout, "install", say, wait=options.wait) as executor:
        prepared = prepare_install(options)
        _check_port(prepared)
        proofs: list[Report] = []

        def prove() -> None:
            if _is_served(options) and options.verify:
                proofs.append(prove_service(prepared.service))

        executor = replace(executor, source=prepared.source, starts=_is_served(options))
        apply_install(executor, prepared.plan, prepared.desired, prepared.host, prove)
    return _installed(options, prepared, *proofs)


def _with_queries(options: InstallOptions) -> Request:
    """The request, with the queries that are allowed: none for a dry run, no checks of access for an image."""
    online = not (options.dry_run or options.offline)
    return replace(
        options.request,
        ask_instance=options.request.ask_instance and online,
        prove_access=online and options.request.layout.is_host,
    )


def _check_port(prepared: InstallPlan) -> None:
    """Check that the port is free before anything is changed.

    Raises:
        Unavailable: another process listens on it, or the address is not one of this host.
    """
    verbs = {(action.verb, contract.SOCKET in action.target) for action in prepared.plan.actions}
    takes_it = any(verb is Verb.START or (verb is Verb.RESTART and socket) for verb, socket in verbs)
    stops_first = any(verb is Verb.STOP for verb, _ in verbs)
    if not takes_it or stops_first or prepared.host.unit(contract.SOCKET).is_active:
        return
    if trouble := port_trouble(prepared.service.settings.listen):
        # The message has the remedy, but not the file in which PORT is set.
        raise Unavailable(trouble, "PORT is set in .env.")


def _planned(options: InstallOptions, prepared: InstallPlan) -> Report:
    plan, service = prepared.plan, prepared.service
    steps = tuple(
        Check(f"{action.verb.value} {action.target}", Outcome.SKIPPED, action.reason) for action in plan.actions
    )
    todo = render_count(len(plan.actions), "step")
    title = f"{todo} to take; {plan.effect}; nothing was changed" if plan else NOTHING_TO_DO
    diffs = tuple(
        render_diff(prepared.host.files.get(action.target), action.after)
        for action in plan.actions
        if action.after is not None
    )
    return Report(
        title=title,
        checks=steps,
        notes=(*service.notes, *_access_notes(options, service), *_kept_notes(options.request.layout, plan)),
        data=_data(prepared),
        diffs=(*diffs, *_kept_diffs(plan)),
        code=ExitCode.CHANGES if plan else ExitCode.OK,
    )


def _access_notes(options: InstallOptions, service: ServiceConfig) -> tuple[str, ...]:
    return () if options.request.prove_access or not bedrock_models(service.gateway) else (NOT_ASKED,)


def _kept_notes(layout: Layout, plan: Plan) -> tuple[str, ...]:
    notes = (edited_note(layout, kept.path, kept.found.content) or _kept_note(kept) for kept in plan.kept)
    return tuple(notes)


def _kept_note(kept: Kept) -> str:
    news = ", although there is a new version. To write that and save yours: --take-ours" if kept.is_news else "."
    return f"{kept.path} was edited here and is kept{news}"


def _kept_diffs(plan: Plan) -> tuple[str, ...]:
    return tuple(render_kept(kept) for kept in plan.kept if kept.is_news)


def _data(prepared: InstallPlan) -> dict[str, object]:
    plan, service = prepared.plan, prepared.service
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


def _installed(options: InstallOptions, prepared: InstallPlan, proven: Report | None = None) -> Report:
    plan, service = prepared.plan, prepared.service
    data, diffs = _data(prepared), _kept_diffs(plan)
    notes = (
        *service.notes,
        *_access_notes(options, service),
        *_kept_notes(options.request.layout, plan),
        *_key_notes(service.settings),
    )
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
        f"{MASTER_KEY.name}={settings.generated_key} was generated for this service and is shown only once. To"
        f" read it again: sudo grep {MASTER_KEY.name} {contract.ENV_FILE}",
    )
