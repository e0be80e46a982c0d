"""Which requests need the master key and lack it, decided from the head of a request.

LiteLLM decides in `user_api_key_auth` (litellm/proxy/auth/user_api_key_auth.py), after it has read the body. If the
master key is the only credential, a request has it or not: this module looks where LiteLLM looks, with LiteLLM's own
functions and settings as they are at that moment. A request without it reaches no route of LiteLLM, except the public
ones (litellm_routes.py). With a database, a request without a key, or whose key cannot be a virtual key, reaches none
either, and one with a key that LiteLLM has just refused. In every other case, and after any error, LiteLLM decides. A
request that passes here is authenticated by LiteLLM as without this module.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hmac
import importlib
import inspect
import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from litellm_systemd.runtime.failures import IS_EXPECTED
from litellm_systemd.runtime.http.authentication import HAS_RIGHT_KEY, LOOKUP, VIRTUAL_KEY, Refusal
from litellm_systemd.runtime.http.expected_refusals import has_refusal_code, is_expected_refusal
from litellm_systemd.runtime.http.refuse import Application
from litellm_systemd.runtime.http.unknown_keys import UnknownKeys

_LOGGER = logging.getLogger(__name__)
_SERVER = "litellm.proxy.proxy_server"
_AUTHENTICATION = "litellm.proxy.auth.user_api_key_auth"
_RESOLVERS = "litellm.proxy.auth.resolvers.exceptions"
_ENCRYPTION = "litellm.proxy.common_utils.encrypt_decrypt_utils"
#: Settings with which LiteLLM accepts other credentials, or a request whose key it cannot look up.
_OTHER_CREDENTIALS = (
    "enable_jwt_auth",
    "enable_oauth2_auth",
    "enable_oauth2_proxy_auth",
    "allow_requests_on_db_unavailable",
    "custom_auth",
    "database_url",
)
#: Those of them that concern the database alone.
_OF_DATABASE = ("allow_requests_on_db_unavailable", "database_url")
#: With SERVER_ROOT_PATHS it changes the path per request.
_ROOT_PATHS = "PerRequestRootPathMiddleware"
#: LiteLLM adds their headers to each response.
_RESPONSE_HEADERS = ("CORSMiddleware", "SecurityHeadersMiddleware")
#: In this header a browser sends the key of a WebSocket, as one of the subprotocols.
_SUBPROTOCOL = "openai-insecure-api-key."
_BEARER = "Bearer "
#: Routes that read a key in their handlers: as the key of Google, as the secret key of Langfuse, as a token.
_GEMINI, _LANGFUSE, _REALTIME_CALLS = "/gemini/", "/langfuse/", "/realtime/calls"

_WRONG = "Incorrect API key provided. This gateway accepts its master key only: the LITELLM_MASTER_KEY of its .env."
_NO_VIRTUAL_KEY = "Incorrect API key provided. The keys of this gateway begin with sk-."
_UNKNOWN = "Incorrect API key provided. This gateway does not have it, or no longer."
_VIRTUAL = "sk-"
#: Characters. LiteLLM's keys have 25, and a key of a user's own choice hardly more than a hash.
_LONGEST_KEY = 512
_MISSING = "No API key provided. Send the gateway's key in the header {}."
_WITHOUT_BEARER = "The API key is not readable. Send it in the header {}."
_USUAL_HEADERS = "`Authorization: Bearer KEY`, or in `x-api-key: KEY`"


class MasterKeyAuthentication:
    """Finds requests that lack the master key and need it. `is_public` returns whether a route needs none."""

    def __init__(
        self,
        application: Any,
        is_public: Callable[[str], bool],
        is_open: Callable[[str], bool] = lambda _: False,
        unknown: UnknownKeys | None = None,
    ) -> None:
        self._application = application
        self._server: Any = importlib.import_module(_SERVER)
        self._authentication: Any = importlib.import_module(_AUTHENTICATION)
        self._requests: Any = importlib.import_module("starlette.requests")
        self._is_public = is_public
        self._is_open = is_open
        self._unknown = unknown or UnknownKeys()
        with contextlib.suppress(ImportError, AttributeError):
            _record_unknown_keys()
        self._failed = False

    async def find_refusal(self, scope: Any) -> Refusal | None:
        """Why LiteLLM would refuse a request, or None if LiteLLM accepts it or has to decide itself."""
        try:
            scope = {**scope, "root_path": self._application.root_path or ""}
            if has_refusal_code(scope):
                await self._find_expected_refusal(scope)
            if self._is_sole_credential():
                return await self._find_refusal(scope)
            refusal = await self._find_impossible(scope) if self._has_virtual_keys() else None
            return refusal or self._find_unreadable(scope)
        except Exception as error:  # LiteLLM differs from what this module knows
            if not self._failed:
                _LOGGER.warning("LiteLLM decides on wrong keys, because the authentication gate failed: %r", error)
            self._failed = True
            return None

    def wrap(self, application: Application) -> Application:
        """`application` with the headers that LiteLLM adds to each response."""
        for middleware in reversed(self._application.user_middleware):
            if middleware.cls.__name__ in _RESPONSE_HEADERS:
                application = middleware.cls(application, *middleware.args, **middleware.kwargs)
        return application

    def find_key_headers(self) -> list[str]:
        """The names of the headers that the configuration has LiteLLM read a key in."""
        settings = self._server.general_settings
        endpoints = settings.get("pass_through_endpoints") or ()
        headers = (each.get("headers") for each in endpoints if isinstance(each, dict))
        names = [each.get("litellm_user_api_key") for each in headers if isinstance(each, dict)]
        return [name for name in (settings.get("litellm_key_header_name"), *names) if isinstance(name, str)]

    def _is_sole_credential(self) -> bool:
        """Whether LiteLLM would accept no other credential than the master key."""
        # With DATABASE_URL LiteLLM may not have connected yet: the key may be one of its virtual keys.
        has_database = self._server.prisma_client is not None or bool(os.environ.get("DATABASE_URL"))
        return not has_database and self._has_known_credentials(_OTHER_CREDENTIALS)

    def _has_virtual_keys(self) -> bool:
        """Whether LiteLLM would accept no other credential than the master key and the keys in its database."""
        names = (name for name in _OTHER_CREDENTIALS if name not in _OF_DATABASE)
        return self._server.prisma_client is not None and self._has_known_credentials(names)

    def _has_known_credentials(self, others: Iterable[str]) -> bool:
        server = self._server
        return (
            isinstance(server.master_key, str)
            and server.user_custom_auth is None
            and not any(server.general_settings.get(name) for name in others)
            and self._authentication.user_api_key_auth not in self._application.dependency_overrides
            and self._find_middleware(_ROOT_PATHS) is None
        )

    async def _find_refusal(self, scope: Any) -> Refusal | None:
        request = self._requests.HTTPConnection(scope)
        # LiteLLM's functions take a request, of which they read the head only.
        route = self._authentication.get_request_route(request)
        is_websocket = scope["type"] == "websocket"
        keys = self._websocket_keys(request) if is_websocket else await self._http_keys(request, route)
        if keys is None:
            return None
        state = scope.get("state", {})
        if any(self._is_right(key) for key in keys) or self._has_key_of_route(request, route):
            state[HAS_RIGHT_KEY] = True
            return None
        if self._is_public(route):
            state[HAS_RIGHT_KEY] = False
            return None
        return self._describe(keys)

    async def _find_impossible(self, scope: Any) -> Refusal | None:
        """A key that is missing, that LiteLLM cannot have, or that it has refused a moment ago. Queries nothing."""
        request = self._requests.HTTPConnection(scope)
        route = self._authentication.get_request_route(request)
        if self._is_open(route):
            return None
        keys: tuple[str, ...] | None
        if scope["type"] == "websocket":
            keys = self._websocket_keys(request)
        else:
            keys = _keys_of_route(request, route) or await self._http_keys(request, route)
        if keys is None or any(self._is_right(key) for key in keys) or self._has_key_of_route(request, route):
            return None
        if not any(keys):
            return self._describe(keys)
        scope.setdefault("state", {})[VIRTUAL_KEY] = hash(keys)
        if all(not key.startswith(_VIRTUAL) or len(key) > _LONGEST_KEY for key in keys):
            return Refusal(_NO_VIRTUAL_KEY, has_key=True, key=hash(keys))
        if self._unknown.has(hash(keys), time.monotonic()):
            return Refusal(_UNKNOWN, has_key=True, key=hash(keys))
        return None

    async def _find_expected_refusal(self, scope: Any) -> None:
        """Mark a request of `verify` that is to be refused."""
        request = self._requests.HTTPConnection(scope)
        is_http = scope["type"] == "http"
        keys = await self._http_keys(request, self._authentication.get_request_route(request)) if is_http else None
        if keys is not None and is_expected_refusal(scope, str(self._server.master_key or ""), keys):
            scope.get("state", {})[IS_EXPECTED] = True

    def _describe(self, keys: tuple[str, ...]) -> Refusal:
        name = self._server.general_settings.get("litellm_key_header_name")
        headers = f"`{name}: {_BEARER}KEY`" if name else _USUAL_HEADERS
        if not keys:
            return Refusal(_MISSING.format(headers), has_key=False)
        message = _WRONG if any(keys) else _WITHOUT_BEARER.format(headers)
        return Refusal(message, has_key=True, key=hash(keys))

    async def _http_keys(self, request: Any, route: str) -> tuple[str, ...] | None:
        """The key of a request as LiteLLM reads it: empty if unreadable, no item if missing, None if not needed."""
        settings, authentication = self._server.general_settings, self._authentication
        endpoints = settings.get("pass_through_endpoints")
        values = {name: await read(request) for name, read in self._headers.items()}
        key, sent = authentication.get_api_key(
            **values, pass_through_endpoints=endpoints, route=route, request=request
        )
        name = settings.get("litellm_key_header_name")
        if name is not None and name in request.headers:
            # Without it the usual headers count.
            # Of several headers with this name LiteLLM reads the last one.
            sent = dict(request.headers.items()).get(name.lower())
            key = authentication.get_bearer_token(sent) if sent else ""
        # Pass-through endpoints may have a header of their own, or need no key.
        found = await authentication.check_api_key_for_custom_headers_or_pass_through_endpoints(
            request=request, route=route, pass_through_endpoints=endpoints, api_key=key
        )
        if found is None or (found == "" and not sent):
            return ()
        return (found,) if isinstance(found, str) else None

    def _websocket_keys(self, connection: Any) -> tuple[str, ...]:
        """Everything in a handshake that LiteLLM may read as a key (user_api_key_auth_websocket)."""
        headers = connection.headers
        name = self._server.general_settings.get("litellm_key_header_name") or "authorization"
        protocols = (each.strip() for each in headers.get("sec-websocket-protocol", "").split(","))
        sent = (
            *(self._authentication.get_bearer_token(headers.get(each, "")) for each in (name, "authorization")),
            headers.get("api-key", ""),
            *(each.removeprefix(_SUBPROTOCOL) for each in protocols if each.startswith(_SUBPROTOCOL)),
        )
        return tuple(each.strip() for each in sent if each.strip())

    def _find_unreadable(self, scope: Any) -> Refusal | None:
        """A credential that cannot be any: LiteLLM's handlers of these routes would log a traceback about it."""
        request = self._requests.HTTPConnection(scope)
        route = self._authentication.get_request_route(request)
        is_unreadable = (route.startswith(_LANGFUSE) and not _langfuse_key(request)) or (
            route.endswith(_REALTIME_CALLS) and not self._has_realtime_token(request)
        )
        return self._describe(("",)) if is_unreadable else None

    def _has_key_of_route(self, request: Any, route: str) -> bool:
        """Whether the request has the key in a form that its route alone reads, in LiteLLM's handler."""
        if any(self._is_right(key) for key in _keys_of_route(request, route)):
            return True
        return route.endswith(_REALTIME_CALLS) and self._has_realtime_token(request)

    def _has_realtime_token(self, request: Any) -> bool:
        """Whether the request has a token that LiteLLM has encrypted for a browser."""
        token = request.headers.get("authorization", "").removeprefix(_BEARER).strip()
        decrypt = importlib.import_module(_ENCRYPTION).decrypt_value_helper
        return bool(decrypt(token, "realtime", exception_type="debug"))

    def _is_right(self, key: str) -> bool:
        """Whether the key is the master key, or the token of a session that LiteLLM has encrypted with it."""
        if hmac.compare_digest(key.encode(), self._server.master_key.encode()):
            return True
        token = self._authentication.ExperimentalUIJWTToken
        return not key.startswith("sk-") and token.get_key_object_from_ui_hash_key(key) is not None

    @functools.cached_property
    def _headers(self) -> dict[str, Any]:
        """FastAPI's readers of the headers, by the names of the parameters of LiteLLM's functions."""
        return {
            name: parameter.default.dependency
            for name, parameter in inspect.signature(self._authentication.user_api_key_auth).parameters.items()
            if hasattr(parameter.default, "dependency")
        }

    def _find_middleware(self, name: str) -> Any:
        return next((each for each in self._application.user_middleware if each.cls.__name__ == name), None)


def _record_unknown_keys() -> None:
    """Record on which requests LiteLLM raises its exception for a key that it does not have."""
    exception: Any = importlib.import_module(_RESOLVERS).KeyNotFoundError
    original: Any = exception.__init__

    @functools.wraps(original)
    def record(self: Any, *args: Any, **options: Any) -> None:
        if (lookup := LOOKUP.get(None)) is not None:
            lookup.is_unknown = True
        original(self, *args, **options)

    exception.__init__ = record


def _keys_of_route(request: Any, route: str) -> tuple[str, ...]:
    """The key of a route that alone reads it in this form; empty for other routes."""
    if route.startswith(_GEMINI):
        return (request.query_params.get("key") or request.headers.get("x-goog-api-key", ""),)
    return (_langfuse_key(request),) if route.startswith(_LANGFUSE) else ()


def _langfuse_key(request: Any) -> str:
    """The password of the basic authentication, empty if there is none."""
    with contextlib.suppress(ValueError):
        text = base64.b64decode(request.headers.get("authorization", "").removeprefix("Basic ")).decode()
        return text.partition(":")[2]
    return ""
