"""What can go wrong on the way to a gateway, and what its error answers say: in words, without secrets."""

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
    """Why no answer came."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    PROXY = "proxy"
    TLS = "tls"
    TIMEOUT = "timeout"
    DROPPED = "dropped"
    GARBLED = "garbled"

    @property
    def lasting(self) -> bool:
        """Whether the next call to the same address must fail the same way."""
        return self in (FailureKind.REFUSED, FailureKind.UNREACHABLE, FailureKind.PROXY, FailureKind.TLS)


_HINTS = {
    FailureKind.REFUSED: f"Run `systemctl status litellm` and {JOURNAL}.",
    FailureKind.UNREACHABLE: "Check --base-url and the network.",
    FailureKind.PROXY: "Mend HTTP_PROXY and HTTPS_PROXY in the environment, or name the host in NO_PROXY.",
    FailureKind.TLS: "Check http or https in --base-url; a private CA's certificates go into REQUESTS_CA_BUNDLE.",
    FailureKind.TIMEOUT: f"Allow more time with --timeout; {JOURNAL} says what the service is at.",
    FailureKind.DROPPED: f"Look for a crash or a restart: {JOURNAL}.",
    FailureKind.GARBLED: "Check with `ss -ltnp` which program owns the port.",
}


class GatewayError(Unavailable):
    """No (whole) answer came from the gateway; `trouble` says in one word why."""

    def __init__(self, trouble: FailureKind, message: str) -> None:
        super().__init__(message, _HINTS[trouble])
        self.trouble = trouble


def classify(error: BaseException, where: str, limit: float) -> GatewayError:
    """The GatewayError for what requests, urllib3 or the socket raised while asking `where`.

    `limit` is the time-out in seconds. The original text is left out: it may hold the address with its query.
    """
    causes = tuple(_causes(error))

    def caused_by(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    # InvalidSchema: a SOCKS proxy, for which requests lacks the means.
    if caused_by(
        requests.exceptions.ProxyError,
        urllib3.exceptions.ProxyError,
        requests.exceptions.InvalidProxyURL,
        requests.exceptions.InvalidSchema,
    ):
        return GatewayError(FailureKind.PROXY, f"the proxy of the environment gives no way to {where}")
    if caused_by(ConnectionRefusedError):
        return GatewayError(FailureKind.REFUSED, f"nothing listens on {where} (connection refused)")
    if caused_by(FileNotFoundError):  # a UNIX socket
        return GatewayError(FailureKind.REFUSED, f"nothing listens on {where} (there is no such socket)")
    if caused_by(urllib3.exceptions.ConnectTimeoutError) and not caused_by(urllib3.exceptions.NewConnectionError):
        return GatewayError(FailureKind.UNREACHABLE, f"no connection to {where} in time")
    # Before the time-outs: urllib3 counts a NewConnectionError among them.
    if caused_by(
        socket.gaierror,
        urllib3.exceptions.NewConnectionError,
        requests.exceptions.InvalidURL,
        UnicodeError,
    ):
        return GatewayError(FailureKind.UNREACHABLE, f"{where} can't be found or reached")
    if caused_by(TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError):
        return GatewayError(FailureKind.TIMEOUT, f"no complete answer from {where} within {limit:g} s")
    if caused_by(ssl.SSLError, requests.exceptions.SSLError):
        return GatewayError(FailureKind.TLS, f"no TLS connection to {where}: {_tls_reason(causes)}")
    if caused_by(http.client.BadStatusLine) and not caused_by(ConnectionError):
        return GatewayError(FailureKind.GARBLED, f"what answers on {where} doesn't speak HTTP")
    return GatewayError(FailureKind.DROPPED, f"{where} closed the connection before the answer was complete")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and all that is wrapped in it: requests keeps the cause in args, urllib3 in `reason`."""
    queue, seen = [error], set[int]()
    while queue:
        one = queue.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        inner = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        queue += [cause for cause in inner if isinstance(cause, BaseException)]


def _tls_reason(causes: tuple[BaseException, ...]) -> str:
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not trusted ({cause.verify_message})"
        if isinstance(cause, ssl.SSLError) and getattr(cause, "reason", "") == "WRONG_VERSION_NUMBER":
            return "it speaks plain HTTP"
    return "the handshake failed"


#: What looks like a secret in a foreign message: keys of LiteLLM and OpenAI, AWS key ids, bearer tokens ...
_KEYS = re.compile(
    r"(?<![A-Za-z0-9])(?:sk-[A-Za-z0-9._-]{4,}|A[KS]IA[A-Z0-9]{12,})|(?:(?<=bearer )|(?<=Bearer ))\S{8,}"
)
#: ... and long values that are called so.
_NAMED = re.compile(r"((?:secret|token|password|signature|key)['\"]?\s*[=:]\s*['\"]?)[^\s'\"&,}]{16,}", re.IGNORECASE)


def redact(text: str, *secrets: str) -> str:
    """`text` with `***` for each of `secrets` and for whatever looks like a key."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return _NAMED.sub(r"\1***", _KEYS.sub("***", text))


def told(body: Any, text: str) -> str:
    """What an error answer says, from its parsed `body` (None if it isn't JSON) or its `text`.

    LiteLLM answers `{"error": {"message": ...}}`, FastAPI `{"detail": ...}`, a web server a page of HTML.
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
