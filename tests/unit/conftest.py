"""The event loop of unit tests that are coroutines."""

from __future__ import annotations

import inspect

import pytest

from litellm_systemd.runtime.worker.worker import asyncio_run


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine in the event loop of a worker."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio_run(pyfuncitem.obj(**arguments))
    return True
