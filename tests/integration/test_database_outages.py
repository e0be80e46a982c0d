"""The runtime while its database is down: at the start, later, and afterwards."""

from __future__ import annotations

import json
from pathlib import Path

from tests.database import Cluster, Database
from tests.integration.runtime_service import CONFIG, KEY, Service, chat, post, wait_for

_CACHED = CONFIG % "hello" + "  user_api_key_cache_ttl: 600\n"


def create_key(service: Service) -> str:
    """Create a key as soon as the database can be used, and use it so often that each worker knows it."""

    def create() -> str:
        status, made = post(service, "/key/generate", KEY, {})
        return str(made["key"]) if status == 200 else ""

    key: str = wait_for("a key", create)
    assert {chat(service, key, "demo") for _ in range(12)} == {200}
    return key


def read_health(service: Service) -> tuple[int, str]:
    """What a load balancer sees, and what LiteLLM says of its database."""
    connection = service.connect()
    connection.request("GET", "/health/readiness")
    with connection.getresponse() as response:
        return response.status, json.loads(response.read())["db"]


def is_usable(service: Service) -> bool:
    return bool(service.query("status")["database"]["usable"])


def test_outages(tmp_path: Path, cluster: Cluster, database: Database) -> None:
    """A database that is down stops no start, reload or known key, is one error, and is used again by itself.

    A load balancer keeps the instance in service.
    """
    with Service(tmp_path, _CACHED, BEHIND_LOAD_BALANCER="true", **database.variables()) as service:
        with cluster.stopped():
            service.await_ready()
            workers = service.workers()
            assert "the database cannot be used: " in service.query("status")["status"]
            assert chat(service, KEY, "demo") == 200
            assert chat(service, "sk-unknown", "demo") == 503
        wait_for("the database", lambda: is_usable(service))
        key = create_key(service)

        with cluster.stopped():
            wait_for("the outage", lambda: not is_usable(service))
            assert {chat(service, each, "demo") for each in (key, KEY) * 6} == {200}
            assert chat(service, "sk-unknown", "demo") == 503
            assert {read_health(service) for _ in range(4)} == {(200, "disconnected")}
            assert service.workers() == workers
            assert service.reload().returncode == 0
            assert chat(service, KEY, "demo") == 200
        wait_for("the database", lambda: is_usable(service))
        create_key(service)
        assert read_health(service) == (200, "connected")
        assert service.stop() == 0
    lines = service.log().splitlines()
    errors = [line for line in lines if line.startswith("<3>")]
    assert len([line for line in errors if "the database cannot be used: " in line]) == 2
    # What LiteLLM logs before the outage is noticed.
    assert len(errors) <= 6, errors
    assert len([line for line in lines if "the database can be used again, after " in line]) == 2
