"""Requests of `verify` that are to be refused. They are not counted or logged as those of clients with wrong keys.

Such a request proves with a code in a header that its sender knows the right key. It has a wrong key that is no
secret, or none: a client that has copied the code can hide no other key with it.
"""

from __future__ import annotations

import hmac
from typing import Any

from litellm_systemd.contract import REFUSAL_HEADER, REFUSED_KEY, build_refusal_code

_HEADER = REFUSAL_HEADER.lower().encode()


def has_refusal_code(scope: Any) -> bool:
    """Whether a request claims that its refusal is expected."""
    return any(name == _HEADER for name, _ in scope["headers"])


def is_expected_refusal(scope: Any, master_key: str, keys: tuple[str, ...]) -> bool:
    """Whether the refusal of a request with these keys is expected. Without a master key everyone knows the code."""
    if not master_key:
        return False
    code = next((value for name, value in scope["headers"] if name == _HEADER), b"")
    right = build_refusal_code(master_key).encode()
    return hmac.compare_digest(code, right) and all(key == REFUSED_KEY for key in keys)
