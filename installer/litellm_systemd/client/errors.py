"""Errors of requests to a gateway, and the messages of its error responses, without secrets."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from collections.abc import Iterator
from enum import Enum
from typing import Any

import requests
import urllib3

from litellm_systemd.errors import Unavailable

JOURNAL = "`journalctl -u litellm -n 50`"


class FailureKind(Enum):
    """Why there is no response."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    PROXY = "proxy"
    TLS = "tls"
    TIMEOUT = "timeout"
    DROPPED = "dropped"
    GARBLED = "garbled"

    @property
    def is_permanent(self) -> bool:
        """Whether the next request to the same address will fail in the same way."""
        return self in (FailureKind.REFUSED, FailureKind.UNREACHABLE, FailureKind.PROXY, FailureKind.TLS)


_HINTS = {
    FailureKind.REFUSED: f"Run `systemctl status litellm` and {JOURNAL}.",
    FailureKind.UNREACHABLE: "Check --base-url and the network.",
    FailureKind.PROXY: "Correct HTTP_PROXY and HTTPS_PROXY in the environment, or add the host to NO_PROXY.",
    FailureKind.TLS: "Check http or https in --base-url; for a private CA, set REQUESTS_CA_BUNDLE.",
    FailureKind.TIMEOUT: f"Allow more time with --timeout. To see what the service is doing: {JOURNAL}",
    FailureKind.DROPPED: f"Look for a crash or a restart: {JOURNAL}",
    FailureKind.GARBLED: "To see which program owns the port: `sudo ss -ltnp`",
}


class GatewayError(Unavailable):
    """The gateway sent no response, or only a part of one; `kind` says why."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message, _HINTS[kind])
        self.kind = kind


def classify(error: BaseException, where: str, limit: float) -> GatewayError:
    """The GatewayError for an exception that requests, urllib3 or the socket raised on a request to `where`.

    `limit` is the timeout in seconds. The original text is left out, because it may contain the URL with its query.
    """
    causes = tuple(_causes(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    # InvalidSchema: a SOCKS proxy, which requests supports only with another package.
    if caused_by(
        requests.exceptions.ProxyError,
        urllib3.exceptions.ProxyError,
        requests.exceptions.InvalidProxyURL,
        requests.exceptions.InvalidSchema,
    ):
        return GatewayError(FailureKind.PROXY, f"the proxy in the environment does not connect to {where}")
    if caused_by(ConnectionRefusedError):
        return GatewayError(FailureKind.REFUSED, f"nothing listens on {where} (connection refused)")
    if caused_by(FileNotFoundError):  # a UNIX socket
        return GatewayError(FailureKind.REFUSED, f"nothing listens on {where} (the socket does not exist)")
    if caused_by(urllib3.exceptions.ConnectTimeoutError) and not caused_by(urllib3.exceptions.NewConnectionError):
        return GatewayError(FailureKind.UNREACHABLE, f"could not connect to {where} in time")
    # Before the timeouts, because NewConnectionError is a subclass of a timeout in urllib3.
    if caused_by(
        socket.gaierror,
        urllib3.exceptions.NewConnectionError,
        requests.exceptions.InvalidURL,
        UnicodeError,
    ):
        return GatewayError(FailureKind.UNREACHABLE, f"{where} cannot be resolved or reached")
    if caused_by(TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError):
        return GatewayError(FailureKind.TIMEOUT, f"no complete response from {where} within {limit:g} s")
    if caused_by(ssl.SSLError, requests.exceptions.SSLError):
        return GatewayError(FailureKind.TLS, f"no TLS connection to {where}: {_tls_reason(causes)}")
    if caused_by(http.client.BadStatusLine) and not caused_by(ConnectionError):
        return GatewayError(FailureKind.GARBLED, f"the program on {where} does not speak HTTP")
    return GatewayError(FailureKind.DROPPED, f"{where} closed the connection before the response was complete")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and the exceptions wrapped in it: requests keeps the cause in `args`, urllib3 in `reason`."""
    queue, visited = [error], set[int]()
    while queue:
        current = queue.pop()
        if id(current) in visited:
            continue
        visited.add(id(current))
        yield current
        inner = (current.__cause__, current.__context__, getattr(current, "reason", None), *current.args)
        queue += [cause for cause in inner if isinstance(cause, BaseException)]


def _tls_reason(causes: tuple[BaseException, ...]) -> str:
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError) and getattr(cause, "reason", "") == "WRONG_VERSION_NUMBER":
            return "it speaks plain HTTP"
    return "the handshake failed"


def extract_error(body: Any, text: str) -> str:
    """The message of an error response, from its parsed `body` (None if it is not JSON) or its `text`.

    LiteLLM sends `{"error": {"message": ...}}`, FastAPI `{"detail": ...}`, a web server an HTML page.
    """
    if isinstance(body, dict):
        error = next((body[name] for name in ("error", "detail", "message") if body.get(name)), body)
        if isinstance(error, dict):
            error = error.get("message") or error.get("error") or error
        return error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)
    if "<html" in text[:1000].lower():
        title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        return f"an HTML page, “{' '.join(title[1].split())}”" if title else "an HTML page"
    return text
