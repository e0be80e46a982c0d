"""The files: what an install wrote, and whether the service may read it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from litellm_systemd import contract
from litellm_systemd.doctor.cause import REINSTALL, Cause, Finding, looks_for
from litellm_systemd.doctor.repair import restore, restore_access
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import InputError, PermissionDenied
from litellm_systemd.host.diff import access_drift, describe_drift
from litellm_systemd.host.files import group_exists, user_exists
from litellm_systemd.host.install_lock import find_holder
from litellm_systemd.host.observe import observe_releases
from litellm_systemd.host.state import Action, FileKind, FileState, Verb
from litellm_systemd.install.undo_log import read_undo_log
from litellm_systemd.releases.inventory import current_release
from litellm_systemd.report.report import Outcome

NOT_INSTALLED = Cause(
    "files-not-installed",
    "There is no litellm.service of ours: nothing was installed, or it was uninstalled and its configuration kept.",
    "sudo litellmctl install",
)


@looks_for(NOT_INSTALLED)
def not_installed(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether anything is installed. World-readable places tell it, so that root isn't needed."""
    layout = snapshot.layout
    if layout.service not in snapshot.records and all(
        snapshot.file(path) is None for path in (layout.service, layout.current)
    ):
        yield NOT_INSTALLED.found(f"there is neither {layout.service} nor {layout.current}")


MANIFEST = Cause(
    "files-manifest",
    "litellmctl doesn't know any more which files are its own, so it would overwrite and remove none of them.",
    "sudo mv {path} {path}.bad; sudo litellmctl install --take-ours",
    needs=("files-not-installed",),
)


@looks_for(MANIFEST)
def manifest(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the list of what was written is there and can be read."""
    path = snapshot.layout.manifest
    try:
        if not snapshot.manifest:
            yield MANIFEST.found(f"{path} is gone, and {snapshot.layout.service} is there", path=path)
    except InputError as error:
        yield MANIFEST.found(error.message, path=path)


UNFINISHED = Cause(
    "files-unfinished",
    "A change was cut short, by a kill or a power failure. Some files are of the new state and some of the old one.",
    "sudo litellmctl doctor --fix    # as any change of litellmctl's does, it puts everything back first",
    fix="puts back what was changed, or finishes it",
)


@looks_for(UNFINISHED)
def unfinished(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether a change was cut short, and nobody is at work on it."""
    if not snapshot.is_root:
        raise PermissionDenied("only root may read what was installed")
    found = read_undo_log(snapshot.layout)
    if found is not None and find_holder(snapshot.layout) is None:
        step = f", at: {found.taken[-1]}" if found.taken else ""
        yield UNFINISHED.found(f"{snapshot.layout.journal} tells of an unfinished {found.verb}{step}")


RELEASE = Cause(
    "files-release-gone",
    "The release that the service runs from is gone: no Python, no LiteLLM. A service that runs fails little by"
    " little and doesn't start again.",
    REINSTALL,
    needs=("files-not-installed",),
)


@looks_for(RELEASE)
def release_gone(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the release in use is there and complete."""
    layout, current = snapshot.layout, current_release(snapshot.layout)
    releases = observe_releases(layout)
    if current is None and not releases:
        yield RELEASE.found(f"there is no release in {layout.releases}")
    elif current is not None and current not in releases:
        others = f"; there are others: {', '.join(releases)}" if releases else ""
        yield RELEASE.found(f"{layout.current} leads to {current}, which isn't there or isn't complete{others}")


GONE = Cause(
    "files-gone",
    "A file that an install wrote isn't there any more.",
    "sudo litellmctl {verb}",
    fix="writes it again from the copy that litellmctl keeps, or makes the link again",
    needs=("files-not-installed", "files-manifest"),
)


@looks_for(GONE)
def gone(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether all that was written is there. With the release its folder is gone too, and that is told already."""
    layout = snapshot.layout
    left_out = () if observe_releases(layout) else (layout.prefix,)
    for path, record in sorted(snapshot.manifest.items()):
        if snapshot.file(path) is None and not path.startswith(left_out):
            actions = restore(snapshot, path, record)
            verb = "doctor --fix" if actions else "install"
            yield GONE.found(f"{path} is gone", outcome=_weight(snapshot, path), actions=actions, verb=verb)


def _weight(snapshot: Snapshot, path: str) -> Outcome:
    """Whether the service fails without it."""
    layout = snapshot.layout
    needed = (layout.service, layout.socket, layout.environment_file, layout.config_link, layout.current)
    return Outcome.FAILED if path in needed or path == _active_config(snapshot) else Outcome.WARNING


def _active_config(snapshot: Snapshot) -> str | None:
    found = snapshot.file(snapshot.layout.config_link)
    if found is None or found.kind is not FileKind.LINK:
        return None if found is None else snapshot.layout.config_link
    return str(PurePosixPath(snapshot.layout.etc) / found.content.decode())


CONFIG = Cause(
    "files-config-gone",
    "The link to the active configuration leads nowhere: the service doesn't start, and a reload is refused.",
    "sudo litellmctl config use NAME    # litellmctl config list shows the names",
    needs=("files-not-installed",),
)


@looks_for(CONFIG)
def config_gone(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the active configuration is there; one that litellmctl can write again is told as gone."""
    path = _active_config(snapshot)
    if path is not None and snapshot.file(path) is None and path not in snapshot.records:
        yield CONFIG.found(f"{snapshot.layout.config_link} leads to {path}, which isn't there")


KIND = Cause(
    "files-kind",
    "Something else stands where litellmctl wrote a file, a folder or a link: often a copy in place of a link.",
    "sudo litellmctl install    # puts what stands there into /etc/litellm/edited",
    outcome=Outcome.WARNING,
    needs=("files-not-installed", "files-manifest"),
    follows=("unit-masked",),
)


@looks_for(KIND)
def kind(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether each path is still what it was written as."""
    for path, record in sorted(snapshot.manifest.items()):
        found = snapshot.file(path)
        if found is not None and found.kind is not record.kind:
            yield KIND.found(f"{path} {describe_drift(found, record)}")


OPEN = Cause(
    "files-secret-open",
    "Others than root can read, or change, the file that holds the keys. Who has been on this host may know them.",
    "chmod 0600 {path} && chown root:root {path}    # and change the keys in it",
    fix="sets mode and owner",
    needs=("files-not-installed",),
)


@looks_for(OPEN)
def secret_open(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the environment file is root's alone."""
    path = snapshot.layout.environment_file
    found = snapshot.file(path)
    if found is not None and is_open(found):
        seen = f"{path} has mode {found.mode:04o}, owner {found.owner}:{found.group}"
        yield OPEN.found(seen, actions=restore_access(found, 0o600, "root", "root"), path=path)


def is_open(found: FileState) -> bool:
    """Whether others than root can read or write a file."""
    return found.kind is FileKind.FILE and (bool(found.mode & 0o077) or found.owner != "root")


UNREADABLE = Cause(
    "files-unreadable",
    "The user litellm can't read its configuration: the service doesn't start, and a reload is refused.",
    "chgrp {group} {path} && chmod g+r{x} {path}",
    fix="sets mode and owner as they were installed",
    needs=("files-not-installed", "files-user-gone"),
)


@looks_for(UNREADABLE)
def unreadable(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the service's user can reach and read the active configuration."""
    for path in _way_to_config(snapshot):
        found = snapshot.file(path)
        if found is not None and found.kind is not FileKind.LINK and not is_readable(found):
            record = snapshot.records.get(path)
            seen = f"{path} has mode {found.mode:04o}, owner {found.owner}:{found.group}"
            actions = () if record is None else restore_access(found, record.mode, record.owner, record.group)
            is_folder = "x" if found.kind is FileKind.FOLDER else ""
            yield UNREADABLE.found(seen, actions=actions, path=path, group=contract.SERVICE_USER, x=is_folder)


def _way_to_config(snapshot: Snapshot) -> tuple[str, ...]:
    path = _active_config(snapshot)
    folders = (snapshot.layout.etc, snapshot.layout.configs)
    return folders if path is None else (*folders, path)


def is_readable(found: FileState, user: str = contract.SERVICE_USER) -> bool:
    """Whether a user whose group has his name may read a file, or go through a folder (path_resolution(7))."""
    need = 0o1 if found.kind is FileKind.FOLDER else 0o4
    if found.owner == user:
        return bool(found.mode >> 6 & need)
    return bool(found.mode >> 3 & need) if found.group == user else bool(found.mode & need)


ACCESS = Cause(
    "files-access",
    "Mode or owner isn't what was installed: more can read or change it than was meant, or fewer.",
    "chmod {mode} {path} && chown {owner} {path}",
    outcome=Outcome.WARNING,
    fix="sets mode and owner as they were installed",
    needs=("files-not-installed", "files-manifest"),
)


@looks_for(ACCESS)
def access(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether modes and owners are as installed, where that hasn't been told as something worse."""
    told = {path for path in _way_to_config(snapshot) if (found := snapshot.file(path)) and not is_readable(found)}
    for path, record in sorted(snapshot.manifest.items()):
        found = snapshot.file(path)
        is_told = path in told or (path == snapshot.layout.environment_file and found is not None and is_open(found))
        if found is not None and found.kind is record.kind and not is_told and access_drift(found, record):
            yield ACCESS.found(
                f"{path} has {access_drift(found, record)}",
                actions=restore_access(found, record.mode, record.owner, record.group),
                path=path,
                mode=f"{record.mode:04o}",
                owner=f"{record.owner}:{record.group}",
            )


USER = Cause(
    "files-user-gone",
    "The user or the group that the service runs as is gone: systemd ends it with 217/USER.",
    "systemd-sysusers {path}",
    fix="creates it",
    needs=("files-not-installed",),
)


@looks_for(USER)
def user_gone(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the service's user is there."""
    layout, name = snapshot.layout, contract.SERVICE_USER
    missing = [
        what
        for what, exists in (("user", user_exists(layout, name)), ("group", group_exists(layout, name)))
        if not exists
    ]
    if missing:
        actions = (Action(Verb.CREATE_USER, name),) if snapshot.file(layout.sysusers) is not None else ()
        seen = f"there is no {' and no '.join(missing)} {name}"
        yield USER.found(seen, actions=actions, path=layout.sysusers)
