"""The salt key of LiteLLM's database: generated once, and never one that makes stored values unreadable."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from litellm_systemd.commands.service_config import ServiceConfig
from litellm_systemd.env.database import Database, find_url, parse_url
from litellm_systemd.env.secret_references import is_reference
from litellm_systemd.env.variables import MASTER_KEY, SALT_KEY
from litellm_systemd.errors import DatabaseError, InputError, Unavailable
from litellm_systemd.gateway.config import GatewayConfig
from litellm_systemd.host.stored_secrets import with_stored_secrets

if TYPE_CHECKING:
    from litellm_systemd.database.stored_values import StoredValues

_WHERE = 'See docs/database.md, "Salt key".'


def with_salt_key(service: ServiceConfig, *, asks: bool) -> ServiceConfig:
    """The service with a salt key, if it has a database.

    It is the installed one, the one of `.env`, or a new one. What a database has encrypted with the master key, as
    LiteLLM does without a salt key, stays readable: the master key, as it is now, is then the salt key.

    Args:
        service: what the service will run with.
        asks: whether to connect to the database.

    Raises:
        InputError: the key does not decrypt what is stored.
        DatabaseError: a key must be generated, and a database on another host cannot be asked what it has.
    """
    settings = service.settings
    if not service.has_database:
        return service
    values = with_stored_secrets(settings.environment) if asks else settings.environment
    database = find_database(values, service.gateway)
    key, master = values.get(SALT_KEY.name), values[MASTER_KEY.name]
    stored = _ask(database, values, is_new=not key) if asks and database is not None else None
    if key:
        if stored is not None and not stored.has_right_key:
            raise _wrong_key(stored)
        return service
    with_master = 0 if stored is None else stored.readable[MASTER_KEY.name]
    if stored is not None and stored.unreadable and not with_master:
        raise InputError(
            f"the database has {stored.unreadable} values that are encrypted with neither {MASTER_KEY.name} nor a"
            f" {SALT_KEY.name} of this host",
            f"Set {SALT_KEY.name} in .env to the key that they were encrypted with. {_WHERE}",
        )
    if with_master:
        new = master
        note = (
            f"{SALT_KEY.name} is the present master key, with which {with_master} values in the database are"
            " encrypted. It stays so when the master key is replaced."
        )
    else:
        new = f"sk-{secrets.token_urlsafe(32)}"
        note = (
            f"{SALT_KEY.name} was generated: what LiteLLM stores in the database is encrypted with it, and is lost"
            " without it. To keep a copy: sudo litellmctl backup FILE"
        )
        if database is None or not database.is_local:
            note += f". Other instances on this database need the same key. {_WHERE}"
    environment = {**settings.environment, SALT_KEY.name: new}
    return replace(service, settings=replace(settings, environment=environment), notes=(*service.notes, note))


def require_salt_key(service: ServiceConfig) -> None:
    """Check that LiteLLM does not encrypt with the master key, so that this one can be replaced.

    Raises:
        Unavailable: it does.
    """
    if SALT_KEY.name in service.settings.environment or not service.has_database:
        return
    raise Unavailable(
        f"{SALT_KEY.name} is not set, so what the database stores is encrypted with the master key and would become"
        " unreadable",
        "An install sets it, to the present master key if that is needed: sudo litellmctl install --installed",
    )


def find_database(values: Mapping[str, str], gateway: GatewayConfig) -> Database | None:
    """The database of the service; None without one, or if its URL is a reference to a secret in AWS.

    Raises InputError for a URL that cannot be used.
    """
    found = find_url(values, gateway.section("general_settings"))
    return None if found is None or is_reference(found[0]) else parse_url(*found, values)


def _ask(database: Database, values: Mapping[str, str], *, is_new: bool) -> StoredValues | None:
    """What is stored; None if it is not known."""
    # Late, because most installs have no database.
    from litellm_systemd.database.stored_values import find_stored_values

    try:
        return find_stored_values(database, values)
    except DatabaseError as error:
        # A known key needs no check now. A local database may be one that this install creates.
        if not is_new or database.is_local:
            return None
        error.hint = f"{error.hint} A generated {SALT_KEY.name} could make what it stores unreadable."
        raise


def _wrong_key(stored: StoredValues) -> InputError:
    count = sum(stored.readable.values()) + stored.unreadable
    fix = f"Set it to the key that they were encrypted with. {_WHERE}"
    if stored.readable.get(MASTER_KEY.name):
        fix = f"They are encrypted with {MASTER_KEY.name}: set {SALT_KEY.name} to that value. {_WHERE}"
    return InputError(f"{SALT_KEY.name} does not decrypt the {count} values that the database has encrypted", fix)
