"""What LiteLLM's authentication would refuse, decided from the head of a request.

LiteLLM decides in `user_api_key_auth` (litellm/proxy/auth/user_api_key_auth.py), after it has read the body. These
are the same decisions for the case that the master key is the only credential, with LiteLLM's own functions, lists
and settings as they are at that moment. In every other case, and after any error, LiteLLM decides: a request that
passes here is authenticated by LiteLLM as without this module.
"""

from __future__ import annotations

import functools
import hmac
import importlib
import inspect
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from litellm_systemd.runtime.http.authentication import HAS_RIGHT_KEY, Application, Refusal

_LOGGER = logging.getLogger(__name__)
_SERVER = "litellm.proxy.proxy_server"
_AUTHENTICATION = "litellm.proxy.auth.user_api_key_auth"
_TYPES = "litellm.proxy._types"
#: Settings with which LiteLLM accepts other credentials, or a request whose key it cannot look up.
_OTHER_CREDENTIALS = (
    "enable_jwt_auth",
    "enable_oauth2_auth",
    "enable_oauth2_proxy_auth",
    "allow_requests_on_db_unavailable",
    "custom_auth",
    "database_url",
)
#: It makes LiteLLM register the routes of a feature when their path is first requested.
_LAZY_FEATURES = "LazyFeatureMiddleware"
#: With SERVER_ROOT_PATHS it changes the path per request.
_ROOT_PATHS = "PerRequestRootPathMiddleware"
#: LiteLLM adds their headers to each response.
_RESPONSE_HEADERS = ("CORSMiddleware", "SecurityHeadersMiddleware")
#: In this header a browser sends the key of a WebSocket, as one of the subprotocols.
_SUBPROTOCOL = "openai-insecure-api-key."
_BEARER = "Bearer "

_WRONG = "Incorrect API key provided. This gateway accepts its master key only: the LITELLM_MASTER_KEY of its .env."
_MISSING = "No API key provided. Send the gateway's key in the header {}."
_WITHOUT_BEARER = "The API key is not readable. Send it in the header {}."
_USUAL_HEADERS = "`Authorization: Bearer KEY`, or in `x-api-key: KEY`"


@dataclass(frozen=True, slots=True)
class _Route:
    """A route of the application. `kind` is http, websocket or, for a mounted application, both."""

    matches: Callable[[str], object]
    kinds: tuple[str, ...]
    methods: frozenset[str]
    is_authenticated: bool

    def serves(self, scope: Any, path: str) -> bool:
        """Whether the router would choose this route, if no earlier one serves the request."""
        has_method = not self.methods or scope.get("method") in self.methods
        return scope["type"] in self.kinds and has_method and bool(self.matches(path))


class MasterKeyAuthentication:
    """Finds requests that LiteLLM would refuse because they lack the master key."""

    def __init__(self, application: Any) -> None:
        self._application = application
        self._server: Any = importlib.import_module(_SERVER)
        self._authentication: Any = importlib.import_module(_AUTHENTICATION)
        self._types: Any = importlib.import_module(_TYPES)
        self._requests: Any = importlib.import_module("starlette.requests")
        self._routes: tuple[_Route, ...] = ()
        self._routes_version: tuple[int, int] = (-1, -1)
        self._failed = False

    async def find_refusal(self, scope: Any) -> Refusal | None:
        """Why LiteLLM would refuse a request, or None if LiteLLM accepts it or has to decide itself."""
        try:
            if not self._is_sole_credential():
                return None
            return await self._find_refusal({**scope, "root_path": self._application.root_path or ""})
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

    def _is_sole_credential(self) -> bool:
        """Whether LiteLLM would accept no other credential than the master key."""
        server = self._server
        return (
            isinstance(server.master_key, str)
            and server.prisma_client is None
            # LiteLLM is to have a database, and has not connected to it: the key may be one of its virtual keys.
            and not os.environ.get("DATABASE_URL")
            and server.user_custom_auth is None
            and not any(server.general_settings.get(name) for name in _OTHER_CREDENTIALS)
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
        if any(self._is_right(key) for key in keys):
            state[HAS_RIGHT_KEY] = True
            return None
        if self._is_public(route):
            state[HAS_RIGHT_KEY] = False
            return None
        if not await self._needs_key(scope, route):
            return None
        return self._describe(keys)

    def _describe(self, keys: tuple[str, ...]) -> Refusal:
        name = self._server.general_settings.get("litellm_key_header_name")
        headers = f"`{name}: {_BEARER}KEY`" if name else _USUAL_HEADERS
        if not keys:
            return Refusal(_MISSING.format(headers), has_key=False)
        return Refusal(_WRONG if any(keys) else _WITHOUT_BEARER.format(headers), has_key=True)

    async def _http_keys(self, request: Any, route: str) -> tuple[str, ...] | None:
        """The key of a request as LiteLLM reads it: empty if unreadable, no item if missing, None if not needed."""
        settings, authentication = self._server.general_settings, self._authentication
        endpoints = settings.get("pass_through_endpoints")
        values = {name: await read(request) for name, read in self._headers.items()}
        key, sent = authentication.get_api_key(
            **values, pass_through_endpoints=endpoints, route=route, request=request
        )
        if (name := settings.get("litellm_key_header_name")) is not None:
            # LiteLLM's function for this logs an error with a traceback if the header is missing.
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

    def _is_public(self, route: str) -> bool:
        public = self._types.LiteLLMRoutes.public_routes.value
        return route in public or self._authentication.route_in_additonal_public_routes(current_route=route)

    async def _needs_key(self, scope: Any, path: str) -> bool:
        """Whether the route that would serve the request depends on LiteLLM's authentication."""
        if (lazy := self._find_middleware(_LAZY_FEATURES)) is not None:
            await lazy.cls(_do_nothing, *lazy.args, **lazy.kwargs)(dict(scope), None, None)
        state = self._application.state
        version = len(self._application.router.routes), len(getattr(state, "lazy_loaded", ()))
        if version != self._routes_version:
            self._routes, self._routes_version = tuple(self._read_routes()), version
        serving = next((route for route in self._routes if route.serves(scope, path)), None)
        return serving is not None and serving.is_authenticated

    def _read_routes(self) -> Iterator[_Route]:
        routing: Any = importlib.import_module("fastapi.routing")
        dependencies = {
            self._authentication.user_api_key_auth,
            self._authentication.user_api_key_auth_websocket,
        }
        for each in routing.iter_route_contexts(self._application.router.routes):
            is_websocket = isinstance(each.original_route, routing.routing.WebSocketRoute)
            is_mount = isinstance(each.original_route, routing.routing.Mount)
            yield _Route(
                each.path_regex.match,
                ("http", "websocket") if is_mount else ("websocket",) if is_websocket else ("http",),
                frozenset(getattr(each, "methods", None) or ()),
                not dependencies.isdisjoint(_calls(getattr(each, "dependant", None))),
            )

    def _find_middleware(self, name: str) -> Any:
        return next((each for each in self._application.user_middleware if each.cls.__name__ == name), None)


def _calls(dependant: Any) -> Iterator[Any]:
    """All functions that FastAPI calls for a route."""
    if dependant is not None:
        yield dependant.call
        for each in dependant.dependencies:
            yield from _calls(each)


async def _do_nothing(_scope: Any, _receive: Any, _send: Any) -> None:
    """An application for a middleware that is needed for its side effect."""
