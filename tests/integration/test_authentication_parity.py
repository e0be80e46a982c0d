"""The authentication gate refuses what LiteLLM would refuse because of the key, and nothing else."""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Iterator

import pytest

from tests.integration.authentication_parity import (
    KEY,
    PASSED,
    SESSION_TOKEN,
    WRONG,
    Decision,
    LiteLLM,
    Request,
    run_litellm,
)

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
RIGHT_BEARER, WRONG_BEARER = {"Authorization": f"Bearer {KEY}"}, {"Authorization": f"Bearer {WRONG}"}
#: Every header in which LiteLLM takes a key on any route.
HEADERS = (
    "Authorization",
    "API-Key",
    "x-api-key",
    "x-goog-api-key",
    "Ocp-Apim-Subscription-Key",
    "x-litellm-api-key",
)
#: These read a key of their own in their handlers: of Google, Deepgram, MCP and OAuth, of a session, of a sign-in.
OWN_AUTHENTICATION = re.compile(
    r"/gemini/|/vertex_ai/discovery/|/langfuse/|/deepgram/|(/x)?/mcp\b|/toolset/x/mcp|/v1/mcp/(server/)?oauth/"
    r"|(/openai)?(/v1)?/realtime/calls|/(v2/|v3/)?login|/lens/|/claude_code_gateway/oauth/|/fallback/login"
)
NO_DATABASE = "No connected db"


@pytest.fixture(scope="module")
def litellm() -> Iterator[LiteLLM]:
    with run_litellm() as running:
        yield running


def is_refused(decision: Decision) -> bool:
    """Whether LiteLLM refuses the key. The handshake of a WebSocket has no status then."""
    return (
        decision.litellm in (401, 403)
        or NO_DATABASE in decision.body
        or (decision.request.kind == "websocket" and decision.litellm == 0)
    )


def test_every_route(litellm: LiteLLM) -> None:
    """On every route and method a wrong key gets 401 exactly where LiteLLM would refuse it."""
    decisions = litellm.ask(None, headers=WRONG_BEARER)
    assert len(decisions) > 1000
    for decision in decisions:
        request = decision.request
        if decision.is_passed:
            assert not is_refused(decision) or OWN_AUTHENTICATION.match(request.path), decision
        else:
            assert decision.gate == 401, decision
            disabled = decision.litellm == 404 and request.path.startswith("/claude_code_gateway/")
            assert is_refused(decision) or disabled, decision
    refused = {decision.request.path for decision in decisions if not decision.is_passed}
    assert refused >= {"/v1/models", CHAT, MESSAGES, RESPONSES, "/v1/realtime", "/key/generate", "/health"}
    passed = {decision.request.path for decision in decisions if decision.is_passed}
    assert passed >= {"/health/liveliness", "/health/readiness", "/public/model_hub", "/", "/sso/callback"}


def test_every_combination_of_headers(litellm: LiteLLM) -> None:
    """Whatever keys a request has in whatever headers, the gate passes it exactly if LiteLLM accepts it."""
    chosen = random.Random(13)
    values = (f"Bearer {KEY}", f"bearer {KEY}", KEY, f"Bearer {WRONG}", WRONG, "Bearer ", "", f"Basic {KEY}")
    signed = "AWS4-HMAC-SHA256 Credential=Bearer {}/20260101/us-east-1/bedrock/aws4_request, SignedHeaders=host"
    requests = [Request(headers={name: value}) for name in HEADERS for value in values]
    requests += [Request(headers={"Authorization": signed.format(key)}) for key in (KEY, WRONG)]
    requests += [
        Request(headers={name: chosen.choice(values) for name in chosen.sample(HEADERS, chosen.randint(2, 6))})
        for _ in range(150)
    ]
    decisions = litellm.ask([Request(), *requests])
    for decision in decisions:
        assert decision.litellm in (200, 400, 401), decision
        assert decision.is_passed == (decision.litellm == 200), decision
    assert {decision.is_passed for decision in decisions} == {True, False}


def test_keys_that_are_almost_right(litellm: LiteLLM) -> None:
    """A key that differs in one character, in length or in its script is a wrong key, and no error."""
    keys = (KEY[:-1], KEY + "x", KEY.upper(), "x" + KEY, "sk-", "\u00fc\u00ff", "x" * 60_000)
    decisions = litellm.ask([Request(headers={"x-api-key": key}) for key in keys])
    assert [decision.gate for decision in decisions] == [401] * len(keys)
    assert all(map(is_refused, decisions))


def test_configured_header(litellm: LiteLLM) -> None:
    """With `litellm_key_header_name` only that header counts, as in LiteLLM."""
    requests = [
        Request(headers={"X-My-Key": f"Bearer {KEY}"}),
        Request(headers={"x-my-key": f"Bearer {KEY}", **WRONG_BEARER}),
        # Two headers of one name
        Request(headers={"X-My-Key": f"Bearer {WRONG}", "x-my-key": f"Bearer {KEY}"}),
        Request(headers={"X-My-Key": f"Bearer {KEY}", "x-my-key": f"Bearer {WRONG}"}),
        Request(headers=RIGHT_BEARER),
        Request(headers={"X-My-Key": KEY}),
        Request(headers={"X-My-Key": f"Bearer {WRONG}"}),
        Request(),
    ]
    decisions = litellm.ask(requests, settings="  litellm_key_header_name: X-My-Key")
    assert [decision.gate for decision in decisions] == [PASSED] * 3 + [401] * 5
    assert [decision.litellm for decision in decisions][:3] == [200] * 3
    assert all(map(is_refused, decisions[3:]))


def test_key_in_the_query(litellm: LiteLLM) -> None:
    """Google's `?key=` counts where LiteLLM takes it, and nowhere else."""
    path = "/v1beta/models/demo:generateContent"
    requests = [
        Request(path, "POST", query=f"key={KEY}"),
        Request(path, "POST", query=f"key={WRONG}"),
        Request(path, "POST", query=f"key={KEY}", headers=WRONG_BEARER),
        Request("/v1/models", query=f"key={KEY}"),
    ]
    decisions = litellm.ask(requests)
    assert [decision.gate for decision in decisions] == [PASSED, 401, 401, 401]
    assert [is_refused(decision) for decision in decisions] == [False, True, True, True]


def test_websocket(litellm: LiteLLM) -> None:
    """The handshake of a WebSocket passes with the right key as a header or as a subprotocol, else it gets 401."""
    offers: tuple[dict[str, str], ...] = (
        RIGHT_BEARER,
        {"api-key": KEY},
        {"sec-websocket-protocol": f"realtime, openai-insecure-api-key.{KEY}"},
        WRONG_BEARER,
        {"api-key": WRONG},
        {"sec-websocket-protocol": f"realtime, openai-insecure-api-key.{WRONG}"},
        {},
    )
    requests = [Request("/v1/realtime", query="model=demo", headers=each, kind="websocket") for each in offers]
    decisions = litellm.ask(requests)
    assert [decision.gate for decision in decisions] == [PASSED] * 3 + [401] * 4


def test_pass_through_endpoints(litellm: LiteLLM) -> None:
    """A pass-through endpoint without authentication stays open; one with its own header for the key reads that."""
    endpoints = """
  pass_through_endpoints:
    - {path: /open, target: "http://127.0.0.1:1/", auth: false}
    - {path: /closed, target: "http://127.0.0.1:1/", headers: {litellm_user_api_key: x-own-key}}
"""
    requests = [
        Request("/open", "POST"),
        Request("/open", "POST", WRONG_BEARER),
        Request("/closed", "POST", WRONG_BEARER),
        Request("/closed", "POST"),
        Request("/closed", "POST", {"x-own-key": WRONG}),
        Request("/closed", "POST", {"x-own-key": KEY}),
        Request("/bedrock/model/x/converse", "POST", {"litellm_user_api_key": WRONG}),
        Request("/bedrock/model/x/converse", "POST", {"litellm_user_api_key": KEY, **WRONG_BEARER}),
    ]
    decisions = litellm.ask(requests, settings=endpoints)
    for decision in decisions:
        assert decision.is_passed == (not is_refused(decision)), decision
    assert [decision.is_passed for decision in decisions[:3]] == [True, True, False]


def test_custom_authentication(litellm: LiteLLM) -> None:
    """With `custom_auth` the user's function alone decides on keys."""
    code = """
from litellm.proxy._types import UserAPIKeyAuth

async def check(request, api_key):
    if api_key != "mine":
        raise Exception("not mine")
    return UserAPIKeyAuth(api_key=api_key)
"""
    requests = [Request(headers={"Authorization": f"Bearer {key}"}) for key in ("mine", WRONG)]
    decisions = litellm.ask(requests, settings="  custom_auth: mine.check", files={"mine.py": code})
    assert [decision.gate for decision in decisions] == [PASSED, PASSED]
    assert [decision.litellm for decision in decisions] == [200, 401]


def test_fallback_without_a_database(litellm: LiteLLM) -> None:
    """With `allow_requests_on_db_unavailable` LiteLLM accepts keys that it cannot look up, and still does."""
    settings = "  allow_requests_on_db_unavailable: true"
    (decision,) = litellm.ask([Request(CHAT, "POST", WRONG_BEARER)], settings=settings)
    assert decision.is_passed
    assert not is_refused(decision)


@pytest.mark.parametrize("setting", ["enable_oauth2_auth", "enable_oauth2_proxy_auth", "enable_jwt_auth"])
def test_other_credentials(litellm: LiteLLM, setting: str) -> None:
    """With another kind of credential LiteLLM decides on every key."""
    (decision,) = litellm.ask([Request(headers=WRONG_BEARER)], settings=f"  {setting}: true")
    assert decision.is_passed


def test_database(litellm: LiteLLM) -> None:
    """With a database every key may be a virtual key, so LiteLLM decides, also while it is not connected."""
    (decision,) = litellm.ask([Request(headers=WRONG_BEARER)], environment={"DATABASE_URL": "postgresql://x/y"})
    assert decision.is_passed


def test_paths_of_no_route(litellm: LiteLLM) -> None:
    """Unknown paths and methods get LiteLLM's 404 and 405, and a trailing slash gets its redirect."""
    requests = [Request("/no/such/path"), Request("/v1/models", "PATCH"), Request("/v1/models/")]
    decisions = litellm.ask([Request(each.path, each.method, WRONG_BEARER) for each in requests])
    assert [decision.gate for decision in decisions] == [PASSED] * 3
    assert [decision.litellm for decision in decisions] == [404, 405, 307]


def test_session_token(litellm: LiteLLM) -> None:
    """The token of LiteLLM's sign-in, which it encrypts with the master key, passes; a changed one is a wrong key."""
    tokens = (SESSION_TOKEN, f"{SESSION_TOKEN}x", "litellm_login_x", base64.b64encode(b"x" * 80).decode())
    decisions = litellm.ask([Request(headers={"Authorization": f"Bearer {token}"}) for token in tokens])
    assert [decision.gate for decision in decisions] == [PASSED, 401, 401, 401]
    assert [decision.litellm for decision in decisions] == [200, 400, 400, 400]
