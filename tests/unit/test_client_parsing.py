"""The parts of the client that need no connection: URLs, secrets, event streams, error messages."""

from __future__ import annotations

import socket
import ssl

import pytest
import requests
import urllib3

from litellm_systemd.client.gateway import (
    FailureKind,
    Gateway,
    Response,
    classify,
    event_data,
    extract_error,
    is_local_target,
)
from litellm_systemd.contract import ExitCode
from litellm_systemd.env.secrets import redact
from litellm_systemd.errors import UsageError

KEY = "sk-canary-7c1f0a"


def test_repr_masks_the_key() -> None:
    """A gateway can be printed or logged without revealing its key."""
    assert repr(Gateway("http://h:1", KEY)) == "Gateway(base_url='http://h:1', api_key='***', timeout=60.0)"
    assert KEY not in f"{Gateway('http://h:1', KEY)}"
    assert "api_key=''" in repr(Gateway("http://h:1"))


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:4000",
        "ftp://h",
        "http://",
        "http://h:99999",
        "http://u:secret@h",
        "http://h/?key=secret",
        "http://h/#secret",
        "http://h/\nsecret",
        "",
    ],
)
def test_an_invalid_url_is_a_usage_error_without_its_text(url: str) -> None:
    """An invalid URL is rejected, and the message does not repeat a password in it."""
    with pytest.raises(UsageError) as caught:
        Gateway(url)
    assert "secret" not in caught.value.message + caught.value.hint
    assert caught.value.code is ExitCode.USAGE


@pytest.mark.parametrize("key", ["sk-é", "sk-a\nb", " sk-a", "sk-a\r\nHost: evil"])
def test_a_key_that_is_invalid_in_a_header_is_rejected(key: str) -> None:
    """A key that would break the request is rejected by a message that does not show it."""
    with pytest.raises(UsageError) as caught:
        Gateway("http://h", key)
    assert key.strip() not in caught.value.message


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf")])
def test_a_timeout_is_a_positive_number(seconds: float) -> None:
    """A timeout that would never or always expire is rejected."""
    with pytest.raises(UsageError):
        Gateway("http://h", timeout=seconds)


def test_a_trailing_slash_makes_no_difference() -> None:
    """`http://h:4000/` and `http://h:4000` are the same gateway; a path prefix stays."""
    assert Gateway("http://h:4000/") == Gateway("http://h:4000")
    assert Gateway("https://h/llm/").base_url == "https://h/llm"


@pytest.mark.parametrize("host", ["localhost", "api.localhost", "127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "::"])
def test_loopback(host: str) -> None:
    """Hosts whose connections stay on this machine are recognised."""
    assert is_local_target(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "fd00::1", "localhost.example", "127.0.0.1.example", "example", ""])
def test_not_loopback(host: str) -> None:
    """A name that only resembles loopback is not treated as such."""
    assert not is_local_target(host)


STREAM = (
    b': ping\r\ndata: {"a": 1}\r\n\r\nevent: x\ndata:two\ndata: lines\n\nid: 1\n\ndata: \xc3\xa9\n\ndata: [DONE]\n\n'
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_the_same_however_the_bytes_arrive(size: int) -> None:
    """Chunk boundaries, even within a character or a line end, do not change the events of a stream."""
    chunks = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert list(event_data(chunks)) == ['{"a": 1}', "two\nlines", "é", "[DONE]"]


def test_an_incomplete_event_is_dropped() -> None:
    """A stream that ends before the blank line has no last event, as for every other client."""
    assert list(event_data([b"data: one\n\n", b"data: [DONE]\n"])) == ["one"]


def test_an_event_is_returned_as_soon_as_it_is_complete() -> None:
    """The time to the first token does not include waiting for the next chunk."""

    def chunks() -> object:
        yield b"data: one\n\n"
        pytest.fail("read the next chunk before returning the event")

    assert next(event_data(chunks())) == "one"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "secret",
    [
        "sk-abcdefghijkl",
        "AKIAIOSFODNN7EXAMPLE",
        "ASIAIOSFODNN7EXAMPLE",
        "Bearer eyJhbGciOi.x.y",
        'aws_secret_access_key="wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"',
        "{'aws_session_token': 'IQoJb3JpZ2luX2VjEXAMPLE'}",
        "X-Amz-Signature=0123456789abcdef0123456789abcdef",
    ],
)
def test_anything_like_a_key_is_masked(secret: str) -> None:
    """A secret in a provider's error message does not reach the report."""
    cleaned = redact(f"refused: {secret} in us-east-1")
    assert "***" in cleaned
    assert secret.split()[-1].split("=")[-1].strip("'\"{}") not in cleaned
    assert cleaned.startswith("refused: ")
    assert cleaned.endswith(" in us-east-1")


@pytest.mark.parametrize(
    "text",
    [
        "cannot connect to postgresql://u:p@canary@db:5432/x",
        "proxy http://u:canary/x@proxy:3128 refused",
        "Incorrect API key provided: canary-of-words",
        "headers: authorization: canary-of-words",
        "set-cookie: a=1; session=canary",
        "Params(api_key=SecretStr('canary-of-words'))",
        "{'password': b'canary'}",
        "ran x --api-key canary-of-words",
    ],
)
def test_a_secret_of_words_is_masked_by_its_context(text: str) -> None:
    """A password that looks like words is masked where a URL, a header, an option or a type gives it away."""
    assert "canary" not in redact(text)


def test_the_given_secret_is_masked_in_any_form() -> None:
    """A master key is masked even without the prefix `sk-`."""
    assert redact("key hunter2 is wrong", "hunter2", "") == "key *** is wrong"


@pytest.mark.parametrize(
    "text",
    [
        "The security token included in the request is expired",
        "Bearer Token has expired",
        "Basic authentication required",
        "no client: api_key=None, password: null",
        "cannot reach http://proxy:3128/a@b",
        "model task-list-v1, disk-based, risk-averse-model",
        "Invalid model name passed in model=bedrock-converse-us-claude-3-7-sonnet-v1",
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude",
    ],
)
def test_ordinary_words_are_not_masked(text: str) -> None:
    """Masking keeps the words that explain a failure."""
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"error": {"message": "No connected db.", "code": "400"}}', "No connected db."),
        ('{"error": "plain"}', "plain"),
        ('{"detail": "Not Found"}', "Not Found"),
        ('{"error": {"code": 7}}', '{"code": 7}'),
        ("[1]", "[1]"),
        ("Internal Server Error\n", "Internal Server Error"),
        ("<html><head><title>502\n Bad Gateway</title></head>", "an HTML page, “502 Bad Gateway”"),
        ("<!DOCTYPE HTML><HTML><body>hi", "an HTML page"),
        ("", ""),
        ("first\nsecond", "first"),
        ("red \x1b[31mtext\x07", "red  [31mtext "),
        ("x" * 400, "x" * 299 + "…"),
        (f"bad key {KEY}", "bad key ***"),
    ],
)
def test_an_error_response_is_explained_in_one_line(text: str, words: str) -> None:
    """The message of any error response is one short line, safe for a terminal and without the key."""
    assert Gateway("http://h", KEY).explain(Response(500, {}, text, 0.1)) == words


def test_the_error_of_an_empty_object() -> None:
    """An error response without a message is shown as it is."""
    assert extract_error({}, "{}") == "{}"


def test_deeply_nested_json() -> None:
    """JSON that is nested too deeply for the parser counts as no JSON and causes no traceback."""
    assert Response(200, {}, "[" * 100_000, 0.0).json() is None


def _certificate_error() -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_message = "self-signed certificate"
    return error


@pytest.mark.parametrize(
    ("cause", "kind", "words"),
    [
        (ConnectionRefusedError(111, "x"), FailureKind.REFUSED, "nothing listens on h:1"),
        (socket.gaierror(-2, "x"), FailureKind.UNREACHABLE, "cannot be resolved"),
        (TimeoutError(), FailureKind.TIMEOUT, "within 2.5 s"),
        (_certificate_error(), FailureKind.TLS, "self-signed certificate"),
        (ssl.SSLError(1, "x"), FailureKind.TLS, "the handshake failed"),
        (ConnectionResetError(104, "x"), FailureKind.DROPPED, "closed the connection"),
    ],
)
@pytest.mark.parametrize("wrapped", ["bare", "args", "reason", "cause"])
def test_the_cause_is_found_at_any_depth(cause: Exception, kind: FailureKind, words: str, wrapped: str) -> None:
    """The same failure gets the same message wherever the libraries have wrapped it."""
    error: Exception = cause
    if wrapped == "args":
        error = requests.ConnectionError(urllib3.exceptions.ProtocolError("x?key=canary", cause))
    elif wrapped == "reason":
        inner = urllib3.exceptions.MaxRetryError(urllib3.HTTPConnectionPool("h"), "/?key=canary", cause)
        error = requests.ConnectionError(inner)
    elif wrapped == "cause":
        error = requests.ConnectionError("canary")
        error.__cause__ = cause
    found = classify(error, "h:1", 2.5)
    assert found.kind is kind
    assert words in found.message
    assert "canary" not in found.message + found.hint
    assert found.hint
    assert found.code is ExitCode.UNAVAILABLE


def test_a_host_that_drops_packets_is_unreachable() -> None:
    """A connection that times out is not a slow response: more time would not help."""
    inner = urllib3.exceptions.ConnectTimeoutError("x")
    inner.__context__ = TimeoutError()
    found = classify(requests.ConnectTimeout(inner), "h:1", 60)
    assert found.kind is FailureKind.UNREACHABLE
    assert found.message == "could not connect to h:1 in time"


@pytest.mark.parametrize(
    "error",
    [
        requests.exceptions.ProxyError(ConnectionRefusedError()),
        requests.exceptions.InvalidProxyURL("x"),
        requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support."),
    ],
)
def test_a_broken_proxy_is_not_taken_for_a_dead_gateway(error: Exception) -> None:
    """If the proxy fails, the hint is about the proxy, not about the service."""
    found = classify(error, "h:1", 1)
    assert found.kind is FailureKind.PROXY
    assert "NO_PROXY" in found.hint
