"""The command `reach URL…`: tests the connection to each URL. doctor runs it inside the sandbox of the service.

It connects like LiteLLM's HTTP clients: with the system's resolver, HTTPS_PROXY and NO_PROXY, and the certificates of
SSL_CERT_FILE or else of certifi. It sends only a CONNECT request to a proxy and the TLS handshake. Of a certificate
that is not trusted, a second handshake reads the issuer.
"""

from __future__ import annotations

import base64
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

from litellm_systemd.contract import ExitCode

#: Seconds for all URLs, which are tested in parallel. The resolver alone may take ten seconds without a DNS server.
_DEADLINE = 1.8
_TIMED_OUT = f"no answer within {_DEADLINE:.0f} s"
#: Then the small packets of the connection have passed, and the large ones of the handshake may not.
_NO_HANDSHAKE = f"the connection opens, but there is no answer to the TLS handshake within {_DEADLINE:.0f} s"
#: The stages of a test, in this order. The values are published.
NAME, PROXY, CONNECTION, CERTIFICATE, DONE = "name", "proxy", "connection", "certificate", "done"


@dataclass
class ConnectionProgress:
    """The progress of one test: its current stage, or the one that failed, the host of that stage, and the error.

    `timeout` is the error if the test ends now.
    """

    url: str
    stage: str = NAME
    host: str = ""
    error: str = ""
    timeout: str = _TIMED_OUT


def main(urls: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the progress of each test as JSON. Returns 0, because a failed test is a valid result."""
    tests = [ConnectionProgress(url) for url in urls]
    threads = [threading.Thread(target=_run, args=(progress, environ), daemon=True) for progress in tests]
    end = time.monotonic() + _DEADLINE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    results = [asdict(progress) for progress in tests]
    for result in results:
        timeout = result.pop("timeout")
        if result["stage"] != DONE and not result["error"]:
            result["error"] = timeout
    sys.stdout.write(json.dumps(results) + "\n")
    sys.stdout.flush()
    return ExitCode.OK


def _run(progress: ConnectionProgress, environ: Mapping[str, str]) -> None:
    url = urlsplit(progress.url)
    try:
        with _open(progress, url, environ) as stream:
            if url.scheme == "https" and not isinstance(stream, ssl.SSLSocket):  # TLS in TLS is left out
                progress.stage, progress.host = CERTIFICATE, url.hostname or ""
                _handshake(progress, stream, progress.host, environ)
        progress.stage = DONE
    except TimeoutError:
        progress.error = progress.timeout
    except ssl.SSLCertVerificationError as error:
        progress.timeout = error.verify_message
        issuer = _read_issuer(url, environ) if progress.stage == CERTIFICATE else ""
        progress.error = f"{error.verify_message}{issuer and f'; its certificate is issued by {issuer}'}"
    except (OSError, ValueError) as error:
        progress.error = getattr(error, "strerror", "") or str(error) or "closed"


def _open(progress: ConnectionProgress, url: SplitResult, environ: Mapping[str, str]) -> socket.socket:
    """Connect to the host of a URL, through the proxy if there is one."""
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    proxy = _proxy(url, environ)
    if proxy is None:
        progress.host = host
        return _connect(progress, host, port)
    at = proxy.port or (443 if proxy.scheme == "https" else 80)
    progress.stage, progress.host = PROXY, f"{proxy.hostname}:{at}"
    stream = socket.create_connection((proxy.hostname or "", at), _DEADLINE)
    if proxy.scheme == "https":
        stream = _wrap_proxy(stream, proxy.hostname or "", environ)
    if url.scheme == "https":
        _connect_proxy(stream, proxy, f"{host}:{port}")
    return stream


def _wrap_proxy(stream: socket.socket, host: str, environ: Mapping[str, str]) -> socket.socket:
    try:
        return ssl.create_default_context(cafile=_authorities(environ)).wrap_socket(stream, server_hostname=host)
    except ssl.SSLCertVerificationError:
        raise
    except ssl.SSLError:
        raise OSError("it does not use TLS, but its URL begins with https: write http instead") from None


def _read_issuer(url: SplitResult, environ: Mapping[str, str]) -> str:
    """The issuer of a certificate that is not trusted; empty if it cannot be read."""
    try:
        from cryptography import x509

        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        opened = _open(ConnectionProgress(url.geturl()), url, environ)
        with opened as stream, context.wrap_socket(stream, server_hostname=url.hostname) as wrapped:
            found = x509.load_der_x509_certificate(wrapped.getpeercert(binary_form=True) or b"")
        return found.issuer.rfc4514_string()[:200]
    except (ImportError, OSError, ValueError):
        return ""


def _connect(progress: ConnectionProgress, host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    progress.stage = CONNECTION
    last_error = OSError("no address")
    for family, kind, protocol, _, address in found:
        stream = socket.socket(family, kind, protocol)
        stream.settimeout(_DEADLINE / len(found))
        try:
            stream.connect(address)
        except OSError as error:
            stream.close()
            timed_out = isinstance(error, TimeoutError)
            last_error = error if timed_out else OSError(error.errno, f"{error.strerror or error} ({address[0]})")
            continue
        stream.settimeout(_DEADLINE)
        return stream
    raise last_error


def _proxy(url: SplitResult, environ: Mapping[str, str]) -> SplitResult | None:
    for name in (f"{url.scheme}_proxy", "all_proxy"):
        proxy = environ.get(name) or environ.get(name.upper())
        if proxy:
            excluded = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
            return None if excluded and proxy_bypass_environment(url.hostname, {"no": excluded}) else urlsplit(proxy)
    return None


def _connect_proxy(stream: socket.socket, proxy: SplitResult, target: str) -> None:
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.username:
        pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair.encode()).decode()}")
    stream.sendall("\r\n".join((*lines, "", "")).encode())
    answer = b""
    while b"\r\n\r\n" not in answer and len(answer) < 65536:
        part = stream.recv(4096)
        if not part:
            break
        answer += part
    status = answer.partition(b"\r\n")[0].decode("latin-1").split(" ", 1)
    if len(status) < 2 or not status[1].startswith("200"):
        raise OSError(f"it answers {status[-1][:80]}" if answer else "it closes the connection")


def _handshake(progress: ConnectionProgress, stream: socket.socket, host: str, environ: Mapping[str, str]) -> None:
    context = ssl.create_default_context(cafile=_authorities(environ))
    # An error before a certificate arrives is one of the connection: the server may not use TLS, or not answer.
    progress.stage, progress.timeout = CONNECTION, _NO_HANDSHAKE
    try:
        with context.wrap_socket(stream, server_hostname=host):
            pass
    except ssl.SSLCertVerificationError:
        progress.stage = CERTIFICATE
        raise


def _authorities(environ: Mapping[str, str]) -> str | None:
    file = environ.get("SSL_CERT_FILE")
    if file:
        return file
    try:
        from certifi import where
    except ImportError:
        return None
    return where()
