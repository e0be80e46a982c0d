"""Fixtures of all integration tests."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.database import Cluster, Database, why_no_database
from tests.integration.stub_gateway import Stub, stub
from tests.redis import Redis, why_no_redis
from tests.skipping import refuse


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer timeouts for a busy machine: litellmctl waits only one to three seconds for a host.

    What is asked here is on loopback, and often in the threads of this very process.
    """
    monkeypatch.setattr("litellm_systemd.aws.sources.METADATA_TIMEOUT", 20.0)
    monkeypatch.setattr("litellm_systemd.doctor.check_network._TIMEOUT", 60.0)


@pytest.fixture
def server() -> Iterator[Stub]:
    """A gateway that behaves as the test says."""
    with stub() as running:
        yield running


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL of this process of pytest. A test that stops it starts it again."""
    reason = why_no_database()
    if reason is not None:
        refuse(reason)
    with Cluster() as running:
        yield running


@pytest.fixture
def database(cluster: Cluster) -> Iterator[Database]:
    """A database with LiteLLM's tables, for one test. `Service(..., **database.variables())` uses it."""
    created = cluster.create_database()
    yield created
    cluster.drop_database(created)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """A Redis of this process of pytest, without a password. A test that stops it starts it again."""
    reason = why_no_redis()
    if reason is not None:
        refuse(reason)
    with Redis() as running:
        yield running


@pytest.fixture
def redis(redis_server: Redis) -> Redis:
    """An empty Redis, for one test. `Service(..., **redis.variables())` uses it."""
    redis_server.execute("FLUSHALL")
    return redis_server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium without a window.

    Not for the session: while it is open, no test of the process can run an event loop of its own.
    """
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        refuse("there is no Chromium: apt-get install chromium-headless-shell")
    with sync_playwright() as playwright:
        # Chromium's sandbox does not work for root; it opens only pages of our own.
        launched = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield launched
        launched.close()
