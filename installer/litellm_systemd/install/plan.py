"""Desired state against observed state gives a plan. Pure: no disk, no clock, no systemd."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import PurePosixPath

from litellm_systemd import contract
from litellm_systemd.errors import CannotCreate, Unavailable
from litellm_systemd.host.layout import UNITS, Layout
from litellm_systemd.host.state import (
    Action,
    DesiredState,
    FileKind,
    FileState,
    HostState,
    Kept,
    Plan,
    Running,
    Verb,
    mask_secrets,
)

NEW, CHANGED, BY_HAND = "new", "changed", "edited by hand"


def require_no_conflicts(layout: Layout, desired: DesiredState, host: HostState) -> None:
    """Check that each path is free or has the right type, and that no other package has units of these names.

    Raises:
        Unavailable: a unit is masked.
        CannotCreate: something else exists at a path, or another package has a unit of that name.
    """
    metrics = (contract.METRICS_SOCKET,) if any(file.path == layout.metrics_socket for file in desired.files) else ()
    for name in (*UNITS, *metrics):
        _require_name(layout, desired, host, name)
    for state in (*desired.folders, *desired.files):
        found = host.files.get(state.path)
        if found is not None:
            _require_kind(state, found, is_ours=state.path in {*host.manifest, *desired.take})


def _require_name(layout: Layout, desired: DesiredState, host: HostState, name: str) -> None:
    unit, path = host.unit(name), f"{layout.units}/{name}"
    if "masked" in (unit.load, unit.enabled):
        raise Unavailable(f"{name} is masked: systemd does not start it", f"Run: sudo systemctl unmask {name}")
    if unit.fragment and unit.fragment != path:
        raise CannotCreate(
            f"another {name} exists: {unit.fragment}", "Another package runs LiteLLM on this host. Remove it first."
        )
    if path in host.files and path not in host.manifest and path not in desired.take:
        raise CannotCreate(
            f"{path} exists, and litellmctl did not write it",
            "Remove it, or replace it and keep a copy with: sudo litellmctl install --take-ours",
        )


def _require_kind(state: FileState, found: FileState, *, is_ours: bool) -> None:
    # A file in place of an installed link is a copy of its target, made by hand. It is saved like any other edit.
    if found.kind is state.kind or (is_ours and (state.kind, found.kind) == (FileKind.LINK, FileKind.FILE)):
        return
    what = "a special file" if found.kind is FileKind.OTHER else f"a {found.kind.value}"
    if found.kind is FileKind.LINK:
        what += f" to {found.content.decode(errors='replace')}"
    raise CannotCreate(
        f"{state.path} is {what}, but must be a {state.kind.value}", "Move it away and run the command again."
    )


def plan_install(layout: Layout, desired: DesiredState, host: HostState) -> Plan:
    """The steps from the observed to the desired state; an empty plan if they are equal."""
    kept = tuple(each for file in desired.files if (each := _kept(file, desired, host)) is not None)
    mine = {each.path: each.found.content for each in kept}
    files = [replace(file, content=mine.get(file.path, file.content)) for file in desired.files]
    writes = tuple(file for file in files if host.files.get(file.path) != file)
    actions = [
        *_postgres_actions(host),
        *_release_actions(layout, desired, host),
        *_save_actions(layout, desired, writes, host),
        *_user_actions(layout, writes, host),
        *_folder_actions(layout, desired, writes, host),
        *((Action(Verb.LOAD_DATABASE, desired.dump),) if desired.dump else ()),
        # The old release serves until the end of the migrations.
        *((Action(Verb.MIGRATE, layout.release(desired.release), desired.migrates),) if desired.migrates else ()),
        *(Action(Verb.WRITE, file.path, _why(file, host), file) for file in writes),
        *_removals(desired, host),
        *_systemd_actions(layout, desired, host, writes),
        *_metrics_actions(layout, desired, host),
        *_timer_actions(layout, desired, host, writes),
    ]
    return Plan(in_order(layout, actions), kept)


def plan_uninstall(layout: Layout, host: HostState, *, purge: bool) -> Plan:
    """The steps that remove what an install wrote, and nothing else.

    Without `purge`, the configurations, the environment file, the service's data and its user are kept, and edits of
    other files are saved before they are removed.
    """
    keep = () if purge else (layout.etc,)
    doomed = [path for path in sorted(host.manifest) if _is_ours(path, host) and not path.startswith(keep)]
    edited = () if purge else tuple(path for path in doomed if host.edited(path))
    units = UNITS if layout.service in host.manifest else ()
    # quickstart.sh makes the prefix before an install can record it.
    made = {*_folders_made(host), *((layout.prefix,) if layout.bootstrap in host.files else ())}
    actions = [
        *_timer_stopped(layout, host),
        *(Action(Verb.STOP, name) for name in units if host.unit(name).is_active),
        *(Action(Verb.DISABLE, name) for name in units if host.unit(name).is_enabled),
        *(Action(Verb.SAVE_EDITED, path, BY_HAND) for path in edited),
        *(Action(Verb.REMOVE, path) for path in doomed),
        *(Action(Verb.REMOVE, path) for path in _own_folders(layout, purge=purge) if path in host.files),
        *(Action(Verb.REMOVE_EMPTY, path) for path in sorted(made) if not path.startswith(layout.etc)),
    ]
    if layout.is_host and set(_unit_files(layout)) & set(doomed):
        actions.append(Action(Verb.DAEMON_RELOAD, "systemd"))
    if purge and host.user_exists:
        actions.append(Action(Verb.REMOVE_USER, contract.SERVICE_USER))
    return Plan(in_order(layout, actions))


def plan_rollback(layout: Layout, taken: tuple[Action, ...], host: HostState) -> Plan:
    """The steps that undo the actions `taken`, the last of which may be incomplete, and lead back to `host`.

    Of `host`, only the paths, the states of the units and the existence of the user are used.
    """
    verbs = {action.verb for action in taken}
    actions: list[Action] = []
    if Verb.START in verbs:
        # A unit that was stopped and replaced is started again below.
        actions += [Action(Verb.STOP, name) for name in UNITS if not host.unit(name).is_active or Verb.STOP in verbs]
    for action in taken:
        actions += [undo for undo in _undo_actions(action, host) if undo not in actions]
    if Verb.STOP in verbs:
        actions += [Action(Verb.START, name) for name in UNITS if host.unit(name).is_active]
    if Verb.START in verbs and not host.user_exists:
        # systemd created these for the service, which had never run before.
        has_metrics = any(action.target == layout.metrics_socket for action in taken)
        made = (layout.state, layout.cache, *((layout.metrics, layout.verified) if has_metrics else ()))
        actions += [Action(Verb.REMOVE, path) for path in made if path not in host.files]
    return Plan(in_order(layout, actions))


def _undo_actions(action: Action, host: HostState) -> Iterable[Action]:
    if action.verb is Verb.STOP_TIMER:
        before = host.unit(action.target)
        if before.is_enabled:
            yield Action(Verb.ENABLE, action.target)
        if before.is_active:
            yield Action(Verb.START_TIMER, action.target)
    elif action.verb is Verb.START_TIMER:
        # A timer that was active before stays active.
        yield Action(Verb.START_TIMER if host.unit(action.target).is_active else Verb.STOP_TIMER, action.target)
    elif action.verb is Verb.TAKE_AWAY:
        yield Action(Verb.RESTORE, action.target)
    elif action.verb is Verb.LOAD_DATABASE:
        yield Action(Verb.EMPTY_DATABASE, action.target)
    elif action.verb is Verb.MIGRATE:
        yield Action(Verb.RESTORE_DATABASE, action.target)
    elif action.verb is Verb.WRITE:
        existed = action.target in host.files
        yield Action(Verb.RESTORE if existed else Verb.REMOVE, action.target)
        if action.target == Layout.metrics_socket and not existed:
            yield Action(Verb.CLOSE, contract.METRICS_SOCKET)
        created = (str(parent) for parent in PurePosixPath(action.target).parents)
        yield from (Action(Verb.REMOVE_EMPTY, path) for path in created if path not in {*host.files, "/"})
    elif action.verb is Verb.ENABLE:
        yield Action(Verb.DISABLE, action.target)
    elif action.verb is Verb.CREATE_DATABASE:
        yield Action(Verb.DROP_DATABASE, action.target)
    elif action.verb is Verb.CREATE_ROLE:
        yield Action(Verb.DROP_ROLE, action.target)
    elif action.verb is Verb.CREATE_USER and not host.user_exists:
        yield Action(Verb.REMOVE_USER, action.target)
    elif action.verb in (Verb.DAEMON_RELOAD, Verb.RELOAD, Verb.RESTART):
        yield action


def _unit_files(layout: Layout) -> tuple[str, ...]:
    """The files after whose change systemd needs a daemon-reload."""
    return (layout.service, layout.socket, layout.metrics_socket, layout.verify_service, layout.verify_timer)


def _own_folders(layout: Layout, *, purge: bool) -> tuple[str, ...]:
    # Not the whole prefix: --prefix may name a folder that is used for other things too. And not our own state, which
    # holds the undo log of the uninstall: it is removed last.
    folders = (layout.releases, layout.bootstrap, layout.cache, layout.metrics, layout.verified)
    return (*folders, layout.etc, layout.state) if purge else folders


def in_order(layout: Layout, actions: Iterable[Action]) -> tuple[Action, ...]:
    """Sort by verb. Declarations of user and folders precede their creation, and targets precede their links."""
    verbs = list(Verb)

    def rank(action: Action) -> tuple[int, bool, int]:
        declares = action.verb is Verb.WRITE and action.target in (layout.sysusers, layout.tmpfiles)
        is_link = action.after is not None and action.after.kind is FileKind.LINK
        inner_first = -action.target.count("/") if action.verb is Verb.REMOVE_EMPTY else 0
        return verbs.index(Verb.SAVE_EDITED if declares else action.verb), is_link, inner_first

    return tuple(sorted(actions, key=rank))


def _kept(file: FileState, desired: DesiredState, host: HostState) -> Kept | None:
    """The edited file that is kept instead of `file`; None if there is none, or the user chose to replace it.

    As dpkg does with configuration files: an edit is kept. It is reported only if the shipped content changed.
    """
    found, record = host.files.get(file.path), host.manifest.get(file.path)
    if not file.keep_edits or file.path in desired.take or found is None or found.kind is not FileKind.FILE:
        return None
    if found.content == file.content or not host.edited(file.path):
        return None
    return Kept(found, file, is_news=record is None or record.digest != file.digest)


def _folders_made(host: HostState) -> list[str]:
    """The folders that an install created, sorted."""
    recorded = (path for path, record in host.manifest.items() if record.kind is FileKind.FOLDER)
    return sorted(path for path in recorded if path in host.files)


def missing_folders(desired: DesiredState, host: HostState) -> tuple[str, ...]:
    """The parent folders that do not exist yet, sorted."""
    parents = {str(parent) for file in desired.files for parent in PurePosixPath(file.path).parents}
    return tuple(sorted(parents - host.files.keys() - {"/"}))


def _is_edited_file(path: str, host: HostState) -> bool:
    return host.files[path].kind is FileKind.FILE and host.edited(path)


def _is_ours(path: str, host: HostState) -> bool:
    """Whether an uninstall may remove a path of the manifest. A folder, or a link to another target, is not ours."""
    found = host.files.get(path)
    return found is not None and (
        found.kind is FileKind.FILE or (found.kind is FileKind.LINK and not host.edited(path))
    )


def _why(file: FileState, host: HostState) -> str:
    found = host.files.get(file.path)
    if found is None:
        return NEW
    if found.kind is not file.kind:
        return f"is a {found.kind.value}"
    if found.content != file.content:
        return CHANGED
    return f"mode {found.mode:04o} {found.owner}:{found.group}"


def _release_actions(layout: Layout, desired: DesiredState, host: HostState) -> Iterable[Action]:
    if desired.release not in host.releases:
        yield Action(Verb.BUILD_RELEASE, layout.release(desired.release))


def _postgres_actions(host: HostState) -> Iterable[Action]:
    """Set up the PostgreSQL of this host, if the service is to have its database there."""
    found = host.postgres
    if found is None:
        return
    if found.missing:
        yield Action(Verb.SET_UP_POSTGRES, found.url, found.missing)
    if not found.has_role:
        yield Action(Verb.CREATE_ROLE, found.url)
    if not found.has_database:
        yield Action(Verb.CREATE_DATABASE, found.url)


def _save_actions(
    layout: Layout, desired: DesiredState, writes: tuple[FileState, ...], host: HostState
) -> Iterable[Action]:
    """Save each edited file before it is overwritten. No copy holds a secret that is encrypted, before or after."""
    encrypts = layout.secrets in host.manifest or layout.secrets in {file.path for file in desired.files}
    for file in writes:
        found = host.files.get(file.path)
        if found is None or found.content == file.content or not _is_edited_file(file.path, host):
            continue
        if file.path == layout.environment_file and encrypts:
            yield Action(Verb.SAVE_EDITED, file.path, BY_HAND, mask_secrets(found))
        elif file.path not in (layout.secrets, layout.salt):
            yield Action(Verb.SAVE_EDITED, file.path, BY_HAND)


def _user_actions(layout: Layout, writes: tuple[FileState, ...], host: HostState) -> Iterable[Action]:
    if not host.user_exists or layout.sysusers in {file.path for file in writes}:
        yield Action(Verb.CREATE_USER, contract.SERVICE_USER)


def _folder_actions(
    layout: Layout, desired: DesiredState, writes: tuple[FileState, ...], host: HostState
) -> Iterable[Action]:
    wrong = [item.path for item in desired.folders if host.files.get(item.path) != item]
    if wrong or layout.tmpfiles in {file.path for file in writes}:
        yield Action(Verb.CREATE_FOLDERS, layout.tmpfiles, " ".join(wrong))


def _systemd_actions(
    layout: Layout, desired: DesiredState, host: HostState, writes: tuple[FileState, ...]
) -> Iterable[Action]:
    written = {file.path for file in writes}
    stale = any(host.unit(name).need_reload for name in (*UNITS, contract.METRICS_SOCKET))
    removed = {action.target for action in _removals(desired, host)}
    if layout.is_host and (stale or (written | removed) & set(_unit_files(layout))):
        yield Action(Verb.DAEMON_RELOAD, "systemd")
    if desired.enabled:
        yield from (Action(Verb.ENABLE, name) for name in UNITS if not host.unit(name).is_enabled)
    if not layout.is_host or desired.running is Running.UNTOUCHED:
        return
    if not host.unit(contract.SERVICE).is_active:
        if desired.running is Running.STARTED:
            yield Action(Verb.START, contract.SERVICE)
    elif layout.service not in host.manifest:
        # A unit of another package runs under this name: it holds the port and has no socket unit.
        yield Action(Verb.STOP, contract.SERVICE, "not one of ours")
        yield Action(Verb.START, contract.SERVICE)
    else:
        # A corrected mode or owner needs no reload or restart.
        changed = {file.path for file in writes if _why(file, host) in (NEW, CHANGED) or file.kind is FileKind.LINK}
        if desired.release not in host.releases:
            changed.add(layout.current)  # also if it was damaged and the link stays
        actions = tuple(_restart_or_reload(layout, desired, host, changed, stale=stale))
        if not actions and desired.running is Running.STARTED and host.unit(contract.SERVICE).active == "activating":
            # In a loop of restarts: what was repaired shows when it has started.
            actions = (Action(Verb.START, contract.SERVICE),)
        yield from actions


def _removals(desired: DesiredState, host: HostState) -> Iterable[Action]:
    """Remove what an earlier install wrote and this one does not need. An edit is saved first."""
    for path in desired.absent:
        if path in host.manifest and path in host.files:
            # What an administrator has encrypted again is decrypted, and so not lost.
            if _is_edited_file(path, host) and path not in (Layout.secrets, Layout.salt):
                yield Action(Verb.SAVE_EDITED, path, BY_HAND)
            yield Action(Verb.TAKE_AWAY, path, "not needed any more")


def _metrics_actions(layout: Layout, desired: DesiredState, host: HostState) -> Iterable[Action]:
    """Close the port of the metrics that is not wanted any more. The service opens it, since its unit wants it."""
    is_left = layout.metrics_socket in desired.absent and layout.metrics_socket in host.manifest
    if is_left and host.unit(contract.METRICS_SOCKET).active != "inactive":
        yield Action(Verb.CLOSE, contract.METRICS_SOCKET)


def _timer_actions(
    layout: Layout, desired: DesiredState, host: HostState, writes: tuple[FileState, ...]
) -> Iterable[Action]:
    """Enable, start or stop the timer of the periodic check."""
    name, unit = contract.VERIFY_TIMER, host.unit(contract.VERIFY_TIMER)
    if layout.verify_timer in desired.absent:
        yield from _timer_stopped(layout, host)
    if layout.verify_timer not in {file.path for file in desired.files}:
        return
    if not unit.is_enabled:
        yield Action(Verb.ENABLE, name)
    is_changed = any(file.path == layout.verify_timer and _why(file, host) in (NEW, CHANGED) for file in writes)
    if layout.is_host and desired.running is Running.STARTED and (is_changed or not unit.is_active):
        yield Action(Verb.START_TIMER, name)


def _timer_stopped(layout: Layout, host: HostState) -> Iterable[Action]:
    if layout.verify_timer in host.manifest and layout.verify_timer in host.files:
        yield Action(Verb.STOP_TIMER, contract.VERIFY_TIMER)


def _restart_or_reload(
    layout: Layout, desired: DesiredState, host: HostState, changed: set[str], *, stale: bool
) -> Iterable[Action]:
    """Restart for what a process reads once, reload for the configuration."""
    if layout.socket in changed:
        # A socket unit does not start while its service runs, so both restart together.
        yield Action(Verb.RESTART, f"{contract.SOCKET} {contract.SERVICE}", layout.socket)
        return
    if layout.metrics_socket in changed:
        yield Action(Verb.RESTART, f"{contract.METRICS_SOCKET} {contract.SERVICE}", layout.metrics_socket)
        return
    read_once = sorted(
        changed & {layout.service, layout.environment_file, layout.secrets, layout.salt, layout.current}
    )
    if read_once or stale:
        yield Action(Verb.RESTART, contract.SERVICE, ", ".join(read_once) or "units changed on disk")
    elif reloaded := sorted(changed & {layout.config_link, *_active_config(layout, desired, host)}):
        yield Action(Verb.RELOAD, contract.SERVICE, ", ".join(reloaded))


def _active_config(layout: Layout, desired: DesiredState, host: HostState) -> Iterable[str]:
    """The active configuration: the target of the link, and the files that it includes."""
    wanted = next((file for file in desired.files if file.path == layout.config_link), None)
    found = wanted or host.files.get(layout.config_link)
    return desired.loads if found is None else (f"{layout.etc}/{found.content.decode()}", *desired.loads)
