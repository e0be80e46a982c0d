"""LiteLLM behind a corporate proxy that terminates TLS, with the environment that install writes from a .env."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import trustme

from litellm_systemd.env.settings import build_settings, parse_dotenv
from tests.fakes import run_cloud
from tests.fakes.proxy import pass_on
from tests.integration.litellm_process import KEY, run_litellm

CONFIG = Path(__file__).parents[2] / "configs/iam_role_config.yml"
#: A name that never resolves (RFC 6761), so only a proxy can connect to it.
HOST = "bedrock-runtime.test"


class Proxy(socketserver.ThreadingTCPServer):
    """A proxy that terminates TLS with a certificate of its own, and forwards to `upstream`.

    `asked` are the request lines that it got.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, tls: ssl.SSLContext, upstream: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.tls, self.upstream = tls, upstream
        self.asked: list[str] = []

    def handle_error(self, *args: object) -> None:
        """Ignore a client that does not trust the certificate and disconnects."""


class _Tunnel(socketserver.StreamRequestHandler):
    server: Proxy
    rbufsize = 0

    def handle(self) -> None:
        self.server.asked.append(self.rfile.readline().decode().strip())
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with (
            self.server.tls.wrap_socket(self.connection, server_side=True) as inner,
            socket.create_connection(self.server.upstream) as outer,
        ):
            threading.Thread(target=pass_on, args=(outer, inner), daemon=True).start()
            pass_on(inner, outer)


@contextmanager
def proxy_to(url: str, authority: trustme.CA) -> Iterator[Proxy]:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(tls)
    parts = urlsplit(url)
    with Proxy(tls, (str(parts.hostname), int(parts.port or 80))) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()


def test_proxy_with_a_private_ca(tmp_path: Path) -> None:
    """With HTTPS_PROXY and SSL_CERT_FILE, a model is called through the proxy, whose CA is trusted; the instance
    metadata are queried directly, because the service's NO_PROXY lists them.
    """
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with run_cloud("us-east-1") as aws, proxy_to(aws.api_url, authority) as proxy:
        address = f"http://127.0.0.1:{proxy.server_address[1]}"
        lines = (
            f"HTTPS_PROXY={address}",
            f"HTTP_PROXY={address}",
            "AWS_REGION_NAME=us-east-1",
            f"AWS_BEDROCK_RUNTIME_ENDPOINT=https://{HOST}",
            f"LITELLM_MASTER_KEY={KEY}",
        )
        settings = build_settings(parse_dotenv("\n".join(lines), ".env"), installed={}, new_key=str)
        loopback = {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": aws.metadata_url,
            "AWS_EC2_METADATA_DISABLED": "false",
            # Its folder is hidden from a service and refused in a .env, but this LiteLLM is not a service.
            "SSL_CERT_FILE": str(tmp_path / "ca.pem"),
        }
        with run_litellm(CONFIG, {**settings.environment, **loopback}) as gateway:
            question = [{"role": "user", "content": "what llm are you"}]
            answer = gateway.chat({"model": "claude-sonnet-5-5", "messages": question})
        assert answer.status == 200, answer.body
        assert set(proxy.asked) == {f"CONNECT {HOST}:443 HTTP/1.1"}
        assert [one.arn for one in aws.seen if one.service == "bedrock"] == [aws.metadata.issued[0].arn]
