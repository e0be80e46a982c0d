"""Desired state against observed state gives a plan. Pure: no disk, no clock, no systemd."""

from __future__ import annotations

from collections.abc import Iterable

from litellm_systemd import contract
from litellm_systemd.layout import Layout
from litellm_systemd.model import Action, DesiredState, FileState, HostState, Kind, Plan, Running, Verb

UNITS = (contract.SOCKET, contract.SERVICE)
NEW, CHANGED = "new", "changed"


def plan_install(layout: Layout, desired: DesiredState, host: HostState) -> Plan:
    """The steps that make the host look as desired. A host that does so already gets an empty plan."""
    kept = tuple(file.path for file in desired.files if _is_kept(file, host))
    writes = tuple(file for file in desired.files if file.path not in kept and host.files.get(file.path) != file)
    actions = [
        *_release_actions(layout, desired, host),
        *_save_actions(writes, host),
        *_user_actions(layout, writes, host),
        *_folder_actions(layout, desired, writes, host),
        *(Action(Verb.WRITE, file.path, _why(file, host), file) for file in writes),
        *_systemd_actions(layout, desired, host, writes),
    ]
    return Plan(_in_order(layout, actions), kept)


def plan_uninstall(layout: Layout, host: HostState, *, purge: bool) -> Plan:
    """The steps that take everything away that an install wrote.

    Without `purge` the configurations, the environment file, the service's own data and its user stay.
    """
    found = [path for path in (*layout_files(layout), *host.manifest) if path in host.files]
    keep = () if purge else (layout.etc + "/",)
    doomed = [path for path in dict.fromkeys(found) if not path.startswith(keep)]
    actions = [
        *(Action(Verb.STOP, name) for name in UNITS if host.unit(name).is_active),
        *(Action(Verb.DISABLE, name) for name in UNITS if host.unit(name).is_enabled),
        *(Action(Verb.REMOVE, path) for path in doomed),
        *(Action(Verb.REMOVE, path) for path in _own_folders(layout, purge=purge) if path in host.files),
    ]
    if layout.is_host and {layout.service, layout.socket} & set(doomed):
        actions.append(Action(Verb.DAEMON_RELOAD, "systemd"))
    if purge and host.user_exists:
        actions.append(Action(Verb.REMOVE_USER, contract.SERVICE_USER))
    return Plan(_in_order(layout, actions))


def plan_rollback(layout: Layout, taken: tuple[Action, ...], host: HostState) -> Plan:
    """The steps back to `host` from where the actions `taken`, the last of which may have failed half-way, led."""
    verbs = {action.verb for action in taken}
    actions: list[Action] = []
    if Verb.START in verbs:
        actions += [Action(Verb.STOP, name) for name in UNITS if not host.unit(name).is_active]
    for action in taken:
        if action.verb is Verb.WRITE:
            before = host.files.get(action.target)
            actions.append(
                Action(Verb.REMOVE, action.target)
                if before is None
                else Action(Verb.WRITE, action.target, "as it was", before)
            )
        elif action.verb is Verb.ENABLE:
            actions.append(Action(Verb.DISABLE, action.target))
        elif action.verb in (Verb.DAEMON_RELOAD, Verb.RESTART):
            actions.append(action)
    # A failed reload needs nothing: the old workers serve on.
    return Plan(_in_order(layout, actions))


def layout_files(layout: Layout) -> tuple[str, ...]:
    """The files that an install writes whatever the settings are."""
    return (
        *(layout.service, layout.socket, layout.sysusers, layout.tmpfiles),
        *(layout.environment_file, layout.config_link, layout.current, layout.command),
    )


def _own_folders(layout: Layout, *, purge: bool) -> tuple[str, ...]:
    folders = (layout.prefix, layout.cache, layout.own_state)
    return (*folders, layout.etc, layout.state) if purge else folders


def _in_order(layout: Layout, actions: Iterable[Action]) -> tuple[Action, ...]:
    """Sort by verb. The declarations of user and folders come before these are made, links after their targets."""
    verbs = list(Verb)

    def rank(action: Action) -> tuple[int, bool]:
        declares = action.verb is Verb.WRITE and action.target in (layout.sysusers, layout.tmpfiles)
        is_link = action.after is not None and action.after.kind is Kind.LINK
        return verbs.index(Verb.SAVE_EDITED if declares else action.verb), is_link

    return tuple(sorted(actions, key=rank))


def _is_kept(file: FileState, host: HostState) -> bool:
    found = host.files.get(file.path)
    return file.keep_edits and found is not None and found.content != file.content and host.edited(file.path)


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


def _save_actions(writes: tuple[FileState, ...], host: HostState) -> Iterable[Action]:
    """Nothing that a person wrote is lost: it is put aside before it is overwritten."""
    for file in writes:
        found = host.files.get(file.path)
        edited = found is not None and found.kind is Kind.FILE and host.edited(file.path)
        if edited and found is not None and found.content != file.content:
            yield Action(Verb.SAVE_EDITED, file.path, "edited by hand")


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
    stale = any(host.unit(name).need_reload for name in UNITS)
    if layout.is_host and (stale or written & {layout.service, layout.socket}):
        yield Action(Verb.DAEMON_RELOAD, "systemd")
    if desired.enabled:
        yield from (Action(Verb.ENABLE, name) for name in UNITS if not host.unit(name).is_enabled)
    if not layout.is_host or desired.running is Running.UNTOUCHED:
        return
    if host.unit(contract.SERVICE).is_active:
        # A mended mode or owner is no reason to disturb a process.
        changed = {file.path for file in writes if _why(file, host) in (NEW, CHANGED) or file.kind is Kind.LINK}
        yield from _take_up_actions(layout, desired, host, changed, stale=stale)
    elif desired.running is Running.STARTED:
        yield Action(Verb.START, contract.SERVICE)


def _take_up_actions(
    layout: Layout, desired: DesiredState, host: HostState, changed: set[str], *, stale: bool
) -> Iterable[Action]:
    """Restart for what a process reads once, reload for the configuration."""
    if layout.socket in changed:
        # A socket unit refuses to start beside its running service, so both go down together.
        yield Action(Verb.RESTART, f"{contract.SOCKET} {contract.SERVICE}", layout.socket)
        return
    read_once = sorted(changed & {layout.service, layout.environment_file, layout.current})
    if read_once or stale:
        yield Action(Verb.RESTART, contract.SERVICE, ", ".join(read_once) or "units changed on disk")
    elif taken_up := sorted(changed & {layout.config_link, *_active_config(layout, desired, host)}):
        yield Action(Verb.RELOAD, contract.SERVICE, ", ".join(taken_up))


def _active_config(layout: Layout, desired: DesiredState, host: HostState) -> Iterable[str]:
    """The file that the link to the active configuration leads to."""
    wanted = next((file for file in desired.files if file.path == layout.config_link), None)
    found = wanted or host.files.get(layout.config_link)
    return () if found is None else (f"{layout.etc}/{found.content.decode()}",)
