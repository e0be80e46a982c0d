"""HTTPS on the port of the service, and the change of its certificate. All tests share one service.

As under systemd, the service starts with copies of the files, and the command of the reload reads the files.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import pytest
import trustme

from litellm_systemd.client.gateway import FailureKind, GatewayError, own_gateway
from litellm_systemd.env.settings import build_settings, parse_dotenv
from litellm_systemd.env.tls import Certificate, TlsPair, parse_certificate
from litellm_systemd.verify.run import Scope, verify
from tests.certificates import issue_pair, write_pair
from tests.integration.runtime_service import DEADLINE, KEY, Load, Service, post_chat, wait_for

NAME = "gateway.example"
CONFIG = """
model_list:
  - model_name: demo
    litellm_params: {model: openai/demo, api_key: none, mock_response: "%s"}
  - model_name: live
    litellm_params: {model: openai/live, api_key: none, api_base: "http://127.0.0.1:1"}
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
"""
AUTHORITY = trustme.CA()
#: Seconds: more than the timeout of a handshake, less than uvloop's own.
_SOON = 40.0


class HttpsService(Service):
    """A service with HTTPS. `files` are those of the administrator."""

    def __init__(self, folder: Path) -> None:
        copies, own = folder / "credentials", folder / "own"
        for each in (copies, own):
            each.mkdir()
        self.first = issue_pair(AUTHORITY, NAME)
        write_pair(copies, self.first)
        self.files = write_pair(own, self.first)
        super().__init__(
            folder,
            CONFIG % "hello",
            TLS_CERT_FILE=str(self.files.certificate),
            TLS_KEY_FILE=str(self.files.key),
            CREDENTIALS_DIRECTORY=str(copies),
            LAME_DUCK_TIMEOUT="20",
            WATCHDOG_TIMEOUT="20",
        )
        self.trust = ssl.create_default_context()
        AUTHORITY.configure_trust(self.trust)
        self.trust.check_hostname = False  # the name in the certificate leads nowhere

    def connect(self) -> HTTPConnection:
        return HTTPSConnection("127.0.0.1", self.port, timeout=DEADLINE, context=self.trust)

    def renew(self, pair: TlsPair) -> Certificate:
        """Replace the files. Returns the new certificate."""
        write_pair(self.files.certificate.parent, pair)
        return parse_certificate(pair.certificate)

    def served(self) -> Certificate:
        """The certificate that a client gets."""
        return parse_certificate(ssl.get_server_certificate(("127.0.0.1", self.port), timeout=DEADLINE))


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HttpsService, socket.socket, float]]:
    """The service, a connection on which the client is silent, and the time since when it is."""
    service = HttpsService(tmp_path_factory.mktemp("tls"))
    with service:
        service.await_ready()
        with socket.create_connection(("127.0.0.1", service.port)) as silent:
            yield service, silent, time.monotonic()
        assert service.stop() == 0, service.log()
        assert KEY not in service.log()
        assert "PRIVATE KEY" not in service.log()
        assert "Traceback" not in service.log()


@pytest.fixture
def service(started: tuple[HttpsService, socket.socket, float]) -> Iterator[HttpsService]:
    service = started[0]
    yield service
    assert service.process.poll() is None, service.log()


def test_chat_and_stream(service: HttpsService) -> None:
    """A chat and a stream work over HTTPS, on one connection, with a certificate that the client verifies."""
    connection = service.connect()
    assert service.chat(connection) == (200, "hello")
    response = post_chat(connection, "demo", stream=True)
    assert response.read().rstrip().endswith(b"data: [DONE]")
    assert isinstance(connection.sock, ssl.SSLSocket)
    assert connection.sock.version() == "TLSv1.3"


def test_applications_see_https(service: HttpsService) -> None:
    """LiteLLM sees the scheme https: its redirect leads there."""
    connection = service.connect()
    connection.request("GET", "/v1/models/", headers={"Authorization": f"Bearer {KEY}"})
    response = connection.getresponse()
    assert response.status == 307
    assert response.headers["location"].startswith("https://127.0.0.1:")


def test_websocket(service: HttpsService) -> None:
    """A WebSocket opens over TLS."""
    connection = service.connect()
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "A" * 22 + "==",
        "Authorization": f"Bearer {KEY}",
    }
    connection.request("GET", "/v1/realtime?model=live", headers=headers)
    assert connection.getresponse().status == 101


def test_status(service: HttpsService) -> None:
    """The status line and the status for programs name the certificate and its end."""
    certificate = parse_certificate(service.first.certificate)
    assert f"serving HTTPS ({certificate}) on 127.0.0.1:{service.port} with" in service.query("status")["status"]
    assert service.query("status")["tls"] == {
        "names": [NAME],
        "not_before": certificate.not_before.timestamp(),
        "not_after": certificate.not_after.timestamp(),
        "sha256": certificate.sha256,
    }


def test_plain_http(service: HttpsService) -> None:
    """Plain HTTP requests to the port are closed, and the journal gets one notice about a burst of them."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=DEADLINE) as client:
        client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP/1.1" not in client.recv(100)
    assert service.chat() == (200, "hello")
    closed = "<5>closed 1 connection with plain HTTP on the port of HTTPS, from 127.0.0.1 (1)\n"
    wait_for("the line in the journal", lambda: closed in service.log())


def test_verify_knows_the_certificate(service: HttpsService, tmp_path: Path) -> None:
    """verify accepts the certificate in the file, whatever its names, and no other."""
    text = f"TLS_CERT_FILE={service.files.certificate}\nTLS_KEY_FILE={service.files.key}\nPORT={service.port}\n"
    settings = build_settings(parse_dotenv(f"LITELLM_MASTER_KEY={KEY}\n{text}", ".env"), installed={}, new_key=str)
    report = verify(own_gateway(settings, KEY, environ={}), Scope(spend=False))
    assert report.exit_code == 0, report.as_json()
    write_pair(tmp_path, issue_pair(AUTHORITY, NAME))
    gateway = own_gateway(settings, KEY, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    with pytest.raises(GatewayError) as refused:
        gateway.get("/v1/models")
    assert refused.value.kind is FailureKind.CERTIFICATE
    assert "systemctl reload litellm" in refused.value.hint


def test_reload_under_load(service: HttpsService) -> None:
    """A reload serves the renewed certificate, no client fails meanwhile, and replaced workers serve it too."""
    renewed = service.renew(issue_pair(AUTHORITY, NAME, days=60))
    with Load(service) as load:
        load.await_answers(20)
        done = service.reload()
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), service.log()
        assert service.served() == renewed
        load.await_answers(20)
    assert load.failures == []
    victim = service.workers()[0]
    os.kill(victim, signal.SIGKILL)
    service.await_workers(without=victim)
    assert {service.served().sha256 for _ in range(6)} == {renewed.sha256}


@pytest.mark.parametrize("fault", ["mismatch", "expired", "not valid yet"])
def test_reload_with_an_unusable_pair(service: HttpsService, fault: str) -> None:
    """A pair that does not belong together, or is not valid now, fails the reload, and the previous one is served."""
    before, generation = service.served(), service.query("status")["generation"]
    other = issue_pair(AUTHORITY, NAME, since=1) if fault == "not valid yet" else issue_pair(AUTHORITY, NAME, days=-1)
    service.renew(TlsPair(other.certificate, service.first.key) if fault == "mismatch" else other)
    done = service.reload()
    assert done.returncode == 1
    said = {
        "mismatch": "is not that of the certificate in",
        "expired": f"clients would refuse the new certificate: {NAME}, expired on ",
        "not valid yet": f"clients would refuse the new certificate: {NAME}, not valid before ",
    }[fault]
    assert said in done.stderr
    assert service.await_log(said).startswith("<3>reload failed, the previous configuration stays active: ")
    assert (service.served(), service.query("status")["generation"]) == (before, generation)
    assert service.chat() == (200, "hello")


def test_reload_by_signal(service: HttpsService) -> None:
    """A SIGHUP, which brings no files, keeps the certificate."""
    before, generation = service.served(), service.query("status")["generation"]
    service.process.send_signal(signal.SIGHUP)
    wait_for("the next generation", lambda: service.query("status")["generation"] == generation + 1)
    wait_for("its workers", lambda: service.query("status")["state"] == "serving")
    assert service.served() == before


def test_silent_connection(started: tuple[HttpsService, socket.socket, float]) -> None:
    """A client that sends nothing, and so never completes its handshake, is disconnected within seconds."""
    _, silent, since = started
    silent.settimeout(max(1.0, since + _SOON - time.monotonic()))
    assert silent.recv(1) == b""


def test_key_is_nowhere(service: HttpsService) -> None:
    """The private key is in no argument and no variable of a process of the service."""
    secret = service.first.key.splitlines()[1]
    wait_for("two workers and no other", lambda: len(service.workers()) == len(service.children()) == 2)
    for pid in (service.process.pid, *service.children()):
        for name in ("cmdline", "environ"):
            assert secret.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
