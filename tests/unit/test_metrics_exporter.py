"""The process that serves /metrics: HTTP, keys, formats, and what clients cannot do to it."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

from litellm_systemd.env.retired_keys import digest_key
from litellm_systemd.runtime.metrics import exposition, families
from litellm_systemd.runtime.metrics.store import State, Store
from tests.unit.test_metrics_store import write

#: Serves the listener in descriptor 3 until standard input ends.
_SERVE = """
import socket, sys
from pathlib import Path
from litellm_systemd.env.retired_keys import RetiredKey
from litellm_systemd.runtime.metrics.exporter import Task, run
listener = socket.socket(fileno=int(sys.argv[1]))
listener.setblocking(False)
folder = Path(sys.argv[2])
keys = tuple(each for each in sys.argv[3:] if ":" not in each)
pairs = (each.split(":") for each in sys.argv[3:] if ":" in each)
retired = tuple(RetiredKey(digest, int(until)) for digest, until in pairs)
run(Task(listener, folder.parent, folder, keys, 0, lambda text: print(text, file=sys.stderr), retired), set())
"""
#: The older text format.
parse: Any = parser.text_string_to_metric_families
parse_openmetrics: Any = openmetrics.text_string_to_metric_families
OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
METRICS_KEY, MASTER_KEY = "of-prometheus", "sk-of-the-gateway"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self.path)


class Exporter:
    def __init__(self, listener: socket.socket, process: subprocess.Popen[bytes]) -> None:
        self.address, self.process = listener.getsockname(), process

    def connect(self) -> http.client.HTTPConnection:
        if isinstance(self.address, str):
            return UnixConnection(self.address)
        return http.client.HTTPConnection("127.0.0.1", self.address[1], timeout=20)

    def send(self, method: str = "GET", path: str = "/metrics", **headers: str) -> tuple[int, str, str]:
        """Status, content type and body of the response."""
        connection = self.connect()
        connection.request(method, path, headers=headers)
        with connection.getresponse() as response:
            return response.status, response.headers["Content-Type"], response.read().decode()

    def send_raw(self, data: bytes) -> bytes:
        with socket.create_connection(self.address, timeout=20) as client:
            client.sendall(data)
            answer = b""
            try:
                while part := client.recv(65536):
                    answer += part
            except ConnectionResetError:
                pass
            return answer


@pytest.fixture
def main(tmp_path: Path) -> Store:
    """The folder of a main process with counts of two workers."""
    store = Store(tmp_path)
    write(store.folder, "counter_1.db", ("m", "200", 2.0))
    write(store.folder, "counter_2.db", ("m", "200", 3.0))
    store.write_state(State(((families.READY.name, {}, 1.0),)))
    return store


@pytest.fixture
def serve(main: Store) -> Iterator[Callable[..., Exporter]]:
    """Starts an exporter on a listening socket."""
    with ExitStack() as stack:

        def start(listener: socket.socket, *keys: str) -> Exporter:
            stack.enter_context(listener)
            argv = (sys.executable, "-c", _SERVE, str(listener.fileno()), str(main.folder), *keys)
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, pass_fds=(listener.fileno(),))
            stack.callback(process.wait, 20)
            assert process.stdin is not None
            stack.callback(process.stdin.close)
            return Exporter(listener, process)

        yield start


@pytest.fixture
def local(serve: Callable[..., Exporter]) -> Exporter:
    """An exporter on the loopback."""
    return serve(socket.create_server(("127.0.0.1", 0)), MASTER_KEY)


def test_requests(local: Exporter) -> None:
    """GET and HEAD of /metrics are answered, on the loopback without a key, and nothing else."""
    assert local.send(Accept="text/plain; version=x")[0] == 200
    status, kind, body = local.send()
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert 'm_total{status="200"} 5.0\n' in body
    assert local.send(path="/metrics?name=x")[0] == 200
    assert local.send("HEAD") == (200, kind, "")
    for method, path, expected in (("GET", "/", 404), ("GET", "/metrics/", 404), ("POST", "/metrics", 405)):
        status, _, body = local.send(method, path)
        assert (status, "m_total" in body) == (expected, False)


def test_openmetrics(local: Exporter) -> None:
    """A scraper that prefers OpenMetrics gets it, complete and valid; the older format is valid as well."""
    status, kind, body = local.send(Accept=OPENMETRICS)
    assert (status, kind.split(";")[0], body.endswith("# EOF\n")) == (200, "application/openmetrics-text", True)
    found = {each.name: each for each in parse_openmetrics(body)}
    assert (found["m"].type, found["m"].samples[0].value) == ("counter", 5.0)
    assert found[families.READY.name].samples[0].value == 1.0
    assert {each.name for each in parse(local.send()[2])} == found.keys()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_key_for_other_machines(serve: Callable[..., Exporter], host: str) -> None:
    """Where other machines reach the listener, the metrics need METRICS_KEY or the master key, also
    one that was replaced, until its time is over.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    if ":" in host and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    listener = socket.create_server((host, 0), family=family, dualstack_ipv6=":" in host)
    accepted, expired = (f"{digest_key(key)}:{until}" for key, until in (("sk-before", 2**33), ("sk-oldest", 1)))
    exporter = serve(listener, METRICS_KEY, MASTER_KEY, accepted, expired)
    for value in (
        "Bearer sk-oldest",
        "",
        "Bearer",
        "Bearer ",
        f"Bearer {METRICS_KEY}x",
        f"Basic {METRICS_KEY}",
        METRICS_KEY,
        "Bearer é",
    ):
        status, _, body = exporter.send(**({"Authorization": value} if value else {}))
        assert (status, "m_total" in body) == (401, False), value
    for key in (METRICS_KEY, MASTER_KEY, "sk-before"):
        assert exporter.send(Authorization=f"Bearer {key}")[0] == 200


def test_unix_socket(serve: Callable[..., Exporter], tmp_path: Path) -> None:
    """A UNIX socket needs no key: who may connect is decided by the mode of its file."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "metrics.sock"))
    listener.listen()
    assert serve(listener).send()[0] == 200


def test_hostile_clients(local: Exporter) -> None:
    """Clients that send nothing, too much or no HTTP get no metrics and delay no scrape."""
    local.send()
    silent = [socket.create_connection(local.address) for _ in range(100)]
    for each in silent[50:]:
        each.sendall(b"GET / HTTP/1.1\r\n\r\n")  # and never closes
    slow = local.connect()
    slow.putrequest("GET", "/metrics")
    started = time.monotonic()
    assert local.send()[0] == 200
    assert time.monotonic() - started < 3
    assert b"m_total" not in local.send_raw(b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 100_000)
    for head in (b"GET /metrics\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"GET /metrics HTTP/1.1\r\nX : y\r\n\r\n"):
        assert local.send_raw(head).startswith(b"HTTP/1.1 400 ")
    repeated = b"GET /metrics HTTP/1.1\r\nAccept: a/b\r\nAccept: text/plain\r\n\r\n"
    assert local.send_raw(repeated).startswith(b"HTTP/1.1 200 ")
    double = b"GET /metrics HTTP/1.1\r\nAuthorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n"
    assert local.send_raw(double).startswith(b"HTTP/1.1 400 ")
    for each in silent:
        each.close()
    assert local.send()[0] == 200


def test_more_scrapers_than_connections(local: Exporter) -> None:
    """Each of 100 scrapers that connect at the same time gets the metrics."""
    local.send()
    local.process.send_signal(signal.SIGSTOP)
    scrapers = [socket.create_connection(local.address, timeout=20) for _ in range(100)]
    for each in scrapers:
        each.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    local.process.send_signal(signal.SIGCONT)
    for each in scrapers:
        with each:
            assert each.recv(12) == b"HTTP/1.1 200"


def test_end_with_the_main_process(local: Exporter) -> None:
    """The exporter exits when the main process has exited, and not when systemd signals all processes."""
    local.send()
    local.process.terminate()
    assert local.send()[0] == 200
    assert local.process.stdin is not None
    local.process.stdin.close()
    local.process.wait(20)


def test_service_and_standby(main: Store) -> None:
    """During a restart with a standby, a scrape of either has the sum of both, and what is new from the newer one."""
    standby = Store(main.root)
    write(standby.folder, "counter_9.db", ("m", "200", 10.0))
    for store, ready, workers, generation in ((main, 0.0, 1.0, 7.0), (standby, 1.0, 2.0, 1.0)):
        store.write_state(
            State(
                (
                    (families.READY.name, {}, ready),
                    (families.WORKERS.name, {"state": "ready"}, workers),
                    (families.GENERATION.name, {}, generation),
                    ("litellm_systemd_of_a_later_release", {}, 1.0),
                )
            )
        )
    text, _ = exposition.render(main.root, "")
    lines = text.decode().splitlines()
    for expected in (
        'm_total{status="200"} 15.0',
        "litellm_systemd_ready 1.0",
        'litellm_systemd_workers{state="ready"} 3.0',
        "litellm_systemd_generation 1.0",
    ):
        assert expected in lines


def test_memory(main: Store) -> None:
    """The memory of the processes of a main process is in the metrics, by role; one that has exited is not."""
    with subprocess.Popen(("sleep", "60")) as process:
        main.write_state(State((), {"main": (process.pid,), "workers": (2**22 + 1,)}))
        exposition.measure(main.folder)
        process.kill()
    found = {
        (sample.name, sample.labels.get("process")): sample.value
        for family in parse(exposition.render(main.root, "")[0].decode())
        for sample in family.samples
    }
    for family in (families.RESIDENT_MEMORY, families.PSS_MEMORY):
        assert found[family.name, "main"] > 0
        assert found[family.name, "exporter"] > 10_000_000
        assert (family.name, "workers") not in found


def test_table() -> None:
    """Each metric of the table has a valid name, and each counter ends with _total."""
    names = [each.name for each in families.FAMILIES]
    assert len(names) == len(set(names))
    for each in families.FAMILIES:
        assert each.name.startswith("litellm_systemd_")
        assert each.name.endswith("_total") == (each.kind == "counter")
        assert each.help.endswith(".")
