"""Apply a plan as one transaction: all of its steps, or none (docs/adr/0006)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack

from litellm_systemd import contract
from litellm_systemd.command import interruptible, run, uninterruptible
from litellm_systemd.errors import InstallerError, Interrupted
from litellm_systemd.host.files import forget_before, observe_file, plain_umask, remove_path, write_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import observe_host, previous_release, render_manifest
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
    record_of,
)
from litellm_systemd.host.systemctl import journal_argv
from litellm_systemd.install.plan import missing_folders, plan_rollback, plan_uninstall
from litellm_systemd.install.steps import Executor, take
from litellm_systemd.install.undo_log import UndoLog, Unfinished, read_undo_log
from litellm_systemd.instances.standby import remove_standby

#: The number of failed attempts that are kept.
_KEPT = 5


def keep_attempt(executor: Executor, plan: Plan, error: BaseException) -> str:
    """Save the plan, the error, the new files and the last journal lines, and return a sentence with the folder.

    The sentence is empty if they cannot be written: that must not prevent the roll back.
    """
    layout = executor.layout
    folder = f"{layout.failed}/{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    story = "\n".join([f"{type(error).__name__}: {error}", "", "The plan was:", *map(str, plan.actions), ""])
    texts = {"error.txt": story.encode(), "journal.txt": _last_lines(executor)}
    for action in plan.actions:
        if action.after is not None and action.after.kind is FileKind.FILE:
            texts[action.target.strip("/").replace("/", "-")] = action.after.content
    try:
        for name, content in texts.items():
            write_file(layout, FileState(f"{folder}/{name}", content, mode=0o600))
        # Names sort by time.
        for old in sorted(layout.real(layout.failed).iterdir())[:-_KEPT]:
            shutil.rmtree(old)
    except (OSError, InstallerError):
        return ""
    return f"The failed attempt is kept in {folder}."


def _last_lines(executor: Executor) -> bytes:
    if not executor.layout.is_host:
        return b""
    try:
        return run(journal_argv(lines=200, quiet=True), check=False).stdout.encode()
    except InstallerError:
        return b""


Prove = Callable[[], object]

#: If one of these fails during an undo, the files are restored: a second try would change nothing on the disk.
_SERVICE_VERBS = (Verb.STOP, Verb.START, Verb.RELOAD, Verb.RESTART)


def apply_install(
    executor: Executor, plan: Plan, desired: DesiredState, host: HostState, prove: Prove = lambda: None
) -> None:
    """Take every step of an install in order, prove the result, and record what was written.

    Args:
        executor: what the steps need.
        plan: the steps.
        desired: the state that they lead to.
        host: the state that the plan was made for; a failure restores it.
        prove: raises InstallerError if the service does not work.

    Raises:
        InstallerError: a step or the proof failed. The files are restored, and a service that ran before runs.
        Interrupted: a signal arrived. As above.
    """
    records = _records(desired, plan, host)
    if not plan and records == dict(host.manifest):
        return
    taken: list[Action] = []
    with plain_umask(), interruptible(), ExitStack() as stack:
        undo_log = UndoLog(executor.layout, "install", host)
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
                error.hint = " ".join(filter(None, (error.hint, outcome, kept)))
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
            executor.say("an earlier uninstall was interrupted: completing it")
            host = observe_host(layout, executor.systemctl)
            apply_uninstall(executor, plan_uninstall(layout, host, purge=found.purge), host, purge=found.purge)
        else:
            executor.say(f"an earlier {found.verb} was interrupted: undoing it first")
            _undo(executor, found)


def _undo(executor: Executor, found: Unfinished) -> None:
    failed = _undo_steps(executor, found.taken, found.host)
    if failed is not None and failed[0].verb not in _SERVICE_VERBS:
        raise failed[1]


def _roll_back(executor: Executor, taken: tuple[Action, ...], host: HostState) -> str:
    """Undo the steps and return a sentence on the outcome."""
    executor.say("that failed; undoing all changes")
    failed = _undo_steps(executor, taken, host)
    if failed is not None:
        return f"The roll back failed too: {failed[1].message}"
    ran = host.unit(contract.SERVICE).is_active
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
            take(executor, action)
        except InstallerError as error:
            executor.say(f"undo failed: {error.message}")
            failed = failed or (action, error)
    if failed is None or failed[0].verb in _SERVICE_VERBS:
        _forget(executor.layout, taken)
    return failed


def _finish(layout: Layout, taken: tuple[Action, ...], manifest: str) -> None:
    write_file(layout, FileState(layout.manifest, manifest.encode(), mode=0o600))
    _drop_stale_pristine(layout, manifest)
    _forget(layout, taken)


def _forget(layout: Layout, taken: tuple[Action, ...]) -> None:
    """Delete what only an undo needs."""
    for action in taken:
        if action.verb in (Verb.WRITE, Verb.TAKE_AWAY):
            forget_before(layout, action.target)
    remove_path(layout, layout.undo_log)


def _records(desired: DesiredState, plan: Plan, host: HostState) -> dict[str, Record]:
    """The manifest after the change. For an edited file that is kept, the record of the offered content."""
    states = [action.after for action in plan.actions if action.verb is Verb.WRITE and action.after is not None]
    written = {state.path: record_of(state) for state in states}
    made = (folder(path, 0o755) for path in missing_folders(desired, host))
    new = {
        state.path: record_of(state)
        for state in (*made, *desired.folders, *desired.files)
        if state.path not in host.manifest
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


def _drop_stale_pristine(layout: Layout, manifest: str) -> None:
    for path in layout.real(layout.pristine).glob("*"):
        if path.name not in manifest:
            path.unlink()
