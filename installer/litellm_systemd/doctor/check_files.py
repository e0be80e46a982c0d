"""Installed files: are they complete, readable for the service, and closed to others? How `--fix` restores them."""

from __future__ import annotations

import errno
import hashlib
import os
import shlex
import stat
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

from litellm_systemd import contract
from litellm_systemd.doctor.check_unit import BIND_FOLDER
from litellm_systemd.doctor.engine import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.variables import HIDDEN
from litellm_systemd.errors import REINSTALL, RESTORE, InputError, InstallerError, MissingError, PermissionDenied
from litellm_systemd.gateway.config import real_path
from litellm_systemd.gateway.python_files import find_references, module_file
from litellm_systemd.host.acl import is_allowed
from litellm_systemd.host.files import group_exists, read_names, read_numbered_lines, user_exists
from litellm_systemd.host.install_lock import find_holder
from litellm_systemd.host.layout import UNITS, Layout
from litellm_systemd.host.observe import observe_releases
from litellm_systemd.host.sandbox import has_own_sandbox
from litellm_systemd.host.state import Action, FileKind, FileState, Record, Verb, access_drift, describe_drift, link
from litellm_systemd.install.undo_log import read_undo_log
from litellm_systemd.releases.inventory import current_release
from litellm_systemd.report.report import Outcome

#: Makes the repairs of a finding, and starts a service that failed.
FIX = "sudo litellmctl doctor --fix"

NOT_INSTALLED = Cause(
    "files-not-installed",
    "The service is not installed: it never was, or it was uninstalled and only its configuration was kept.",
    "sudo litellmctl install",
)


@detects(NOT_INSTALLED)
def detect_files_not_installed(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect that nothing is installed. Only world-readable paths are used, so this works without root."""
    layout = snapshot.layout
    if layout.service not in snapshot.records and all(
        snapshot.file(path) is None for path in (layout.service, layout.current)
    ):
        yield NOT_INSTALLED.finding(f"neither {layout.service} nor {layout.current} exists")


MANIFEST = Cause(
    "files-manifest",
    "litellmctl no longer knows which files it installed, so it neither overwrites nor removes them.",
    "sudo mv {path} {path}.bad; sudo litellmctl install --take-ours",
    requires=("files-not-installed",),
    caused_by=("host-unmounted",),
)


@detects(MANIFEST)
def detect_files_manifest(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a manifest that is missing or damaged."""
    path = snapshot.layout.manifest
    try:
        if not snapshot.manifest:
            yield MANIFEST.finding(f"{path} is missing but {snapshot.layout.service} exists", path=path)
    except InputError as error:
        yield MANIFEST.finding(error.message, path=path)


UNFINISHED = Cause(
    "files-unfinished",
    "A change was interrupted by a kill or a power failure: some files are new, others old.",
    f"{FIX}    # rolls back what was interrupted, or completes it",
    fix="rolls back the interrupted change, or completes it",
)


@detects(UNFINISHED)
def detect_files_unfinished(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a change that was interrupted and that no process is working on."""
    if not snapshot.is_root:
        raise PermissionDenied("only root can read the manifest of installed files")
    found = read_undo_log(snapshot.layout)
    if found is not None and find_holder(snapshot.layout) is None:
        step = f"; last step: {found.taken[-1]}" if found.taken else ""
        finding = UNFINISHED.finding(f"{snapshot.layout.undo_log} records an unfinished {found.verb}{step}")
        if found.verb == "uninstall":
            is_whole = all(snapshot.file(path) is not None for path in found.host.files)
            undo = f"{FIX}    # undoes it, as nothing is removed yet; to complete it: {found.command}"
            finding = replace(finding, remedy=undo if is_whole else f"{found.command}    # completes it")
        elif found.manifest is None and found.verb not in ("doctor --fix", "change"):
            finding = replace(finding, remedy=f"{finding.remedy}; then again: {found.command}")
        yield finding


SUSPENDED = Cause(
    "files-suspended",
    "A command was suspended in its terminal. It holds the lock, so that no other one can change anything.",
    "{remedy}",
)


@detects(SUSPENDED)
def detect_files_suspended(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a suspended process that holds the install lock."""
    holder = find_holder(snapshot.layout)
    if holder is not None and holder.remedy:
        yield SUSPENDED.finding(str(holder), remedy=holder.remedy)


RELEASE = Cause(
    "files-release-gone",
    "The release that the service runs from is missing, with its Python and LiteLLM. A running service degrades and"
    " cannot be restarted.",
    REINSTALL,
    requires=("files-not-installed",),
    caused_by=("host-unmounted",),
)


@detects(RELEASE)
def detect_files_release_gone(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect an active release that is missing or incomplete."""
    layout, current = snapshot.layout, current_release(snapshot.layout)
    releases = observe_releases(layout)
    if current is None and not releases:
        yield RELEASE.finding(f"{layout.releases} contains no release")
    elif current is not None and current not in releases:
        others = f"; other releases: {', '.join(releases)}" if releases else ""
        yield RELEASE.finding(f"{layout.current} points to {current}, which is missing or incomplete{others}")


GONE = Cause(
    "files-gone",
    "An installed file is missing.",
    "sudo litellmctl {verb}",
    fix="restores it from the copy that litellmctl keeps, or recreates the link",
    requires=("files-not-installed",),
    caused_by=("host-unmounted", "files-unfinished", "files-suspended"),
)


@detects(GONE)
def detect_files_gone(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect installed files that are missing. If there is no release, `files-release-gone` reports its folder."""
    layout = snapshot.layout
    excluded = () if observe_releases(layout) else (layout.prefix,)
    try:
        installed = sorted(snapshot.manifest.items())
    except InputError:
        return  # `files-manifest` reports it, and the checks of what the service uses are made
    gone = [(path, record) for path, record in installed if snapshot.file(path) is None]
    found = []
    for path, record in gone:
        if not path.startswith(excluded):
            actions = restore(snapshot, path, record)
            verb = "doctor --fix" if actions else "install"
            found.append(
                GONE.finding(f"{path} is missing", outcome=_severity(snapshot, path), actions=actions, verb=verb)
            )
    yield from _merge(found)


def _merge(findings: Iterable[Finding]) -> Iterator[Finding]:
    """One finding for several files with one remedy and outcome, such as those that one command has changed.

    Where `--fix` restores them, that is the remedy.
    """
    kinds: dict[tuple[Outcome, bool], list[Finding]] = {}
    for each in findings:
        kinds.setdefault((each.outcome, bool(each.actions)), []).append(each)
    for (_, is_fixable), (first, *others) in kinds.items():
        if not others:
            yield first
            continue
        named = ", ".join(each.evidence.partition(" ")[0] for each in others[:_MOST])
        more = f" and {len(others) - _MOST} more" if len(others) > _MOST else ""
        actions = dict.fromkeys(action for each in (first, *others) for action in each.actions)
        remedy = FIX if is_fixable else first.remedy
        evidence = f"{first.evidence}; the same kind of change at {named}{more}"
        yield replace(first, evidence=evidence, remedy=remedy, actions=tuple(actions))


#: Files that are named next to the first one.
_MOST = 4


def _severity(snapshot: Snapshot, path: str) -> Outcome:
    """FAILED if the service cannot work without the file, else WARNING."""
    layout = snapshot.layout
    needed = (layout.service, layout.socket, layout.environment_file, layout.config_link, layout.current)
    return Outcome.FAILED if path in (*needed, *_loaded(snapshot)) else Outcome.WARNING


def _active_config(snapshot: Snapshot) -> str | None:
    found = snapshot.file(snapshot.layout.config_link)
    if found is None or found.kind is not FileKind.LINK:
        return None if found is None else snapshot.layout.config_link
    return str(PurePosixPath(snapshot.layout.etc) / found.content.decode())


def _loaded(snapshot: Snapshot) -> tuple[str, ...]:
    """The files that the service loads: the active configuration and what it includes or imports.

    A missing file that it includes or imports counts too.
    """
    active, layout = _active_config(snapshot), snapshot.layout
    if active is None:
        return ()
    try:
        found = [path for path in snapshot.gateway.other_files if path.is_relative_to(layout.root)]
        included = [f"/{path.relative_to(layout.root)}" for path in found] + _named_modules(snapshot)
    except MissingError as error:
        included = [path for path in snapshot.records if str(layout.real(path)) == error.path]
    except (InstallerError, OSError):
        included = []
    return (active, *included)


def _named_modules(snapshot: Snapshot) -> list[str]:
    """The installed Python files that the configuration names, whether they exist or not."""
    gateway = snapshot.gateway
    files = [module_file(name.rpartition(".")[0]) for _, name in find_references(gateway.document)]
    named = {str(folder / file) for folder in gateway.folders for file in files}
    return [path for path in snapshot.records if str(snapshot.layout.real(path)) in named]


CONFIG = Cause(
    "files-config-gone",
    "The link to the active configuration is broken: the service cannot start, and a reload fails.",
    "sudo litellmctl config use NAME    # to list the names: litellmctl config list",
    requires=("files-not-installed",),
)


@detects(CONFIG)
def detect_files_config_gone(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a link to the active configuration that leads to no file, unless `files-gone` reports that file."""
    config_link = snapshot.layout.config_link
    path, found = _active_config(snapshot), snapshot.file(config_link)
    if path is None or found is None or found.kind is not FileKind.LINK:
        return
    try:
        trouble = "is a folder" if stat.S_ISDIR(snapshot.layout.real(path).stat().st_mode) else ""
    except (FileNotFoundError, NotADirectoryError):
        trouble = "" if path in snapshot.records else "does not exist"
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        trouble = "leads back to itself"
    if trouble:
        yield CONFIG.finding(f"{config_link} points to {path}, which {trouble}")


KIND = Cause(
    "files-kind",
    "A file, folder or link that litellmctl installed was replaced by another kind, often a link by a copy.",
    "sudo litellmctl install    # moves the replacement to /etc/litellm/edited",
    outcome=Outcome.WARNING,
    requires=("files-not-installed", "files-manifest"),
    caused_by=("unit-masked", "environment-unloadable", "files-unreadable"),
)


@detects(KIND)
def detect_files_kind(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect installed paths whose kind has changed."""
    for path, record in sorted(snapshot.manifest.items()):
        found = snapshot.file(path)
        if found is not None and found.kind is not record.kind:
            remedy = ""
            if path == snapshot.layout.config_link:  # an install does not guess which configuration is meant
                led = _installed_link(snapshot, path, record)
                name = "NAME" if led is None else PurePosixPath(led.content.decode()).name
                remedy = f"sudo litellmctl config use {name}    # and keeps a copy of what is there now"
            elif record.kind is not FileKind.LINK:  # which an install refuses to replace
                target = real_path(snapshot.layout.real(path))
                is_same = target.is_file() if record.kind is FileKind.FILE else target.is_dir()
                if found.kind is not FileKind.LINK or not is_same:
                    remedy = RESTORE.format(path=path)
                elif record.kind is FileKind.FILE:
                    remedy = f"sudo rm {path} && sudo cp -a {shlex.quote(str(target))} {path} && {FIX}"
                else:
                    remedy = BIND_FOLDER.format(path=path, target=target)
            yield KIND.finding(f"{path} {describe_drift(found, record)}", instead=remedy)


OPEN = Cause(
    "files-secret-open",
    "Users other than root can read or change the file with the keys. Treat the keys as known to every user of this"
    " host.",
    "sudo chmod 0600 {path} && sudo chown root:root {path}    # then replace the keys in it",
    fix="sets mode and owner",
    requires=("files-not-installed",),
)


@detects(OPEN)
def detect_files_secret_open(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect an environment file that users other than root can access."""
    path = snapshot.layout.environment_file
    found = snapshot.file(path)
    if found is not None and is_open(found):
        actions = restore_permissions(found, 0o600, "root", "root")
        yield OPEN.finding(f"{path} has {_permissions(found)}", actions=actions, path=path)


def is_open(found: FileState) -> bool:
    """Whether users other than root can read or write a file."""
    return found.kind is FileKind.FILE and (bool(found.mode & 0o077) or found.owner != "root")


def _permissions(found: FileState) -> str:
    return f"mode {found.mode:04o}, owner {found.owner}:{found.group}"


UNREADABLE = Cause(
    "files-unreadable",
    "The user litellm cannot read the configuration or the release: the service cannot start, and a reload fails.",
    "{remedy}",
    fix="restores the installed mode and owner",
    requires=("files-not-installed", "files-user-gone"),
    caused_by=("release-damaged",),
)


@detects(UNREADABLE)
def detect_files_unreadable(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a configuration, or a folder above it or the release, that the service's user cannot read."""
    layout = snapshot.layout
    if hidden := next(_find_hidden(snapshot), None):
        yield hidden
        return
    for path in dict.fromkeys(map(str, (*PurePosixPath(layout.etc).parents, *PurePosixPath(layout.current).parents))):
        found = snapshot.file(path)
        if found is not None and found.kind is FileKind.FOLDER and not _can_read(snapshot, found):
            remedy = f"sudo chmod o+x {path} && sudo litellmctl start"
            yield UNREADABLE.finding(f"{path} has {_permissions(found)}", remedy=remedy)
    yield from _merge(_find_unreadable(snapshot))


def _find_hidden(snapshot: Snapshot) -> Iterator[Finding]:
    if has_own_sandbox(snapshot.layout):
        return
    layout = snapshot.layout
    for path in (layout.prefix, layout.config_link, *_loaded(snapshot)):
        target = Path("/", os.path.relpath(os.path.realpath(layout.real(path)), layout.root))
        if HIDDEN.match(str(target)):
            evidence = f"{path} leads to {target}, which the sandbox of the service hides (/home, /root, /tmp)"
            remedy = f"sudo litellmctl config use {target}    # installs a copy below {layout.configs}"
            if path == layout.prefix:
                where = "or to a folder that is not hidden, with a link to it"
                remedy = f"sudo rm {path} && sudo mv {target} {path} && sudo litellmctl start    # {where}"
            yield UNREADABLE.finding(evidence, remedy=remedy)


def _find_unreadable(snapshot: Snapshot) -> Iterator[Finding]:
    for path in _config_paths(snapshot):
        found = snapshot.file(path)
        if found is None or found.kind is FileKind.LINK or _can_read(snapshot, found):
            continue
        if is_readable(found):
            evidence = f"{path} has {_permissions(found)}, and an access control list that excludes litellm"
            yield UNREADABLE.finding(evidence, remedy=f"sudo setfacl --remove-all {path} && sudo litellmctl start")
        else:
            record = snapshot.records.get(path)
            evidence = f"{path} has {_permissions(found)}"
            actions = () if record is None else restore_permissions(found, record.mode, record.owner, record.group)
            x = "x" if found.kind is FileKind.FOLDER else ""
            by_hand = (
                f"sudo chgrp {contract.SERVICE_USER} {path} && sudo chmod g+r{x} {path} && sudo litellmctl start"
            )
            remedy = FIX if actions else by_hand
            yield UNREADABLE.finding(evidence, actions=actions, remedy=remedy)


def _can_read(snapshot: Snapshot, found: FileState) -> bool:
    """Whether the user of the service may read a file or traverse a folder, by its access control list or mode."""
    need = 0o1 if found.kind is FileKind.FOLDER else 0o4
    allowed = is_allowed(snapshot.layout.real(found.path), contract.SERVICE_USER, need)
    return is_readable(found) if allowed is None else allowed


def _config_paths(snapshot: Snapshot) -> tuple[str, ...]:
    """The active configuration, the files that it includes or imports, and the folders that lead to them."""
    layout, loaded = snapshot.layout, _loaded(snapshot)
    folders = (str(parent) for path in loaded for parent in PurePosixPath(path).parents)
    inside = (folder for folder in folders if folder.startswith(f"{layout.configs}/"))
    return tuple(dict.fromkeys((layout.etc, layout.configs, *inside, *loaded)))


def is_readable(found: FileState, user: str = contract.SERVICE_USER) -> bool:
    """Whether a user, whose group has the same name, may read a file or traverse a folder (path_resolution(7))."""
    need = 0o1 if found.kind is FileKind.FOLDER else 0o4
    if found.owner == user:
        return bool(found.mode >> 6 & need)
    return bool(found.mode >> 3 & need) if found.group == user else bool(found.mode & need)


ACCESS = Cause(
    "files-access",
    "Mode or owner differs from what was installed: more users, or fewer, can access the file than intended.",
    "sudo chmod {mode} {path} && sudo chown {owner} {path}",
    outcome=Outcome.WARNING,
    fix="restores the installed mode and owner",
    requires=("files-not-installed", "files-manifest"),
    caused_by=("files-unfinished", "files-suspended", "files-user-gone", "files-unreadable"),
)


@detects(ACCESS)
def detect_files_access(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect changed modes and owners, unless a more serious check reports the file."""
    yield from _merge(_find_changed_access(snapshot))


def _find_changed_access(snapshot: Snapshot) -> Iterator[Finding]:
    reported = {path for path in _config_paths(snapshot) if (found := snapshot.file(path)) and not is_readable(found)}
    environment_file = snapshot.file(snapshot.layout.environment_file)
    if environment_file is not None and is_open(environment_file):
        reported.add(environment_file.path)
    for path, record in sorted(snapshot.manifest.items()):
        found = snapshot.file(path)
        if found is None or found.kind is not record.kind or path in reported:
            continue
        if access_drift(found, record):
            yield ACCESS.finding(
                f"{path} has {access_drift(found, record)}",
                actions=restore_permissions(found, record.mode, record.owner, record.group),
                path=path,
                mode=f"{record.mode:04o}",
                owner=f"{record.owner}:{record.group}",
            )


USER = Cause(
    "files-user-gone",
    "The service's user or group does not exist or cannot be looked up: systemd cannot start the service (217/USER).",
    "{remedy}",
    fix="creates the user and the group",
    requires=("files-not-installed",),
)


@detects(USER)
def detect_files_user_gone(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect that the service's user or group does not exist."""
    layout, name = snapshot.layout, contract.SERVICE_USER
    missing = [
        what
        for what, exists in (("user", user_exists(layout, name)), ("group", group_exists(layout, name)))
        if not exists
    ]
    databases = ["passwd" if what == "user" else "group" for what in missing]
    if listed := [f"/etc/{each}" for each in databases if name in read_names(layout, each)]:
        lines = _name_services(layout.real("/etc/nsswitch.conf"))
        evidence = f"{name} is in {' and '.join(listed)}, but is not looked up there: {lines}"
        remedy = "sudoedit /etc/nsswitch.conf    # passwd: and group: need files; then: sudo litellmctl start"
        yield USER.finding(evidence, remedy=remedy)
    elif missing:
        actions = (Action(Verb.CREATE_USER, name),) if snapshot.file(layout.sysusers) is not None else ()
        evidence = f"there is no {' and no '.join(missing)} {name}"
        # A service that has reached its start limit must be started as well.
        remedy = FIX if actions else "sudo litellmctl install --installed"
        yield USER.finding(evidence, actions=actions, remedy=remedy)


def _name_services(path: Path) -> str:
    """The lines of nsswitch.conf(5) about users and groups, as `FILE:LINE: TEXT`."""
    lines = [each for each in read_numbered_lines(path) if each[1].startswith(("passwd:", "group:"))]
    found = ", ".join(f"{path}:{number}: {' '.join(line.split())}" for number, line in lines)
    return found or f"{path} is missing or has neither"


OWNER = Cause(
    "files-owner",
    "A folder in which the service writes belongs to another user, as after chown -R: callbacks and caches fail until"
    " the next start, at which systemd restores the owner.",
    "{remedy}",
    requires=("files-not-installed",),
    skipped_if=("files-user-gone", "unit-root"),
    # As with a file system that is mounted over the folder.
    caused_by=("host-disk-full", "host-inodes", "host-read-only"),
)


@detects(OWNER)
def detect_files_owner(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect folders that the running service cannot write, because they have another owner."""
    user = contract.SERVICE_USER
    for path in (snapshot.layout.state, snapshot.layout.cache) if snapshot.is_active else ():
        found = snapshot.file(path)
        if found is None or found.kind is not FileKind.FOLDER or found.owner == user:
            continue
        if found.owner == _uid_of(snapshot.service["MainPID"]):
            evidence = f"{path} belongs to the uid {found.owner}, with which the service runs: {user} has another now"
            yield OWNER.finding(evidence, remedy="sudo litellmctl restart")
            return
        yield OWNER.finding(f"{path} belongs to {found.owner}", remedy=f"sudo chown -R {user}:{user} {path}")


def _uid_of(pid: str) -> str:
    """The user id of a process; empty if it has exited."""
    try:
        return str(Path(f"/proc/{pid}").stat().st_uid)
    except OSError:
        return ""


# --- restoring files (`doctor --fix`) ---

#: The reason that an action shows to the user.
_REASON = "as installed"


def restore(snapshot: Snapshot, path: str, record: Record) -> tuple[Action, ...]:
    """The steps that restore a missing path; none if litellmctl has no copy of it."""
    layout = snapshot.layout
    if record.kind is FileKind.FOLDER:
        return (Action(Verb.CREATE_FOLDERS, layout.tmpfiles),) if path.startswith(layout.etc) else ()
    state = (
        _installed_link(snapshot, path, record)
        if record.kind is FileKind.LINK
        else installed_file(snapshot, path, record)
    )
    return () if state is None else (Action(Verb.WRITE, path, _REASON, state), *_daemon_reload(layout, path))


def restore_permissions(found: FileState, mode: int, owner: str, group: str) -> tuple[Action, ...]:
    """The step that sets mode and owner of a path and keeps its content."""
    wanted = FileState(found.path, b"", mode, owner, group, found.kind)
    return (Action(Verb.SET_ACCESS, found.path, _REASON, wanted),)


def installed_file(snapshot: Snapshot, path: str, record: Record) -> FileState | None:
    """The file as installed, from the copy that litellmctl keeps; None if that is missing or altered."""
    kept = snapshot.file(f"{snapshot.layout.pristine}/{record.digest}")
    if kept is None or kept.digest != record.digest:
        return None
    return FileState(path, kept.content, record.mode, record.owner, record.group)


def _installed_link(snapshot: Snapshot, path: str, record: Record) -> FileState | None:
    """The link as installed: the manifest has only the digest of its target, so possible targets are compared."""
    return next((link(path, target) for target in _targets(snapshot) if _digest(target) == record.digest), None)


def _targets(snapshot: Snapshot) -> Iterator[str]:
    layout = snapshot.layout
    yield from (f"releases/{name}" for name in observe_releases(layout))
    yield from (f"configs/{file.name}" for file in layout.real(layout.configs).glob("*.y*ml"))
    # The target may be missing too and be restored together with the link.
    yield from (path.removeprefix(f"{layout.etc}/") for path in snapshot.manifest if path.startswith(layout.configs))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _daemon_reload(layout: Layout, path: str) -> tuple[Action, ...]:
    return (Action(Verb.DAEMON_RELOAD, "systemd"),) if path in {f"{layout.units}/{unit}" for unit in UNITS} else ()
