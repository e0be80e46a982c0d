"""install: plan, apply, start and verify."""

from __future__ import annotations

from dataclasses import replace

from litellm_systemd import contract
from litellm_systemd.aws.credentials import bedrock_models
from litellm_systemd.client.gateway import Gateway
from litellm_systemd.commands.desired import Request, Wanted
from litellm_systemd.commands.install_plan import InstallOptions, InstallPlan, prepare_install, render_kept
from litellm_systemd.commands.preflight import NOT_ASKED
from litellm_systemd.commands.transaction import Say, changing, prove_service
from litellm_systemd.contract import ExitCode
from litellm_systemd.env.settings import Settings
from litellm_systemd.env.variables import MASTER_KEY
from litellm_systemd.errors import Unavailable
from litellm_systemd.host.diff import render_diff
from litellm_systemd.host.layout import Layout
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
                proofs.append(prove_service(draft.wanted))

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
    if trouble := port_trouble(draft.wanted.settings.listen):
        # The line has the remedy already, short of where PORT stands.
        raise Unavailable(trouble, "PORT is set in .env.")


def _planned(options: InstallOptions, draft: InstallPlan) -> Report:
    plan, wanted, layout = draft.plan, draft.wanted, options.request.layout
    steps = tuple(
        Check(f"{action.verb.value} {action.target}", Outcome.SKIPPED, action.reason) for action in plan.actions
    )
    title = f"{len(plan.actions)} steps to take; {plan.effect}; nothing was changed" if plan else NOTHING_TO_DO
    diffs = tuple(
        render_diff(
            draft.host.files.get(action.target), action.after, is_environment=action.target == layout.environment_file
        )
        for action in plan.actions
        if action.after is not None
    )
    return Report(
        title=title,
        checks=steps,
        notes=(*wanted.notes, *_access_notes(options, wanted), *_kept_notes(plan)),
        data=_data(draft),
        diffs=(*diffs, *_kept_diffs(layout, plan)),
        code=ExitCode.CHANGES if plan else ExitCode.OK,
    )


def _access_notes(options: InstallOptions, wanted: Wanted) -> tuple[str, ...]:
    return () if options.request.prove_access or not bedrock_models(wanted.gateway) else (NOT_ASKED,)


def _kept_notes(plan: Plan) -> tuple[str, ...]:
    return tuple(
        f"{kept.path} was edited here and stays as it is"
        + (", though a new one is there: --take-ours puts yours aside." if kept.is_news else ".")
        for kept in plan.kept
    )


def _kept_diffs(layout: Layout, plan: Plan) -> tuple[str, ...]:
    return tuple(render_kept(layout, kept) for kept in plan.kept if kept.is_news)


def _data(draft: InstallPlan) -> dict[str, object]:
    plan, wanted = draft.plan, draft.wanted
    return {
        "changed": bool(plan),
        "effect": plan.effect,
        "config": wanted.choice.name,
        "base_url": wanted.settings.base_url,
        "models": list(wanted.gateway.names),
        "actions": [str(action) for action in plan.actions],
        "kept": [kept.path for kept in plan.kept],
    }


def _is_served(options: InstallOptions) -> bool:
    return options.start and options.request.layout.is_host


def _installed(options: InstallOptions, draft: InstallPlan, proven: Report | None = None) -> Report:
    plan, wanted, layout = draft.plan, draft.wanted, options.request.layout
    data, diffs = _data(draft), _kept_diffs(layout, plan)
    notes = (*wanted.notes, *_access_notes(options, wanted), *_kept_notes(plan), *_key_notes(wanted.settings))
    where = f"LiteLLM with {wanted.choice.name}"
    if not _is_served(options):
        return Report(f"installed {where}" if plan else NOTHING_TO_DO, notes=notes, data=data, diffs=diffs)
    if not options.verify:
        return Report(f"{where} serves on {wanted.settings.base_url}", notes=notes, data=data, diffs=diffs)
    gateway = Gateway(wanted.settings.base_url, api_key=wanted.settings.master_key)
    scope = Scope(wanted.gateway.names, spend=options.spend, mocked=wanted.gateway.mocked_names)
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
