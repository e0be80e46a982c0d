"""Error responses in the format of the API that was called."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ApiError:
    """An error with the names that each API has for it. `code` and `openai_type` are OpenAI's."""

    status: int
    message: str
    openai_type: str
    code: str
    anthropic_type: str


def is_anthropic(scope: Any) -> bool:
    """Whether a client of Anthropic's API sent the request. Every client of it sends `anthropic-version`."""
    return "/v1/messages" in scope["path"] or any(
        name == b"anthropic-version" for name, _ in scope.get("headers", ())
    )


def render_error(scope: Any, error: ApiError) -> dict[str, Any]:
    """The error in the format of the request's API: Anthropic's, otherwise OpenAI's.

    Sources: the sections "Errors" of docs.anthropic.com and "Error codes" of platform.openai.com.
    """
    if is_anthropic(scope):
        return {"type": "error", "error": {"type": error.anthropic_type, "message": error.message}}
    body = {"message": error.message, "type": error.openai_type, "param": None, "code": error.code}
    return {"error": body}


def build_response(scope: Any, error: ApiError, *headers: tuple[bytes, bytes]) -> tuple[dict[str, Any], bytes]:
    """The first ASGI message of the response, and its body."""
    body = json.dumps(render_error(scope, error)).encode()
    described = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    return {"type": "http.response.start", "status": error.status, "headers": described}, body
