"""Old master keys during and after the overlap of a rotation: in requests, in the environment, and in a .env."""

from __future__ import annotations

import asyncio
import base64
import time
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.commands.releases import refuses_old_keys
from litellm_systemd.commands.resolve import Request, resolve
from litellm_systemd.commands.rotate_key import parse_overlap, with_assignments
from litellm_systemd.contract import RETIRED_KEYS, USER_AGENT
from litellm_systemd.env.environment_file import parse_environment_file, set_assignment
from litellm_systemd.env.retired_keys import RetiredKey, digest_key, read_retired_keys, render_retired_keys
from litellm_systemd.env.settings import build_settings, parse_dotenv
from litellm_systemd.errors import InputError, UsageError
from litellm_systemd.host.layout import Layout
from litellm_systemd.runtime.http.retired_keys import RetiredKeys

OLD, NEW = "sk-the-old-key", "sk-the-new-key"


def pass_through(seconds: int, *headers: tuple[bytes, bytes], query: bytes = b"", kind: str = "http") -> Any:
    """The scope that LiteLLM gets, if the old key is accepted for some seconds more."""
    passed = []

    async def application(scope: Any, _receive: Any, _send: Any) -> None:
        passed.append(scope)

    keys = (RetiredKey(digest_key(OLD), int(time.time()) + seconds),)
    scope = {"type": kind, "headers": list(headers), "query_string": query}
    asyncio.run(RetiredKeys(application, keys, NEW, lambda: ["X-Mine"])(scope, None, None))
    return passed[0]


def response_to(scope: Any, message: dict[str, Any]) -> Any:
    """The message that a client gets during the overlap when LiteLLM sends one."""
    sent = []

    async def application(_scope: Any, _receive: Any, send: Any) -> None:
        await send(message)

    async def send(passed: Any) -> None:
        sent.append(passed)

    keys = (RetiredKey(digest_key(OLD), int(time.time()) + 60),)
    asyncio.run(RetiredKeys(application, keys, NEW, tuple)(scope, None, send))
    return sent[0]


def basic(key: str) -> bytes:
    return b"Basic " + base64.b64encode(f"pk:{key}".encode())


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (b"authorization", b"Bearer sk-the-old-key", b"Bearer sk-the-new-key"),
        (b"authorization", basic(OLD), basic(NEW)),
        (b"authorization", b"Basic =", b"Basic ="),
        (b"x-api-key", b"sk-the-old-key", b"sk-the-new-key"),
        (b"X-Mine", b"Bearer sk-the-old-key", b"Bearer sk-the-new-key"),
        (b"x-api-key", b"sk-the-old-key-2", b"sk-the-old-key-2"),
        (b"x-api-key", b"2sk-the-old-key", b"2sk-the-old-key"),
        (
            b"sec-websocket-protocol",
            b"realtime, openai-insecure-api-key.sk-the-old-key",
            b"realtime, openai-insecure-api-key.sk-the-new-key",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_old_key_in_a_request(name: bytes, value: bytes, expected: bytes, kind: str) -> None:
    """During the overlap the old key counts as the new one wherever a client sends it, and not afterwards."""
    assert pass_through(60, (name, value), kind=kind)["headers"] == [(name, expected)]
    assert pass_through(0, (name, value), kind=kind)["headers"] == [(name, value)]


def test_clients_with_the_old_key_are_reported() -> None:
    """Each request with the old key is reported, with its client and the end of the overlap, except litellmctl's."""
    until, said = int(time.time()) + 60, list[str]()

    async def application(_scope: Any, _receive: Any, _send: Any) -> None:
        pass

    keys = RetiredKeys(application, (RetiredKey(digest_key(OLD), until),), NEW, tuple, said.append)
    old, own = (b"x-api-key", OLD.encode()), (b"user-agent", USER_AGENT.encode())
    for headers in ([old], [old, own], [(b"x-api-key", NEW.encode())]):
        scope = {"type": "http", "headers": headers, "client": ("10.0.0.9\n", 7)}
        asyncio.run(keys(scope, None, None))
    end = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(until))
    assert said == [f"10.0.0.9\\n uses the old master key, which is refused from {end}"]


def test_old_key_in_a_query() -> None:
    """The same for a key in the query string, and a lifespan has neither."""
    assert pass_through(60, query=b"alt=sse&key=sk-the-old-key")["query_string"] == b"alt=sse&key=sk-the-new-key"
    assert pass_through(0, query=b"key=sk-the-old-key")["query_string"] == b"key=sk-the-old-key"
    scope = pass_through(60, (b"x-api-key", b"sk-the-old-key"), kind="lifespan")
    assert scope["headers"] == [(b"x-api-key", b"sk-the-old-key")]


def test_new_key_stays_secret() -> None:
    """A client that knows the old key does not learn the new one from what a response repeats."""
    key, call = (b"x-api-key", b"sk-the-old-key"), (b"x-litellm-call-id", b"sk-the-old-key")
    passed = pass_through(60, key, call, query=b"next=sk-the-old-key")
    assert passed["headers"] == [(b"x-api-key", b"sk-the-new-key"), call]
    assert passed["query_string"] == b"next=sk-the-old-key"

    scope = {"type": "http", "headers": [], "query_string": b"key=sk-the-old-key"}
    redirection = {
        "type": "http.response.start",
        "status": 307,
        "headers": [(b"location", b"/v1?key=sk-the-new-key")],
    }
    assert response_to(scope, redirection)["headers"] == [(b"location", b"/v1?key=sk-the-old-key")]

    protocol = "openai-insecure-api-key.sk-the-"
    handshake = {"type": "websocket", "headers": [(b"sec-websocket-protocol", f"{protocol}old-key".encode())]}
    accepted = response_to(handshake, {"type": "websocket.accept", "subprotocol": f"{protocol}new-key"})
    assert accepted["subprotocol"] == f"{protocol}old-key"


def test_long_header() -> None:
    """The words of a long header are not compared: that would take 30 ms for 64 KiB."""
    header = (b"authorization", b"x," * 2048 + b"sk-the-old-key")
    assert pass_through(60, header)["headers"] == [header]


def test_variable() -> None:
    """The variable holds digests and times, and no key. What is neither is skipped."""
    keys = (RetiredKey(digest_key(OLD), 1_800_000_000), RetiredKey(digest_key("x"), 5))
    text = render_retired_keys(keys)
    assert OLD not in text
    assert read_retired_keys({RETIRED_KEYS: f"{text} nonsense :x 00:5 {digest_key(OLD)}:{'9' * 5000}"}) == keys
    assert read_retired_keys({}) == ()
    assert len(read_retired_keys({RETIRED_KEYS: render_retired_keys(keys * 20)})) == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('# Mine\nKEY="a"\nB=2\n', '# Mine\nKEY="new $1"\nB=2\n'),
        ("B=2\n# KEY=a", 'B=2\n# KEY=a\nKEY="new $1"\n'),
        ("KEY=a\\\nb\nB=2\nKEY = 'c\nd'\n", 'KEY="new $1"\nB=2\nKEY="new $1"\n'),
        ("", '\nKEY="new $1"\n'),
    ],
)
def test_set_assignment(text: str, expected: str) -> None:
    """One variable of an EnvironmentFile gets another value, and all else stays as it is."""
    changed = set_assignment(text, "KEY", "new $1")
    assert changed == expected.replace("$", "\\$")
    assert parse_environment_file(changed) == {**parse_environment_file(text), "KEY": "new $1"}


def test_install_during_the_overlap() -> None:
    """An install keeps the overlap, and refuses a .env that would restore the old key."""
    installed = {"LITELLM_MASTER_KEY": NEW, RETIRED_KEYS: f"{digest_key(OLD)}:1800000000"}
    settings = build_settings(parse_dotenv("NUM_WORKERS=2\n", ".env"), installed=installed, new_key=str)
    assert settings.environment == {**installed, "NUM_WORKERS": "2"}
    with pytest.raises(
        InputError, match=r"^\.env:1: LITELLM_MASTER_KEY is an old key, which 'litellmctl rotate-key'"
    ):
        build_settings(parse_dotenv(f"LITELLM_MASTER_KEY={OLD}\n", ".env"), installed=installed, new_key=str)


def test_keys_of_another_host(tmp_path: Path) -> None:
    """A .env cannot make the service accept an old key: the line is ignored with a warning."""
    layout = Layout(root=tmp_path)
    (tmp_path / ".env").write_text(f"PORT=4001\n{RETIRED_KEYS}={digest_key(OLD)}:4102444800\n", encoding="utf-8")
    found = resolve(Request(layout, config="demo.yml", cwd=tmp_path, ask_instance=False)).settings
    assert RETIRED_KEYS not in found.environment
    assert found.warnings == (
        f"{tmp_path}/.env:2: {RETIRED_KEYS} is ignored: only 'litellmctl rotate-key' sets it. Remove the line.",
    )
    # The keys of this host are kept.
    installed = layout.real(layout.environment_file)
    installed.parent.mkdir(parents=True)
    line = f'{RETIRED_KEYS}="{digest_key(NEW)}:4102444800"\n'
    installed.write_text(f'LITELLM_MASTER_KEY="sk-0123456789abcdef0123"\n{line}', encoding="utf-8")
    found = resolve(Request(layout, config="demo.yml", cwd=tmp_path, ask_instance=False)).settings
    assert found.environment[RETIRED_KEYS] == f"{digest_key(NEW)}:4102444800"
    assert len(found.warnings) == 1


@pytest.mark.parametrize("seconds", [600, -1])
def test_rollback_during_the_overlap(tmp_path: Path, seconds: int) -> None:
    """A rollback to a release that does not know of rotate-key warns that the old key is refused, until the overlap
    ends.
    """
    layout = Layout(root=tmp_path)
    module = Path("lib/python3.12/site-packages/litellm_systemd/env/retired_keys.py")
    for name in ("old", "new"):
        (layout.real(layout.release(name)) / module.parent).mkdir(parents=True)
    (layout.real(layout.release("new")) / module).touch()
    path = layout.real(layout.environment_file)
    path.parent.mkdir(parents=True)
    path.write_text(f'{RETIRED_KEYS}="{digest_key(OLD)}:{int(time.time()) + seconds}"\n', encoding="utf-8")
    assert refuses_old_keys(layout, "old") is (seconds > 0)
    assert not refuses_old_keys(layout, "new")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("300", 300), ("10m", 600), ("7min", 420), ("1h30m", 5400), ("1w", 604_800), ("30d", 2_592_000)],
)
def test_overlap(text: str, seconds: int) -> None:
    """An overlap is a number of seconds, or a time span of systemd.time(7)."""
    assert parse_overlap(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "299", "5w", "31d", "1h30x", "h", "infinity"])
def test_wrong_overlap(text: str) -> None:
    """Any other overlap is refused."""
    with pytest.raises(UsageError, match="not a time from 5 minutes to 30 days"):
        parse_overlap(text)


def test_comment_that_is_not_utf8() -> None:
    """A comment in another encoding stays as it is, byte for byte."""
    content = b"# Schl\xfcssel\nLITELLM_MASTER_KEY=sk-the-old-key\n"
    expected = b'# Schl\xfcssel\nLITELLM_MASTER_KEY="sk-the-new-key"\n'
    assert with_assignments(content, {"LITELLM_MASTER_KEY": NEW}) == expected
