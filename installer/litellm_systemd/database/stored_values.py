"""What LiteLLM keeps encrypted in its database, and which key decrypts it.

LiteLLM encrypts with LITELLM_SALT_KEY, and while that is unset with the master key, so that a salt key that is added
later, or another master key, makes what is stored unreadable (proxy/common_utils/encrypt_decrypt_utils.py).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from psycopg import Connection, sql

from litellm_systemd.database.connection import connect
from litellm_systemd.env.database import Database
from litellm_systemd.env.variables import DATABASE_URL, MASTER_KEY, SALT_KEY

#: Where LiteLLM keeps ciphertexts (_SECRET_COLUMNS in proxy/db/master_key_migration.py).
COLUMNS = (
    ("LiteLLM_ProxyModelTable", "litellm_params"),
    ("LiteLLM_CredentialsTable", "credential_values"),
    ("LiteLLM_Config", "param_value"),
    ("LiteLLM_SSOConfig", "sso_settings"),
    ("LiteLLM_CacheConfig", "cache_settings"),
    ("LiteLLM_ConfigOverrides", "config_value"),
    ("LiteLLM_MCPServerTable", "credentials"),
    ("LiteLLM_MCPServerTable", "static_headers"),
    ("LiteLLM_MCPServerTable", "env_vars"),
    ("LiteLLM_MCPServerTable", "env"),
    ("LiteLLM_MCPServerOAuthClient", "credentials"),
    ("LiteLLM_MCPUserCredentials", "credential_b64"),
    ("LiteLLM_MCPUserEnvVars", "values_b64"),
    ("LiteLLM_SSOIdentityAssertion", "assertion_b64"),
    ("LiteLLM_SearchToolsTable", "litellm_params"),
)
#: As above, but with a mark before each ciphertext. These tables can have many rows.
MARKED_COLUMNS = (
    ("LiteLLM_GuardrailsTable", "litellm_params"),
    ("LiteLLM_TeamTable", "metadata"),
    ("LiteLLM_VerificationToken", "metadata"),
    ("LiteLLM_UserTable", "metadata"),
    ("LiteLLM_DeletedTeamTable", "metadata"),
    ("LiteLLM_DeletedVerificationToken", "metadata"),
)
MARK = "litellm_enc::"
_AES = "v2:gcm:"
#: Bytes of a nonce of AES-GCM; of the nonce and the authenticator of a NaCl box, which is the least that one has.
_AES_NONCE, _LEAST_BOX = 12, 40
#: Base64 of random bytes has letters of both cases, unlike a digest in hexadecimal.
_RANDOM = re.compile(r"(?=.*[A-Z])(?=.*[a-z])[A-Za-z0-9+/_-]+={0,2}")


@dataclass(frozen=True, slots=True)
class StoredValues:
    """The number of encrypted values: by the name of the key that decrypts them, and of those that none does."""

    readable: Mapping[str, int] = field(default_factory=dict)
    unreadable: int = 0

    @property
    def has_right_key(self) -> bool:
        """Whether the salt key decrypts values, or there are none."""
        others = sum(self.readable.values()) - self.readable.get(SALT_KEY.name, 0)
        return bool(self.readable.get(SALT_KEY.name)) or not (others or self.unreadable)


def find_stored_values(database: Database, values: Mapping[str, str]) -> StoredValues:
    """What the keys of these variables decrypt: the salt key, and the master key, which LiteLLM takes without one.

    Raises:
        DatabaseError: the database cannot be reached.
    """
    keys = {name: values[name] for name in (SALT_KEY.name, MASTER_KEY.name) if values.get(name)}
    with connect(database, DATABASE_URL.name) as connection:
        return read_stored_values(connection, keys, database.schema)


def read_stored_values(connection: Connection[tuple[Any, ...]], keys: Mapping[str, str], schema: str) -> StoredValues:
    """Try `keys`, in their order, on every encrypted value in the schema. One without tables has none."""
    found: Counter[str | None] = Counter()
    for text in _texts(connection, schema):
        found[_key_of(text, keys)] += 1
    return StoredValues({name: found[name] for name in keys}, found[None])


def _texts(connection: Connection[tuple[Any, ...]], schema: str) -> Iterator[str]:
    """The texts that are ciphertexts, as far as their form shows."""
    known = connection.execute(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s", (schema,)
    )
    existing = set(known.fetchall())
    for table, column in (*COLUMNS, *MARKED_COLUMNS):
        if (table, column) not in existing:
            continue
        query = sql.SQL("SELECT {column} FROM {table} WHERE {column} IS NOT NULL").format(
            column=sql.Identifier(column), table=sql.Identifier(schema, table)
        )
        is_marked = (table, column) in MARKED_COLUMNS
        if is_marked:
            query += sql.SQL(" AND {column}::text LIKE {pattern}").format(
                column=sql.Identifier(column), pattern=sql.Literal(f"%{MARK}%")
            )
        for (value,) in connection.execute(query):
            found = (text for text in _walk(value) if not is_marked or text.startswith(MARK))
            yield from (text.removeprefix(MARK) for text in found if text.startswith(MARK) or _is_ciphertext(text))


def _walk(value: object) -> Iterator[str]:
    """Every text in a value of a JSON column."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            yield each
        elif isinstance(each, Mapping):
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def _is_ciphertext(text: str) -> bool:
    if text.startswith(_AES):
        return True
    return _RANDOM.fullmatch(text) is not None and len(_decode(text) or b"") >= _LEAST_BOX


def _decode(text: str) -> bytes | None:
    try:
        return base64.b64decode(text.replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        return None


def _key_of(text: str, keys: Mapping[str, str]) -> str | None:
    return next((name for name, key in keys.items() if _decrypts(text, key)), None)


def _decrypts(text: str, key: str) -> bool:
    digest = _digest(key)
    content = _decode(text.removeprefix(_AES)) or b""
    try:
        if text.startswith(_AES):
            AESGCM(digest).decrypt(content[:_AES_NONCE], content[_AES_NONCE:], None)
        else:
            SecretBox(digest).decrypt(content)
    except (CryptoError, InvalidTag, ValueError):
        return False
    return True


@cache
def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
