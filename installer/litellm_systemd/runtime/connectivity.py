"""`reach URL…`: how far this process gets on its way to each URL. doctor runs it inside the service's sandbox.

The way is that of LiteLLM's clients: names by the system's resolver, HTTPS_PROXY and NO_PROXY, the certificates of
SSL_CERT_FILE or else those of certifi. Nothing is sent beyond a proxy's CONNECT and the TLS handshake.
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

#: Seconds for all of them, side by side. The resolver alone would take ten where no server answers.
_DEADLINE = 1.8
_SILENCE = f"no answer within {_DEADLINE:.0f} s"
#: What is tried, in this order; `done` is none.
NAME, PROXY, CONNECTION, CERTIFICATE, DONE = "name", "proxy", "connection", "certificate", "done"


@dataclass
class ConnectionProgress:
    """How far it went: the `stage` under way or failed at, with which host, and the error; empty while it goes on."""

    url: str
    stage: str = NAME
    host: str = ""
    error: str = ""


def main(urls: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the ways as JSON; always exit code 0, since they are the answer."""
    ways = [ConnectionProgress(url) for url in urls]
    threads = [threading.Thread(target=_go, args=(way, environ), daemon=True) for way in ways]
    end = time.monotonic() + _DEADLINE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    told = [asdict(way) for way in ways]
    for way in told:
        if way["stage"] != DONE and not way["error"]:
            way["error"] = _SILENCE
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    return ExitCode.OK


def _go(way: ConnectionProgress, environ: Mapping[str, str]) -> None:
    url = urlsplit(way.url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    proxy = _proxy(url, environ)
    try:
        if proxy is None:
            way.host = host
            stream = _connect(way, host, port)
        else:
            way.stage, way.host = PROXY, f"{proxy.hostname}:{proxy.port or 80}"
            stream = socket.create_connection((proxy.hostname or "", proxy.port or 80), _DEADLINE)
            if url.scheme == "https" and proxy.scheme == "http":
                _ask_proxy(stream, proxy, f"{host}:{port}")
        with stream:
            if url.scheme == "https" and (proxy is None or proxy.scheme == "http"):
                way.stage, way.host = CERTIFICATE, host
                _shake_hands(way, stream, host, environ)
        way.stage = DONE
    except TimeoutError:
        way.error = _SILENCE
    except (OSError, ValueError) as error:
        way.error = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or str(error) or "closed"


def _connect(way: ConnectionProgress, host: str, port: int) -> socket.socket:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    way.stage = CONNECTION
    trouble = OSError("no address")
    for family, kind, protocol, _, address in found:
        stream = socket.socket(family, kind, protocol)
        stream.settimeout(_DEADLINE / len(found))
        try:
            stream.connect(address)
        except OSError as error:
            stream.close()
            silent = isinstance(error, TimeoutError)
            trouble = error if silent else OSError(error.errno, f"{error.strerror or error} ({address[0]})")
            continue
        stream.settimeout(_DEADLINE)
        return stream
    raise trouble


def _proxy(url: SplitResult, environ: Mapping[str, str]) -> SplitResult | None:
    for name in (f"{url.scheme}_proxy", "all_proxy"):
        given = environ.get(name) or environ.get(name.upper())
        if given:
            without = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
            return None if without and proxy_bypass_environment(url.hostname, {"no": without}) else urlsplit(given)
    return None


def _ask_proxy(stream: socket.socket, proxy: SplitResult, target: str) -> None:
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


def _shake_hands(way: ConnectionProgress, stream: socket.socket, host: str, environ: Mapping[str, str]) -> None:
    context = ssl.create_default_context(cafile=_authorities(environ))
    # Until a certificate is there to be judged: somebody in between may speak no TLS, or nothing at all.
    way.stage = CONNECTION
    try:
        with context.wrap_socket(stream, server_hostname=host):
            pass
    except ssl.SSLCertVerificationError:
        way.stage = CERTIFICATE
        raise


def _authorities(environ: Mapping[str, str]) -> str | None:
    named = environ.get("SSL_CERT_FILE")
    if named:
        return named
    try:
        from certifi import where
    except ImportError:
        return None
    return where()
