"""The service behind HAProxy and nginx with the configurations of docs/load-balancer.md."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from litellm_systemd.env.settings import build_settings, parse_dotenv
from litellm_systemd.gateway.config import lint, read_config
from tests.balancers import balancer_environment, documented, find_balancer, substitute
from tests.integration.runtime_service import DEADLINE, KEY, Service, post_chat, wait_for
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("haproxy", "nginx")
#: Seconds: how long the load balancers keep an idle connection here, in place of 60 and of HAProxy's default of 5.
IDLE = 1
#: Longer than both, as KEEPALIVE_TIMEOUT must be.
KEEPALIVE = 3


class Balancer:
    """A running load balancer with the configuration of the page, in front of a service in place of its instances."""

    def __init__(self, name: str, folder: Path, *services: Service) -> None:
        self.port = free_port()
        self.file, self.name = folder / f"{name}.cfg", name
        text = documented(name)
        for number, service in enumerate(services, 10):
            assert f"10.0.1.{number}:4000" in text
            text = text.replace(f"10.0.1.{number}:4000", f"127.0.0.1:{service.port}")
        if name == "haproxy":
            replaced = {
                "bind :8080": f"bind 127.0.0.1:{self.port}",
                "log /dev/log local0": "log stderr format raw local0",
                "inter 5s": f"inter 200ms pool-purge-delay {IDLE}s",
                "slowstart 30s": "",
            }
        else:
            replaced = {
                "listen 8080": f"listen 127.0.0.1:{self.port}",
                "keepalive_timeout 15s": f"keepalive_timeout {IDLE}s",
                "http {\n": f"error_log stderr;\npid {folder}/nginx.pid;\ndaemon off;\nhttp {{\n    access_log off;\n"
                + "".join(
                    f"    {kind}_temp_path {folder}/{kind};\n"
                    for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
                ),
            }
        self.file.write_text(substitute(text, replaced), encoding="utf-8")
        option = ("-f",) if name == "haproxy" else ("-e", "stderr", "-c")
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                (find_balancer(name), *option, self.file), stderr=log, stdout=log, env=balancer_environment()
            )

    def await_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return self.get("/health/readiness")[0] == 200
            except OSError:
                return False

        wait_for(f"{self.name} to find a healthy instance", ready)

    def connect(self, source: str = "127.0.0.1") -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, DEADLINE, source_address=(source, 0))

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        return get(self.connect(), path, headers)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(DEADLINE)


def get(connection: http.client.HTTPConnection, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    connection.request("GET", path, headers=headers)
    with connection.getresponse() as response:
        return response.status, response.read()


@contextlib.contextmanager
def run_balancers(folder: Path, *services: Service) -> Iterator[dict[str, Balancer]]:
    started = {name: Balancer(name, folder, *services) for name in NAMES}
    try:
        for each in started.values():
            each.await_ready()
        yield started
    finally:
        for each in started.values():
            each.stop()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    variables = {
        "BEHIND_LOAD_BALANCER": "true",
        "ACCESS_LOG": "true",
        "METRICS": "127.0.0.1:1",
        "KEEPALIVE_TIMEOUT": str(KEEPALIVE),
    }
    for name in NAMES:
        find_balancer(name)
    with Service(tmp_path_factory.mktemp("balanced"), **variables) as running:
        running.await_ready()
        yield running


@pytest.fixture(scope="module")
def balancers(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Balancer]]:
    folder = tmp_path_factory.mktemp("balancers")
    with run_balancers(folder, service, service) as started:
        yield started
    for each in started.values():
        assert not re.search(r"config : |\[(warn|emerg|alert)\]", each.log.read_text()), each.log.read_text()


def test_the_page_is_consistent() -> None:
    """Neither install nor the linter has a warning about the `.env` of the page with a configuration that we ship."""
    settings = build_settings(parse_dotenv(documented("ini"), ".env"), installed={}, new_key=lambda: "sk-made")
    assert settings.warnings == ()
    config = read_config(ROOT / "configs/iam_role_config.yml")
    assert lint(config, {**settings.environment, "AWS_REGION_NAME": "us-east-1"}) == ()


@pytest.mark.parametrize("name", NAMES)
def test_client_addresses_and_streams(service: Service, balancers: dict[str, Balancer], name: str) -> None:
    """The access log has the address of the client, not what it claims, and a stream arrives as it is written."""
    source = f"127.0.0.{10 + NAMES.index(name)}"
    connection = balancers[name].connect(source)
    with post_chat(connection, "demo", stream=True) as response:
        assert (response.status, response.read(6)) == (200, b"data: ")
        response.read()
    status, _ = get(connection, "/v1/models", {"Authorization": f"Bearer {KEY}", "X-Forwarded-For": "192.0.2.1"})
    assert status == 200
    assert service.await_log(f" {source}").startswith("<6>POST /v1/chat/completions 200")
    wait_for("the second request", lambda: re.search(rf"GET /v1/models 200 \d+ ms {source}", service.log()))
    assert "192.0.2.1" not in service.log()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/models", {"X-Long": "a" * 20_000}),
        ("/v1/models", {f"X-{number}": "a" * 7000 for number in range(10)}),
        ("/v1/models", {f"X-{number}": "a" for number in range(101)}),
        ("/v1/models?" + "a" * 20_000, {}),
        ("/v1/models", {"X-Long": "a" * 15_000, "X-Other": "b" * 15_000}),
    ],
    ids=["one header", "all headers", "many headers", "URL", "accepted"],
)
def test_long_headers(
    service: Service, balancers: dict[str, Balancer], name: str, path: str, headers: dict[str, str]
) -> None:
    """A request with long or many headers gets the same answer with a load balancer as without."""
    headers = {"Authorization": f"Bearer {KEY}", **headers}
    direct = get(service.connect(), path, headers)
    assert direct[0] == {"X-Long,X-Other": 200, "": 414}.get(",".join([*headers][1:]), 431)
    assert get(balancers[name].connect(), path, headers) == direct


class Load:
    """Clients that send requests through load balancers in their own threads, on connections that they keep."""

    def __init__(self, service: Service, balancers: dict[str, Balancer], pauses: tuple[float, ...]) -> None:
        self.failures: list[object] = []
        self.answers = 0
        self._service, self._pauses = service, pauses
        self._end = threading.Event()
        self._threads = [
            threading.Thread(target=self._send, args=(each, seed)) for each in balancers.values() for seed in range(4)
        ]

    def __enter__(self) -> Load:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        for each in self._threads:
            each.join()

    def await_answers(self, more: int) -> None:
        goal = self.answers + more
        wait_for("answers", lambda: self.answers >= goal or self.failures)
        assert self.failures == []

    def _send(self, balancer: Balancer, seed: int) -> None:
        pauses = random.Random(seed)
        connection = balancer.connect()
        while not self._end.wait(max(0, pauses.choice(self._pauses) + pauses.uniform(-0.03, 0.03))):
            try:
                with post_chat(connection, "demo", stream=seed % 2 == 1) as response:
                    body = response.read().decode()
                if response.status != 200 or (seed % 2 and not body.rstrip().endswith("[DONE]")):
                    self.failures.append((balancer.name, response.status, body))
                self.answers += 1
            except (OSError, http.client.HTTPException) as error:
                self.failures.append((balancer.name, repr(error)))
                connection.close()


def test_idle_connections(service: Service, balancers: dict[str, Balancer]) -> None:
    """With a longer KEEPALIVE_TIMEOUT than the load balancer's own, no request meets a connection that is closing."""
    with Load(service, balancers, (0.1, IDLE, KEEPALIVE)) as load:
        time.sleep(3 * KEEPALIVE)
    assert load.failures == []
    assert load.answers > 8


class Foreground(Service):
    """A service that closes its port by itself, as systemd does for one behind a load balancer."""

    owns_port = True


def test_an_instance_leaves(service: Service, tmp_path: Path) -> None:
    """An instance that is stopped under load fails no request, with HAProxy and with nginx, and then gets none."""
    variables = {"DEREGISTRATION_DELAY": "2", "ACCESS_LOG": "true", "KEEPALIVE_TIMEOUT": str(KEEPALIVE)}
    with Foreground(tmp_path, **variables) as leaving, contextlib.ExitStack() as stack:
        leaving.await_ready()
        running = stack.enter_context(run_balancers(tmp_path, service, leaving))
        with Load(service, running, (0.0, 0.1)) as load:
            load.await_answers(40)
            assert leaving.log().count(" 200 ") > 5
            assert leaving.stop() == 0
            load.await_answers(40)
    assert load.failures == []
    assert [line for line in leaving.log().splitlines() if re.match("<[0-4]>", line) or "GET /health/" in line] == []


def test_health_checks_leave_no_trace(service: Service, balancers: dict[str, Balancer]) -> None:
    """Health checks by GET, HEAD and TCP, and connections that are opened ahead, cause no log line and no refusal."""
    before = len(service.log())
    ahead = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(4)]
    for method in ("GET", "HEAD"):
        for version in ("1.0", "1.1"):
            with socket.create_connection(("127.0.0.1", service.port), DEADLINE) as connection:
                connection.sendall(f"{method} /health/readiness HTTP/{version}\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.split()[1] == b"200"
            assert bool(body) == (method == "GET")
            assert json.loads(body or "{}").get("status", "healthy") in ("healthy", "connected")
    for _ in range(4):
        socket.create_connection(("127.0.0.1", service.port)).close()
    for each in ahead:
        each.settimeout(DEADLINE)
        assert each.recv(1) == b""
    time.sleep(2)  # for the counts of the workers; what they count is logged later
    assert [line for line in service.log()[before:].splitlines() if "/v1/" not in line] == []
    refused = {name: value for name, value in service.metrics().items() if "_refused_" in name or "_closed_" in name}
    assert {re.sub("{.*", "", name) for name in refused} == {
        "litellm_systemd_refused_requests_total",
        "litellm_systemd_closed_connections_total",
    }
    assert {name for name, value in refused.items() if value and "header_size" not in name} == set()
    assert balancers
