"""HTTP to a running gateway. The only user of requests.

Statuses are values: an answer with 401 or 500 is an `Response`. What keeps an answer from arriving is a
`GatewayError`. Redirects are answers too and never followed, so that the key reaches no other host.
"""

from __future__ import annotations

import ipaddress
import json
import math
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.connection import HTTPConnection

from litellm_systemd.client.errors import FailureKind, GatewayError, classify, redact, told
from litellm_systemd.errors import UsageError


class UnixAdapter(HTTPAdapter):
    """Sends every request to the server behind one socket, whatever host the address names; through no proxy."""

    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__()

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        return super().send(request, *args, **{**kwargs, "proxies": {}})

    def get_connection_with_tls_context(self, *_args: Any, **_kwargs: Any) -> _Pool:
        return _Pool(self._path)


class _Pool(urllib3.HTTPConnectionPool):
    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__("localhost")

    def _new_conn(self) -> _Connection:
        return _Connection(self._path)


class _Connection(HTTPConnection):
    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__("localhost")

    def _new_conn(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout if isinstance(self.timeout, (int, float)) else None)
            connection.connect(self._path)
        except BaseException:
            connection.close()
            raise
        return connection


#: Seconds for one answer. Above LiteLLM's usual request_timeout, so that its own error arrives first.
DEFAULT_TIMEOUT = 60.0
#: Seconds to connect: a host that drops packets shouldn't take the time that a slow model may.
CONNECT_TIMEOUT = 10.0
#: Bytes. A gateway's answer to a small question never comes near.
MAX_BODY = 8 * 1024 * 1024
DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class Response:
    """A complete HTTP answer; `headers` with lower-case names, `seconds` from the call to the last byte."""

    status: int
    headers: Mapping[str, str]
    text: str
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """The body as JSON, None if it isn't any."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One server-sent event: its data, and the seconds from the call to its arrival."""

    seconds: float
    data: str


@dataclass(frozen=True, slots=True)
class Stream:
    """A streamed answer, read to `[DONE]`, to its end or to where it broke.

    `head` has the status and, when no event stream came, the body. `events` are in order of arrival, `[DONE]`
    among them. `broken` says what cut the stream, None if it ended by itself.
    """

    head: Response
    events: tuple[ServerSentEvent, ...] = ()
    broken: GatewayError | None = None

    @property
    def done(self) -> bool:
        """Whether the last event is `[DONE]`: OpenAI's clients take any other end for an error."""
        return bool(self.events) and self.events[-1].data == DONE

    @property
    def is_event_stream(self) -> bool:
        """Whether the gateway calls its answer one."""
        return self.head.headers.get("content-type", "").startswith("text/event-stream")


@dataclass(frozen=True, slots=True, repr=False)
class Gateway:
    """Where a LiteLLM Proxy listens, and the key to it; an empty `api_key` sends none.

    `socket`: the path of the UNIX socket that it listens at, instead of the host that the address names.
    `key_header`: where the key goes; OpenAI's clients say Authorization, Anthropic's x-api-key.
    `timeout` is in seconds, for one whole answer. It is looked at between reads, each of which may take as
    long: a server that sends a byte now and then is left after twice the time at most.
    UsageError if the address or the key can't be used, or the time isn't a positive number.
    """

    base_url: str
    api_key: str = ""
    timeout: float = DEFAULT_TIMEOUT
    socket: str = ""
    key_header: str = "Authorization"

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", _checked_url(self.base_url))
        if not (self.api_key.isascii() and self.api_key.isprintable()) or self.api_key.strip() != self.api_key:
            raise UsageError("the API key has a character that an HTTP header can't carry", "Use printable ASCII.")
        if not (math.isfinite(self.timeout) and self.timeout > 0):
            raise UsageError("the time-out must be more than 0 seconds")

    def __repr__(self) -> str:
        key = "'***'" if self.api_key else "''"
        return f"Gateway(base_url={self.base_url!r}, api_key={key}, timeout={self.timeout!r})"

    @property
    def where(self) -> str:
        """Host and port, as in the address, or the path of the socket."""
        return self.socket or urlsplit(self.base_url).netloc

    def with_key(self, api_key: str) -> Gateway:
        """The same gateway, asked with another key; an empty one sends none."""
        return replace(self, api_key=api_key)

    def with_key_in(self, header: str) -> Gateway:
        """The same gateway, given the key in another header."""
        return replace(self, key_header=header)

    def get(self, path: str, *, timeout: float | None = None) -> Response:
        """GET `path`, which begins with a slash. GatewayError if no answer comes."""
        return self._ask("GET", path, None, timeout)

    def post(self, path: str, body: Mapping[str, Any], *, timeout: float | None = None) -> Response:
        """POST `body` as JSON. GatewayError if no answer comes."""
        return self._ask("POST", path, body, timeout)

    def stream(self, path: str, body: Mapping[str, Any], *, timeout: float | None = None) -> Stream:
        """POST `body` as JSON and read server-sent events up to `[DONE]`.

        GatewayError if no answer begins; a stream that breaks later comes back with `broken`.
        """
        limit, started = timeout or self.timeout, time.monotonic()
        head: Response | None = None
        events: list[ServerSentEvent] = []
        broken: GatewayError | None = None
        try:
            with self._open("POST", path, body, limit) as response:
                head = _answer(response, "", started)
                chunks = _chunks(response, started + limit)
                if not Stream(head).is_event_stream:
                    return Stream(_answer(response, _text(chunks), started))
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
        """What an answer says went wrong: one short printable line, without any key."""
        return self.line(told(answer.json(), answer.text))

    def line(self, text: str, limit: int = 300) -> str:
        """The first line of foreign `text`, fit for a terminal and a log: printable, cut, without any key."""
        lines = redact(text, self.api_key).strip().splitlines()
        first = "".join(c if c.isprintable() else " " for c in (lines or [""])[0])
        return first if len(first) <= limit else first[: limit - 1] + "…"

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, timeout: float | None) -> Response:
        limit, started = timeout or self.timeout, time.monotonic()
        with self._open(method, path, body, limit) as response:
            return _answer(response, _text(_chunks(response, started + limit)), started)

    @contextmanager
    def _open(
        self, method: str, path: str, body: Mapping[str, Any] | None, limit: float
    ) -> Iterator[requests.Response]:
        """The answer's head; GatewayError for whatever fails up to the end of the block."""
        try:
            with requests.Session() as session:
                session.auth = _Key(self.api_key, self.key_header)
                if self.socket:
                    session.mount("http://", UnixAdapter(self.socket))
                elif is_loopback(urlsplit(self.base_url).hostname or ""):
                    session.mount("http://", _Direct())
                    session.mount("https://", _Direct())
                with session.request(
                    method,
                    self.base_url + path,
                    json=body,
                    # Compression would hold back the first events of a stream.
                    headers={"Accept-Encoding": "identity"},
                    timeout=(min(limit, CONNECT_TIMEOUT), limit),
                    stream=True,
                    allow_redirects=False,
                ) as response:
                    yield response
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise classify(error, self.where, limit) from error


class _Key(AuthBase):
    """The key, or none. Set even for none: without an `auth`, requests takes one from ~/.netrc."""

    def __init__(self, key: str, header: str) -> None:
        self._key, self._header = key, header

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            bearer = self._header == "Authorization"
            request.headers[self._header] = f"Bearer {self._key}" if bearer else self._key
        return request


class _Direct(HTTPAdapter):
    """Goes straight to the host. A proxy named in the environment has another loopback than we have."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        return super().send(request, *args, **{**kwargs, "proxies": {}})


def is_loopback(host: str) -> bool:
    """Whether a connection to `host` stays on this machine. The unspecified addresses do, on Linux."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def event_data(chunks: Iterable[bytes]) -> Iterator[str]:
    """The data of each server-sent event, as soon as its last byte is there.

    After the WHATWG standard, section 9.2.6, without lone carriage returns as line ends. As there, an event
    without the blank line that ends it is dropped.
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
    hint = "Give it as http://127.0.0.1:4000."
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or any(c.isspace() or not c.isprintable() for c in url.strip()):
        raise UsageError("the gateway's address is not an http:// or https:// address", hint)
    if parts.username is not None or parts.query or parts.fragment:
        raise UsageError("the gateway's address must have no user, no `?` and no `#`", hint)
    return url.strip().rstrip("/")


def _chunks(response: requests.Response, deadline: float) -> Iterator[bytes]:
    """The body as it arrives. `iter_content` waits for full blocks unless the body is chunked; read1 never."""
    size = 0
    while chunk := response.raw.read1(65536, decode_content=True):
        size += len(chunk)
        if size > MAX_BODY:
            raise GatewayError(FailureKind.GARBLED, f"the answer is longer than {MAX_BODY} bytes")
        yield chunk
        if time.monotonic() > deadline:
            raise TimeoutError


def _text(chunks: Iterable[bytes]) -> str:
    return b"".join(chunks).decode("utf-8", "replace")


def _answer(response: requests.Response, text: str, started: float) -> Response:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Response(response.status_code, headers, text, time.monotonic() - started)
