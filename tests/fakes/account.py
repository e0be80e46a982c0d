"""A fake AWS account: keys, roles, denied actions and expiry."""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from tests.fakes.http import utc_now

ACCOUNT = "123456789012"
#: The characters of a generated access key id.
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"


def stamp(moment: datetime) -> str:
    """A time in AWS's format for JSON and XML, without fractions."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Key:
    """A key pair. A temporary one has a session token and an expiry. `arn` is the identity of the key."""

    access_key: str
    secret_key: str
    arn: str
    token: str | None = None
    expires: datetime | None = None

    def profile(self, name: str, region: str | None = None) -> str:
        """Render the pair as a section of ~/.aws/credentials."""
        lines = [f"[{name}]", f"aws_access_key_id = {self.access_key}", f"aws_secret_access_key = {self.secret_key}"]
        lines += [f"aws_session_token = {self.token}"] if self.token else []
        lines += [f"region = {region}"] if region else []
        return "\n".join(lines) + "\n"


@dataclass(frozen=True, slots=True)
class Role:
    """A role. `trusted` are parts of the ARNs that can assume it. Empty: every identity of the account."""

    name: str
    trusted: tuple[str, ...] = ()
    external_id: str | None = None

    @property
    def arn(self) -> str:
        return f"arn:aws:iam::{ACCOUNT}:role/{self.name}"

    def session_arn(self, session: str) -> str:
        return f"arn:aws:sts::{ACCOUNT}:assumed-role/{self.name}/{session}"


#: The user with the initial key pair of every account. It is constant, so that tests of a box know it too.
USER = Key(
    "AKIAJ5EXAMPLEKEYPAIR",
    base64.b64encode(hashlib.sha256(b"the pair of the user cline").digest()).decode()[:40],
    f"arn:aws:iam::{ACCOUNT}:user/cline",
)
#: A Bedrock API key (AWS_BEARER_TOKEN_BEDROCK) that works in every account.
API_KEY = "ABSK" + base64.b64encode(b"BedrockAPIKey-fake-at-123456789012:loopback").decode()


@dataclass
class Account:
    """The keys, the roles, and the actions that the policies deny (`bedrock:ListFoundationModels`).

    `clock` returns the time for the expiry of keys and signatures.
    """

    clock: Callable[[], datetime] = utc_now
    keys: dict[str, Key] = field(default_factory=lambda: {USER.access_key: USER})
    api_keys: set[str] = field(default_factory=lambda: {API_KEY})
    roles: dict[str, Role] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_role(self, name: str, trusted: tuple[str, ...] = (), external_id: str | None = None) -> Role:
        role = Role(name, trusted, external_id)
        with self._lock:
            self.roles[role.arn] = role
        return role

    def add_session(self, arn: str, lifetime: timedelta) -> Key:
        """Create and register a temporary key of the identity `arn`."""
        key = Key(
            "ASIA" + "".join(secrets.choice(_LETTERS) for _ in range(16)),
            base64.b64encode(secrets.token_bytes(30)).decode(),
            arn,
            base64.b64encode(secrets.token_bytes(120)).decode(),
            self.clock() + lifetime,
        )
        with self._lock:
            self.keys[key.access_key] = key
        return key

    def revoke(self, key: Key) -> None:
        with self._lock:
            self.keys.pop(key.access_key, None)

    def is_expired(self, key: Key) -> bool:
        return key.expires is not None and key.expires <= self.clock()
