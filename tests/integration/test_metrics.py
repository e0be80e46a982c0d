"""The metrics of a real main process, its workers and LiteLLM."""

from __future__ import annotations

import collections
import os
import signal
import socket
from http.client import HTTPConnection
from pathlib import Path

from tests.integration.runtime_service import KEY, Service, children_of, is_alive, wait_for

RESPONSES = "litellm_systemd_http_requests_total"


class Client:
    """Sends requests, and counts the responses by status."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.counted: collections.Counter[str] = collections.Counter()

    def get(self, path: str, key: str = KEY) -> None:
        connection = self.service.connect()
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
        self._count(connection)

    def send_raw(self, data: bytes) -> None:
        connection = self.service.connect()
        connection.connect()
        connection.sock.sendall(data)
        response = connection.response_class(connection.sock)
        response.begin()
        self.counted[str(response.status)] += 1
        connection.close()

    def _count(self, connection: HTTPConnection) -> None:
        with connection.getresponse() as response:
            response.read()
            self.counted[str(response.status)] += 1
        connection.close()

    def send_all(self) -> None:
        """Some of each kind."""
        for _ in range(5):
            self.get("/v1/models")
        self.get("/v1/models", "sk-wrong")
        self.get("/v1/nothing")
        self.send_raw(b"no HTTP\r\n\r\n")
        self.send_raw(b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n")
        with socket.create_connection(("127.0.0.1", self.service.port)):
            """A client that gives up gets no response."""

    def assert_agrees(self) -> dict[str, float]:
        """The gateway has counted what this client has, right after the last response."""
        found = self.service.metrics()
        counted = {name: value for name, value in found.items() if name.startswith(RESPONSES)}
        assert counted == {f'{RESPONSES}{{status="{status}"}}': count for status, count in self.counted.items()}
        return found


def exporter_of(service: Service) -> int:
    """The pid of the process that serves the metrics: the child that is no worker."""
    [pid] = set(children_of(service.process.pid)) - {each["pid"] for each in service.query("status")["workers"]}
    return pid


def test_counts_of_clients(tmp_path: Path) -> None:
    """The metrics agree with what a client counts, after a reload and when a worker and the exporter were killed.

    Gauges are those of the processes that run. The exporter exits with the service.
    """
    with Service(tmp_path, METRICS="127.0.0.1:9400", API_DOCS="false", LAME_DUCK_TIMEOUT="0") as service:
        service.await_ready()
        client = Client(service)
        client.send_all()
        assert client.counted.keys() == {"200", "401", "404", "400", "431"}
        client.assert_agrees()

        os.kill(service.workers()[0], signal.SIGKILL)
        service.await_workers()
        client.send_all()
        client.assert_agrees()

        old = service.workers()
        assert service.reload().returncode == 0
        wait_for("the old workers", lambda: not any(map(is_alive, old)))
        client.send_all()
        client.assert_agrees()

        os.kill(exporter_of(service), signal.SIGKILL)
        client.send_all()
        wait_for("a state after that", lambda: service.metrics()["litellm_systemd_generation"] == 2)
        found = client.assert_agrees()
        expected = {
            'workers{state="ready"}': 2,
            'workers{state="draining"}': 0,
            'worker_restarts_total{cause="crash"}': 1,
            'reloads_total{outcome="success"}': 1,
            'drains_total{outcome="complete"}': 2,
            'refused_requests_total{reason="wrong_key"}': 4,
            "ready": 1,
            "last_reload_successful": 1,
        }
        assert {name: found[f"litellm_systemd_{name}"] for name in expected} == expected
        memory = [found[f'litellm_systemd_pss_memory_bytes{{process="{each}"}}'] for each in ("main", "workers")]
        assert min(memory) > 50e6

        exporter = exporter_of(service)
        assert service.stop() == 0
        wait_for("the exporter", lambda: not is_alive(exporter))
