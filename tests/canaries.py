"""Search texts for secrets in every encoding in which a reader could find them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from urllib.parse import quote, quote_plus


def forms(secret: str) -> set[str]:
    """A secret in plain text, in URLs, in JSON, in nested JSON, in hexadecimal, and in base64 at each alignment."""
    escaped = json.dumps(secret)[1:-1]
    found = {secret, quote(secret, safe=""), quote(secret), quote_plus(secret), repr(secret)[1:-1]}
    found |= {escaped, json.dumps(escaped)[1:-1], secret.encode().hex(), secret.encode().hex().upper()}
    for before in range(3):
        # Within a longer text: the characters that encode only the secret.
        whole = base64.b64encode(b"x" * before + secret.encode() + b"y" * 3).decode()
        inner = whole[-(-before * 8 // 6) : (before + len(secret.encode())) * 8 // 6]
        found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return found


def find_left(secrets: Iterable[str], texts: Mapping[str, str]) -> set[tuple[str, str]]:
    """Each text that contains a secret, with the form of the secret."""
    return {
        (name, form) for secret in secrets for form in forms(secret) for name, text in texts.items() if form in text
    }
