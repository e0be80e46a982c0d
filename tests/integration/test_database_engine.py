"""The runtime with a database: LiteLLM, PostgreSQL, and a stand-in for Prisma's query engine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from litellm_systemd.contract import ExitCode
from tests.database import Cluster, Database
from tests.integration.runtime_service import (
    CONFIG,
    DEADLINE,
    KEY,
    Service,
    chat,
    children_of,
    post,
    run_runtime,
    wait_for,
)

LOGIN = {"UI_USERNAME": "admin", "UI_PASSWORD": "a-password-of-the-admin"}


@pytest.fixture(scope="module")
def database(cluster: Cluster) -> Database:
    return cluster.create_database()


@pytest.fixture(scope="module")
def service(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service(tmp_path_factory.mktemp("service"), METRICS="127.0.0.1:1", **LOGIN, **database.variables()) as found:
        found.await_ready()
        yield found


def create_key(service: Service, **limits: Any) -> str:
    status, found = post(service, "/key/generate", KEY, limits)
    assert status == 200, found
    return str(found["key"])


def engines(service: Service) -> dict[int, int]:
    """The pid of the engine of each serving worker."""
    return {worker: engine for worker in service.workers() for engine in children_of(worker)}


def await_engines(service: Service) -> dict[int, int]:
    """Wait until each of the two workers has one engine."""

    def found() -> dict[int, int]:
        pids = engines(service)
        return pids if len(pids) == len(service.workers()) == 2 else {}

    pids: dict[int, int] = wait_for("engines", found)
    return pids


def has_exited(pid: int) -> bool:
    return not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()


def test_healthy_start(service: Service, database: Database) -> None:
    """A start with a database logs no warning, and a key that was made in one worker works in all."""
    key = create_key(service, models=["demo"])
    for _ in range(8):
        assert chat(service, key, "demo") == 200
    assert [line for line in service.log().splitlines() if line.startswith(("<3>", "<4>"))] == []
    connections = database.execute("select count(*) from pg_stat_activity where usename = 'litellm'")
    assert 0 < connections[0][0] <= 20


def test_keys_that_cannot_be_right(service: Service) -> None:
    """What cannot be a virtual key is refused at once, and an unknown key without a second query of the database."""

    def refusal(key: str) -> str:
        status, found = post(service, "/v1/chat/completions", key, {"model": "demo", "messages": []})
        assert status == 401
        return str(found["error"]["message"])

    for impossible in ("not-a-key", "sk-" + 600 * "a"):
        assert "The keys of this gateway begin with sk-" in refusal(impossible)
    for authorization, message in ((None, "No API key provided"), ("Basic YTpi", "begin with sk-")):
        connection = service.connect()
        headers = {"Authorization": authorization} if authorization else {}
        connection.request("POST", "/v1/chat/completions", "{}", {**headers, "Content-Type": "application/json"})
        with connection.getresponse() as response:
            assert (response.status, message in response.read().decode()) == (401, True)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "api-key": "not-a-key"}
    handshake = service.connect()
    handshake.request("GET", "/v1/realtime?model=demo", headers={**upgrade, "Sec-WebSocket-Key": f"{'A' * 22}=="})
    with handshake.getresponse() as response:
        assert (response.status, b"begin with sk-" in response.read()) == (401, True)
    unknown = "sk-unknown-0123456789"
    assert "This gateway does not have it" not in refusal(unknown)
    wait_for("a repeated refusal", lambda: "This gateway does not have it" in refusal(unknown))
    key = create_key(service)
    assert chat(service, key, "demo") == 200


def test_admin_ui(service: Service, browser: Browser) -> None:
    """A browser signs in to the Admin UI with UI_USERNAME and UI_PASSWORD, not with others, and shows the keys."""
    assert post(service, "/key/generate", KEY, {"key_alias": "alice"})[0] == 200
    page = browser.new_page(base_url=f"http://127.0.0.1:{service.port}")
    page.set_default_timeout(DEADLINE * 1000)
    # LiteLLM would ask GitHub for its newest release.
    page.route("**/*latest_release*", lambda route: route.abort())
    page.goto("/ui/")
    for password in ("wrong", LOGIN["UI_PASSWORD"]):
        page.get_by_placeholder("Enter your username").fill(LOGIN["UI_USERNAME"])
        page.get_by_placeholder("Enter your password").fill(password)
        with page.expect_response(lambda response: response.url.endswith("/login")) as answer:
            page.keyboard.press("Enter")
        assert (answer.value.status == 401) is (password == "wrong")
    page.get_by_text("Virtual Keys").first.click()
    page.get_by_text("alice").first.wait_for()
    page.close()


def test_memory_of_engines(service: Service) -> None:
    """The engines count in the metrics of memory, and are no workers in the status."""
    found = await_engines(service)
    listed = [worker["pid"] for worker in service.query("status")["workers"]]
    assert sorted(listed) == sorted(found)
    name = 'litellm_systemd_pss_memory_bytes{process="engines"}'
    assert wait_for("the memory of engines", lambda: service.metrics().get(name, 0) > 2**20)


def test_engine_that_dies(service: Service) -> None:
    """When an engine dies, its worker starts another one, and goes on with the database."""
    before = await_engines(service)
    worker, engine = next(iter(before.items()))
    os.kill(engine, signal.SIGKILL)
    wait_for("another engine", lambda: engines(service).get(worker, engine) != engine)
    wait_for("the database", lambda: all(post(service, "/key/generate", KEY, {})[0] == 200 for _ in range(6)))


def test_engines_end_with_their_workers(database: Database, tmp_path: Path) -> None:
    """No engine outlives its worker: not a kill, a reload, or the end of the main process."""
    with Service(tmp_path, **database.variables()) as service:
        service.await_ready()
        first = await_engines(service)
        killed = next(iter(first))
        os.kill(killed, signal.SIGKILL)
        service.await_workers(without=killed)
        second = await_engines(service)
        wait_for("the end of the engine", lambda: has_exited(first[killed]))
        assert service.reload().returncode == 0
        wait_for("the end of the engines", lambda: all(map(has_exited, second.values())))
        third = await_engines(service)
        os.kill(service.process.pid, signal.SIGKILL)
        wait_for("the end of all", lambda: all(map(has_exited, (*third, *third.values()))))


def test_missing_engine(database: Database, tmp_path: Path) -> None:
    """Without the engine the service exits with 78 and one error, before it imports LiteLLM."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG % "hello")
    variables = {**database.variables(), "PRISMA_QUERY_ENGINE_BINARY": str(tmp_path / "query-engine")}
    done = run_runtime("--config", str(config), **variables)
    assert done.returncode == ExitCode.CONFIG
    assert f"this release has no Prisma's query engine ({tmp_path}/query-engine)" in done.stderr
    assert len(done.stderr.splitlines()) <= 2
