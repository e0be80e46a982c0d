"""HTTP client for a gateway, and the wait until it is ready. The only module that uses requests.

An error status such as 401 or 500 is a `Response`. If no response arrives, a `GatewayError` is raised. Redirects are
responses too and never followed, so that the key reaches no other host.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.connection import HTTPConnection

from litellm_systemd.contract import REFUSAL_HEADER, USER_AGENT, build_refusal_code
from litellm_systemd.env.secrets import redact
from litellm_systemd.env.settings import Settings, reachable
from litellm_systemd.env.tls import find_credentials, read_certificate
from litellm_systemd.env.variables import is_loopback
from litellm_systemd.errors import Unavailable, UsageError

JOURNAL = "`journalctl -u litellm -n 50`"

#: Seconds for one response. Above LiteLLM's usual request_timeout, so that its own error arrives first.
DEFAULT_TIMEOUT = 60.0
#: Prometheus waits as long by default.
METRICS_TIMEOUT = 10.0
#: Seconds to connect: shorter, because a host that drops packets is not a slow model.
CONNECT_TIMEOUT = 10.0
#: Bytes. Far above any response to the requests that we send.
MAX_BODY = 8 * 1024 * 1024
DONE = "[DONE]"
#: Costs nothing and needs no key, unlike /health, which calls every model.
READINESS = "/health/readiness"
#: Seconds between two attempts: short at first, because a service is often nearly ready.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 1.0


class FailureKind(Enum):
    """Why there is no response."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    PROXY = "proxy"
    TLS = "tls"
    CERTIFICATE = "certificate"
    TIMEOUT = "timeout"
    DROPPED = "dropped"
    GARBLED = "garbled"

    @property
    def is_permanent(self) -> bool:
        """Whether the next request to the same address will fail in the same way."""
        return self in (
            FailureKind.REFUSED,
            FailureKind.UNREACHABLE,
            FailureKind.PROXY,
            FailureKind.TLS,
            FailureKind.CERTIFICATE,
        )


_HINTS = {
    FailureKind.REFUSED: f"Run `systemctl status litellm` and {JOURNAL}.",
    FailureKind.UNREACHABLE: "Check --base-url and the network.",
    FailureKind.PROXY: "Correct HTTP_PROXY and HTTPS_PROXY in the environment, or add the host to NO_PROXY.",
    FailureKind.TLS: "Check http or https in --base-url; for a private CA, set REQUESTS_CA_BUNDLE.",
    FailureKind.CERTIFICATE: "Renewed files take effect with: sudo systemctl reload litellm",
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
        socket.gaierror, urllib3.exceptions.NewConnectionError, requests.exceptions.InvalidURL, UnicodeError
    ):
        return GatewayError(FailureKind.UNREACHABLE, f"{where} cannot be resolved or reached")
    if caused_by(TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError):
        return GatewayError(FailureKind.TIMEOUT, f"no complete response from {where} within {limit:g} s")
    # urllib3 has no class of its own for this.
    if any(isinstance(cause, urllib3.exceptions.SSLError) and "ingerprint" in str(cause) for cause in causes):
        return GatewayError(FailureKind.CERTIFICATE, f"{where} serves another certificate than the one in its file")
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


class _Deadline:
    """Cuts the connections of one request when its time is over, whatever arrives on them until then.

    The timeouts of requests are for single reads, and a head that arrives byte by byte, interim responses and
    trailers have no limit of their own.
    """

    def __init__(self, seconds: float) -> None:
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self.is_over = False

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._timer.cancel()

    def _cut(self) -> None:
        self.is_over = True
        for each in self._sockets:
            # Not the method of SSLSocket, which another thread is using.
            with suppress(OSError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)

    def watched(self, kind: type[HTTPConnection]) -> type[HTTPConnection]:
        """The same kind of connection, which ends at the deadline."""
        deadline = self

        class Watched(kind):  # type: ignore[misc, valid-type]
            def connect(self) -> None:
                super().connect()
                deadline._sockets.append(self.sock)
                if deadline.is_over:  # it was over before the connection was there to be cut
                    raise TimeoutError

        return Watched


class _Adapter(HTTPAdapter):
    """Sends requests until a deadline.

    `direct`: not through a proxy, for which loopback would be its own host. With a `fingerprint` it trusts the
    certificate that has it, and no other.
    """

    def __init__(self, deadline: _Deadline, *, direct: bool, fingerprint: str = "") -> None:
        self._deadline, self._direct, self._fingerprint = deadline, direct, fingerprint
        super().__init__()

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        own: dict[str, Any] = {"proxies": {}} if self._direct else {}
        if self._fingerprint:
            own["verify"] = False
        return super().send(request, *args, **{**kwargs, **own})

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = self._deadline.watched(pool.ConnectionCls)
        if self._fingerprint:
            pool.assert_fingerprint = self._fingerprint
        return pool


class _UnixAdapter(_Adapter):
    """Sends every request to one UNIX socket, not to the host of the URL."""

    def __init__(self, deadline: _Deadline, path: str) -> None:
        self._path = path
        super().__init__(deadline, direct=True)

    def get_connection_with_tls_context(self, *_args: Any, **_kwargs: Any) -> _Pool:
        return _Pool(self._path, self._deadline)


class _Pool(urllib3.HTTPConnectionPool):
    def __init__(self, path: str, deadline: _Deadline) -> None:
        self._path, self._kind = path, deadline.watched(_Connection)
        super().__init__("localhost")

    def _new_conn(self) -> HTTPConnection:
        return self._kind(self._path)


class _Connection(HTTPConnection):
    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__("localhost")

    def _new_conn(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout if isinstance(self.timeout, (int, float)) else None)
            # Not through a link: the folder belongs to the service.
            handle = os.open(self._path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                connection.connect(f"/proc/self/fd/{handle}")
            finally:
                os.close(handle)
        except BaseException:
            connection.close()
            raise
        return connection


@dataclass(frozen=True, slots=True)
class Response:
    """A complete HTTP response; `headers` with lower-case names, `seconds` from the request to the last byte."""

    status: int
    headers: Mapping[str, str]
    text: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The parsed JSON body; None if it is not JSON."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One server-sent event: its data, and the seconds from the request to its arrival."""

    seconds: float
    data: str


@dataclass(frozen=True, slots=True)
class Stream:
    """A streamed response, read up to `[DONE]`, its end, or the point where it was interrupted.

    `head` has the status and, if the response is no event stream, the body. `events` are in order of arrival and
    include `[DONE]`. `broken` is the error that interrupted the stream, None if it ended normally.
    """

    head: Response
    events: tuple[ServerSentEvent, ...] = ()
    broken: GatewayError | None = None

    @property
    def done(self) -> bool:
        """Whether the last event is `[DONE]`: OpenAI's clients treat any other end as an error."""
        return bool(self.events) and self.events[-1].data == DONE

    @property
    def is_event_stream(self) -> bool:
        return self.head.headers.get("content-type", "").startswith("text/event-stream")


@dataclass(frozen=True, slots=True, repr=False)
class Gateway:
    """The address of a LiteLLM Proxy, and the API key for it; an empty `api_key` sends none.

    `socket`: path of a UNIX socket to connect to instead of the host in the URL.
    `key_header`: the header for the key; OpenAI's clients use Authorization, Anthropic's x-api-key.
    `timeout`: seconds for one whole response, however slowly it arrives.
    `fingerprint`: the SHA-256 in hex of the only certificate to trust; empty to trust the CAs of this host.
    `refusal_code`: with it, a service of ours does not count a refusal of its requests.
    UsageError if the URL or the key is invalid, or the timeout is not a positive number.
    """

    base_url: str
    api_key: str = ""
    timeout: float = DEFAULT_TIMEOUT
    socket: str = ""
    key_header: str = "Authorization"
    fingerprint: str = ""
    refusal_code: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", _checked_url(self.base_url))
        if not (self.api_key.isascii() and self.api_key.isprintable()) or self.api_key.strip() != self.api_key:
            raise UsageError("the API key has a character that HTTP headers do not allow", "Use printable ASCII.")
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise UsageError("the timeout must be more than 0 seconds")

    def __repr__(self) -> str:
        key = "'***'" if self.api_key else "''"
        return f"Gateway(base_url={self.base_url!r}, api_key={key}, timeout={self.timeout!r})"

    @property
    def where(self) -> str:
        """Host and port as in the URL, or the path of the socket."""
        return self.socket or urlsplit(self.base_url).netloc

    def with_refused_key(self, api_key: str) -> Gateway:
        """The same gateway with a wrong key, or without one, whose refusals are expected."""
        code = build_refusal_code(self.api_key) if self.api_key else ""
        return replace(self, api_key=api_key, refusal_code=code)

    def with_key_in(self, header: str) -> Gateway:
        return replace(self, key_header=header)

    def get(self, path: str, *, timeout: float | None = None) -> Response:
        """GET `path`, which begins with a slash. GatewayError if there is no response."""
        return self._request("GET", path, None, timeout)

    def post(self, path: str, body: Mapping[str, Any], *, timeout: float | None = None) -> Response:
        """POST `body` as JSON. GatewayError if there is no response."""
        return self._request("POST", path, body, timeout)

    def stream(self, path: str, body: Mapping[str, Any], *, timeout: float | None = None) -> Stream:
        """POST `body` as JSON and read server-sent events up to `[DONE]`.

        GatewayError if no response begins; a stream that is interrupted later is returned with `broken`.
        """
        limit, started = timeout or self.timeout, time.monotonic()
        head: Response | None = None
        events: list[ServerSentEvent] = []
        broken: GatewayError | None = None
        try:
            with self._open("POST", path, body, limit) as response:
                head = _response(response, "", started)
                chunks = _chunks(response, started + limit)
                if not Stream(head).is_event_stream:
                    return Stream(_response(response, _text(chunks), started))
                for data in event_data(chunks):
                    events.append(ServerSentEvent(time.monotonic() - started, data))
                    if data == DONE:
                        break
        except GatewayError as error:
            if head is None:
                raise
            broken = error
        return Stream(replace(head, seconds=time.monotonic() - started), tuple(events), broken)

    def explain(self, answer: Response) -> str:
        """The message of an error response: one short printable line, without any key."""
        return self.line(extract_error(answer.json(), answer.text))

    def line(self, text: str, limit: int = 300) -> str:
        """The first line of foreign `text`, safe for a terminal and a log: printable, truncated, without any key."""
        lines = redact(text, self.api_key).strip().splitlines()
        first = "".join(c if c.isprintable() else " " for c in (lines or [""])[0])
        return first if len(first) <= limit else first[: limit - 1] + "…"

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float | None) -> Response:
        limit, started = timeout or self.timeout, time.monotonic()
        with self._open(method, path, body, limit) as response:
            return _response(response, _text(_chunks(response, started + limit)), started)

    @contextmanager
    def _open(
        self, method: str, path: str, body: Mapping[str, Any] | None, limit: float
    ) -> Iterator[requests.Response]:
        """The head of the response; GatewayError for any failure up to the end of the block."""
        try:
            with _Deadline(limit) as deadline, requests.Session() as session:
                session.auth = _Key(self.api_key, self.key_header)
                local = bool(self.fingerprint) or is_local_target(urlsplit(self.base_url).hostname or "")
                adapter = (
                    _UnixAdapter(deadline, self.socket)
                    if self.socket
                    else _Adapter(deadline, direct=local, fingerprint=self.fingerprint)
                )
                # Compression would delay the first events of a stream.
                headers = {"Accept-Encoding": "identity", "User-Agent": USER_AGENT}
                if self.refusal_code:
                    headers[REFUSAL_HEADER] = self.refusal_code
                session.mount("http://", adapter)
                session.mount("https://", adapter)
                with session.request(
                    method,
                    self.base_url + path,
                    json=body,
                    headers=headers,
                    timeout=(min(limit, CONNECT_TIMEOUT), limit),
                    stream=True,
                    allow_redirects=False,
                ) as response:
                    yield response
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise classify(TimeoutError() if deadline.is_over else error, self.where, limit) from error


def own_gateway(
    settings: Settings, api_key: str, *, timeout: float = DEFAULT_TIMEOUT, environ: Mapping[str, str] = os.environ
) -> Gateway:
    """The gateway with these settings on this host.

    With HTTPS it must serve the certificate in the file of the settings, or in its copy in $CREDENTIALS_DIRECTORY: a
    name in it, or a CA that this host trusts, is not needed on loopback.

    Raises:
        InputError: the file cannot be read, or has no certificate.
    """
    fingerprint = ""
    if settings.tls is not None:
        fingerprint = read_certificate(find_credentials(settings.tls, environ).certificate).sha256
    return Gateway(settings.base_url, api_key, timeout, fingerprint=fingerprint)


def metrics_gateway(settings: Settings, api_key: str) -> Gateway | None:
    """Where this host reaches the metrics, with the key only if they need one; None without METRICS."""
    address = settings.metrics
    if address is None:
        return None
    if address.path:
        return Gateway("http://metrics", timeout=METRICS_TIMEOUT, socket=address.path)
    key = "" if address.is_open else api_key
    return Gateway(f"http://{replace(address, host=reachable(address.host)).listen}", key, METRICS_TIMEOUT)


class _Key(AuthBase):
    """Sets the header for the key, if there is one. Without an `auth`, requests would use a password of ~/.netrc."""

    def __init__(self, key: str, header: str) -> None:
        self._key, self._header = key, header

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            bearer = self._header == "Authorization"
            request.headers[self._header] = f"Bearer {self._key}" if bearer else self._key
        return request


def is_local_target(host: str) -> bool:
    """Whether a connection to `host` stays on this machine. On Linux those to the unspecified addresses do."""
    return is_loopback(host) or host in ("0.0.0.0", "::")  # noqa: S104 - a target, nothing is bound


def event_data(chunks: Iterable[bytes]) -> Iterator[str]:
    """The data of each server-sent event, as soon as its last byte arrives.

    Follows the WHATWG standard, section 9.2.6, except that a lone carriage return ends no line. As in the standard,
    an event without a final blank line is dropped.
    """
    rest, data = b"", list[str]()
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for raw in lines:
            line = raw.removesuffix(b"\r").decode("utf-8", "replace")
            if line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
            elif not line and data:
                yield "\n".join(data)
                data = []


def _checked_url(url: str) -> str:
    hint = "Use a URL such as http://127.0.0.1:4000."
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(c.isspace() or not c.isprintable() for c in url.strip()):
        raise UsageError("the gateway's address is not an http:// or https:// URL", hint)
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError("the gateway's address must not contain a user, `?` or `#`", hint)
    return url.strip().rstrip("/")


def _chunks(response: requests.Response, deadline: float) -> Iterator[bytes]:
    """The body as it arrives. Unlike `iter_content`, `read1` never waits for a full block."""
    size = 0
    while chunk := response.raw.read1(65536, decode_content=True):
        size += len(chunk)
        if size > MAX_BODY:
            raise GatewayError(FailureKind.GARBLED, f"the response is longer than {MAX_BODY} bytes")
        yield chunk
    # At the deadline the connection is cut, which looks like the end of some bodies.
    if time.monotonic() >= deadline:
        raise TimeoutError


def _text(chunks: Iterable[bytes]) -> str:
    return b"".join(chunks).decode("utf-8", "replace")


def _response(response: requests.Response, text: str, started: float) -> Response:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Response(response.status_code, headers, text, time.monotonic() - started)


class NotReady(Unavailable):
    """The deadline passed; `last` describes the last response or error."""

    def __init__(self, where: str, seconds: float, last: str, hint: str) -> None:
        super().__init__(f"{where} was not ready within {seconds:g} s; last status: {last}", hint)
        self.last = last


def wait_ready(
    gateway: Gateway,
    seconds: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> float:
    """Query readiness until it succeeds, at least once. Returns the seconds; NotReady after `seconds`."""
    started, pause = clock(), _FIRST_PAUSE
    while True:
        left = seconds - (clock() - started)
        # A socket unit accepts connections before the service runs, so one request may last until the deadline.
        last, hint = _query(gateway, min(gateway.timeout, max(left, _LONGEST_PAUSE)))
        passed = clock() - started
        if not last:
            return passed
        # Not 0: the clock cannot represent a smaller step, and the loop would never end.
        if seconds - passed < 0.001:
            raise NotReady(gateway.where, seconds, last, hint)
        sleep(min(pause, seconds - passed))
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _query(gateway: Gateway, timeout: float) -> tuple[str, str]:
    """The reason why the gateway is not ready, and the remedy; two empty strings if it is ready."""
    try:
        answer = gateway.get(READINESS, timeout=timeout)
    except GatewayError as error:
        return error.message, error.hint
    if answer.status == 200:
        return "", ""
    reason = gateway.explain(answer)
    return f"HTTP {answer.status}" + (f", {reason}" if reason else ""), f"Read {JOURNAL}."
