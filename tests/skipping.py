"""What happens to a test that cannot run on this machine."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def refuse(reason: str) -> NoReturn:
    """Skip the test; under REQUIRE_SYSTEM_TESTS=1, fail it."""
    if os.environ.get("REQUIRE_SYSTEM_TESTS") == "1":
        pytest.fail(f"REQUIRE_SYSTEM_TESTS=1, but {reason}", pytrace=False)
    pytest.skip(reason)
