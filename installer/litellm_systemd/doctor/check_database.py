"""The database of LiteLLM: can the service use it, does it fit the release, and what makes it slow?

Without a database nothing is checked, and no module for it is loaded. A program connects to it (database/health.py).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from litellm_systemd import contract
from litellm_systemd.command import module_argv, run
from litellm_systemd.database.migration_files import package_of
from litellm_systemd.doctor.engine import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot, edit_command
from litellm_systemd.env.database import DEFAULT_PORT, Database, find_url, parse_url
from litellm_systemd.env.secret_references import is_reference
from litellm_systemd.env.variables import (
    DATABASE_CONNECTION_LIMIT,
    DATABASE_PASSWORD,
    DATABASE_URL,
    DIRECT_URL,
    IAM_TOKEN_DB_AUTH,
    MASTER_KEY,
    SALT_KEY,
)
from litellm_systemd.errors import CommandError
from litellm_systemd.host.observe import is_booted
from litellm_systemd.host.stored_secrets import with_stored_secrets
from litellm_systemd.releases.inventory import current_release
from litellm_systemd.report.report import Outcome, render_count

if TYPE_CHECKING:
    from litellm_systemd.database.health import Health, Session
    from litellm_systemd.database.postgres import Cluster

_MODULE = "litellm_systemd.database.health"
#: Seconds for a check, and for the program within it. A server that does not answer takes it 5 seconds.
_TIMEOUT, _PROGRAM_TIMEOUT = 14.0, 12.0
#: Seconds: a lock that LiteLLM waits for, a statement, and a transaction without a statement.
_BLOCKED, _SLOW, _IDLE = 5.0, 10.0, 60.0
#: PostgreSQL as major * 10000. LiteLLM's migrations have ADD COLUMN IF NOT EXISTS, and Prisma requires 9.6 as well.
_OLDEST = 90_600
#: Free bytes: below the first PostgreSQL soon stops, since its log of changes grows by 16 MiB at a time.
_DISK = (32 * 2**20, 256 * 2**20)
#: Free connections, below which their number is reported.
_FEW = 3
#: Seconds in which the workers connect again after an outage, with a margin.
_RECONNECTS = 30

_REQUIRES = ("files-not-installed", "environment-unusable", "environment-secrets", "configuration-unusable")
_CONNECTED = (*_REQUIRES, "database-down", "database-refused", "database-connections")
_TERMINATE = "{command}    # ends that session, and undoes its transaction"
_AGAIN = "sudo litellmctl install --installed"


@dataclass(frozen=True, slots=True)
class _Place:
    """The database of the service, and the variable or key that has its URL, with its position.

    `name` is that of a variable, or a path in the configuration.
    """

    url: str
    name: str
    position: str

    @property
    def database(self) -> Database:
        return parse_url(self.url, self.position)


def _place(snapshot: Snapshot) -> _Place | None:
    """Where the database is; None without one. A reference to a secret in AWS is replaced by its value."""
    return snapshot.cached("database place", partial(_find_place, snapshot))  # type: ignore[no-any-return]


def _find_place(snapshot: Snapshot) -> _Place | None:
    values, name = snapshot.environment, DATABASE_PASSWORD.name
    password = _resolve(snapshot, {name: values[name]}) if name in values else {}
    found = find_url({**values, **password}, snapshot.gateway.section("general_settings"))
    if found is None:
        return None
    url, name = found
    where = snapshot.dotenv.where(name) if name in snapshot.environment else str(snapshot.gateway.source)
    return _Place(_resolve(snapshot, {"url": url})["url"], name, f"{where}: {name}")


def _resolve(snapshot: Snapshot, values: dict[str, str]) -> dict[str, str]:
    """The values, with secrets in AWS in place of references to them."""
    if not any(map(is_reference, values.values())):
        return values
    stored = with_stored_secrets({**snapshot.environment, **values}, timeout=snapshot.optional_timeout)
    return {name: stored[name] for name in values}


def _health(snapshot: Snapshot) -> Health | None:
    """The state of the database; None without one."""
    return snapshot.cached("database health", partial(_observe, snapshot))  # type: ignore[no-any-return]


def _observe(snapshot: Snapshot) -> Health | None:
    place = _place(snapshot)
    if place is None:
        return None
    from litellm_systemd.database.health import parse_health

    names = (DIRECT_URL.name, SALT_KEY.name, MASTER_KEY.name)
    # With IAM authentication the password is signed with the AWS credentials of the service.
    known = {
        name: value
        for name, value in snapshot.environment.items()
        if value and (name in names or name.startswith(("AWS_", IAM_TOKEN_DB_AUTH.name)))
    }
    arguments = [f"--position={place.position}", f"--blocked={_BLOCKED}", f"--slow={_SLOW}", f"--idle={_IDLE}"]
    release = _release(snapshot)
    if release is not None:
        arguments.append(f"--package={package_of(release)}")
    done = run(
        module_argv(_MODULE, *arguments),
        check=False,
        environment={
            **_resolve(snapshot, known),
            DATABASE_URL.name: place.url,
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
        },
        timeout=_PROGRAM_TIMEOUT * snapshot.patience,
    )
    try:
        return parse_health(done.stdout)
    except (ValueError, TypeError):
        raise CommandError(done.argv, done.returncode, done.stderr) from None


def _release(snapshot: Snapshot) -> Path | None:
    """The folder of the active release; None if it is missing."""
    current = current_release(snapshot.layout)
    folder = None if current is None else snapshot.layout.real(snapshot.layout.release(current))
    return folder if folder is not None and folder.exists() else None


PARTS = Cause(
    "database-parts",
    "The service has a database, and the active release lacks Prisma's client or query engine: it does not start, and"
    " a reload fails.",
    f"{_AGAIN}    # builds a release with both",
    requires=_REQUIRES,
    caused_by=("release-damaged", "files-release-gone"),
)


@detects(PARTS)
def detect_database_parts(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a release without what LiteLLM needs for a database, as if a reload turned it on."""
    release = _release(snapshot)
    if release is None or _place(snapshot) is None:
        return
    engine = Path(snapshot.environment.get("PRISMA_QUERY_ENGINE_BINARY") or release / contract.QUERY_ENGINE)
    client = next(release.glob("lib/python*/site-packages/prisma/client.py"), None)
    missing = [] if client else ["Prisma's client"]
    if not os.access(engine, os.X_OK):
        missing.append(f"Prisma's query engine ({engine})")
    if missing:
        yield PARTS.finding(f"release {release.name} has no {' and no '.join(missing)}")


DISK = Cause(
    "database-disk",
    "The file system with the data of PostgreSQL is full or nearly full: PostgreSQL refuses to write, or stops.",
    "sudo du -xh --max-depth=2 {path} | sort -h | tail    # shows what fills it; a PostgreSQL that has stopped: sudo"
    " systemctl start {unit}",
    requires=_REQUIRES,
    caused_by=("host-disk-full",),
)


@detects(DISK)
def detect_database_disk(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect too little space for a PostgreSQL of this host."""
    cluster = _cluster(snapshot)
    if cluster is None:
        return
    status = os.statvfs(cluster.data)
    free = status.f_bavail * status.f_frsize
    if free < _DISK[1]:
        yield DISK.finding(
            f"{cluster.data} has {free // 2**20} MiB free",
            outcome=Outcome.FAILED if free < _DISK[0] else Outcome.WARNING,
            path=cluster.data,
            unit=cluster.unit,
        )


def _cluster(snapshot: Snapshot) -> Cluster | None:
    """The PostgreSQL of this host that has the database; None if another program or another host has it."""
    place = _place(snapshot)
    if place is None or not place.database.is_local:
        return None
    from litellm_systemd.database.postgres import find_cluster

    return snapshot.cached("database cluster", partial(find_cluster, place.database.port))  # type: ignore[no-any-return]


DOWN = Cause(
    "database-down",
    "PostgreSQL does not answer. The master key works, and a virtual key for as long as a worker has it in its cache;"
    " other keys get 503. The workers connect again by themselves.",
    "{remedy}",
    requires=_REQUIRES,
    caused_by=("database-disk", "host-loopback"),
)


@detects(DOWN, timeout=_TIMEOUT)
def detect_database_down(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a server that does not answer, with the state of its unit if it is one of this host."""
    health = _health(snapshot)
    if health is None or health.kind != "down":
        return
    cluster = _cluster(snapshot)
    if cluster is None or not is_booted() or not snapshot.layout.is_host:
        yield DOWN.finding(health.error, remedy=health.hint)
        return
    unit = cluster.unit
    found = snapshot.systemctl.show(unit, "ActiveState", "Result")
    state, start = found.get("ActiveState", ""), f"sudo systemctl start {unit}"
    masked = [each for each in (unit, contract.POSTGRES) if snapshot.systemctl.unmask_command(each)]
    if masked:
        evidence, remedy = f"{' and '.join(masked)} is masked", snapshot.systemctl.unmask_command(*masked) + start
    elif state == "failed":
        evidence = f"{unit} has failed (Result={found.get('Result', '')})"
        remedy = f"{start}    # if it fails again: journalctl -u {unit} -n 30"
    elif state == "active":
        evidence, remedy = f"{unit} is active", f"sudo systemctl restart {unit}    # first see: journalctl -u {unit}"
    else:
        evidence, remedy = f"{unit} is {state}", start
    yield DOWN.finding(f"{evidence}; {health.error}", remedy=remedy)


REFUSED = Cause(
    "database-refused",
    "PostgreSQL refuses the service: the password, the user, the database, TLS or a permission is wrong.",
    "{remedy}",
    requires=_REQUIRES,
)


@detects(REFUSED, timeout=_TIMEOUT)
def detect_database_refused(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect each reason for which the server refuses the login."""
    health, place = _health(snapshot), _place(snapshot)
    if health is not None and place is not None and health.kind == "refused":
        yield REFUSED.finding(health.error, remedy=f"{health.hint or _edit(snapshot, place)}{_restart(snapshot)}")


def _edit(snapshot: Snapshot, place: _Place) -> str:
    if place.name in snapshot.environment:
        return snapshot.edit_command(place.name)
    return edit_command(snapshot.config_path)


def _restart(snapshot: Snapshot) -> str:
    """What makes a changed URL take effect; nothing if the server alone has to change."""
    return "    # after a change of the URL in .env: sudo litellmctl install" if snapshot.is_active else ""


CONNECTIONS = Cause(
    "database-connections",
    "PostgreSQL has no free connection, or few: a worker cannot start its connections, and requests fail or wait.",
    "{remedy}",
    requires=(*_REQUIRES, "database-down"),
)


@detects(CONNECTIONS, timeout=_TIMEOUT)
def detect_database_connections(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect that the connections are used up, by whom, and pools that are larger than the server allows."""
    health, place = _health(snapshot), _place(snapshot)
    if health is None or place is None:
        return
    remedy = _raise_limit(health, place.database)
    used = f"{health.used} of {health.limit} connections of {_limit_name(health, place.database)} are in use"
    holders = f": {_render_holders(health)}" if health.holders else ""
    if health.kind == "full":
        more = f"; {used}{holders}" if health.limit_of else ""
        yield CONNECTIONS.finding(f"{health.error}{more}", remedy=remedy)
    elif health.limit_of and health.limit - health.used < _FEW:
        yield CONNECTIONS.finding(f"{used}{holders}", outcome=Outcome.WARNING, remedy=remedy)
    elif health.limit_of and (size := _pool_size(snapshot, place)) is not None:
        workers = snapshot.settings.workers or os.cpu_count() or 1
        if size * workers > health.limit:
            yield CONNECTIONS.finding(
                f"{render_count(workers, 'worker')} with up to {size} connections each; PostgreSQL allows"
                f" {health.limit} ({_limit_name(health, place.database)})",
                outcome=Outcome.WARNING,
                remedy=f"Set a smaller DATABASE_CONNECTION_LIMIT or NUM_WORKERS in .env, then: {_AGAIN}",
            )


def _pool_size(snapshot: Snapshot, place: _Place) -> int | None:
    """The connections of each worker that the administrator has set; None if the service chooses their number."""
    configured = snapshot.gateway.section("general_settings").get("database_connection_pool_limit")
    with contextlib.suppress(TypeError, ValueError):
        return DATABASE_CONNECTION_LIMIT.read(snapshot.environment) or int(
            configured or place.database.parameters.get("connection_limit", "")
        )
    return None


def _limit_name(health: Health, database: Database) -> str:
    names = {"role": f"the role {database.user}", "database": f"the database {database.name}"}
    return names.get(health.limit_of, health.limit_of)


def _render_holders(health: Health) -> str:
    return ", ".join(
        f"{user} {number}{f' ({program})' if program else ''}{f' in {name}' if name else ''}"
        for user, name, program, number in health.holders
    )


def _raise_limit(health: Health, database: Database) -> str:
    if health.limit_of == "role" or "for role" in health.error:
        return _psql(database, f'ALTER ROLE "{database.user}" CONNECTION LIMIT -1')
    if health.limit_of == "database" or "for database" in health.error:
        return _psql(database, f'ALTER DATABASE "{database.name}" CONNECTION LIMIT -1')
    larger = _psql(database, f"ALTER SYSTEM SET max_connections = {2 * max(health.limit, 100)}")
    return f"{larger}    # then restart PostgreSQL; or end connections of others, or set a smaller NUM_WORKERS"


def _psql(database: Database, statement: str) -> str:
    """The command that runs a statement as an administrator of the server."""
    port = "" if database.port == DEFAULT_PORT else f" -p {database.port}"
    if database.is_local:
        return f"sudo -u postgres psql{port} -c {shlex.quote(statement)}"
    return f"psql -h {database.host}{port} -U ADMINISTRATOR -d {database.name} -c {shlex.quote(statement)}"


VERSION = Cause(
    "database-version",
    "PostgreSQL is older than LiteLLM's migrations and Prisma allow.",
    "Move the database to PostgreSQL 9.6 or later, better to one that its project maintains, then: sudo"
    " litellmctl install",
    requires=_CONNECTED,
)


@detects(VERSION, timeout=_TIMEOUT)
def detect_database_version(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a server that is too old."""
    health = _health(snapshot)
    if health is not None and 0 < health.server < _OLDEST:
        yield VERSION.finding(f"PostgreSQL {_render_version(health.server)}")


def _render_version(number: int) -> str:
    """The version of a server as PostgreSQL writes it: two numbers, or since version 10 one and that of the fix."""
    major, minor = divmod(number, 10_000)
    return f"{major}.{minor}" if major >= 10 else f"{major}.{minor // 100}"


HISTORY = Cause(
    "database-history",
    "The history of migrations in the database is incomplete: one began and did not finish, or the tables have none."
    " Each install is refused until this is fixed.",
    "{remedy}",
    requires=_CONNECTED,
)


@detects(HISTORY, timeout=_TIMEOUT)
def detect_database_history(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a migration that is half applied, and tables of another version without a history."""
    health = _health(snapshot)
    if health is not None and health.history:
        yield HISTORY.finding(health.history, remedy=health.history_hint)


PENDING = Cause(
    "database-pending",
    "The database lacks migrations of the active release, as after a restore of an older dump: requests of LiteLLM"
    " for the missing tables and columns fail.",
    f"{_AGAIN}    # dumps the database, and applies them",
    requires=(*_CONNECTED, "database-history"),
)


@detects(PENDING, timeout=_TIMEOUT)
def detect_database_pending(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a database that is older than the release."""
    health = _health(snapshot)
    if health is not None and health.pending:
        yield PENDING.finding(f"{render_count(len(health.pending), 'migration')} pending, from {health.pending[0]}")


NEWER = Cause(
    "database-newer",
    "A newer LiteLLM has migrated the database, such as on another host: what its migrations removed or restricted is"
    " missing for this release.",
    "sudo litellmctl upgrade    # to the LiteLLM of the other hosts",
    Outcome.WARNING,
    requires=(*_CONNECTED, "database-history"),
)


@detects(NEWER, timeout=_TIMEOUT)
def detect_database_newer(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect migrations that the release does not know."""
    health = _health(snapshot)
    if health is not None and health.newer:
        count = render_count(len(health.newer), "migration")
        yield NEWER.finding(f"{count} that the active release does not know, such as {health.newer[-1]}")


SALT = Cause(
    "database-salt",
    "LITELLM_SALT_KEY is missing, or does not decrypt what LiteLLM has stored: credentials and models of the database"
    " cannot be used, and with a missing key a new master key makes them unreadable.",
    "{remedy}",
    requires=_CONNECTED,
    caused_by=("files-gone", "environment-unloadable", "environment-undecryptable"),
)


@detects(SALT, timeout=_TIMEOUT)
def detect_database_salt(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a salt key that is missing or is another one."""
    health, name = _health(snapshot), SALT_KEY.name
    if health is None:
        return
    if not snapshot.environment.get(name):
        yield SALT.finding(f"{name} is not set, and the service has a database", remedy=_AGAIN)
        return
    stored = dict(health.stored or {})
    with_master, unreadable = stored.get(MASTER_KEY.name, 0), stored.get("", 0)
    if stored.get(name) or not (with_master or unreadable):
        return
    right = f"the value of {MASTER_KEY.name}" if with_master else "the key that they were encrypted with"
    values = render_count(with_master + unreadable, "encrypted value")
    yield SALT.finding(
        f"{snapshot.dotenv.where(name)}: {name} decrypts none of {values} in the database"
        + (f"; {MASTER_KEY.name} decrypts {with_master}" if with_master else ""),
        remedy=f"{snapshot.edit_command(name)} && sudo litellmctl restart    # write {right} (docs/database.md)",
    )


BLOCKED = Cause(
    "database-blocked",
    "Another session of PostgreSQL holds a lock for which LiteLLM waits: its requests wait as well, or fail.",
    _TERMINATE,
    requires=_CONNECTED,
)


@detects(BLOCKED, timeout=_TIMEOUT)
def detect_database_blocked(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect sessions that block LiteLLM."""
    health, place = _health(snapshot), _place(snapshot)
    if health is None or place is None:
        return
    for each in health.blockers:
        waiting = render_count(each.waiting, "session")
        evidence = f"{_render_session(each)} blocks {waiting} of LiteLLM for {each.seconds:.0f} s"
        yield BLOCKED.finding(evidence, command=_terminate(place, each))


def _terminate(place: _Place, session: Session) -> str:
    return _psql(place.database, f"SELECT pg_terminate_backend({session.pid})")


SLOW = Cause(
    "database-slow",
    "A statement runs for long, or a transaction was left open: both slow LiteLLM down, and an open transaction keeps"
    " its locks and old rows.",
    _TERMINATE,
    Outcome.WARNING,
    requires=_CONNECTED,
)


@detects(SLOW, timeout=_TIMEOUT)
def detect_database_slow(snapshot: Snapshot) -> Iterator[Finding | str]:
    """Detect statements and open transactions that take long; also report what could not be read."""
    health, place = _health(snapshot), _place(snapshot)
    if health is None or place is None:
        return
    blockers = {each.pid for each in health.blockers}
    for each in health.slow:
        if each.pid not in blockers:
            query = f": {each.query}" if each.query else ""
            evidence = f"{_render_session(each)} for {each.seconds:.0f} s{query}"
            yield SLOW.finding(evidence, command=_terminate(place, each))
    yield from health.unread


def _render_session(session: Session) -> str:
    program = f", {session.application}" if session.application else ""
    state = f" ({session.state})" if session.state else ""
    return f"process {session.pid} of PostgreSQL ({session.user}{program}){state}"


UNUSED = Cause(
    "database-unused",
    "The service cannot use the database, although litellmctl can: a drop-in or the sandbox blocks the connection,"
    " Prisma's query engine does not start, or the service still has an old URL.",
    "sudo litellmctl restart    # if it stays so: journalctl -u litellm -p warning -n 50",
    requires=(*_CONNECTED, "service-silent"),
    caused_by=("database-parts", "network-sandbox", "unit-sandbox"),
)


@detects(UNUSED, timeout=_TIMEOUT)
def detect_database_unused(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect workers that cannot use a database that answers."""
    if _health(snapshot) is None or not snapshot.is_active:
        return
    found = snapshot.runtime.get("database")
    if found and not found["usable"] and (age := time.time() - found["since"]) > _RECONNECTS:
        yield UNUSED.finding(f"the service reports for {age:.0f} s: {found['cause']}")
