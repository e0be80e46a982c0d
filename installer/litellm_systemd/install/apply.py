"""Apply a plan as one transaction: what each step does, and all of the steps or none (docs/adr/0006)."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.command import run, uninterruptible
from litellm_systemd.database import backup, postgres
from litellm_systemd.database.steps import database_environment, installed_settings, migrate, undo_migration
from litellm_systemd.errors import CommandError, InstallerError, Interrupted, Unavailable, remedy_of
from litellm_systemd.host.files import (
    forget_before,
    group_exists,
    keep_before,
    observe_file,
    plain_umask,
    remove_empty,
    remove_path,
    restore_before,
    set_access,
    write_file,
)
from litellm_systemd.host.install_lock import hold_lock
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import observe_host, previous_release, render_manifest, require_root
from litellm_systemd.host.state import (
    Action,
    DesiredState,
    FileKind,
    FileState,
    HostState,
    Plan,
    Record,
    Verb,
    folder,
    mask_secrets,
    record_of,
)
from litellm_systemd.host.systemctl import Systemctl, journal_argv
from litellm_systemd.install.plan import missing_folders, plan_rollback, plan_uninstall
from litellm_systemd.install.undo_log import UndoLog, Unfinished, read_undo_log
from litellm_systemd.instances.temporary_unit import remove_standby, restart_without_pause, stop_left_over
from litellm_systemd.releases.build import build_release
from litellm_systemd.releases.source import Source
from litellm_systemd.report.progress import Step

#: Called with a line about each step.
Say = Callable[[str], None]

#: The number of failed attempts that are kept.
_KEPT = 5

Prove = Callable[[], object]
#: If one of these fails during an undo, the files are restored: a second try would change nothing on the disk.
_SERVICE_VERBS = (Verb.STOP, Verb.START, Verb.RELOAD, Verb.RESTART)


@dataclass(frozen=True, slots=True)
class Executor:
    """What the steps need: the layout, systemd, the source of a release, and a function that prints progress.

    `verb`: that of the command line, for the undo log. `starts`: after the steps, the service runs with what is
    installed. `database`: the environment for the programs that migrate the database, see `database.steps`; None
    without a database.
    """

    layout: Layout
    systemctl: Systemctl
    source: Source | None = None
    say: Callable[[str], None] = lambda _line: None
    verb: str = "install"
    starts: bool = False
    database: Mapping[str, str] | None = None


def take(executor: Executor, action: Action) -> None:
    """Take one step. An interrupted step can be taken again.

    Raises:
        InstallerError: the step failed.
    """
    is_job = action.verb in _SERVICE_VERBS
    executor.say(Step(str(action), partial(executor.systemctl.status_text, contract.SERVICE) if is_job else str))
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
        content = found.content if action.after is None else action.after.content
        # The digest in the name makes a second save harmless.
        aside = f"{layout.edited}/{copy_name(action.target)}.{found.digest[:8]}"
        write_file(layout, FileState(aside, content, mode=0o600))
        executor.say(f"saved the edited file as {aside}")


def _write(executor: Executor, action: Action) -> None:
    if action.after is not None:
        keep_before(executor.layout, action.target)
        write_file(executor.layout, action.after)


def _migrate(executor: Executor, action: Action) -> None:
    if executor.database is not None:
        migrate(executor.layout, action.target, executor.database, executor.say)


def _restore_database(executor: Executor, action: Action) -> None:
    undo_migration(executor.layout, action.target, _database(executor), executor.say)


def _load_database(executor: Executor, action: Action) -> None:
    if environment := _database(executor):
        backup.load_all(executor.layout, environment, executor.layout.real(action.target))


def _empty_database(executor: Executor, _action: Action) -> None:
    if environment := _database(executor):
        backup.empty(environment)


def _database(executor: Executor) -> Mapping[str, str] | None:
    if executor.database is None:  # the undo of an interrupted run
        return database_environment(*installed_settings(executor.layout))
    return executor.database


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
    units = action.target.split()
    if contract.SOCKET in units:
        # The address changes: a standby cannot serve on the new one.
        executor.systemctl.restart(*units)
        return
    if contract.METRICS_SOCKET in units:
        # The service opens it again, on the new address. A standby that had it would occupy the address.
        _stop(executor, Action(Verb.STOP, contract.METRICS_SOCKET))
    restart_without_pause(executor.layout, executor.systemctl, executor.say)


def _close(executor: Executor, action: Action) -> None:
    if executor.layout.is_host:
        _stop(executor, action)


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
    Verb.SET_UP_POSTGRES: lambda executor, action: postgres.set_up_postgres(
        action.target, executor.systemctl, executor.say
    ),
    Verb.CREATE_ROLE: lambda _executor, action: postgres.create_role(action.target),
    Verb.CREATE_DATABASE: lambda _executor, action: postgres.create_database(action.target),
    Verb.DROP_DATABASE: lambda _executor, action: postgres.drop_database(action.target),
    Verb.DROP_ROLE: lambda _executor, action: postgres.drop_role(action.target),
    Verb.BUILD_RELEASE: _build_release,
    Verb.SAVE_EDITED: _save_edited,
    Verb.CREATE_USER: lambda executor, _action: _rooted(
        executor, "systemd-sysusers", str(executor.layout.real(executor.layout.sysusers))
    ),
    Verb.CREATE_FOLDERS: lambda executor, action: _rooted(
        executor, "systemd-tmpfiles", "--create", str(executor.layout.real(action.target))
    ),
    Verb.LOAD_DATABASE: _load_database,
    Verb.EMPTY_DATABASE: _empty_database,
    Verb.MIGRATE: _migrate,
    Verb.RESTORE_DATABASE: _restore_database,
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
    Verb.CLOSE: _close,
    # A restart applies a changed interval.
    Verb.START_TIMER: lambda executor, action: executor.systemctl.restart(action.target),
}


def keep_attempt(executor: Executor, plan: Plan, error: BaseException) -> str:
    """Save the plan, the error, the new files and the last journal lines, and return a sentence with the folder.

    The sentence is empty if they cannot be written: that must not prevent the roll back.
    """
    layout = executor.layout
    folder = f"{layout.failed}/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    story = "\n".join([f"{type(error).__name__}: {error}", "", "The plan was:", *map(str, plan.actions), ""])
    texts = {"error.txt": story.encode(), "journal.txt": _last_lines(executor)}
    # On a host that encrypts its secrets, or is about to, a copy may not hold them.
    masks = layout.secrets in {action.target for action in plan.actions}
    for action in plan.actions:
        if action.after is not None and action.after.kind is FileKind.FILE:
            masked = masks and action.target in (layout.environment_file, layout.salt)
            state = mask_secrets(action.after) if masked else action.after
            texts[copy_name(action.target)] = state.content
    try:
        for name, content in texts.items():
            write_file(layout, FileState(f"{folder}/{name}", content, mode=0o600))
        # Names sort by time.
        for old in sorted(layout.real(layout.failed).iterdir())[:-_KEPT]:
            shutil.rmtree(old)
    except (OSError, InstallerError):
        return ""
    return f"The failed attempt is kept in {folder}."


def copy_name(path: str) -> str:
    """The name of the copy of a file in the folder of a failed attempt, or of an edited file without its digest."""
    return path.strip("/").replace("/", "-")


def _last_lines(executor: Executor) -> bytes:
    if not executor.layout.is_host:
        return b""
    try:
        return run(journal_argv(lines=200, quiet=True), check=False).stdout.encode()
    except InstallerError:
        return b""


def apply_install(
    executor: Executor, plan: Plan, desired: DesiredState, host: HostState, prove: Prove = lambda: None
) -> None:
    """Take every step of an install in order, prove the result, and record what was written.

    `host`: the state that the plan was made for; a failure restores it.
    `prove`: raises InstallerError if the service does not work.

    Raises:
        InstallerError: a step or the proof failed. The files are restored, and a service that ran before runs.
        Interrupted: a signal arrived. As above.
    """
    records = _records(desired, plan, host)
    if not plan and records == dict(host.manifest):
        return
    taken: list[Action] = []
    with plain_umask(), ExitStack() as stack:
        undo_log = UndoLog(executor.layout, executor.verb, host)
        try:
            for action in plan.actions:
                undo_log.record(action)
                taken.append(action)
                take(executor, action)
            prove()
            manifest = _keep_pristine(executor.layout, desired, plan, records, host)
            # After the commit, a signal must not undo what the next run would complete.
            stack.enter_context(uninterruptible())
            undo_log.commit(manifest)
        except BaseException as error:
            with uninterruptible():
                kept = keep_attempt(executor, plan, error)
                outcome = _roll_back(executor, tuple(taken), host)
            if isinstance(error, (InstallerError, Interrupted)):
                # The hint last: a command may end it.
                error.hint = " ".join(filter(None, (outcome, kept, error.hint)))
            raise
        _finish(executor.layout, tuple(taken), manifest)


def apply_uninstall(executor: Executor, plan: Plan, host: HostState, *, purge: bool) -> None:
    """Take every step of an uninstall. The next run completes an interrupted one.

    Raises:
        InstallerError: a step failed.
    """
    layout = executor.layout
    UndoLog(layout, "uninstall", host, purge=purge)
    for action in plan.actions:
        take(executor, action)
    if layout.is_host:
        remove_standby(layout)
    left = {path: record for path, record in host.manifest.items() if observe_file(layout, path) is not None}
    if purge or not left:
        remove_path(layout, layout.own_state)
        return
    # The next install needs the manifest to know which files were edited, a later --purge to know which are ours.
    for path in (layout.pristine, layout.failed):
        remove_path(layout, path)
    write_file(layout, FileState(layout.manifest, render_manifest(layout, left, None).encode(), mode=0o600))
    remove_path(layout, layout.undo_log)


def recover(executor: Executor) -> None:
    """Complete or undo an interrupted change. Call it with the install lock held, before observing the host.

    Raises:
        InstallerError: that failed. The next run tries again.
    """
    found = read_undo_log(executor.layout)
    if found is None:
        return
    layout = executor.layout
    with plain_umask(), uninterruptible():
        if found.manifest is not None:
            executor.say(f"an earlier {found.verb} was interrupted at its end: completing it")
            _finish(layout, found.taken, found.manifest)
        elif found.verb == "uninstall":
            _recover_uninstall(executor, found)
        else:
            executor.say(f"an earlier {found.verb} was interrupted: undoing it first")
            _undo(executor, found)


def _recover_uninstall(executor: Executor, found: Unfinished) -> None:
    """Undo it if it has only stopped the service, and no one asks for it again. Else complete it.

    Raises:
        Unavailable: another verb would remove the release that it runs from.
    """
    layout = executor.layout
    host = observe_host(layout, executor.systemctl)
    if executor.verb != "uninstall":
        if found.host.files.keys() <= host.files.keys():
            executor.say("an earlier uninstall was interrupted before it removed anything: undoing it")
            plan = plan_uninstall(layout, replace(host, units=found.host.units), purge=found.purge)
            stops = tuple(each for each in plan.actions if each.verb in (Verb.STOP_TIMER, Verb.STOP, Verb.DISABLE))
            _undo(executor, replace(found, taken=stops))
            return
        if Path(__file__).resolve().is_relative_to(layout.real(layout.prefix).resolve()):
            raise Unavailable(
                "an earlier uninstall was interrupted after it had removed files",
                f"To complete it: {found.command}. Then install again from the checkout or the package.",
            )
    executor.say("an earlier uninstall was interrupted: completing it")
    apply_uninstall(executor, plan_uninstall(layout, host, purge=found.purge), host, purge=found.purge)


def _undo(executor: Executor, found: Unfinished) -> None:
    failed = _undo_steps(executor, found.taken, found.host)
    if failed is not None and failed[0].verb not in _SERVICE_VERBS:
        raise failed[1]


def _roll_back(executor: Executor, taken: tuple[Action, ...], host: HostState) -> str:
    """Undo the steps and return a sentence on the outcome."""
    executor.say("that failed; undoing all changes")
    failed = _undo_steps(executor, taken, host)
    if failed is not None:
        return f"The roll back failed too, and the next change tries it again: {failed[1].message}"
    ran = host.unit(contract.SERVICE).active in ("active", "reloading", "refreshing")  # not in a loop of restarts
    if ran and not executor.systemctl.unit_state(contract.SERVICE).is_active:
        return "All changes were undone, but the service does not run."
    return "All changes were undone" + (", and the service runs as before." if ran else ".")


def _undo_steps(
    executor: Executor, taken: tuple[Action, ...], host: HostState
) -> tuple[Action, InstallerError] | None:
    """Undo `taken` as far as possible and return the first step that failed. If it changes files, the log is kept."""
    failed: tuple[Action, InstallerError] | None = None
    for action in plan_rollback(executor.layout, taken, host).actions:
        try:
            take(executor, _without_restart(executor, action, host))
        except InstallerError as error:
            executor.say(f"undo failed: {error.message}")
            failed = failed or (action, error)
    if failed is None or failed[0].verb in _SERVICE_VERBS:
        _forget(executor.layout, taken)
    return failed


def _without_restart(executor: Executor, action: Action, host: HostState) -> Action:
    """The step of an undo, but a reload in place of a restart if the service still runs as before the change.

    That is so if the standby did not become ready, or a signal arrived before it did. The standby has the variables
    of the change and must not serve during a later restart. A worker that was replaced meanwhile has read the changed
    configuration.
    """
    before, systemctl = host.unit(contract.SERVICE).invocation, executor.systemctl
    if (action.verb, action.target) != (Verb.RESTART, contract.SERVICE) or not before:
        return action
    is_settled = systemctl.job_state(contract.SERVICE) == ("active", False)
    if not is_settled or systemctl.unit_state(contract.SERVICE).invocation != before:
        return action
    stop_left_over(systemctl)
    return Action(Verb.RELOAD, contract.SERVICE)


def _finish(layout: Layout, taken: tuple[Action, ...], manifest: str) -> None:
    write_file(layout, FileState(layout.manifest, manifest.encode(), mode=0o600))
    if f'"{layout.secrets}"' in manifest:
        _mask_copies(layout)
    _forget(layout, taken)


def _mask_copies(layout: Layout) -> None:
    """Mask the secrets in each copy of an environment file that an earlier run kept."""
    names = (copy_name(layout.environment_file), copy_name(layout.salt))
    patterns = [(layout.failed, f"*/{name}") for name in names] + [(layout.edited, f"{name}.*") for name in names]
    for parent, pattern in patterns:
        for path in layout.real(parent).glob(pattern):
            state = FileState(f"{parent}/{path.relative_to(layout.real(parent))}", path.read_bytes(), mode=0o600)
            if mask_secrets(state) != state:
                write_file(layout, mask_secrets(state))


def _forget(layout: Layout, taken: tuple[Action, ...]) -> None:
    """Delete what only an undo needs."""
    for action in taken:
        if action.verb in (Verb.WRITE, Verb.TAKE_AWAY):
            forget_before(layout, action.target)
    remove_path(layout, layout.undo_dump)
    _drop_stale_pristine(layout)
    remove_path(layout, layout.undo_log)


def _records(desired: DesiredState, plan: Plan, host: HostState) -> dict[str, Record]:
    """The manifest after the change. For an edited file that is kept, the record of the offered content."""
    states = [action.after for action in plan.actions if action.verb is Verb.WRITE and action.after is not None]
    written = {state.path: record_of(state) for state in states}
    made = (folder(path, 0o755) for path in missing_folders(desired, host))
    new = {
        state.path: record_of(state)
        for state in (*made, *desired.folders, *desired.files)
        # What is below /run is gone after a boot.
        if state.path not in host.manifest and not state.path.startswith("/run/")
    }
    offered = {kept.path: record_of(kept.offered) for kept in plan.kept}
    removed = {action.target for action in plan.actions if action.verb is Verb.TAKE_AWAY}
    records = {**host.manifest, **new, **written, **offered}
    return {path: record for path, record in records.items() if path not in removed}


def _keep_pristine(
    layout: Layout, desired: DesiredState, plan: Plan, records: Mapping[str, Record], host: HostState
) -> str:
    """Store what was written or offered, for `litellmctl diff`, and return the text of the new manifest."""
    digests = {record.digest for record in records.values()}
    for state in (*desired.files, *(kept.offered for kept in plan.kept)):
        path = f"{layout.pristine}/{state.digest}"
        if state.kind is FileKind.FILE and state.digest in digests and not layout.real(path).exists():
            write_file(layout, FileState(path, state.content, mode=0o600))
    return render_manifest(layout, records, _previous_release(layout, desired, host))


def _previous_release(layout: Layout, desired: DesiredState, host: HostState) -> str | None:
    found = host.files.get(layout.current)
    before = None if found is None else found.content.decode().rpartition("/")[2]
    return previous_release(layout) if before in (None, desired.release) else before


def _drop_stale_pristine(layout: Layout) -> None:
    found = observe_file(layout, layout.manifest)
    manifest = "" if found is None else found.content.decode()
    for path in layout.real(layout.pristine).glob("*"):
        if path.name not in manifest:
            path.unlink()


@contextmanager
def changing(layout: Layout, verb: str, say: Say, *, wait: bool = False) -> Iterator[Executor]:
    """Hold the lock while the block changes the host, after completing or undoing an interrupted run.

    Raises:
        PermissionDenied: the user is not root.
        Busy: another run is changing the host, and `wait` is not set.
        InstallerError: the interrupted run can be neither completed nor undone.
    """
    require_root(f"litellmctl {verb}")
    with hold_lock(layout, verb, wait=wait, say=say):
        executor = Executor(layout, Systemctl(layout), say=say, verb=verb)
        recover(executor)
        try:
            yield executor
        except Interrupted as error:
            if not error.hint and read_undo_log(layout) is not None:
                error.hint = f"The next {'uninstall' if verb == 'uninstall' else 'run'} completes it."
            raise
        finally:
            # A host without systemd has no standby either.
            if layout.is_host:
                with uninterruptible(), contextlib.suppress(InstallerError):
                    stop_left_over(executor.systemctl)
