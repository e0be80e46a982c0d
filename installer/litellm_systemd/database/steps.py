"""The steps of a change that concern the database: dump it, migrate it, and undo that (docs/adr/0016).

Migrations are applied by the release that ships them, as a program. A dump precedes them if there are tables.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from litellm_systemd.command import module_argv, run
from litellm_systemd.contract import ExitCode
from litellm_systemd.database.dump import require_space, require_tools, restore_tables, write_dump
from litellm_systemd.database.migration_files import breaking_statements, own_package, package_of, read_migrations
from litellm_systemd.database.migrations import (
    LOCKS,
    SCHEMA,
    Status,
    find_database,
    hold_locks,
    open_schema,
    read_status,
)
from litellm_systemd.env.database import find_url
from litellm_systemd.env.variables import DATABASE_URL
from litellm_systemd.errors import (
    CommandError,
    DatabaseError,
    InputError,
    InstallerError,
    MissingError,
    PermissionDenied,
    Unavailable,
)
from litellm_systemd.gateway.config import read_config
from litellm_systemd.host.files import remove_path, write_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import read_installed
from litellm_systemd.host.service_user import as_service_user, service_environment
from litellm_systemd.host.state import FileState
from litellm_systemd.host.stored_secrets import with_stored_secrets
from litellm_systemd.report.report import render_count

Say = Callable[[str], None]

_MODULE = "litellm_systemd.database.migrations"
#: Seconds for another host that migrates the same database, as in litellm_proxy_extras.
_WAIT = 600
_KEPT = 3


@dataclass(frozen=True, slots=True)
class Dump:
    """A dump from before a migration, and its description in a file next to it.

    `made` is a Unix time. `database` is where it is from, without a password. `applied` are the migrations that had
    been applied. `release` is the release that migrated it afterwards.
    """

    path: str
    made: int
    database: str
    schema: str
    applied: tuple[str, ...]
    release: str

    @property
    def day(self) -> str:
        """When it was made, for messages."""
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.made))


def database_environment(variables: Mapping[str, str], general: Mapping[str, object]) -> dict[str, str] | None:
    """The environment for the programs here, with the URL that LiteLLM uses in DATABASE_URL; None without a database.

    `general`: the section general_settings of its configuration.

    Raises:
        InputError: the URL or the password is a reference to a secret in AWS that does not exist.
        Unavailable: AWS cannot be reached.
    """
    if find_url(variables, general) is None:
        return None
    values = with_stored_secrets(variables)
    found = find_url(values, general)
    # The configuration may have a reference too.
    return None if found is None else with_stored_secrets({**values, DATABASE_URL.name: found[0]})


def installed_settings(layout: Layout) -> tuple[dict[str, str], Mapping[str, object]]:
    """The installed variables, and general_settings of the active configuration: empty if that has an error.

    Raises:
        InstallerError: as `host.observe.read_installed`.
    """
    general: Mapping[str, object] = {}
    with contextlib.suppress(InputError, MissingError, PermissionDenied):
        general = read_config(layout.real(layout.config_link)).section("general_settings")
    return read_installed(layout), general


def read_database(layout: Layout, release: str, environment: Mapping[str, str], wait: float | None = None) -> Status:
    """The ledger of the database, compared with the migrations of a release.

    Args:
        layout: of the host.
        release: its folder; empty for the migrations of this process.
        environment: see `database_environment`.
        wait: seconds to wait for what migrates it at the moment; None to read at once.

    Raises:
        InstallerError: the database cannot be reached, or a migration in it is half applied.
    """
    package = package_of(layout.real(release)) if release else own_package()
    database, schema = find_database(environment)
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(open_schema(database, schema))
        if wait is not None:
            stack.enter_context(hold_locks(connection, wait))
        return read_status(connection, schema, read_migrations(package), package / SCHEMA)


def _apply(layout: Layout, release: str, environment: Mapping[str, str], *arguments: str) -> Status:
    python = f"{layout.real(release)}/bin/python"
    argv = as_service_user(layout, module_argv(_MODULE, *arguments, python=python))
    return _run_program(argv, service_environment(layout, environment))


def _run_program(argv: tuple[str, ...], environment: Mapping[str, str]) -> Status:
    done = run(argv, check=False, environment=environment, timeout=None)
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise CommandError(done.argv, done.returncode, done.stderr) from None
    if done.returncode != ExitCode.OK:
        error = InstallerError(answer["error"], answer["hint"])
        error.code = ExitCode(done.returncode)
        raise error
    texts = {name: tuple(answer[name]) for name in ("applied", "pending", "notes")}
    return Status(int(answer["server"]), int(answer["size"]), **texts)


def require_dump(layout: Layout, status: Status) -> None:
    """Check that the database can be dumped, before anything changes.

    Raises:
        InstallerError: pg_dump is missing or too old, or there is no room.
    """
    if status.size and status.pending:
        require_tools(status.server)
        require_space(layout, status.size)


def migrate(layout: Layout, release: str, environment: Mapping[str, str], say: Say) -> None:
    """Dump the tables of LiteLLM, and apply the migrations of a release that are pending.

    `environment`: see `database_environment`.

    Raises:
        InstallerError: the database cannot be dumped, or a migration failed. `undo_migration` undoes those before it.
    """
    remove_path(layout, layout.undo_dump)
    status = read_database(layout, release, environment)
    if status.size and status.pending:
        require_dump(layout, status)
        dump = dump_tables(layout, Path(release).name, environment, status)
        say(f"the database was dumped to {dump.path}")
        write_file(layout, FileState(layout.undo_dump, dump.path.encode(), mode=0o600))
    try:
        done = _apply(layout, release, environment)
    except InstallerError as error:
        if error.code is not ExitCode.TEMPORARY:
            raise
        say(f"{error.message}; waiting up to {_WAIT // 60} minutes")
        done = _apply(layout, release, environment, f"--wait={_WAIT}")
    for note in done.notes:
        say(note)


def require_migrated(
    variables: Mapping[str, str],
    general: Mapping[str, object],
    environ: Mapping[str, str],
    *,
    migrates: bool,
    say: Say,
) -> None:
    """Check that the database has all migrations of this process, or apply them. For a service without an install.

    `general`: the section general_settings of its configuration.
    `migrates`: whether to apply what is pending, without a dump.

    Raises:
        InputError: migrations are pending, and `migrates` is not set; or one is half applied.
        InstallerError: they cannot be applied.
    """
    environment = database_environment(variables, general)
    if environment is None:
        return
    try:
        pending = read_database(Layout(), "", environment).pending
    except DatabaseError:
        if migrates:
            raise
        return  # the service starts without its database as well, and says why it cannot use it
    if not pending:
        return
    number = render_count(len(pending), "migration")
    if not migrates:
        raise InputError(
            f"the database lacks {number} of this release, such as {pending[-1]}",
            "Back it up, and add --migrate: this applies them before the start, while other containers wait.",
        )
    say(f"applying {number} to the database")
    for note in _run_program(module_argv(_MODULE, f"--wait={_WAIT}"), {**environ, **environment}).notes:
        say(note)


def dump_tables(
    layout: Layout, release: str, environment: Mapping[str, str], status: Status, kept: int = _KEPT
) -> Dump:
    """Dump the tables of LiteLLM, before `release` changes them, and remove all but the newest dumps.

    Raises:
        InstallerError: see `write_dump`.
    """
    database, _ = find_database(environment)
    place, schema = _place(environment)
    made = int(time.time())
    name = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(made))
    dump = Dump(f"{layout.dumps}/{name}.dump", made, place, schema, status.applied, release)
    write_dump(layout, database, layout.real(dump.path), server=status.server, tables_of=schema)
    description = json.dumps(asdict(dump)) + "\n"
    write_file(layout, FileState(f"{layout.dumps}/{name}.json", description.encode(), mode=0o600))
    for old in list_dumps(layout)[kept:]:
        for path in (old.path, old.path.removesuffix(".dump") + ".json"):
            remove_path(layout, path)
    return dump


def list_dumps(layout: Layout) -> list[Dump]:
    """The dumps that are kept, newest first."""
    found = []
    for path in layout.real(layout.dumps).glob("*.json"):
        # A file that was edited by hand describes no dump.
        with contextlib.suppress(ValueError, TypeError, KeyError):
            values = json.loads(path.read_text(encoding="utf-8"))
            found.append(Dump(**{**values, "applied": tuple(values["applied"])}))
    return sorted(found, key=lambda dump: dump.path, reverse=True)


def undo_migration(layout: Layout, release: str, environment: Mapping[str, str] | None, say: Say) -> None:
    """Restore the dump that `migrate` made, if a migration since then is breaking.

    Otherwise leave the database as it is: the release before works with it, and nothing is lost.

    `environment`: see `database_environment`; None if there is no database any more.

    Raises:
        InstallerError: the database cannot be reached, or the dump not be restored.
    """
    marker = layout.real(layout.undo_dump)
    path = marker.read_text(encoding="utf-8") if marker.exists() else ""
    dump = next((each for each in list_dumps(layout) if each.path == path), None)
    if dump is None:
        return
    if environment is None or _place(environment) != (dump.database, dump.schema):
        say(f"the environment does not have the URL of {dump.database}; its dump from before the migrations: {path}")
        return
    # The server may still run a migration whose program was killed.
    status = read_database(layout, release, environment, wait=60)
    broken = find_breaking(layout, (release,), frozenset(status.applied) - frozenset(dump.applied))
    if broken:
        say(f"restoring the database as of {dump.day}")
        restore(layout, environment, dump, status)
    elif len(status.applied) > len(dump.applied):
        say("the migrations that were applied are additive and stay: the former release works with them")


def _place(environment: Mapping[str, str]) -> tuple[str, str]:
    """The database, as a dump names it, and the schema in it."""
    database, schema = find_database(environment)
    return f"{database.name} at {database.address}", schema


def find_breaking(layout: Layout, releases: tuple[str, ...], names: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """Of the migrations with these names, those that a release without them may not work with, and why.

    `releases` are the folders of those that may ship them. A migration that none of them ships counts as breaking.
    """
    found: dict[str, tuple[str, ...]] = {}
    for release in releases:
        migrations = read_migrations(package_of(layout.real(release)))
        found |= breaking_statements(migrations, names)
        names -= {each.name for each in migrations}
    return found | dict.fromkeys(sorted(names), ("its SQL is in no release here",))


def find_dump(layout: Layout, environment: Mapping[str, str], known: frozenset[str]) -> Dump | None:
    """The newest dump of this database and schema that has no other migrations than those; None if there is none."""
    place = _place(environment)
    dumps = (dump for dump in list_dumps(layout) if (dump.database, dump.schema) == place)
    return next((dump for dump in dumps if known.issuperset(dump.applied)), None)


def restore(layout: Layout, environment: Mapping[str, str], dump: Dump, status: Status) -> None:
    """Replace the tables of LiteLLM by those of the dump, in one transaction.

    Raises:
        Unavailable: the dump is gone.
        InstallerError: see `restore_tables`. Nothing was changed then.
    """
    path = layout.real(dump.path)
    if not path.exists():
        raise Unavailable(f"the dump {dump.path} is gone", "Restore a backup of the database.")
    database, _ = find_database(environment)
    restore_tables(layout, database, path, server=status.server, schema=dump.schema, locks=LOCKS)
