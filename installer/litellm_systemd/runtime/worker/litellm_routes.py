"""Which of LiteLLM's routes answer without a key, and which pages are off.

The rule: without a key the gateway answers `/`, the health checks, and what its configuration opens. That is
`public_routes`, pass-through endpoints with `auth: false`, the sign-in of MCP servers, /metrics, the Admin UI with a
database and a login, and the documentation with API_DOCS.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from litellm_systemd.runtime.http.errors import ApiError, render_error
from litellm_systemd.runtime.http.health_checks import HEALTH_CHECKS, READINESS
from litellm_systemd.runtime.http.pages import Page
from litellm_systemd.runtime.http.refuse import has_body
from litellm_systemd.runtime.http.response_count import IS_PLANNED, is_of_client
from litellm_systemd.runtime.leaving_flag import LeavingFlag
from litellm_systemd.runtime.worker.api_document import ApiDocument

_SERVER = "litellm.proxy.proxy_server"
_TYPES = "litellm.proxy._types"
_FEATURES = "litellm.proxy._lazy_features"
_MCP = "litellm.proxy._experimental.mcp_server.mcp_server_manager"

#: Claude Code sends telemetry here, with or without the key. LiteLLM discards it, and answers the same.
_TELEMETRY = "/api/event_logging/batch"
#: Lists of models, providers and more.
_CATALOGUES = ("/public",)
#: The documentation where LiteLLM and FastAPI have it by default, and the files of Swagger UI.
_DOCUMENTATION = ("/openapi.json", "/docs", "/redoc", "/swagger", *_CATALOGUES)
#: The Admin UI, its files, and how a browser signs in to it.
_ADMIN_UI = (
    "/ui",
    "/_next",
    "/litellm-asset-prefix",
    "/.well-known/litellm-ui-config",
    "/litellm/.well-known/litellm-ui-config",
    "/get/ui_settings",
    "/get/ui_theme_settings",
    "/get_favicon",
    "/get_image",
    "/get_logo_url",
    "/sso",
    "/login",
    "/v2/login",
    "/v3/login",
    "/fallback/login",
    "/onboarding",
)
#: LiteLLM's names of the features that are an MCP server, or a sign-in (OAuth) to one.
_MCP_FEATURES = frozenset({"mcp_app", "mcp_byok_oauth", "mcp_discoverable"})
#: Seconds that a request waits for the API document. It is complete a few seconds after the start.
_DOCUMENT_TIMEOUT = 10.0

_ROOT = "This is a gateway for large language models. With its key, GET /v1/models lists them.\n"
_DOCUMENTATION_IS_OFF = (
    "The API documentation and the public catalogues are off. API_DOCS=true in .env turns them on."
)
_ADMIN_UI_IS_OFF = "The Admin UI and its sign-in are off: they need a database."
_ADMIN_UI_HAS_NO_LOGIN = "The Admin UI is off. UI_USERNAME and UI_PASSWORD in .env turn it on."
#: Without these LiteLLM takes the master key for the password. The others are for sign-in with a provider (SSO).
_LOGIN = ("UI_USERNAME", "UI_PASSWORD")
_PROVIDERS = ("GOOGLE_CLIENT_ID", "MICROSOFT_CLIENT_ID", "GENERIC_CLIENT_ID")
#: For load balancers and for people who look: in the form of LiteLLM's own answer.
_LEAVING = b'{"status": "leaving", "detail": "This instance is about to drain. All other requests are served."}'
_IS_BUILT = "The API document is still being built. Try again in a few seconds."
_NO_DOCUMENT = "The API document is not available. The journal of the service has the cause."
_NO_BODY = "This page takes no request body."
_KINDS = {400: "invalid_request", 404: "not_found", 503: "service_unavailable"}


class LiteLLMRoutes:
    """The routes of LiteLLM's application, with the settings that LiteLLM has at that moment.

    `document` is the API document if LiteLLM is to serve one. `leaving`: whether this instance leaves its load
    balancer. `catalogues`: anyone may read the catalogues.
    """

    def __init__(
        self, application: Any, document: ApiDocument | None, leaving: LeavingFlag, *, catalogues: bool
    ) -> None:
        self._root_path = (application.root_path or "").rstrip("/")
        self._document_url = application.openapi_url
        self._document = document
        self._leaving = leaving
        self._server: Any = importlib.import_module(_SERVER)
        self._documentation = tuple(_documentation(application)) + (_CATALOGUES if catalogues else ())

    def is_public(self, route: str) -> bool:
        """Whether anyone may request a route, such as `/health/liveliness`."""
        return (
            route.rstrip("/") in HEALTH_CHECKS
            or self._is_documentation(route)
            or self._is_opened(route)
            or self._is_mcp(route)
        )

    async def find_page(self, scope: Any) -> Page | None:
        """The response of the gateway itself, or None if LiteLLM is to answer the request."""
        route = scope["path"]
        if self._root_path and route.startswith(self._root_path):
            route = route[len(self._root_path) :] or "/"
        if route == READINESS and self._leaving and is_of_client(scope):
            scope["state"][IS_PLANNED] = True
            return Page(503, "application/json", _LEAVING)
        if _is_below(route, self._documentation) and has_body(scope):
            return _refuse(scope, 400, _NO_BODY)
        if self._document is not None and route == self._document_url:
            return await _read_document(scope, self._document)
        if route == "/" and not _is_below(route, self._documentation):
            return Page(200, "text/plain; charset=utf-8", _ROOT.encode())
        if route == _TELEMETRY:
            return Page(200, "application/json", b'{"status": "ok"}')
        off = self._find_off(route)
        return _refuse(scope, 404, off) if off and not self.is_public(route) else None

    def _find_off(self, route: str) -> str:
        """Why a page is off unless something turns it on; empty for any other route."""
        if _is_below(route, _ADMIN_UI):
            if not self._has_database():
                return _ADMIN_UI_IS_OFF
            has_login = all(map(os.environ.get, _LOGIN)) or any(map(os.environ.get, _PROVIDERS))
            return "" if has_login else _ADMIN_UI_HAS_NO_LOGIN
        is_off = _is_below(route, _DOCUMENTATION) and not self._has_database()
        return _DOCUMENTATION_IS_OFF if is_off else ""

    def is_open(self, route: str) -> bool:
        """Whether LiteLLM may answer a route without a key, or with one of its own: a key there says nothing."""
        return (
            self.is_public(route)
            or _is_below(route, (*_ADMIN_UI, *_DOCUMENTATION))
            or route in importlib.import_module(_TYPES).LiteLLMRoutes.public_routes.value
        )

    def _is_documentation(self, route: str) -> bool:
        """Whether the route is a part of the documentation that is on, and LiteLLM does not check a key for it."""
        is_checked = (
            route.startswith("/public/v1/")
            and route not in importlib.import_module(_TYPES).LiteLLMRoutes.public_routes.value
        )
        return _is_below(route, self._documentation) and not is_checked

    def _has_database(self) -> bool:
        settings = getattr(self._server, "general_settings", None) or {}
        return bool(os.environ.get("DATABASE_URL") or settings.get("database_url"))

    def _is_opened(self, route: str) -> bool:
        """Whether a setting of the configuration opens the route to anyone."""
        settings = self._server.general_settings
        for pattern in settings.get("public_routes") or ():
            if route == pattern or (pattern.endswith("*") and route.startswith(pattern[:-1])):
                return True
        is_metrics_open = importlib.import_module("litellm").require_auth_for_metrics_endpoint is False
        return is_metrics_open and _is_below(route, ("/metrics",))

    def _is_mcp(self, route: str) -> bool:
        """Whether the route belongs to configured MCP servers, whose clients may have credentials of their own."""
        servers = importlib.import_module(_MCP).global_mcp_server_manager
        if not servers.config_mcp_servers and not servers.registry:  # those of the database
            return False
        features = importlib.import_module(_FEATURES).LAZY_FEATURES
        return (
            route == "/v1/mcp/registry.json"
            or route.endswith("/mcp")
            or any(feature.name in _MCP_FEATURES and feature.matches(route) for feature in features)
        )


def _documentation(application: Any) -> Iterator[str]:
    """Where LiteLLM has the documentation that is on, or a redirect to it."""
    if os.environ.get("ROOT_REDIRECT_URL"):
        yield "/"
    if application.openapi_url:
        yield application.openapi_url
        if application.redoc_url:
            yield application.redoc_url
        if application.docs_url:
            yield from (application.docs_url, application.swagger_ui_oauth2_redirect_url, "/swagger")


def _is_below(route: str, paths: Iterable[str]) -> bool:
    return any(route == path or route.startswith(path + "/") for path in paths)


async def _read_document(scope: Any, document: ApiDocument) -> Page:
    text = await document.read(_DOCUMENT_TIMEOUT)
    if not text:
        return _refuse(scope, 503, _IS_BUILT if text is None else _NO_DOCUMENT)
    return Page(200, "application/json", text)


def _refuse(scope: Any, status: int, message: str) -> Page:
    kind = _KINDS[status]
    error = ApiError(status, message, "invalid_request_error", kind, f"{kind}_error")
    return Page(status, "application/json", json.dumps(render_error(scope, error)).encode())
