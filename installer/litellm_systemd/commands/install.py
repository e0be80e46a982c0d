"""install: work out the plan, apply it, start and verify. uninstall: remove what install wrote."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.aws.credentials import bedrock_models
from litellm_systemd.client.gateway import metrics_gateway, own_gateway
from litellm_systemd.commands.additions import ReleaseChoice, choose_release
from litellm_systemd.commands.config_files import edited_note, installed_paths
from litellm_systemd.commands.migration import plan_migration
from litellm_systemd.commands.preflight import NOT_ASKED
from litellm_systemd.commands.resolve import Request, build_config_link, is_given
from litellm_systemd.commands.salt_key import with_salt_key
from litellm_systemd.commands.service_config import ServiceConfig, denied_addresses, prove_service, resolve_service
from litellm_systemd.contract import ExitCode
from litellm_systemd.database.postgres import drop_command, observe_postgres
from litellm_systemd.env.database import SETTING, find_url, is_own_url
from litellm_systemd.env.secrets import holds_secret
from litellm_systemd.env.settings import Settings
from litellm_systemd.env.variables import DATABASE_URL, IAM_TOKEN_DB_AUTH, MASTER_KEY, SALT_KEY
from litellm_systemd.errors import InputError, InstallerError, Unavailable, UsageError
from litellm_systemd.host.encrypted_secrets import encrypt_secrets, read_secrets, require_encryption
from litellm_systemd.host.layout import UNITS, Layout
from litellm_systemd.host.observe import (
    key_command,
    observe_host,
    port_trouble,
    read_installed,
    require_booted,
    require_normal_state,
    require_systemd,
)
from litellm_systemd.host.state import (
    DesiredState,
    FileState,
    HostState,
    Kept,
    Plan,
    Running,
    Verb,
    folder,
    link,
    render_diff,
    variables_of,
)
from litellm_systemd.host.stored_secrets import find_key
from litellm_systemd.host.sudoers import sudo_misses_command
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.install.apply import Executor, Say, apply_install, apply_uninstall, changing
from litellm_systemd.install.plan import CHANGED, NEW, plan_install, plan_uninstall, require_no_conflicts
from litellm_systemd.install.render import (
    OFF,
    find_interval,
    render_command,
    render_environment,
    render_metrics_socket,
    render_salt,
    render_service,
    render_socket,
    render_sysusers,
    render_tmpfiles,
    render_verify_service,
    render_verify_timer,
)
from litellm_systemd.releases.changes import list_changes
from litellm_systemd.releases.integrity import find_damage
from litellm_systemd.releases.inventory import current_release, read_release
from litellm_systemd.releases.requirements_lock import pinned_version
from litellm_systemd.releases.source import Source, installed_version, release_source
from litellm_systemd.report.progress import Step
from litellm_systemd.report.report import Check, Outcome, Report, render_count
from litellm_systemd.resources import USER_FILE, read_config
from litellm_systemd.verify.run import Scope, verify

#: The largest number of changed files that the report names.
_NAMED = 3
NOTHING_TO_DO = "nothing to do: everything is in place"

#: Asks the user whether to replace a file that they edited: the question, and the difference.
Ask = Callable[[str, str], bool]


def install(options: InstallOptions, say: Say = lambda _line: None) -> Report:
    """Bring the host to the state that `.env` and the configuration describe.

    Raises:
        InstallerError: nothing was changed, or every change was undone.
    """
    layout = options.request.layout
    options = with_queries(options)
    if options.dry_run:
        return _planned(options, prepare_install(options, say))
    with changing(layout, "install", say, wait=options.wait) as executor:
        outcome = apply_options(options, executor, say)
    return report_install(options, *outcome, say)


def apply_options(options: InstallOptions, executor: Executor, say: Say) -> tuple[InstallPlan, tuple[Report, ...]]:
    """Plan, apply and prove an install, with the install lock held. Returns the plan, and the proof unless it is off.

    Raises:
        InstallerError: nothing was changed, or every change was undone.
    """
    prepared = prepare_install(options, say)
    _check_port(prepared)
    if _is_served(options):
        _check_metrics_port(options.request.layout, prepared)
    proofs: list[Report] = []

    def prove() -> None:
        if _is_served(options) and options.verify:
            proofs.append(prove_service(prepared.service))

    executor = replace(executor, source=prepared.source, starts=_is_served(options), database=prepared.database)
    apply_install(executor, prepared.plan, prepared.desired, prepared.host, prove)
    return prepared, tuple(proofs)


def report_install(options: InstallOptions, prepared: InstallPlan, proofs: tuple[Report, ...], say: Say) -> Report:
    """Verify what was installed, and report it."""
    if _is_served(options) and options.verify:
        say(Step(f"verifying {prepared.service.settings.base_url}"))
    return _installed(options, prepared, *proofs)


def with_queries(options: InstallOptions) -> InstallOptions:
    """The options, with the queries that are allowed: none for a dry run, no checks of access for an image."""
    online = not (options.dry_run or options.offline)
    request = replace(
        options.request,
        ask_instance=options.request.ask_instance and online,
        prove_access=online and options.request.layout.is_host,
    )
    return replace(options, request=request)


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


def _check_metrics_port(layout: Layout, prepared: InstallPlan) -> None:
    """Check that a new address of METRICS is free. An address that another process took later is a matter of doctor.

    Raises:
        Unavailable: another process listens on it.
    """
    address = prepared.service.settings.metrics
    written = {action.target for action in prepared.plan.actions if action.verb is Verb.WRITE}
    if address is None or layout.metrics_socket not in written:
        return
    before, listen = prepared.host.files.get(layout.metrics_socket), address.listen.replace("%", "%%")
    if before is not None and f"ListenStream={listen}" in before.content.decode(errors="replace").split("\n"):
        return
    if trouble := port_trouble(address.listen, is_metrics=True):
        raise Unavailable(trouble, "METRICS is set in .env.")


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
        notes=(
            *prepared.changes,
            *service.notes,
            *_access_notes(options, service),
            *kept_notes(options.request.layout, plan),
        ),
        data=_data(prepared),
        diffs=(*diffs, *_kept_diffs(plan)),
        code=ExitCode.CHANGES if plan else ExitCode.OK,
    )


def _access_notes(options: InstallOptions, service: ServiceConfig) -> tuple[str, ...]:
    calls_bedrock = bedrock_models(service.gateway, service.settings.environment)
    return () if options.request.prove_access or not calls_bedrock else (NOT_ASKED,)


def kept_notes(layout: Layout, plan: Plan) -> tuple[str, ...]:
    """The files that the user edited and that the plan keeps."""
    notes = (edited_note(layout, kept.path, kept.found.content) or _kept_note(kept) for kept in plan.kept)
    return tuple(notes)


def _kept_note(kept: Kept) -> str:
    news = (
        ", although there is a new version. To take it and save yours: install --take-ours" if kept.is_news else "."
    )
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
        *prepared.changes,
        *service.notes,
        *_access_notes(options, service),
        *kept_notes(options.request.layout, plan),
        *_key_notes(options.request.layout, service.settings),
        *_encryption_notes(options.request.layout, prepared),
        *_change_notes(plan),
        *(_next_notes(options.request.layout, prepared) if _is_served(options) else ()),
    )
    where = f"LiteLLM with {service.choice.name}"
    if not _is_served(options):
        return Report(f"installed {where}" if plan else NOTHING_TO_DO, notes=notes, data=data, diffs=diffs)
    if not options.verify:
        return Report(f"{where} serves on {service.settings.base_url}", notes=notes, data=data, diffs=diffs)
    key = find_key(service.settings)
    gateway = own_gateway(service.settings, key)
    scope = Scope(
        service.gateway.names,
        spend=options.spend,
        mocked=service.gateway.mocked_names,
        metrics=metrics_gateway(service.settings, key),
    )
    proof = verify(gateway, scope, proven=proven)
    return Report(
        proof.title if plan else f"{NOTHING_TO_DO}; {proof.title}",
        proof.checks,
        notes=(*notes, *proof.notes),
        data={**data, "verify": dict(proof.data)},
        diffs=diffs,
    )


def _change_notes(plan: Plan) -> Iterator[str]:
    """What changed, in one line."""
    built = [action.target for action in plan.actions if action.verb is Verb.BUILD_RELEASE]
    written = [action.target for action in plan.actions if action.verb in (Verb.WRITE, Verb.TAKE_AWAY)]
    if plan:
        files = ", ".join(written) if len(written) <= _NAMED else render_count(len(written), "file")
        changed = ", ".join(filter(None, (*(f"release {Path(path).name}" for path in built), files)))
        yield f"Changed: {changed or 'the state of the units'}; {plan.effect}."


def _next_notes(layout: Layout, prepared: InstallPlan) -> Iterator[str]:
    """After the first install, what the user has now."""
    settings = prepared.service.settings
    if prepared.host.manifest:
        return
    yield f"Base URL: {settings.base_url}"
    if settings.generated_key is None:  # otherwise `_key_notes` has the command
        yield f"To print the key: {key_command(layout)}"
    yield "To connect a client: sudo litellmctl client"


def _key_notes(layout: Layout, settings: Settings) -> tuple[str, ...]:
    if settings.generated_key is None:
        return ()
    return (
        f"{MASTER_KEY.name}={settings.generated_key} was generated for this service. To print it again:"
        f" {key_command(layout)}",
    )


def _encryption_notes(layout: Layout, prepared: InstallPlan) -> Iterator[str]:
    reasons = {action.verb: action.reason for action in prepared.plan.actions if action.target == layout.secrets}
    if reasons.get(Verb.WRITE) in (NEW, CHANGED):
        yield (
            f"The secrets are in {layout.secrets} only, encrypted for this host. The service does not need .env any"
            " more: delete it, or keep it elsewhere in case the key of this host is lost."
        )
    if Verb.TAKE_AWAY in reasons:
        yield f"The secrets are in {layout.environment_file} again, not encrypted."


def keep_mine(_question: str, _difference: str) -> bool:
    """The answer without a terminal: what the user edited stays."""
    return False


@dataclass(frozen=True, slots=True)
class InstallOptions:
    """The options of `install`.

    `offline`: query neither the instance metadata nor STS. `take_ours`: replace files that the user edited, without a
    question. `spend`: `verify` may call a model. `wanted` and `dropped`: additions to the release, see
    `releases.additions`. `prisma_engine`: the file of Prisma's query engine. `verify_every`: the interval of the
    verify timer, None to keep it. `encrypt`: whether to encrypt the secrets of the environment, None to keep them as
    they are. `postgres`: whether to use a PostgreSQL of this host, set up if need be; None to keep what is installed.
    `release` and `dump` are those of a backup: the release to install, and what to load into the database.
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
    wanted: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    prisma_engine: Path | None = None
    verify_every: str | None = None
    encrypt: bool | None = None
    postgres: bool | None = None
    release: ReleaseChoice | None = None
    dump: Path | None = None
    ask: Ask = keep_mine


@dataclass(frozen=True, slots=True)
class InstallPlan:
    """A plan, and what it was made from. `source` is None if the release exists already.

    `changes`: a line about each change of LiteLLM since the current release. `database`: the environment of its
    migrations, None without a database.
    """

    service: ServiceConfig
    source: Source | None
    host: HostState
    desired: DesiredState
    plan: Plan
    changes: tuple[str, ...] = ()
    database: Mapping[str, str] | None = None


def prepare_install(options: InstallOptions, say: Say = lambda _line: None) -> InstallPlan:
    """Observe the host, work out its desired state, and plan.

    Raises:
        InstallerError: the request can't be used, or the host does not allow the install.
    """
    layout = options.request.layout
    if options.postgres and not layout.is_host:
        raise UsageError("--with-postgres starts PostgreSQL, which an image cannot", "Use it on the host itself.")
    systemctl = Systemctl(layout)
    systemd = require_systemd(systemctl) if layout.is_host else systemctl.version()
    if layout.is_host and options.start:
        require_normal_state(systemctl)
    request = replace(options.request, take=installed_paths(layout) if options.take_ours else frozenset())
    observe = partial(observe_postgres, systemctl, starts=not options.dry_run)
    # The URL of a backup is of another host.
    has_own = options.postgres and options.dump is None
    installed = read_installed(layout).get(DATABASE_URL.name, "") if has_own else ""
    postgres = observe(installed if is_own_url(installed) else "") if options.postgres else None
    if options.postgres is not None:
        request = replace(request, database="" if postgres is None else postgres.url)
    service = resolve_service(request)
    _require_one_database(options, service)
    own = service.settings.environment.get(DATABASE_URL.name, "")
    if postgres is None and is_own_url(own) and layout.is_host:
        postgres = observe(own)
    # A preview starts no server, and one that is stopped cannot be asked.
    exists = options.dump is None and (postgres is None or (postgres.is_online and postgres.has_database))
    asks = layout.is_host and not options.dry_run and exists
    service = with_salt_key(service, asks=asks)
    choice = options.release or choose_release(
        layout,
        service.gateway,
        bundle=options.bundle,
        wanted=options.wanted,
        dropped=options.dropped,
        database=service.has_database,
        engine=options.prisma_engine,
        say=say,
    )
    service = replace(service, notes=(*service.notes, *choice.notes))
    host = observe_host(layout, systemctl, [layout.config(name) for name in service.configs])
    host = replace(host, postgres=postgres)
    # A service that runs or was stopped has read its files; to read all of them takes seconds.
    is_thorough = host.unit(contract.SERVICE).active in ("failed", "activating")
    damaged = choice.identifier in host.releases and find_damage(layout, choice.identifier, is_thorough=is_thorough)
    if damaged:
        note = f"The release {choice.identifier} was damaged and is built again: {damaged}."
        source = choice.source or release_source(layout, choice.identifier)
        choice = replace(choice, source=source, notes=(*choice.notes, note))
        host = replace(host, releases=tuple(name for name in host.releases if name != choice.identifier))
        service = replace(service, notes=(*service.notes, note))
    build = partial(
        build_desired,
        layout,
        host=host,
        release=choice.identifier,
        systemd=systemd,
        version=installed_version(),
        running=Running.STARTED if options.start else Running.UNTOUCHED,
        verify_every=options.verify_every or find_interval(layout, host),
        links_for_sudo=_links_for_sudo(layout, host),
    )
    encrypts = layout.secrets in host.manifest if options.encrypt is None else options.encrypt
    if encrypts:
        require_encryption(layout, systemd)
    encrypt = partial(_encrypted, layout, host, dry_run=options.dry_run) if encrypts else _unencrypted
    take: frozenset[str] = frozenset(host.files) if options.take_ours else frozenset()
    desired = build(service, take=take, encrypted=encrypt(service))
    require_no_conflicts(layout, desired, host)
    plan = plan_install(layout, desired, host)
    given_up = {kept.path for kept in plan.kept if kept.is_news and options.ask(*_question(kept))}
    kept_environment = _kept_environment(layout, plan, given_up)
    if kept_environment is not None:
        # The edited environment file stays, so that nothing may be made from .env.
        request = replace(request, env_file=None, installed_only=True)
        moves = encrypts is not (layout.secrets in host.manifest)
        if moves or (encrypts and _holds_secrets(kept_environment.found)):
            # Its variables are kept, but not the file: secrets move into it or out of it.
            take |= {layout.environment_file}
    if given_up or kept_environment is not None:
        again = resolve_service(replace(request, take=request.take | given_up))
        again = with_salt_key(again, asks=asks)
        service = replace(again, notes=(*again.notes, *choice.notes))
        desired = build(service, take=take | given_up, encrypted=encrypt(service))
        plan = plan_install(layout, desired, host)
    variables = service.settings.environment
    migration = plan_migration(layout, variables, service.gateway, host, choice.identifier, exists=exists)
    if migration.reason:
        desired = replace(desired, migrates=migration.reason, dump="" if options.dump is None else str(options.dump))
        plan = plan_install(layout, desired, host)
    if kept_environment is not None and layout.environment_file not in take:
        plan = replace(plan, kept=(*plan.kept, kept_environment))
    service = replace(service, notes=(*service.notes, *migration.notes))
    changes = _litellm_changes(layout, choice.identifier, choice.source)
    return InstallPlan(service, choice.source, host, desired, plan, changes, migration.environment)


def _require_one_database(options: InstallOptions, service: ServiceConfig) -> None:
    """Check that the configuration has no database of its own, which would go first."""
    general = service.gateway.section("general_settings")
    if general.get(SETTING) and IAM_TOKEN_DB_AUTH.read(service.settings.environment):
        raise InputError(
            f"{service.gateway.source} has general_settings.{SETTING}, which {IAM_TOKEN_DB_AUTH.name} does not use",
            f"Remove one of them. {IAM_TOKEN_DB_AUTH.name} needs DATABASE_HOST, DATABASE_USER and DATABASE_NAME.",
        )
    found = find_url(service.settings.environment, general)
    if options.postgres and (found is None or not is_own_url(found[0])):
        raise InputError(
            f"{service.gateway.source} names a database, and --with-postgres sets up another one",
            "Remove general_settings.database_url, or install without --with-postgres.",
        )


def _litellm_changes(layout: Layout, release: str, source: Source | None) -> tuple[str, ...]:
    """What users notice of the LiteLLM of a release, compared with the one of the current release."""
    current = current_release(layout)
    if current is None:
        return ()
    new = read_release(layout, release).litellm if source is None else pinned_version(source.lock, "litellm")
    return tuple(list_changes(read_release(layout, current).litellm, new))


def _links_for_sudo(layout: Layout, host: HostState) -> bool:
    """Whether sudo needs a link to find litellmctl. What is not ours stays."""
    is_free = layout.sudo_command in host.manifest or layout.sudo_command not in host.files
    return is_free and sudo_misses_command(layout)


def _unencrypted(_service: ServiceConfig) -> None:
    """Encrypt nothing."""


def _encrypted(layout: Layout, host: HostState, service: ServiceConfig, *, dry_run: bool) -> FileState:
    """The file with the encrypted secrets: the installed one if it has the same, since each encryption differs."""
    wanted = _split(service.settings.environment)[1]
    found = host.files.get(layout.secrets)
    if found is not None and read_secrets(layout) == wanted:
        return FileState(layout.secrets, found.content, mode=0o600)
    # The encryption may create the key of the host.
    content = b"not encrypted yet\n" if dry_run else encrypt_secrets(wanted)
    return FileState(layout.secrets, content, mode=0o600)


def _split(environment: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The variables of an environment that hold no secret, and those that do."""
    secrets = {name: value for name, value in environment.items() if holds_secret(name, value)}
    return {name: value for name, value in environment.items() if name not in secrets}, secrets


def _holds_secrets(file: FileState) -> bool:
    return bool(_split(variables_of(file))[1])


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
    encrypted: FileState | None = None,
    links_for_sudo: bool = False,
) -> DesiredState:
    """The desired state of the host: folders, files, release, and the service enabled and running.

    `take`: files to write although the user edited them. `verify_every`: the interval of the verify timer.
    `encrypted`: the file with the secrets, which are then not in the environment file. `links_for_sudo`: whether sudo
    needs a link to find litellmctl.
    """
    folders: tuple[FileState, ...] = (
        folder(layout.etc, 0o750, group=contract.SERVICE_USER),
        folder(layout.configs, 0o750, group=contract.SERVICE_USER),
        folder(layout.shared, 0o750, group=contract.SERVICE_USER),
    )
    settings = service.settings
    salt = _salt_file(layout, settings.environment, host, encrypted=encrypted is not None)
    if settings.metrics is not None:
        folders += (
            folder(layout.metrics, 0o700, contract.SERVICE_USER, contract.SERVICE_USER),
            folder(layout.verified, 0o755),
        )
    texts = {
        layout.service: render_service(
            layout,
            settings,
            systemd,
            version,
            denied_addresses(service),
            encrypted=encrypted is not None,
            database=service.database_url,
            salted=salt is not None,
        ),
        layout.socket: render_socket(layout, settings),
        layout.sysusers: render_sysusers(),
        layout.tmpfiles: render_tmpfiles(folders),
    }
    checks = {
        layout.verify_service: render_verify_service(layout, settings, version, encrypted=encrypted is not None),
        layout.verify_timer: render_verify_timer(verify_every),
    }
    if verify_every != OFF:
        texts |= checks
    if settings.metrics is not None:
        texts[layout.metrics_socket] = render_metrics_socket(layout, settings.metrics)
    command = FileState(layout.command, render_command(layout, version).encode(), mode=0o755, keep_edits=True)
    files = (
        *(FileState(path, text.encode(), keep_edits=True) for path, text in texts.items()),
        _environment_file(layout, service, host, encrypted=encrypted is not None),
        *(() if encrypted is None else (encrypted,)),
        *(() if salt is None else (salt,)),
        *(build_config_file(layout, service, name, host) for name in service.configs),
        build_config_link(layout, service.choice.name),
        link(layout.current, f"releases/{release}"),
        command,
        *((link(layout.sudo_command, layout.command),) if links_for_sudo else ()),
    )
    taken = frozenset(file.path for file in files if file.path in take)
    absent = (
        *(checks if verify_every == OFF else ()),
        *((layout.metrics_socket,) if settings.metrics is None else ()),
        *((layout.secrets,) if encrypted is None else ()),
        *((layout.salt,) if salt is None else ()),
        *(() if links_for_sudo else (layout.sudo_command,)),
    )
    loads = tuple(layout.config(name) for name in service.loads)
    return DesiredState(release, folders, files, running=running, take=taken, absent=absent, loads=loads)


def _environment_file(layout: Layout, service: ServiceConfig, host: HostState, *, encrypted: bool) -> FileState:
    """The rendered file; without new variables the installed one, with the user's comments."""
    variables = {name: value for name, value in service.settings.environment.items() if name != SALT_KEY.name}
    if encrypted:
        variables = _split(variables)[0]
    found = host.files.get(layout.environment_file)
    if service.keeps_environment and found is not None and variables_of(found) == variables:
        return FileState(layout.environment_file, found.content, mode=0o600)
    text = render_environment(variables, encrypted=encrypted)
    return FileState(layout.environment_file, text.encode(), mode=0o600, keep_edits=True)


def _salt_file(
    layout: Layout, environment: Mapping[str, str], host: HostState, *, encrypted: bool
) -> FileState | None:
    """The file of the salt key, the installed one if it has the same; None without the key, or if it is encrypted."""
    variables = {name: value for name, value in environment.items() if name == SALT_KEY.name}
    if encrypted:
        variables = _split(variables)[0]
    if not variables:
        return None
    found = host.files.get(layout.salt)
    if found is not None and variables_of(found) == variables:
        return FileState(layout.salt, found.content, mode=0o600)
    return FileState(layout.salt, render_salt(variables).encode(), mode=0o600)


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


def uninstall(
    layout: Layout,
    *,
    purge: bool = False,
    confirm: Callable[[str], bool] = lambda _question: True,
    wait: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> Report:
    """Stop and remove the service.

    `purge`: also remove configurations, keys, the data of the service and its user.
    `confirm`: called once with a question; without consent nothing is changed.

    Raises:
        InstallerError: a step failed; the next run continues from there.
    """
    with changing(layout, "uninstall", say, wait=wait) as executor:
        require_booted(layout)
        host = observe_host(layout, executor.systemctl)
        plan = plan_uninstall(layout, host, purge=purge)
        if not plan:
            return Report("nothing to do: nothing is installed", data={"changed": False})
        has_salt = layout.salt in host.files
        if not confirm(render_removal_question(purge=purge, has_salt=has_salt)):
            return Report("nothing was changed", data={"changed": False})
        kept = tuple(_kept_database(layout))
        apply_uninstall(executor, plan, host, purge=purge)
    actions = [str(action) for action in plan.actions]
    return Report(
        "uninstalled",
        notes=(*_removal_notes(layout, plan, purge=purge), *kept),
        data={"changed": True, "actions": actions},
    )


def _removal_notes(layout: Layout, plan: Plan, *, purge: bool) -> Iterator[str]:
    if not purge:
        yield (
            f"Kept: {layout.etc} with the keys and configurations, {layout.state}, {layout.own_state} with the record"
            f" of these files, and the user {contract.SERVICE_USER}. {_later_purge(layout)}"
        )
    if os.path.lexists(layout.real(layout.salt)):
        yield f"Kept: {layout.salt}, without which what the database stores is lost. Keep it as long as the database."
    for action in plan.actions:
        if action.verb is Verb.SAVE_EDITED:
            yield f"{action.target} was edited here: a copy is in {layout.edited}."
    for name in UNITS:
        drop_ins = f"{layout.units}/{name}.d"
        if layout.real(drop_ins).is_dir():
            yield f"Kept: {drop_ins} with your drop-ins."


def _kept_database(layout: Layout) -> Iterator[str]:
    """What an uninstall leaves in PostgreSQL."""
    try:
        url = read_installed(layout).get(DATABASE_URL.name, "")
    except InstallerError:
        return
    if is_own_url(url):
        yield f"Kept: PostgreSQL, with the keys and the spend in its database. To drop them, run: {drop_command()}"


def _later_purge(layout: Layout) -> str:
    """How to remove what an uninstall keeps. It removes the litellmctl of the host too."""
    if not layout.is_host:
        return f"To remove them later, run: sudo litellmctl uninstall --purge --root {layout.root}"
    kept = (path for path in (layout.etc, layout.state, layout.own_state) if layout.real(path).exists())
    return f"To remove them later, run: sudo rm -rf {' '.join(kept)} && sudo userdel {contract.SERVICE_USER}"


def render_removal_question(*, purge: bool, has_salt: bool) -> str:
    if purge and has_salt:
        return (
            f"Remove the service, its configurations, its keys and its data? Without {SALT_KEY.name}, the credentials"
            " and models that are stored in the database are lost: 'sudo litellmctl backup FILE' keeps a copy."
        )
    if purge:
        return "Remove the service, its configurations, its keys and its data?"
    return "Remove the service? Its configurations and keys are kept without --purge."
