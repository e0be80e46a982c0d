"""Settings of hypothesis for the unit tests, and the event loop of those that are coroutines."""

from __future__ import annotations

import inspect
import os

import pytest
from hypothesis import HealthCheck, settings

from litellm_systemd.runtime.worker.worker import asyncio_run

# A slow machine is no failure. CI uses the same examples each time; other runs search for new ones.
settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("REQUIRE_SYSTEM_TESTS") == "1",
)
settings.load_profile("patient")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine in the event loop of a worker."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio_run(pyfuncitem.obj(**arguments))
    return True
