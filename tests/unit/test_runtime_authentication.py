"""The authentication gate as an ASGI application, and the journal line about what it refused."""

from __future__ import annotations

import asyncio
import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from litellm_systemd.contract import REFUSAL_HEADER, REFUSED_KEY, build_refusal_code
from litellm_systemd.runtime.channel import CONNECTION, GUESSED_KEY, OTHER_ADDRESSES, REQUEST, Refusals
from litellm_systemd.runtime.http import refuse
from litellm_systemd.runtime.http.authentication import AuthenticationGate, Refusal
from litellm_systemd.runtime.http.expected_refusals import is_expected_refusal
from litellm_systemd.runtime.http.refuse import LOCAL, MAX_ADDRESSES, Reason, RefusalCounter
from litellm_systemd.runtime.master.refusals import RefusalLog
from litellm_systemd.runtime.worker.litellm_authentication import MasterKeyAuthentication

_MODULES = ("litellm.proxy.proxy_server", "litellm.proxy.auth.user_api_key_auth", "litellm.proxy._types")
WRONG, MISSING = Refusal("wrong", has_key=True), Refusal("missing", has_key=False)


class Exchange:
    """One request to a gate that refuses it with `refusal`, or passes it with None."""

    def __init__(self, refusal: Refusal | None, *, body: int = 0, **scope: Any) -> None:
        self.counter = RefusalCounter()
        self.sent: list[Any] = []
        self.received = 0
        self.passed: list[Any] = []
        self.scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/chat/completions",
            "headers": [],
            "client": ("192.0.2.7", 5),
            **scope,
        }
        self._pieces = body

        async def find(_: Any) -> Refusal | None:
            return refusal

        async def application(scope: Any, _receive: Any, _send: Any) -> None:
            self.passed.append(scope)

        gate = AuthenticationGate(application, find, self.counter)
        asyncio.run(gate(self.scope, self._receive, self._send))

    async def _receive(self) -> Any:
        if self.scope["type"] == "websocket":
            return {"type": "websocket.connect"}
        if self.received == self._pieces:
            await asyncio.sleep(60)
        self.received += 1
        return {"type": "http.request", "body": b"x", "more_body": self.received < self._pieces}

    async def _send(self, message: Any) -> None:
        self.sent.append({**message, "received": self.received})

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def error(self) -> Any:
        return json.loads(b"".join(message.get("body", b"") for message in self.sent))


def test_passed_request() -> None:
    """A request that is not refused reaches LiteLLM unchanged and is not counted."""
    exchange = Exchange(None)
    assert exchange.passed == [exchange.scope]
    assert (exchange.sent, exchange.received, exchange.counter.take()) == ([], 0, ())


def test_lifespan_passes() -> None:
    """Events that are no requests are never refused."""
    assert Exchange(WRONG, type="lifespan").passed


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v1/messages", []),
        ("/v1/messages/count_tokens", []),
        ("/anthropic/v1/messages", []),
        ("/v1/models", [(b"anthropic-version", b"2023-06-01")]),
    ],
)
def test_anthropic_format(path: str, headers: list[Any]) -> None:
    """A client of Anthropic's API gets an error in its format."""
    exchange = Exchange(WRONG, path=path, headers=headers)
    assert exchange.sent[0]["status"] == 401
    assert exchange.error == {"type": "error", "error": {"type": "authentication_error", "message": "wrong"}}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/threads/x/messages", "/key/generate"])
def test_openai_format(path: str) -> None:
    """Every other client gets an error in OpenAI's format, with its type and code for a wrong key."""
    exchange = Exchange(WRONG, path=path)
    assert exchange.sent[0]["status"] == 401
    error = {"message": "wrong", "type": "invalid_request_error", "param": None, "code": "invalid_api_key"}
    assert exchange.error == {"error": error}
    assert exchange.headers[b"www-authenticate"] == b"Bearer"
    assert exchange.headers[b"content-length"] == str(len(json.dumps(exchange.error))).encode()


@pytest.mark.parametrize("framing", [(b"content-length", b"3"), (b"transfer-encoding", b"chunked")])
def test_body_is_read_after_the_response(framing: tuple[bytes, bytes]) -> None:
    """The complete response precedes the body; the response ends, and the connection may close, after the body."""
    exchange = Exchange(WRONG, body=3, headers=[framing])
    assert [message["received"] for message in exchange.sent] == [0, 0, 3]
    assert [message.get("more_body") for message in exchange.sent] == [None, True, False]
    assert b"connection" not in exchange.headers


def test_endless_body(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate does not wait for the end of a body longer than the limit."""
    monkeypatch.setattr(refuse, "_LINGER", 0.05)
    exchange = Exchange(WRONG, headers=[(b"content-length", b"3")])
    assert exchange.sent[-1]["more_body"] is False


def test_client_that_waits() -> None:
    """A client that waits for `100 Continue` gets the response and a closed connection; its body is not awaited."""
    exchange = Exchange(WRONG, headers=[(b"content-length", b"3"), (b"expect", b"100-Continue")])
    assert exchange.headers[b"connection"] == b"close"
    assert exchange.received == 0


def test_websocket() -> None:
    """A refused handshake gets the error as an HTTP response, or is closed if the server cannot send one."""
    answered = Exchange(WRONG, type="websocket", extensions={"websocket.http.response": {}})
    kinds = [message["type"] for message in answered.sent]
    assert kinds == ["websocket.http.response.start", "websocket.http.response.body"]
    assert answered.sent[0]["status"] == 401
    assert answered.error["error"]["code"] == "invalid_api_key"
    closed = Exchange(WRONG, type="websocket")
    assert [(message["type"], message["code"]) for message in closed.sent] == [("websocket.close", 1008)]


def test_counting() -> None:
    """Refusals are counted by address and reason, and each is reported once."""
    wrong, missing = Reason.WRONG_KEY.value[1], Reason.NO_KEY.value[1]
    assert Exchange(WRONG).counter.take() == (Refusals(REQUEST, {wrong: 1}, {"192.0.2.7": 1}),)
    assert Exchange(MISSING, client=None).counter.take() == (Refusals(REQUEST, {missing: 1}, {LOCAL: 1}),)
    counter = RefusalCounter()
    for number in range(MAX_ADDRESSES + 10):
        counter.add((f"2001:db8::{number:x}", 5), Reason.WRONG_KEY)
    counter.add(("2001:db8::1", 5), Reason.NO_KEY)
    (taken,) = counter.take()
    assert (taken.reasons, len(taken.clients)) == ({wrong: MAX_ADDRESSES + 10, missing: 1}, MAX_ADDRESSES + 1)
    assert (taken.clients[OTHER_ADDRESSES], taken.clients["2001:db8::1"]) == (10, 2)
    assert counter.take() == ()


class Log:
    """A `RefusalLog` with the lines that it wrote."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.log = RefusalLog(self.lines.append, self.warnings.append)

    def add(self, now: float, *, wrong: int = 1, missing: int = 0, **clients: int) -> None:
        reasons = {"with a wrong key": wrong, "without a key": missing}
        counted = {reason: count for reason, count in reasons.items() if count}
        self.log.add(Refusals(REQUEST, counted, clients or {"192.0.2.7": wrong + missing}), now)


def test_one_line_per_burst() -> None:
    """Refusals within seconds of each other are one line, written when they have stopped."""
    log = Log()
    for second in range(10):
        log.add(100.0 + second)
        log.log.tick(100.5 + second)
    assert log.lines == []
    log.log.tick(115.0)
    log.log.tick(116.0)
    assert log.lines == ["refused 10 requests with a wrong key, from 192.0.2.7 (10)"]


def test_long_burst() -> None:
    """A burst that does not stop has a line after a minute, and then more and more rarely: at last one an hour."""
    log = Log()
    for second in range(24 * 3600):
        log.add(float(second))
        log.log.tick(float(second))
    counts = [int(line.split()[1]) for line in log.lines]
    assert (counts[0], counts[-1]) == (61, 3600)
    assert len(counts) < 36


def test_repeated_bursts() -> None:
    """An attack with pauses has few lines too, and they count each refusal. The first line after an hour without a
    refusal is prompt again.
    """
    log, now = Log(), 0.0
    for _ in range(16_000):  # a day
        log.add(now)
        for _ in range(10):
            now += 0.53
            log.log.tick(now)
    assert log.lines[0] == "refused 1 request with a wrong key, from 192.0.2.7 (1)"
    assert len(log.lines) < 36
    log.log.tick(now + 3600)
    assert sum(int(line.split()[1]) for line in log.lines) == 16_000
    log.log.tick(now + 7200)
    log.add(now + 7201, wrong=7)
    log.log.tick(now + 7206)
    assert log.lines[-1] == "refused 7 requests with a wrong key, from 192.0.2.7 (7)"


def test_guesses_are_a_warning() -> None:
    """Guessed keys are a warning with the address and their number, and stay in the status for an hour."""
    log = Log()
    for now, count in ((100.0, 15), (103.0, 5)):
        log.log.add(Refusals(GUESSED_KEY, {"after 10 wrong ones": count}, {"192.0.2.7": count}), now)
    log.log.tick(110.0)
    assert log.lines == []
    assert log.warnings == ["refused 20 guessed keys after 10 wrong ones, from 192.0.2.7 (20)"]
    assert log.log.build_guesses(110.0) == [{"client": "192.0.2.7", "refused": 20, "age": 7.0}]
    assert log.log.build_guesses(103.0 + 3600) == []


def test_former_guesses() -> None:
    """A client that guesses keys now has its name in the status, however many others guessed before the last hour."""
    log = Log()
    for number in range(1000):
        log.log.add(Refusals(GUESSED_KEY, {"after 10 wrong ones": 1}, {str(number): 1}), 0.0)
    log.log.add(Refusals(GUESSED_KEY, {"after 10 wrong ones": 2}, {"192.0.2.7": 2}), 3600.0)
    assert log.log.build_guesses(3600.0) == [{"client": "192.0.2.7", "refused": 2, "age": 0.0}]


def test_kinds_and_addresses() -> None:
    """The line names the kinds and the three addresses with the most requests, and counts the others."""
    log = Log()
    log.add(1.0, wrong=30, missing=1, a=20, b=9, c=1, d=1)
    log.add(1.0, wrong=0, missing=2, c=1, **{OTHER_ADDRESSES: 1})
    log.log.flush()
    assert log.lines == [
        "refused 30 requests with a wrong key and 3 requests without a key, from a (20), b (9), c (2), "
        "other addresses (2)"
    ]


def test_connections() -> None:
    """Closed connections have a line of their own, with one reason after the other."""
    log = Log()
    log.add(1.0)
    reasons = {reason.value[1]: count for reason, count in ((Reason.ADDRESS, 2), (Reason.SILENT, 500))}
    log.log.add(Refusals(CONNECTION, {**reasons, "that x": 1}, {"192.0.2.8": 503}), 3.0)
    log.log.tick(6.0)
    log.log.tick(8.0)
    assert log.lines == [
        "refused 1 request with a wrong key, from 192.0.2.7 (1)",
        "closed 500 connections that sent no request, 2 connections above MAX_CONNECTIONS_PER_ADDRESS and"
        " 1 connection that x, from 192.0.2.8 (503)",
    ]


def test_address_of_a_proxy() -> None:
    """A proxy may pass on any text as an address, and cannot forge a line with it."""
    log = Log()
    log.add(1.0, wrong=0, missing=1, **{"x\n<3>forged": 1})
    log.log.flush()
    assert log.lines == ["refused 1 request without a key, from x\\n<3>forged (1)"]


def test_long_address() -> None:
    """An address has a bounded length, since a proxy may pass on a whole header."""
    (taken,) = Exchange(WRONG, client=("x" * 60_000, 0)).counter.take()
    assert [len(client) for client in taken.clients] == [64]


def test_many_addresses() -> None:
    """An attack from any number of addresses takes a bounded amount of memory."""
    log = Log()
    for number in range(50):
        log.add(1.0, wrong=100, **{f"{number}-{each}": 1 for each in range(100)})
    assert len(log.log._subjects[REQUEST].clients) <= 1001
    log.log.flush()
    assert log.lines[0].endswith("other addresses (4997)")


def test_a_gate_that_fails_is_reported_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a LiteLLM whose internals have other names, LiteLLM decides, and the journal says so once."""
    for name in ("litellm", "litellm.proxy", "litellm.proxy.auth", *_MODULES):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    authentication = MasterKeyAuthentication(object(), lambda _: False)
    for _ in range(2):
        assert asyncio.run(authentication.find_refusal({"type": "http"})) is None
    (record,) = caplog.records
    assert "LiteLLM decides on wrong keys" in record.message


def test_key_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The headers that a configuration names for the key, whatever else it has there."""
    authentication = MasterKeyAuthentication.__new__(MasterKeyAuthentication)
    settings: dict[str, Any] = {}
    monkeypatch.setattr(authentication, "_server", SimpleNamespace(general_settings=settings), raising=False)
    assert authentication.find_key_headers() == []
    settings["litellm_key_header_name"] = "X-Mine"
    settings["pass_through_endpoints"] = [
        "nonsense",
        {"path": "/a"},
        {"path": "/b", "headers": {"litellm_user_api_key": "X-Other", "Authorization": "b"}},
    ]
    assert authentication.find_key_headers() == ["X-Mine", "X-Other"]


@pytest.mark.parametrize(
    ("master_key", "keys", "expected"),
    [
        ("sk-right", (), True),
        ("sk-right", (REFUSED_KEY,), True),
        ("sk-right", ("sk-guess",), False),
        ("sk-right", (REFUSED_KEY, "sk-guess"), False),
        ("", (), False),
    ],
)
def test_expected_refusal(master_key: str, keys: tuple[str, ...], expected: bool) -> None:
    """Only the wrong key of `verify`, or no key, is refused without a notice, and only if a right key exists."""
    scope = {"headers": [(REFUSAL_HEADER.lower().encode(), build_refusal_code(master_key).encode())]}
    assert is_expected_refusal(scope, master_key, keys) is expected
    assert not is_expected_refusal({"headers": []}, master_key, keys)
