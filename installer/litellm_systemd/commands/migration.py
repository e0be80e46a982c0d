"""What install, config use and rollback need to know of the database before they change anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from litellm_systemd.commands.config_files import read_gateway
from litellm_systemd.commands.resolve import Request, resolve
from litellm_systemd.contract import SERVICE
from litellm_systemd.database.migration_files import package_of, read_migrations
from litellm_systemd.database.steps import (
    Dump,
    database_environment,
    dump_tables,
    find_breaking,
    find_dump,
    read_database,
    require_dump,
    restore,
)
from litellm_systemd.errors import Unavailable
from litellm_systemd.gateway.config import GatewayConfig
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import HostState
from litellm_systemd.install.apply import Executor, Say
from litellm_systemd.releases.inventory import current_release
from litellm_systemd.report.report import render_count

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Migration:
    """What a change has to do in the database.

    `environment` is that of `database.steps`, None without a database. `reason` says why it is migrated, empty if it
    is not. `notes` are for the user.
    """

    environment: Mapping[str, str] | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()


def plan_migration(
    layout: Layout,
    variables: Mapping[str, str],
    gateway: GatewayConfig,
    host: HostState,
    release: str,
    *,
    exists: bool = True,
) -> Migration:
    """Compare the database with the migrations of a release, before anything changes.

    Args:
        layout: of the host; an image has no database.
        variables: of the service after the change.
        gateway: its configuration.
        host: its state.
        release: the release after the change. If it is not built yet, those of this process stand for its migrations.
        exists: whether the database exists; one that the same change creates does not.

    Raises:
        InstallerError: the database cannot be reached or dumped, or a migration in it is half applied.
    """
    environment = database_environment(variables, gateway.section("general_settings")) if layout.is_host else None
    if environment is None:
        return Migration()
    if not exists or not host.user_exists or os.geteuid() != 0:
        return Migration(environment, "those that are pending")
    is_built = release in host.releases
    status = read_database(layout, layout.release(release) if is_built else "", environment)
    require_dump(layout, status)
    number, breaking = len(status.pending), {}
    if is_built:
        breaking = find_breaking(layout, (layout.release(release),), frozenset(status.pending))
    reason = render_count(number, "migration") if number else ""
    if number and status.size and breaking:
        reason += f", {len(breaking)} of them breaking"
    if not is_built:
        reason = reason or "those that are pending"
    return Migration(environment, reason, status.notes)


def settle_rollback(layout: Layout, release: str, executor: Executor, *, restores: bool, say: Say) -> None:
    """Check that a release works with the migrations of the database, or restore the dump from before them.

    The service is stopped meanwhile: what it wrote would be lost. Its socket keeps the port, and requests wait.

    `release`: the release to which the host is rolled back.
    `restores`: whether the user accepts the loss of what was written since the dump.

    Raises:
        Unavailable: the release does not work with the database, and `restores` is not set, or there is no dump.
        InstallerError: the dump could not be restored. The service runs again then, on the database as it was.
    """
    current = current_release(layout)
    known = read_migrations(package_of(layout.real(layout.release(release))))
    selection = resolve(Request(layout, installed_only=True))
    general = read_gateway(layout, selection.config).section("general_settings")
    environment = database_environment(selection.settings.environment, general)
    if environment is None or current is None or not known:
        return
    status = read_database(layout, layout.release(current), environment)
    names = frozenset(each.name for each in known)
    newer = frozenset(status.applied) - names
    breaking = find_breaking(layout, (layout.release(current),), newer)
    dump = find_dump(layout, environment, names) if breaking or restores else None
    if not breaking and not restores:
        if newer:
            say(
                f"the database has {render_count(len(newer), 'migration')} that release {release} does not know; it"
                " works with them, since all are additive"
            )
        return
    if not restores or dump is None:
        raise Unavailable(_conflict(release, breaking), _remedy(layout, release, dump))
    runs = executor.systemctl.unit_state(SERVICE).is_active
    if runs:
        executor.systemctl.stop(SERVICE)
    try:
        # One more than usual, so that it does not displace the one to restore.
        present = dump_tables(layout, release, environment, status, kept=4)
        say(f"the database as it was is kept in {present.path}")
        say(f"restoring the database as of {dump.day}")
        restore(layout, environment, dump, status)
    except BaseException:
        if runs:
            executor.systemctl.start(SERVICE)
        raise


def _conflict(release: str, breaking: Mapping[str, tuple[str, ...]]) -> str:
    if not breaking:
        return f"no dump of the database fits release {release}"
    shown = "; ".join(f"{name} ({statements[0]})" for name, statements in list(breaking.items())[:_NAMED])
    more = f" and {len(breaking) - _NAMED} more" if len(breaking) > _NAMED else ""
    return f"release {release} may not work with migrations that the database has: {shown}{more}"


def _remedy(layout: Layout, release: str, dump: Dump | None) -> str:
    if dump is None:
        return f"{layout.dumps} has no dump of this database from before them. Restore a backup, or stay."
    return (
        f"The dump of {dump.day} is from before them. If you restore it, all keys, teams, users and spend that were"
        f" written since then are lost: sudo litellmctl rollback {release} --restore-database"
    )
