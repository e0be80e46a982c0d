"""The bundle that tests install from: the wheels that test.sh fetched, and the checkout's own code as it is now."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from litellm_systemd.bundle import Target, write_bundle
from litellm_systemd.errors import CommandError
from litellm_systemd.source import find_source

REPOSITORY = Path(__file__).resolve().parents[1]
WHEELS = REPOSITORY / ".cache/wheels"


def make_bundle(out: Path) -> Path:
    """Write the bundle for this Python and machine to `out`, without a network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        try:
            write_bundle(find_source(), out, Target(), wheels=WHEELS)
        except CommandError as error:
            reason = f"{WHEELS} doesn't hold what the lock names: scripts/test.sh fetches it ({error.message})"
            if os.environ.get("REQUIRE_SYSTEM_TESTS") == "1":
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
    return out
