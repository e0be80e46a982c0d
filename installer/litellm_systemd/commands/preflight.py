"""Check that the service can use AWS and its certificate, before anything is changed."""

from __future__ import annotations

import contextlib
import os
import pwd
import ssl
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.aws.credentials import bedrock_models, needs_metadata, uses_pair
from litellm_systemd.aws.sources import Credentials
from litellm_systemd.client.certificate import judge_certificate
from litellm_systemd.env.aws import FILE_VARIABLES, KEY_ID, PAIR, PROFILE, PROFILE_NAME, SECRET, TOKEN
from litellm_systemd.env.database import find_url, is_own_url, parse_url, require_encryption
from litellm_systemd.env.dotenv import Dotenv
from litellm_systemd.env.secret_references import SecretReference, is_reference
from litellm_systemd.env.settings import Settings
from litellm_systemd.env.tls import load_pair, read_certificate, read_pair
from litellm_systemd.env.variables import (
    ALLOW_PLAINTEXT_DATABASE,
    HIDDEN,
    REDIS_SSL_CA_CERTS,
    TLS_CERT_FILE,
    TLS_KEY_FILE,
)
from litellm_systemd.errors import InputError, InstallerError, MissingError, PermissionDenied, RedisError, Unavailable
from litellm_systemd.gateway.config import GatewayConfig
from litellm_systemd.gateway.config_types import ENVIRONMENT
from litellm_systemd.gateway.environment import named_files
from litellm_systemd.gateway.redis_settings import find_used_redis
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.sandbox import own_profiles
from litellm_systemd.host.stored_secrets import with_stored_redis_secrets, with_stored_secrets
from litellm_systemd.report.report import Outcome
from litellm_systemd.user_files import require_trusted

_BUNDLES = ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
NOT_ASKED = "The credentials were not checked with AWS. To check them: litellmctl verify"


def find_instance_region(environment: Mapping[str, str]) -> str | None:
    """The region in the instance metadata; None outside EC2. Takes two seconds at most."""
    # A late import, like the others below: botocore is slow to load, and most installs do not need it.
    from litellm_systemd.aws.sources import observe_instance

    return observe_instance(environment).region


def require_role(gateway: GatewayConfig, environment: Mapping[str, str], layout: Layout) -> tuple[str, ...]:
    """If the configuration needs the role of the instance, check that there is one; return notes for the user.

    Raises:
        Unavailable: the instance metadata have no credentials; the message has the cause.
        InputError: `.env` disables the query for them.
    """
    from litellm_systemd.aws.sources import DISABLED_HERE, DISABLED_VARIABLE, observe_instance

    if not needs_metadata(gateway, environment) or own_profiles(layout):
        return ()
    found = observe_instance(environment)
    if found.trouble is None:
        return (f"The role of the instance is {found.role}.",)
    if found.trouble.code == DISABLED_HERE:
        # Disabled for this process only, as on a PC where an install is prepared; the service queries them.
        return (f"The role of the instance was not checked: {DISABLED_VARIABLE}=true is set here.",)
    raise Unavailable(
        f"{found.trouble.message}; {gateway.source} uses the credentials of an EC2 instance's role",
        f"{found.trouble.hint} To install without this check: --offline",
    )


def require_pair(
    gateway: GatewayConfig, dotenv: Dotenv, environment: Mapping[str, str], installed: Mapping[str, str]
) -> tuple[str, ...]:
    """If a key pair or a profile is used that is not installed yet, check it with STS; return notes for the user.

    Raises:
        InputError: AWS refuses it, or there is no such profile.
    """
    profile = next((name for name in (PROFILE_NAME, PROFILE) if environment.get(name)), None)
    if (
        profile is not None
        and environment[profile] != installed.get(profile)
        and bedrock_models(gateway, environment)
    ):
        return _require_profile(profile, dotenv, environment)
    names = (*PAIR, TOKEN)
    same = all(environment.get(name) == installed.get(name) for name in names)
    if same or not uses_pair(gateway, environment):
        return ()
    region = environment.get("AWS_REGION_NAME")
    credentials = Credentials(environment[KEY_ID], environment[SECRET], environment.get(TOKEN), region)
    return prove_pair(credentials, {**os.environ, **environment}, dotenv.where(KEY_ID))


def _require_profile(variable: str, dotenv: Dotenv, environment: Mapping[str, str]) -> tuple[str, ...]:
    from litellm_systemd.aws.sources import read_service_profile

    try:
        credentials = read_service_profile(environment[variable], environment, Path(Layout.state))
    except MissingError as error:
        raise InputError(f"{dotenv.where(variable)}: {error.message}", error.hint) from None
    except InstallerError as error:
        return (f"The AWS profile could not be checked: {error.message}. To call a model: litellmctl verify",)
    return prove_pair(credentials, {**os.environ, **environment}, dotenv.where(variable))


def prove_pair(credentials: Credentials, environ: Mapping[str, str], where: str) -> tuple[str, ...]:
    """Query STS for the owner of the key pair; return notes for the user.

    Raises:
        InputError: AWS refuses it.
    """
    from litellm_systemd.aws.client import identify

    found = identify(credentials, environ, where)
    if found.doubt is not None:
        return (f"The AWS key could not be checked: {found.doubt}. To call a model with it: litellmctl verify",)
    notes = [f"The AWS key belongs to {found.arn}."]
    if found.is_root_user:
        notes.append("That is the root user of the account, with all privileges: create an IAM user for the gateway.")
    return tuple(notes)


def require_secrets(references: tuple[SecretReference, ...], environment: Mapping[str, str]) -> tuple[str, ...]:
    """Get the secrets that are kept in AWS once, and return a note for the user. The values are not stored.

    Raises:
        InputError: a secret does not exist.
        Unavailable: AWS cannot be reached, or refuses access.
    """
    if not references:
        return ()
    with_stored_secrets(environment)
    names = ", ".join(each.variable for each in references)
    return (f"{names}: the service reads the value from AWS at each start and reload. It is stored nowhere here.",)


def require_files(dotenv: Dotenv, environment: Mapping[str, str], gateway: GatewayConfig) -> None:
    """Check that the files in `.env` and in the configuration exist and are readable, and certificates valid.

    Raises:
        InputError: one is not usable, with the line of the variable and the remedy.
    """
    for name in FILE_VARIABLES:
        if name in environment:
            _require_file(f"{dotenv.where(name)}: {name}", Path(environment[name]), is_bundle=name in _BUNDLES)
    for each in named_files(gateway, environment):
        if each.must_exist and not HIDDEN.match(each.path):
            name = str(each.key[-1])
            place = f"{dotenv.where(name)}: {name}" if each.key[0] == ENVIRONMENT else str(gateway.place(each.key))
            _require_file(place, Path(each.path))


def require_database(dotenv: Dotenv, settings: Settings, gateway: GatewayConfig) -> None:
    """Check that the service can use its database, if it has one. Its URL or its password may be kept in AWS.

    The database that an install sets up itself is not checked here.

    Raises:
        InputError: a URL is not valid, or a file that it names cannot be used.
        Unavailable: a secret in AWS cannot be read.
        DatabaseError: the database cannot be reached or used; the message has the cause.
    """
    general = gateway.section("general_settings")
    if find_url(settings.environment, general) is None:
        return
    values = with_stored_secrets(settings.environment)
    found = find_url(values, general)
    if found is None or is_reference(found[0]) or is_own_url(found[0]):
        return
    # A late import: psycopg is slow to load.
    from litellm_systemd.database.connection import require_database

    url, name = found
    position = f"{dotenv.where(name)}: {name}" if name in values else f"{gateway.source}: {name}"
    database = parse_url(url, position, values)
    require_encryption(database, position, allowed=ALLOW_PLAINTEXT_DATABASE.read(values))
    if database.certificate_file:
        _require_file(position, Path(database.certificate_file))
    require_database(database, position)


def require_redis(dotenv: Dotenv, settings: Settings, gateway: GatewayConfig) -> tuple[str, ...]:
    """Check that LiteLLM can use its Redis, if it has one; return warnings for the user.

    A secret that is kept in AWS is read from there.

    Raises:
        InputError: a value is not valid, or a file that it names cannot be used.
        RedisError: Redis cannot be reached or used; the message has the cause.
        Unavailable: a secret in AWS cannot be read.
    """
    values = with_stored_redis_secrets(settings.environment, gateway)
    found = find_used_redis(gateway, values)
    if found is None:
        return ()
    # A late import: the library is slow to load.
    from litellm_systemd.database.redis import observe_redis

    redis, name = found

    def position(variable: str = "") -> str:
        """That of the variable, if it is one of those next to the one that says where Redis is."""
        if name not in values:
            return f"{gateway.source}: {name}"
        shown = variable if values.get(variable) else name
        return f"{dotenv.where(shown)}: {shown}"

    if redis.certificate_file:
        _require_file(position(REDIS_SSL_CA_CERTS.name), Path(redis.certificate_file))
    health = observe_redis(redis, values)
    if health.error:
        raise RedisError(f"{position(health.variable)}: {health.error}", health.hint)
    if not health.evicted:
        return ()
    return (
        f"{position()}: Redis at {redis.address} has evicted {health.evicted} keys ({health.policy}), which may be"
        " counters of limits. Raise its maxmemory.",
    )


def require_tls(dotenv: Dotenv, settings: Settings, now: datetime) -> tuple[str, ...]:
    """Check the certificate and the key with which the service is to serve HTTPS; return warnings for the user.

    Nothing is checked for a user who may not read them: only root can install.

    Raises:
        InputError: the service could not serve with them, or clients would refuse the certificate. The message has
            the line of the file.
        PermissionDenied: another user could replace one, and have root pass any file of this host to the service.
    """
    files = settings.tls
    if files is None:
        return ()
    try:
        with _locating(dotenv, TLS_CERT_FILE.name):
            certificate = read_certificate(files.certificate)
            require_trusted(files.certificate)
        with _locating(dotenv, TLS_KEY_FILE.name):
            load_pair(read_pair(files))
            require_trusted(files.key)
    except InputError:
        if os.geteuid() != 0 and not all(os.access(path, os.R_OK) for path in (files.certificate, files.key)):
            return (f"{TLS_CERT_FILE.name} and {TLS_KEY_FILE.name} were not checked: this user can't read them.",)
        raise
    end = judge_certificate(certificate.not_before, certificate.not_after, now)
    if end.outcome is Outcome.FAILED:
        raise InputError(
            f"{dotenv.where(TLS_CERT_FILE.name)}: the certificate in {files.certificate} is refused: {end.detail}",
            "Renew it, or correct the clock of this host (timedatectl); then install.",
        )
    warnings = [f"The certificate is {end.detail}. {end.hint}"] if end.outcome is Outcome.WARNING else []
    if not certificate.names:
        warnings.append("The certificate has no subjectAltName: clients refuse it whatever name they connect to.")
    if files.key.stat().st_mode & 0o004:
        warnings.append(f"Every user of this host can read {files.key}. Run: sudo chmod o-rwx {files.key}")
    return tuple(warnings)


@contextlib.contextmanager
def _locating(dotenv: Dotenv, name: str) -> Iterator[None]:
    """Add the line of a variable to an error about its file."""
    try:
        yield
    except (InputError, PermissionDenied) as error:
        raise type(error)(f"{dotenv.where(name)}: {error.message}", error.hint) from None


def _require_file(key: str, path: Path, *, is_bundle: bool = False) -> None:
    place = f"{key}={path}"
    try:
        is_readable = _service_reads(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{place} does not exist", "Name an existing file by its absolute path.") from None
    except PermissionError:
        return  # not root: the install fails anyway
    if not is_readable:
        raise InputError(
            f"{place} can't be read by the user {contract.SERVICE_USER}, as which the service runs",
            f"Make it readable for all users (chmod o+r) or for the group: sudo chgrp {contract.SERVICE_USER} {path}",
        )
    if is_bundle and path.is_file():
        try:
            require_trusted(path)
            ssl.create_default_context(cafile=str(path))
        except ssl.SSLError:
            raise InputError(
                f"{place} has no certificate in PEM", "PEM has lines like -----BEGIN CERTIFICATE-----."
            ) from None
        except PermissionDenied as error:
            raise PermissionDenied(f"{key}: {error.message}", error.hint) from None


def _service_reads(path: Path) -> bool:
    """Whether the modes of the path let the user of the service read it. An ACL is assumed to allow it."""
    try:
        user = pwd.getpwnam(contract.SERVICE_USER)
        uid, groups = user.pw_uid, set(os.getgrouplist(contract.SERVICE_USER, user.pw_gid))
    except KeyError:
        uid, groups = -1, set()  # before the first install
    real = path.resolve(strict=True)
    wanted = [(real, 5 if real.is_dir() else 4), *((parent, 1) for parent in real.parents)]
    return all(_grants(each, bits, uid, groups) for each, bits in wanted)


def _grants(path: Path, bits: int, uid: int, groups: set[int]) -> bool:
    found = path.stat()
    if "system.posix_acl_access" in os.listxattr(path):
        return True
    shift = 6 if found.st_uid == uid else 3 if found.st_gid in groups else 0
    return (found.st_mode >> shift) & bits == bits
