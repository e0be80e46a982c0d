"""The master keys that `rotate-key` has replaced, and until when the service accepts each of them.

They are in one variable of the service, as digests: a key that is no longer used is stored nowhere. A digest
outlives its overlap, so that an install recognizes an old key in a `.env`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from litellm_systemd.contract import RETIRED_KEYS

#: One key as the variable holds it. Ten digits are a time before the year 2287.
_KEY = re.compile(r"([0-9a-f]{64}):([0-9]{1,10})")
#: The number of keys that are remembered.
_MAX_KEYS = 8


@dataclass(frozen=True, slots=True)
class RetiredKey:
    """The SHA-256 of a replaced key, in hex, and the Unix time until which the service accepts it."""

    digest: str
    until: int


def digest_key(key: str | bytes) -> str:
    """The digest of a key, by which it is recognized."""
    return hashlib.sha256(key.encode() if isinstance(key, str) else key).hexdigest()


def read_retired_keys(environment: Mapping[str, str]) -> tuple[RetiredKey, ...]:
    """The replaced keys, the latest first. What is not one is skipped: a service must start nevertheless."""
    words = map(_KEY.fullmatch, environment.get(RETIRED_KEYS, "").split())
    return tuple(RetiredKey(word[1], int(word[2])) for word in words if word is not None)


def render_retired_keys(keys: Sequence[RetiredKey]) -> str:
    """The value of the variable; the oldest keys are dropped."""
    return " ".join(f"{key.digest}:{key.until}" for key in keys[:_MAX_KEYS])
