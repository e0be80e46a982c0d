"""Settings of hypothesis for the unit tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# A slow machine is no failure. CI uses the same examples each time; other runs search for new ones.
settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("REQUIRE_SYSTEM_TESTS") == "1",
)
settings.load_profile("patient")
