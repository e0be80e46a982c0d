"""The steps of a plan: what each verb does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from litellm_systemd import contract
from litellm_systemd.command import run
from litellm_systemd.errors import CommandError, InstallerError, remedy_of
from litellm_systemd.host.files import (
    group_exists,
    keep_before,
    observe_file,
    remove_empty,
    remove_path,
    restore_before,
    set_access,
    write_file,
)
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import Action, FileState, Verb
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.instances.standby import restart_without_pause
from litellm_systemd.releases.build import build_release
from litellm_systemd.releases.source import Source


@dataclass(frozen=True, slots=True)
class Executor:
    """What the steps need: the layout, systemd, the source of a release, and a function that prints progress.

    `starts`: after the steps, the service runs with what is installed.
    """

    layout: Layout
    systemctl: Systemctl
    source: Source | None = None
    say: Callable[[str], None] = lambda _line: None
    starts: bool = False


def take(executor: Executor, action: Action) -> None:
    """Take one step. An interrupted step can be taken again.

    Raises:
        InstallerError: the step failed.
    """
    executor.say(str(action))
    try:
        _STEPS[action.verb](executor, action)
    except OSError as error:
        raise InstallerError(f"{action}: {error.strerror}: {error.filename}", remedy_of(error)) from error


def _build_release(executor: Executor, action: Action) -> None:
    if executor.source is None:
        raise InstallerError(
            f"{action.target} was deleted, and this process runs from it", "Install from a new venv."
        )
    build_release(executor.layout, executor.source, executor.say, starts=executor.starts)


def _save_edited(executor: Executor, action: Action) -> None:
    layout = executor.layout
    found = observe_file(layout, action.target)
    if found is not None:
        # The digest in the name makes a second save harmless.
        aside = f"{layout.edited}/{action.target.strip('/').replace('/', '-')}.{found.digest[:8]}"
        write_file(layout, FileState(aside, found.content, mode=0o600))
        executor.say(f"saved the edited file as {aside}")


def _write(executor: Executor, action: Action) -> None:
    if action.after is not None:
        keep_before(executor.layout, action.target)
        write_file(executor.layout, action.after)


def _set_access(executor: Executor, action: Action) -> None:
    if action.after is not None:
        set_access(executor.layout, action.after)


def _remove(executor: Executor, action: Action) -> None:
    # An interrupted write may have left the former file under its second name.
    restore_before(executor.layout, action.target)
    remove_path(executor.layout, action.target)


def _take_away(executor: Executor, action: Action) -> None:
    # Undone like a write, by the second name of the file.
    keep_before(executor.layout, action.target)
    remove_path(executor.layout, action.target)


def _stop_timer(executor: Executor, action: Action) -> None:
    _disable(executor, action)
    if executor.layout.is_host:
        _stop(executor, action)
        executor.systemctl.reset_failed(contract.VERIFY_SERVICE)


def _stop(executor: Executor, action: Action) -> None:
    executor.systemctl.stop(action.target)
    executor.systemctl.reset_failed(action.target)


def _restart(executor: Executor, action: Action) -> None:
    if action.target == contract.SERVICE:
        restart_without_pause(executor.layout, executor.systemctl, executor.say)
    else:
        # The address changes: a standby cannot serve on the new one.
        executor.systemctl.restart(*action.target.split())


def _remove_user(executor: Executor, action: Action) -> None:
    prefix = () if executor.layout.is_host else ("--prefix", str(executor.layout.root))
    run(("userdel", *prefix, action.target))
    if group_exists(executor.layout, action.target):  # where USERGROUPS_ENAB is off (login.defs(5))
        run(("groupdel", *prefix, action.target))


def _rooted(executor: Executor, program: str, *arguments: str) -> None:
    root = () if executor.layout.is_host else ("--root", str(executor.layout.root))
    run((program, *root, *arguments))


def _disable(executor: Executor, action: Action) -> None:
    # During an undo, the unit file may never have been written.
    with contextlib.suppress(CommandError):
        executor.systemctl.disable(action.target)


_STEPS: dict[Verb, Callable[[Executor, Action], object]] = {
    Verb.STOP_TIMER: _stop_timer,
    Verb.STOP: _stop,
    Verb.DISABLE: _disable,
    Verb.BUILD_RELEASE: _build_release,
    Verb.SAVE_EDITED: _save_edited,
    Verb.CREATE_USER: lambda executor, _action: _rooted(
        executor, "systemd-sysusers", str(executor.layout.real(executor.layout.sysusers))
    ),
    Verb.CREATE_FOLDERS: lambda executor, action: _rooted(
        executor, "systemd-tmpfiles", "--create", str(executor.layout.real(action.target))
    ),
    Verb.WRITE: _write,
    Verb.TAKE_AWAY: _take_away,
    Verb.RESTORE: lambda executor, action: restore_before(executor.layout, action.target),
    Verb.REMOVE: _remove,
    Verb.REMOVE_EMPTY: lambda executor, action: remove_empty(executor.layout, action.target),
    Verb.REMOVE_USER: _remove_user,
    Verb.SET_ACCESS: _set_access,
    Verb.DAEMON_RELOAD: lambda executor, _action: executor.systemctl.daemon_reload(),
    Verb.ENABLE: lambda executor, action: executor.systemctl.enable(action.target),
    Verb.START: lambda executor, action: executor.systemctl.start(*action.target.split()),
    Verb.RELOAD: lambda executor, action: executor.systemctl.reload(*action.target.split()),
    Verb.RESTART: _restart,
    # A restart applies a changed interval.
    Verb.START_TIMER: lambda executor, action: executor.systemctl.restart(action.target),
}
