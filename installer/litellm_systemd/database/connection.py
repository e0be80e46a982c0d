"""Connect to the database of LiteLLM, and name the cause if that fails."""

from __future__ import annotations

import os
import pwd
import re
import shlex
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from litellm_systemd.contract import SERVICE_USER
from litellm_systemd.env.database import COMPOSE_HINT, OWN_NAME, SOCKET_FOLDER, Database
from litellm_systemd.env.secrets import redact
from litellm_systemd.env.urls import is_compose_name
from litellm_systemd.errors import DatabaseDown, DatabaseError, DatabaseFull
from litellm_systemd.report.report import render_count

if TYPE_CHECKING:
    from psycopg import Connection

#: Seconds for a connection with the log-in.
_TIMEOUT = 5
_WITH_POSTGRES = "To set up a PostgreSQL of this host, remove the variable: sudo litellmctl install --with-postgres"
#: For the database that `--with-postgres` has set up. An install starts it itself.
_START_OWN = "Start it: sudo systemctl start postgresql"
#: What libpq or the server prints, the cause and the remedy. A server with another language in `lc_messages` prints
#: texts that are not found here, and are then shown as they are.
_CAUSES = (
    (
        r"PAM authentication failed",
        "RDS at {address} does not accept the token of the user {user}",
        "Allow rds-db:connect for that user and database, see: litellmctl iam-policy --with rds. The database needs"
        " IAM authentication and GRANT rds_iam TO {user}, and this host the right time.",
    ),
    (
        r"password authentication failed|no password supplied",
        "PostgreSQL at {address} refuses the password of the user {user}",
        "Correct the password, percent-encoded. To set a new one: sudo -u postgres psql -c '\\password {user}'. If it"
        " has expired: sudo -u postgres psql -c \"ALTER ROLE {user} VALID UNTIL 'infinity'\"",
    ),
    (
        r"(?:Peer|Ident) authentication failed",
        "PostgreSQL at {address} does not accept the service's user as {user} (peer authentication)",
        "Name the role as the service's user, {service}, or set a password and connect to localhost.",
    ),
    (
        r"role \"[^\"]*\" does not exist",
        "PostgreSQL at {address} has no user {user}",
        "Correct the user, or create it: sudo -u postgres createuser --pwprompt {user}",
    ),
    (
        r"database \"[^\"]*\" does not exist",
        "PostgreSQL at {address} has no database {name}",
        "Correct the name, or create the database: sudo -u postgres createdb --owner={user} {name}",
    ),
    (
        r"server does not support SSL",
        "PostgreSQL at {address} offers no TLS, which sslmode requires",
        "Turn on ssl in its postgresql.conf, or remove sslmode if it is on this host.",
    ),
    (
        r"certificate|SSL error|sslrootcert",
        "the TLS certificate of PostgreSQL at {address} is not accepted: {text}",
        "Set sslrootcert to the file of the authority that signed it, and connect to a name that it is for.",
    ),
    (
        r"pg_hba\.conf",
        "PostgreSQL at {address} does not allow this connection: {text}",
        "If it requires TLS, add sslmode=require. Otherwise allow this host, user and database in its pg_hba.conf.",
    ),
    (
        r"too many (?:clients|connections)|remaining connection slots",
        "PostgreSQL at {address} has no free connection: {text}",
        "Raise its max_connections, or end idle connections of others.",
    ),
    (
        r"Connection refused|No such file or directory",
        "no PostgreSQL listens on {address}",
        "Start it, or correct host and port.",
    ),
    (
        r"timeout expired|timed out|No route to host|Network is unreachable",
        "PostgreSQL at {address} does not answer",
        "Allow the port in the firewall or security group between this host and the database.",
    ),
    (
        r"database system is (?:starting up|shutting down|in recovery|not yet accepting)",
        "PostgreSQL at {address} is not ready: {text}",
        "Wait, and run the command again. If it stays so, its log has the reason.",
    ),
)
#: Of them, those with an error of their own, by the start of the cause.
_KINDS = {
    "PostgreSQL at {address} has no free connection": DatabaseFull,
    "no PostgreSQL listens on": DatabaseDown,
    "PostgreSQL at {address} does not answer": DatabaseDown,
    "PostgreSQL at {address} is not ready": DatabaseDown,
}


#: Tables of LiteLLM that the user may not read or change, with their owner.
_DENIED = """
SELECT relname, pg_get_userbyid(relowner) FROM pg_class
  WHERE relnamespace = to_regnamespace(%(schema)s) AND relkind = 'r' AND relname LIKE 'LiteLLM\\_%%' AND NOT (
    has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
    AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
  ORDER BY 1
"""
#: The statement whose result gives the tables to the user, as after a restore by another one. Without apostrophes,
#: which a shell would need escaped.
_OWN = (
    "SELECT format($$ALTER TABLE %s OWNER TO %I$$, oid::regclass, $${}$$) FROM pg_class"
    " WHERE relkind = $$r$$ AND relnamespace = $${}$$::regnamespace \\gexec"
)


def require_database(database: Database, position: str) -> None:
    """Check that LiteLLM can use the database: that it accepts the login, and that its tables can be created.

    `position`: where its URL is written, such as `.env:12: DATABASE_URL`.

    Raises:
        DatabaseError: the first cause that prevents it, with the remedy.
    """
    from psycopg import Error

    with connect(database, position) as connection:
        try:
            row = connection.execute(
                "SELECT pg_is_in_recovery(), current_schema, has_schema_privilege(current_schema, 'CREATE'),"
                " to_regclass('_prisma_migrations') IS NOT NULL, current_setting('transaction_read_only')"
            ).fetchone()
            denied = connection.execute(_DENIED, {"schema": database.schema}).fetchall()
        except Error as error:
            raise _explain(database, position, str(error)) from None
    in_recovery, schema, may_create, has_tables, read_only = row or (False, None, True, True, "off")
    if in_recovery:
        raise DatabaseError(
            f"{position}: {database.address} is a read-only replica", "Connect to the primary server."
        )
    if read_only == "on":
        raise DatabaseError(
            f"{position}: each transaction in the database {database.name} is read-only"
            " (default_transaction_read_only)",
            f"sudo -u postgres psql -c 'ALTER DATABASE \"{database.name}\" RESET default_transaction_read_only'; if"
            " the role or the server has it: ALTER ROLE, ALTER SYSTEM",
        )
    if denied:
        own = shlex.quote(_OWN.format(database.user, database.schema))
        raise DatabaseError(
            f"{position}: the user {database.user} may not use {render_count(len(denied), 'table')} of LiteLLM,"
            f" such as {denied[0][0]}, which belongs to {denied[0][1]}",
            f"echo {own} | sudo -u postgres psql {database.name}",
        )
    if not has_tables and not (schema and may_create):
        raise DatabaseError(
            f"{position}: the user {database.user} may not create tables in the database {database.name}",
            f"Make the user its owner: sudo -u postgres psql -c 'ALTER DATABASE {database.name} OWNER TO"
            f" {database.user}'",
        )


def connect(database: Database, position: str, *, user: str = SERVICE_USER) -> Connection[tuple[object, ...]]:
    """A connection, made as the service makes it. Statements take effect at once (autocommit).

    `user` connects to a UNIX socket, of which the server knows who connects (peer authentication).

    Raises:
        DatabaseError: there is none, with the cause and the remedy.
    """
    # Late: it is slow to load, and only a service with a database needs it.
    import psycopg
    from psycopg.conninfo import make_conninfo

    database = with_token(database, position)
    try:
        _require_name(database, position)
        with _as_user(user if database.socket else ""):
            login = make_conninfo(**database.libpq(), connect_timeout=_TIMEOUT, application_name="litellmctl")
            return psycopg.connect(login, autocommit=True)
    except psycopg.Error as error:
        raise _explain(database, position, str(error)) from None


def with_token(database: Database, position: str) -> Database:
    """The database with a fresh token as its password, if it has IAM authentication.

    Raises:
        DatabaseError: there are no AWS credentials for the token.
    """
    if not database.token_region:
        return database
    from litellm_systemd.aws.client import Refused, sign_database_token

    try:
        token = sign_database_token(
            database.credentials, database.token_region, database.host, database.port, database.user
        )
    except Refused as error:
        raise DatabaseError(
            f"{position}: no AWS credentials for the token of the user {database.user}: {error}",
            "Give the service an access key or the instance a role: docs/database.md, RDS and Aurora.",
        ) from None
    return replace(database, password=token)


def _require_name(database: Database, position: str) -> None:
    if database.socket:
        return
    try:
        socket.getaddrinfo(database.host, database.port, type=socket.SOCK_STREAM)
    except OSError:
        hint = (
            COMPOSE_HINT.format(database.host) if is_compose_name(database.host) else "Correct the name of the host."
        )
        raise DatabaseDown(f"{position}: the host {database.host} is not known (DNS, /etc/hosts)", hint) from None


@contextmanager
def _as_user(name: str) -> Iterator[None]:
    """Be another user, if this is root and there is such a user."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        user = None
    if user is None or os.geteuid() != 0:
        yield
        return
    try:
        os.setegid(user.pw_gid)
        os.seteuid(user.pw_uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def _explain(database: Database, position: str, said: str) -> DatabaseError:
    # One of several attempts, as for ::1 and 127.0.0.1, without the address, which the message has.
    first = " ".join(said.split()).partition(" Multiple connection attempts failed")[0]
    text = redact(re.sub(r"^.*?\bport \d+ failed: (?:FATAL: )?", "", first), database.password)
    facts = {
        "address": database.address,
        "user": database.user,
        "name": database.name,
        "service": SERVICE_USER,
        "text": text,
    }
    # PostgreSQL asks a user without the role rds_iam for a password.
    if database.token_region:
        said = said.replace("password authentication failed", "PAM authentication failed")
    for pattern, cause, remedy in _CAUSES:
        if re.search(pattern, said, re.IGNORECASE):
            message, hint = cause.format(**facts), remedy.format(**facts)
            if cause.startswith("no PostgreSQL") and database.is_local:
                is_own = (database.socket, database.user, database.name) == (SOCKET_FOLDER, OWN_NAME, OWN_NAME)
                hint = _START_OWN if is_own else f"{hint} {_WITH_POSTGRES}"
            kind = next((each for start, each in _KINDS.items() if cause.startswith(start)), DatabaseError)
            return kind(f"{position}: {message}", hint)
    return DatabaseError(f"{position}: PostgreSQL at {database.address} cannot be used: {text}")
