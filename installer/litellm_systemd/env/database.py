"""The database of LiteLLM: whether there is one, and what its URL says. Pure; the runtime and the commands use it.

LiteLLM reads a URL, or builds one from DATABASE_HOST, DATABASE_USERNAME, DATABASE_PASSWORD and DATABASE_NAME
(construct_database_url_from_env_vars in proxy/utils.py), and passes it to Prisma's engine. It rewrites libpq's
`sslmode=verify-full` and `sslrootcert` for Prisma (proxy/db/db_url_settings.py), so both forms can be used.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, quote, quote_plus, unquote, urlencode

from litellm_systemd.contract import REFERENCE, SERVICE_USER
from litellm_systemd.env.secret_references import is_reference
from litellm_systemd.env.urls import ENCODE, is_compose_name, split_login, split_port
from litellm_systemd.env.variables import (
    ALLOW_PLAINTEXT_DATABASE,
    AWS_RDS_REGION,
    AWS_REGION_NAME,
    DATABASE_HOST,
    DATABASE_NAME,
    DATABASE_PASSWORD,
    DATABASE_PORT,
    DATABASE_SCHEMA,
    DATABASE_SSLMODE,
    DATABASE_SSLROOTCERT,
    DATABASE_URL,
    DATABASE_URL_READ_REPLICA,
    DATABASE_USER,
    DATABASE_USERNAME,
    DIRECT_URL,
    IAM_TOKEN_DB_AUTH,
    is_loopback,
)
from litellm_systemd.errors import InputError

DEFAULT_PORT = 5432
#: The folder of PostgreSQL's socket, in Debian's and in Fedora's packages.
SOCKET_FOLDER = "/run/postgresql"
#: The role and the database that `install --with-postgres` creates.
OWN_NAME = SERVICE_USER
#: The key of general_settings. LiteLLM prefers it to DATABASE_URL.
SETTING = "database_url"

_FORM = "postgresql://USER:PASSWORD@HOST:5432/DATABASE"
_SOCKET_FORM = "postgresql://USER@localhost/DATABASE?host=/run/postgresql"
_PARTS = f"{DATABASE_HOST.name}, {DATABASE_USERNAME.name}, {DATABASE_PASSWORD.name} and {DATABASE_NAME.name}"
_ENCODE = f"{ENCODE} Or set {_PARTS} in place of the URL, which need no encoding."
#: For the service of a compose file, as in the workshop's .env.
COMPOSE_HINT = (
    "If {} is a service of a compose file, remove the variable, and set up a PostgreSQL of this host with: sudo"
    " litellmctl install --with-postgres"
)
#: Values of sslmode, and whether a connection with it is always encrypted. Prisma knows the first three, libpq all.
_SSL_MODES = {
    **{"disable": False, "prefer": False, "require": True},
    **{"allow": False, "verify-ca": True, "verify-full": True},
}
#: What LiteLLM needs of a database with IAM authentication, and what it ignores then (DatabaseURLSettings).
_IAM_PARTS = (DATABASE_HOST, DATABASE_USER, DATABASE_NAME)
_NOT_WITH_IAM = (DATABASE_URL, DIRECT_URL, DATABASE_URL_READ_REPLICA, DATABASE_USERNAME, DATABASE_PASSWORD)
#: As in litellm/proxy/auth/rds_iam_token.py.
_RDS_HOST = re.compile(r"(?:[^.]+\.)+([a-z]{2}(?:-[a-z]+)+-\d+)\.rds\.amazonaws\.com(?:\.cn)?\.?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Database:
    """What a URL says. `socket` is the folder of a UNIX socket, empty for TCP. The password does not show in `repr`.

    `parameters` are those of its query, of Prisma and of libpq. With IAM authentication `token_region` is the region
    of the database, and `credentials` are the variables with the AWS credentials that a token is signed with.
    """

    host: str
    name: str
    user: str
    password: str = field(default="", repr=False)
    port: int = DEFAULT_PORT
    socket: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    token_region: str = ""
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_local(self) -> bool:
        """Whether the connection stays on this host."""
        return bool(self.socket) or is_loopback(self.host)

    @property
    def is_encrypted(self) -> bool:
        """Whether the connection is refused without TLS."""
        return not self.socket and _SSL_MODES.get(self.parameters.get("sslmode", ""), False)

    @property
    def certificate_file(self) -> str:
        """The file of the authority that signed the certificate of the server, empty without one."""
        return self.parameters.get("sslrootcert") or self.parameters.get("sslcert") or ""

    @property
    def schema(self) -> str:
        """The schema of LiteLLM's tables."""
        return self.parameters.get("schema") or "public"

    @property
    def address(self) -> str:
        """Where the server is, for messages."""
        return f"{self.socket}/.s.PGSQL.{self.port}" if self.socket else f"{self.host}:{self.port}"

    def libpq(self) -> dict[str, str]:
        """The parameters of a connection with libpq, as `psycopg.connect(**...)` and `pg_dump --dbname` take them.

        Prisma's `sslcert` is the file of an authority, and that of libpq the certificate of a client.
        """
        found = {"host": self.socket or self.host, "port": str(self.port), "user": self.user, "dbname": self.name}
        if self.password:
            found["password"] = self.password
        if self.socket:
            return found
        mode = self.parameters.get("sslmode", "")
        if mode:
            found["sslmode"] = mode
        if self.parameters.get("sslaccept") == "strict" or "sslrootcert" in self.parameters:
            found["sslmode"] = "verify-full"
        if self.certificate_file:
            found["sslrootcert"] = self.certificate_file
        elif found.get("sslmode") == "verify-full":
            found["sslrootcert"] = "system"
        return found


def database_mode(values: Mapping[str, str], general: Mapping[str, object]) -> bool:
    """Whether LiteLLM has a database: in the variables, or in the general_settings of its configuration."""
    return find_url(values, general) is not None


def find_url(values: Mapping[str, str], general: Mapping[str, object]) -> tuple[str, str] | None:
    """The URL that LiteLLM uses, and the name of the variable or key that has it; None without a database.

    `general`: the section general_settings of the configuration, which goes first.

    A URL that is a reference to a secret in AWS is returned as the reference. With IAM authentication it has no
    password: `parse_url` takes the variables as well.
    """
    if _uses_iam(values):
        built = _build_iam_url(values)
        return None if built is None else (built, DATABASE_HOST.name)
    written = general.get(SETTING)
    if isinstance(written, str) and written:
        name = written.removeprefix(REFERENCE)
        if name == written:
            return written, f"general_settings.{SETTING}"
        if values.get(name):
            return values[name], name
    if values.get(DATABASE_URL.name):
        return values[DATABASE_URL.name], DATABASE_URL.name
    built = _build_url(values)
    return None if built is None else (built, DATABASE_HOST.name)


def _uses_iam(values: Mapping[str, str]) -> bool:
    """Whether the password is a token. A value that is neither true nor false is refused by its own check."""
    with contextlib.suppress(InputError):
        return IAM_TOKEN_DB_AUTH.read(values)
    return False


def own_url(port: int = DEFAULT_PORT) -> str:
    """The URL of the database that `install --with-postgres` creates."""
    address = "localhost" if port == DEFAULT_PORT else f"localhost:{port}"
    return f"postgresql://{OWN_NAME}@{address}/{OWN_NAME}?host={SOCKET_FOLDER}"


def is_own_url(url: str) -> bool:
    return re.fullmatch(re.escape(own_url()).replace("@localhost/", r"@localhost(?::\d+)?/"), url) is not None


def choose_database(
    values: Mapping[str, str], installed: Mapping[str, str], wanted: str | None, where: Callable[[str], str]
) -> dict[str, str]:
    """The variables with the URL of the database that `install --with-postgres` creates or has created.

    Args:
        values: variables by name.
        installed: the installed environment: what an earlier install has added stays.
        wanted: the URL to add; empty to remove it, None to keep it as it is installed.
        where: returns the position of a variable for messages.

    Raises:
        InputError: it is wanted, and the variables have another database.
    """
    name = DATABASE_URL.name
    others = {key: value for key, value in values.items() if key != name or not is_own_url(value)}
    found = find_url(others, {})
    if found is not None:
        if wanted:
            raise InputError(
                f"{where(found[1])}: {found[1]} names a database, and --with-postgres sets up another one",
                f"Remove {found[1]}, or install without --with-postgres.",
            )
        return dict(values)
    if wanted is None:
        kept = installed.get(name, "")
        wanted = values.get(name) or (kept if is_own_url(kept) else "")
    return {**others, name: wanted} if wanted else others


def _build_url(values: Mapping[str, str]) -> str | None:
    """The URL that LiteLLM builds from the single variables; None if one is missing."""
    host, user, name = (values.get(each.name) for each in (DATABASE_HOST, DATABASE_USERNAME, DATABASE_NAME))
    if not host or not user or not name:
        return None
    password = values.get(DATABASE_PASSWORD.name)
    login = quote_plus(user) + (f":{quote_plus(password)}" if password else "")
    return f"postgresql://{login}@{host}/{quote_plus(name)}{_build_query(values)}"


def _build_iam_url(values: Mapping[str, str]) -> str | None:
    """The same with IAM authentication, for which LiteLLM reads other variables."""
    host, user, name = (values.get(each.name) for each in _IAM_PARTS)
    if not host or not user or not name:
        return None
    port = values.get(DATABASE_PORT.name) or DEFAULT_PORT
    return f"postgresql://{quote(user, safe='')}@{host}:{port}/{quote(name, safe='')}{_build_query(values)}"


def _build_query(values: Mapping[str, str]) -> str:
    root = values.get(DATABASE_SSLROOTCERT.name)
    query = {
        "schema": values.get(DATABASE_SCHEMA.name),
        "sslmode": values.get(DATABASE_SSLMODE.name) or ("verify-full" if root else None),
        "sslrootcert": root,
    }
    given = urlencode({key: value for key, value in query.items() if value})
    return f"?{given}" if given else ""


def find_token_region(values: Mapping[str, str]) -> str:
    """The region that LiteLLM signs a token for; empty if none is known."""
    host = _RDS_HOST.fullmatch(values.get(DATABASE_HOST.name, ""))
    named = (AWS_RDS_REGION.read(values), host[1].lower() if host else None)
    return next(filter(None, (*named, *(values.get(name) for name in AWS_REGION_NAME.names))), "")


def parse_url(url: str, position: str = DATABASE_URL.name, values: Mapping[str, str] | None = None) -> Database:
    """What a URL says. It must mean the same to Prisma's engine and to libpq, which read some characters differently.

    Args:
        url: the value.
        position: where it is written, such as `.env:12: DATABASE_URL`; no message has the value in it.
        values: variables by name, which may turn on IAM authentication.

    Raises:
        InputError: it is not the URL of a PostgreSQL database.
    """
    if values is not None and _uses_iam(values):
        return replace(parse_url(url, position), token_region=find_token_region(values), credentials=values)
    scheme, separator, rest = url.strip().partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][\w+.-]*", scheme):
        raise InputError(f"{position} is not a URL", f"Write {_FORM}.")
    if scheme not in ("postgresql", "postgres"):
        raise InputError(f"{position}: LiteLLM supports PostgreSQL, not {scheme}://", f"Write {_FORM}.")
    login, location = split_login(rest, position, _ENCODE)
    user, _, password = login.partition(":")
    host, path, query = re.fullmatch(r"([^/?]*)/?([^?]*)\??(.*)", location, re.DOTALL).groups()  # type: ignore[union-attr]
    parameters = dict(parse_qsl(query, keep_blank_values=True))
    name, socket = unquote(path), parameters.get("host", "")
    if not host:
        raise InputError(f"{position} has no host", f"Write {_FORM}, or {_SOCKET_FORM} for a UNIX socket.")
    if host.lower().startswith("%2f") or (socket and not socket.startswith("/")):
        raise InputError(
            f"{position} names the UNIX socket in a way that Prisma cannot read", f"Write {_SOCKET_FORM}."
        )
    if "," in host:
        raise InputError(f"{position} names several hosts", "Prisma connects to one host: name that of the writer.")
    host, port = split_port(host, position, DEFAULT_PORT, f"Write {_FORM}.")
    if not name or not user:
        raise InputError(f"{position} has no {'user' if name else 'database'}", f"Write {_FORM}.")
    mode = parameters.get("sslmode", "")
    if mode and mode not in _SSL_MODES:
        raise InputError(f"{position} has sslmode={mode}", f"Use one of {', '.join(_SSL_MODES)}.")
    return Database(host, name, unquote(user), unquote(password), port, socket, parameters)


def check_database(values: Mapping[str, str], where: Callable[[str], str]) -> list[str]:
    """Check the variables of the database, and return warnings.

    `where`: returns the position of a variable for messages, such as `.env:12`.

    Raises:
        InputError: the first value that LiteLLM or Prisma cannot use, or a connection that crosses a network without
            TLS.
    """
    allowed = ALLOW_PLAINTEXT_DATABASE.read(values, where)
    if IAM_TOKEN_DB_AUTH.read(values, where):
        _check_iam(values, where)
        return []
    warnings = _check_parts(values, where)
    found = find_url(values, {})
    named = {name: values[name] for each in (DIRECT_URL, DATABASE_URL_READ_REPLICA) if (name := each.name) in values}
    urls = [*([found] if found else []), *((url, name) for name, url in named.items())]
    if named and not found:
        warnings.append(f"{' and '.join(named)} has no effect without {DATABASE_URL.name}.")
    for url, name in urls:
        if not is_reference(url):
            require_encryption(parse_url(url, f"{where(name)}: {name}"), f"{where(name)}: {name}", allowed=allowed)
    return warnings


def _check_iam(values: Mapping[str, str], where: Callable[[str], str]) -> None:
    """Check the variables of a database with IAM authentication."""
    switch = IAM_TOKEN_DB_AUTH.name
    position = f"{where(switch)}: {switch}"
    if missing := [each.name for each in _IAM_PARTS if not values.get(each.name)]:
        raise InputError(f"{position} needs {' and '.join(missing)} as well", "Set it to that of the database.")
    if others := [each.name for each in _NOT_WITH_IAM if values.get(each.name)]:
        raise InputError(
            f"{where(others[0])}: {others[0]} is set, which {switch} does not use",
            f"Remove {' and '.join(others)}, or {switch}.",
        )
    # LiteLLM requires one of these although the region of the database may be another one.
    if not any(values.get(name) for name in AWS_REGION_NAME.names[:2]):
        raise InputError(f"{position} needs a region", f"Set {AWS_REGION_NAME.name}.")
    for each in _IAM_PARTS:
        if re.search(r"[\s%]", values[each.name]):
            raise InputError(
                f"{where(each.name)}: {each.name} has a space or % in it",
                "Write the name of another user or database.",
            )
    host = f"{where(DATABASE_HOST.name)}: {DATABASE_HOST.name}"
    if not re.fullmatch(r"[A-Za-z0-9.-]+", values[DATABASE_HOST.name]):
        raise InputError(
            f"{host} is not the name of a host",
            f"Write the endpoint of the database alone, and a port other than 5432 in {DATABASE_PORT.name}.",
        )
    DATABASE_PORT.read(values, where)
    url, _ = find_url(values, {}) or ("", "")
    if not parse_url(url, host).is_encrypted:
        raise InputError(
            f"{position} needs TLS, without which RDS accepts no token",
            f"Set {DATABASE_SSLROOTCERT.name} to the file with the certificates of RDS, or"
            f" {DATABASE_SSLMODE.name}=require to accept any certificate.",
        )


def require_encryption(database: Database, position: str, *, allowed: bool) -> None:
    """Check that a connection to another host is encrypted.

    Raises:
        InputError: it may be in plain text, and that is not `allowed`.
    """
    if database.is_local or database.is_encrypted or allowed:
        return
    compose = f" {COMPOSE_HINT.format(database.host)}" if is_compose_name(database.host) else ""
    raise InputError(
        f"{position}: {database.host} is another host, and without sslmode=require the password and all data may"
        " cross the network unencrypted",
        f"Add ?sslmode=require to the URL (or verify-full with sslrootcert=FILE), or set {DATABASE_SSLMODE.name}."
        f" In a network that you trust, set {ALLOW_PLAINTEXT_DATABASE.name}=true.{compose}",
    )


def _check_parts(values: Mapping[str, str], where: Callable[[str], str]) -> list[str]:
    """Check the single variables of which LiteLLM builds a URL."""
    parts = (DATABASE_HOST, DATABASE_USERNAME, DATABASE_NAME)
    given = [each.name for each in (*parts, DATABASE_PASSWORD) if values.get(each.name)]
    if not given:
        return []
    if values.get(DATABASE_URL.name):
        return [f"{' and '.join(given)} has no effect: {DATABASE_URL.name} is set as well."]
    missing = [each.name for each in parts if not values.get(each.name)]
    if missing:
        raise InputError(
            f"{where(given[0])}: {given[0]} needs {' and '.join(missing)} as well",
            f"Set {_PARTS}, or {DATABASE_URL.name} alone.",
        )
    for each in (*parts, DATABASE_PASSWORD):
        if " " in values.get(each.name, ""):
            raise InputError(
                f"{where(each.name)}: {each.name} has a space in it, which LiteLLM passes to PostgreSQL as +",
                f"Write {DATABASE_URL.name}={_FORM} with %20 in place of the space.",
            )
    return []
