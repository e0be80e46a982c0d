"""Secrets as a reader of some text could find them again, in whatever form they stand there."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from urllib.parse import quote, quote_plus


def forms(secret: str) -> set[str]:
    """A secret in plain, in URLs, in JSON, in JSON within that, in hexadecimal, and in base64 at each alignment."""
    escaped = json.dumps(secret)[1:-1]
    found = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), repr(secret)[1:-1]}
    found |= {escaped, json.dumps(escaped)[1:-1], secret.encode().hex(), secret.encode().hex().upper()}
    for before in range(3):
        # In the midst of something longer: the characters that are wholly the secret's.
        whole = base64.b64encode(b"x" * before + secret.encode() + b"y" * 3).decode()
        inner = whole[-(-before * 8 // 6) : (before + len(secret.encode())) * 8 // 6]
        found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return found


def find_left(secrets: Iterable[str], texts: Mapping[str, str]) -> set[tuple[str, str]]:
    """Each text in which a secret still is, with the form that it has there."""
    return {
        (name, form) for secret in secrets for form in forms(secret) for name, text in texts.items() if form in text
    }
