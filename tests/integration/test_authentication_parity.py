"""The authentication gate refuses what LiteLLM would refuse because of the key, and nothing else."""

from __future__ import annotations

import base64
import random
from collections.abc import Iterator

import pytest

from tests.integration.authentication_parity import (
    KEY,
    PASSED,
    REALTIME_TOKEN,
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
HEALTH_CHECKS = {"/health/liveliness", "/health/liveness", "/health/readiness"}
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


@pytest.fixture(scope="module")
def without_key(litellm: LiteLLM) -> list[Decision]:
    """The decisions on every route and method with a wrong key."""
    return litellm.ask(None, headers=WRONG_BEARER, gate_only=True)


def test_every_route(without_key: list[Decision]) -> None:
    """Without the right key every route and method gets 401, or 404 if it is off, except the few public ones."""
    decisions = without_key
    assert len(decisions) > 1000
    assert {decision.request.path for decision in decisions if decision.is_passed} == HEALTH_CHECKS
    assert {decision.request.path for decision in decisions if decision.gate == 200} == {
        "/",
        "/api/event_logging/batch",
    }
    assert {decision.gate for decision in decisions} == {PASSED, 200, 401, 404}
    off = {decision.request.path for decision in decisions if decision.gate == 404}
    assert off >= {"/public/model_hub", "/ui/x", "/swagger/x", "/sso/key/generate", "/fallback/login"}
    assert not [path for path in off if path.startswith(("/v1/", "/health", "/key/", "/mcp"))]


def test_every_route_with_the_right_key(litellm: LiteLLM, without_key: list[Decision]) -> None:
    """With the right key LiteLLM gets each request, except those for a page that is off."""
    decisions = litellm.ask(None, headers=RIGHT_BEARER, gate_only=True)
    assert {decision.gate for decision in decisions} == {PASSED, 404, 200}
    off = [decision.request for decision in decisions if decision.gate == 404]
    assert {each.path for each in off} == {each.request.path for each in without_key if each.gate == 404}


def test_database_turns_the_admin_ui_on(litellm: LiteLLM) -> None:
    """With a database and a login the Admin UI, its sign-in and the catalogues that it shows are LiteLLM's again."""
    paths = ("/ui/", "/sso/key/generate", "/login", "/get_image", "/_next/x", "/public/model_hub")
    database = {"DATABASE_URL": "postgresql://x/y"}
    login = {"UI_USERNAME": "admin", "UI_PASSWORD": "secret"}

    def decide(environment: dict[str, str]) -> list[int]:
        decisions = litellm.ask([Request(path) for path in paths], environment=environment, gate_only=True)
        return [decision.gate for decision in decisions]

    assert decide(database | login) == [PASSED] * 6
    assert decide(database | {"GOOGLE_CLIENT_ID": "x"}) == [PASSED] * 6
    assert decide(database | {"UI_USERNAME": "admin"}) == [404] * 5 + [PASSED]


def test_public_routes_of_the_configuration(litellm: LiteLLM) -> None:
    """What `public_routes` names needs no key, also if it would be off."""
    settings = "  public_routes: [/v1/models, /public/*, LiteLLMRoutes.public_routes]"
    paths = ("/v1/models", "/public/model_hub", "/v1/models/x", "/ui/")
    decisions = litellm.ask([Request(path) for path in paths], settings=settings, gate_only=True)
    assert [decision.gate for decision in decisions] == [PASSED, PASSED, 401, 404]


def test_mcp_servers(litellm: LiteLLM) -> None:
    """With MCP servers LiteLLM decides on their routes and on the sign-in to them; without any they need the key."""
    more = "mcp_servers: {local: {url: 'http://127.0.0.1:1/mcp', transport: http}}"
    paths = ("/mcp", "/mcp/x", "/local/mcp", "/.well-known/oauth-protected-resource/local/mcp", "/register", "/token")
    requests = [Request(path, "POST") for path in paths]
    with_servers = litellm.ask([*requests, Request("/v1/mcp/server")], more=more, gate_only=True)
    assert [decision.gate for decision in with_servers] == [PASSED] * len(paths) + [401]
    assert {decision.gate for decision in litellm.ask(requests, gate_only=True)} == {401}


def test_metrics(litellm: LiteLLM) -> None:
    """/metrics needs the key, unless `require_auth_for_metrics_endpoint: false` opens it."""
    requests = [Request("/metrics"), Request("/metrics/")]
    opened = "litellm_settings: {require_auth_for_metrics_endpoint: false}"
    assert {decision.gate for decision in litellm.ask(requests, gate_only=True)} == {401}
    assert {decision.gate for decision in litellm.ask(requests, more=opened, gate_only=True)} == {PASSED}


def test_keys_of_single_routes(litellm: LiteLLM) -> None:
    """Where a route reads the key in a form of its own, the right key passes in that form alone."""
    gemini, langfuse, realtime = "/gemini/v1beta/models", "/langfuse/api/public", "/v1/realtime/calls"

    def basic(key: str) -> dict[str, str]:
        return {"Authorization": f"Basic {base64.b64encode(f'any:{key}'.encode()).decode()}"}

    right = [
        Request(gemini, query=f"key={KEY}"),
        Request(gemini, headers={"x-goog-api-key": KEY, **WRONG_BEARER}),
        Request(langfuse, headers=basic(KEY)),
        Request(realtime, "POST", {"Authorization": f"Bearer {REALTIME_TOKEN}"}),
    ]
    wrong = [
        Request(gemini),
        Request(gemini, query=f"key={WRONG}"),
        Request(langfuse, headers=basic(WRONG)),
        Request(langfuse, headers={"Authorization": "Basic x"}),
        Request(realtime, "POST"),
        Request(realtime, "POST", {"Authorization": f"Bearer x{REALTIME_TOKEN}"}),
        Request(realtime, "POST", WRONG_BEARER),
        Request("/v1/models", headers=basic(KEY)),
    ]
    decisions = litellm.ask([*right, *wrong], gate_only=True)
    assert [decision.gate for decision in decisions] == [PASSED] * len(right) + [401] * len(wrong)


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
    """With `litellm_key_header_name` that header counts alone, and the usual ones if it is missing, as in LiteLLM."""
    requests = [
        Request(headers={"X-My-Key": f"Bearer {KEY}"}),
        Request(headers={"x-my-key": f"Bearer {KEY}", **WRONG_BEARER}),
        # Two headers of one name
        Request(headers={"X-My-Key": f"Bearer {WRONG}", "x-my-key": f"Bearer {KEY}"}),
        Request(headers=RIGHT_BEARER),
        Request(headers={"X-My-Key": f"Bearer {KEY}", "x-my-key": f"Bearer {WRONG}"}),
        Request(headers={"X-My-Key": f"Bearer {WRONG}", **RIGHT_BEARER}),
        Request(headers={"X-My-Key": KEY}),
        Request(headers={"X-My-Key": f"Bearer {WRONG}"}),
        Request(),
    ]
    decisions = litellm.ask(requests, settings="  litellm_key_header_name: X-My-Key")
    assert [decision.gate for decision in decisions] == [PASSED] * 4 + [401] * 5
    assert [decision.litellm for decision in decisions][:4] == [200] * 4
    assert all(map(is_refused, decisions[4:]))


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
    """With `custom_auth` the user's function alone decides on keys that can be read."""
    code = """
from litellm.proxy._types import UserAPIKeyAuth

async def check(request, api_key):
    if api_key != "mine":
        raise Exception("not mine")
    return UserAPIKeyAuth(api_key=api_key)
"""
    requests = [Request(headers={"Authorization": f"Bearer {key}"}) for key in ("mine", WRONG)]
    requests += [Request("/langfuse/x"), Request("/v1/realtime/calls", "POST", WRONG_BEARER)]
    decisions = litellm.ask(requests, settings="  custom_auth: mine.check", files={"mine.py": code})
    assert [decision.gate for decision in decisions] == [PASSED, PASSED, 401, 401]
    assert [decision.litellm for decision in decisions[:2]] == [200, 401]


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
    """With the key, unknown paths and methods get LiteLLM's 404 and 405, and a trailing slash gets its redirect."""
    requests = [Request("/no/such/path"), Request("/v1/models", "PATCH"), Request("/v1/models/")]
    assert {decision.gate for decision in litellm.ask(requests, gate_only=True)} == {401}
    decisions = litellm.ask([Request(each.path, each.method, RIGHT_BEARER) for each in requests])
    assert [decision.gate for decision in decisions] == [PASSED] * 3
    assert [decision.litellm for decision in decisions] == [404, 405, 307]


def test_session_token(litellm: LiteLLM) -> None:
    """The token of LiteLLM's sign-in, which it encrypts with the master key, passes; a changed one is a wrong key."""
    tokens = (SESSION_TOKEN, f"{SESSION_TOKEN}x", "litellm_login_x", base64.b64encode(b"x" * 80).decode())
    decisions = litellm.ask([Request(headers={"Authorization": f"Bearer {token}"}) for token in tokens])
    assert [decision.gate for decision in decisions] == [PASSED, 401, 401, 401]
    assert [decision.litellm for decision in decisions] == [200, 400, 400, 400]
