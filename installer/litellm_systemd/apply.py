"""Run the actions of a plan. When one fails, what was done is taken back by a plan of its own."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from litellm_systemd import contract
from litellm_systemd.command import run
from litellm_systemd.errors import InstallerError
from litellm_systemd.files import observe_file, remove_path, write_file
from litellm_systemd.layout import Layout
from litellm_systemd.model import Action, FileState, HostState, Plan, Verb
from litellm_systemd.plan import plan_rollback
from litellm_systemd.releases import Source, build_release
from litellm_systemd.standby import remove_standby, restart_without_pause
from litellm_systemd.systemctl import Systemctl


@dataclass(frozen=True, slots=True)
class Executor:
    """What the steps need: where, systemd, what a release is made from, and whom to tell what is going on."""

    layout: Layout
    systemctl: Systemctl
    source: Source | None = None
    say: Callable[[str], None] = lambda _line: None


def apply_install(executor: Executor, plan: Plan, host: HostState) -> None:
    """Take every step of an install, in order, and record what was written.

    Args:
        executor: what the steps need.
        plan: the steps.
        host: the state that the plan was made for, which a failure goes back to.

    Raises:
        InstallerError: a step failed. The files are as they were, and a service that ran runs.
    """
    taken: list[Action] = []
    try:
        with _plain_umask():
            for action in plan.actions:
                taken.append(action)
                _take(executor, action)
            _write_manifest(executor.layout, plan, host)
    except BaseException as error:
        _roll_back(executor, plan_rollback(executor.layout, tuple(taken), host), error)
        raise


def apply_uninstall(executor: Executor, plan: Plan) -> None:
    """Take every step of an uninstall. One that fails is met again by the next run.

    Raises:
        InstallerError: a step failed.
    """
    for action in plan.actions:
        _take(executor, action)
    if executor.layout.is_host:
        remove_standby(executor.layout)


def _take(executor: Executor, action: Action) -> None:
    executor.say(str(action))
    try:
        _STEPS[action.verb](executor, action)
    except OSError as error:
        raise InstallerError(
            f"{action}: {error.strerror}: {error.filename}", "Mend that and run it again."
        ) from error


def _roll_back(executor: Executor, plan: Plan, cause: BaseException) -> None:
    executor.say("that failed; putting everything back")
    for action in plan.actions:
        try:
            _take(executor, action)
        except InstallerError as error:
            # The first error is the one to tell; one that follows it goes along as a note.
            executor.say(f"while putting things back: {error.message}")
            cause.__context__ = error


@contextmanager
def _plain_umask() -> Iterator[None]:
    """The service's user must be able to read a release, whatever the caller's umask is."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


def _write_manifest(layout: Layout, plan: Plan, host: HostState) -> None:
    written = {action.target: action.after.digest for action in plan.actions if action.after is not None}
    if written:
        manifest = {"version": 1, "prefix": layout.prefix, "files": dict(host.manifest) | written}
        text = json.dumps(manifest, indent=2, sort_keys=True)
        write_file(layout, FileState(layout.manifest, f"{text}\n".encode(), mode=0o600))


def _build_release(executor: Executor, action: Action) -> None:
    if executor.source is None:
        raise InstallerError(f"{action.target} is gone, and this process runs from it", "Install from a fresh venv.")
    build_release(executor.layout, executor.source, executor.say)


def _save_edited(executor: Executor, action: Action) -> None:
    layout = executor.layout
    found = observe_file(layout, action.target)
    if found is not None:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        aside = f"{layout.edited}/{stamp}{action.target.replace('/', '-')}"
        write_file(layout, FileState(aside, found.content, mode=0o600))


def _write(executor: Executor, action: Action) -> None:
    if action.after is not None:
        write_file(executor.layout, action.after)


def _restart(executor: Executor, action: Action) -> None:
    if action.target == contract.SERVICE:
        restart_without_pause(executor.layout, executor.systemctl, executor.say)
    else:
        # Another address: a standby couldn't listen there for it.
        executor.systemctl.restart(*action.target.split())


def _remove_user(executor: Executor, _action: Action) -> None:
    prefix = () if executor.layout.is_host else ("--prefix", str(executor.layout.root))
    run(("userdel", *prefix, contract.SERVICE_USER))


def _rooted(executor: Executor, program: str, *arguments: str) -> None:
    root = () if executor.layout.is_host else ("--root", str(executor.layout.root))
    run((program, *root, *arguments))


_STEPS: dict[Verb, Callable[[Executor, Action], object]] = {
    Verb.STOP: lambda executor, action: executor.systemctl.stop(action.target),
    Verb.DISABLE: lambda executor, action: executor.systemctl.disable(action.target),
    Verb.BUILD_RELEASE: _build_release,
    Verb.SAVE_EDITED: _save_edited,
    Verb.CREATE_USER: lambda executor, _action: _rooted(
        executor, "systemd-sysusers", str(executor.layout.real(executor.layout.sysusers))
    ),
    Verb.CREATE_FOLDERS: lambda executor, action: _rooted(
        executor, "systemd-tmpfiles", "--create", str(executor.layout.real(action.target))
    ),
    Verb.WRITE: _write,
    Verb.REMOVE: lambda executor, action: remove_path(executor.layout, action.target),
    Verb.REMOVE_USER: _remove_user,
    Verb.DAEMON_RELOAD: lambda executor, _action: executor.systemctl.daemon_reload(),
    Verb.ENABLE: lambda executor, action: executor.systemctl.enable(action.target),
    Verb.START: lambda executor, action: executor.systemctl.start(*action.target.split()),
    Verb.RELOAD: lambda executor, action: executor.systemctl.reload(*action.target.split()),
    Verb.RESTART: _restart,
}
