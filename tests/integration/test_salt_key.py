"""The salt key that an install chooses, for what a real database has. The values are encrypted by LiteLLM's code."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from litellm_systemd.commands.salt_key import require_salt_key, with_salt_key
from litellm_systemd.commands.service_config import ServiceConfig
from litellm_systemd.database import stored_values
from litellm_systemd.database.connection import connect
from litellm_systemd.env.database import parse_url
from litellm_systemd.env.variables import SALT_KEY
from litellm_systemd.errors import DatabaseError, InputError, Unavailable
from tests.database import Database
from tests.unit.plan_hosts import make_service

MASTER, SALT, OTHER = (f"sk-the-{name}-key-0123456789abcdef" for name in ("master", "salt", "other"))


# LiteLLM is not imported above: each worker of pytest-xdist imports this module, and LiteLLM takes seconds.


def legacy(value: str, key: str) -> str:
    """A value as LiteLLM stores it by default."""
    from litellm.proxy.common_utils.encrypt_decrypt_utils import encrypt_value

    return base64.urlsafe_b64encode(encrypt_value(value, key)).decode()


def with_aes_gcm(value: str, key: str) -> str:
    """A value as LiteLLM stores it with AES-256-GCM."""
    from litellm.proxy.common_utils.encrypt_decrypt_utils import _encrypt_aes_gcm

    return str(_encrypt_aes_gcm(value, key))


def store(database: Database, key: str, encrypt: Callable[[str, str], str] = legacy) -> None:
    """Store a credential and a model as LiteLLM does, and a team whose callback has a secret."""
    values = [json.dumps({"api_key": encrypt("sk-provider", key), "api_base": encrypt("https://x", key)})]
    values.append(json.dumps({"model": encrypt("openai/x", key), "rpm": 3, "tags": [encrypt("a", key)]}))
    values.append(json.dumps({"logging": {"callback_vars": {"key": f"litellm_enc::{encrypt('sk-log', key)}"}}}))
    with connect(parse_url(database.url), "DATABASE_URL") as connection:
        connection.execute(
            'INSERT INTO "LiteLLM_CredentialsTable" (credential_id, credential_name, credential_values, created_by,'
            " updated_by) VALUES ('1', 'mine', %s, '', '')",
            values[:1],
        )
        connection.execute(
            'INSERT INTO "LiteLLM_ProxyModelTable" (model_id, model_name, litellm_params, created_by, updated_by)'
            " VALUES ('1', 'm', %s, '', '')",
            values[1:2],
        )
        connection.execute("INSERT INTO \"LiteLLM_TeamTable\" (team_id, metadata) VALUES ('1', %s)", values[2:])


def service(database: Database, salt: str = "") -> ServiceConfig:
    line = f"LITELLM_SALT_KEY={salt}\n" if salt else ""
    return make_service({"env": f"DATABASE_URL={database.url}\nLITELLM_MASTER_KEY={MASTER}\n{line}"})


def chosen(database: Database, salt: str = "") -> str:
    return with_salt_key(service(database, salt), asks=True).settings.environment[SALT_KEY.name]


def test_new_key(database: Database) -> None:
    """For a database without encrypted values, or without tables, a key is generated, and not shown."""
    found = with_salt_key(service(database), asks=True)
    key = found.settings.environment[SALT_KEY.name]
    assert key.startswith("sk-")
    assert len(key) > 40
    assert key != found.settings.master_key != chosen(database)
    assert any(f"{SALT_KEY.name} was generated" in note and key not in note for note in found.notes)
    database.execute("DROP SCHEMA public CASCADE")
    assert chosen(database).startswith("sk-")


@pytest.mark.parametrize("encrypt", [legacy, with_aes_gcm])
def test_values_of_the_master_key_stay_readable(database: Database, encrypt: Callable[[str, str], str]) -> None:
    """If LiteLLM encrypted with the master key, that is the salt key; another salt key in `.env` is refused."""
    store(database, MASTER, encrypt)
    assert chosen(database) == MASTER
    assert chosen(database, MASTER) == MASTER
    with pytest.raises(InputError, match="does not decrypt the 5 values") as refused:
        chosen(database, SALT)
    assert "encrypted with LITELLM_MASTER_KEY" in refused.value.hint


def test_values_of_another_key(database: Database) -> None:
    """Values of another salt key need that one: it is accepted, and neither a new nor a wrong one is."""
    store(database, SALT)
    assert chosen(database, SALT) == SALT
    with pytest.raises(InputError, match="5 values that are encrypted with neither LITELLM_MASTER_KEY nor"):
        chosen(database)
    with pytest.raises(InputError, match="does not decrypt"):
        chosen(database, OTHER)


def test_database_that_does_not_answer(database: Database) -> None:
    """A known key is not checked while the database is down. None is generated then for one on another host."""
    down = replace(parse_url(database.url), port=1)
    url = f"postgresql://{down.user}:secret@127.0.0.1:1/x"
    far = url.replace("127.0.0.1", "0.0.0.0") + "?sslmode=require"
    for address, salt in ((url, SALT), (url, ""), (far, SALT)):
        line = f"LITELLM_SALT_KEY={salt}\n" if salt else ""
        with_salt_key(make_service({"env": f"DATABASE_URL={address}\n{line}"}), asks=True)
    with pytest.raises(DatabaseError, match="no PostgreSQL listens") as refused:
        with_salt_key(make_service({"env": f"DATABASE_URL={far}\n"}), asks=True)
    assert "LITELLM_SALT_KEY" in refused.value.hint
    assert "secret" not in refused.value.message


def test_master_key_that_encrypts_is_not_replaced(database: Database) -> None:
    """rotate-key is refused while the database has no salt key, and not afterwards or without a database."""
    with pytest.raises(Unavailable, match="would become unreadable"):
        require_salt_key(service(database))
    require_salt_key(service(database, SALT))
    require_salt_key(make_service({"env": "NUM_WORKERS=1\n"}))


def test_columns_are_those_of_litellm() -> None:
    """Every column in which LiteLLM keeps encrypted values is read."""
    from litellm.proxy.db.master_key_migration import _SECRET_COLUMNS

    known = {(each.table, each.column): each.only_rows_with_marked_ciphertexts for each in _SECRET_COLUMNS}
    ours = dict.fromkeys(stored_values.COLUMNS, False) | dict.fromkeys(stored_values.MARKED_COLUMNS, True)
    assert ours == known
    assert stored_values.MARK == "litellm_enc::"
