"""The runtime with a database: LiteLLM's own virtual keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.database import Database
from tests.integration.runtime_service import CONFIG, KEY, Service

_OTHER = '  - {model_name: other, litellm_params: {model: openai/other, api_key: none, mock_response: "other"}}\n'
_TWO = (CONFIG % "hello").replace("general_settings:", f"{_OTHER}general_settings:")


def post(service: Service, path: str, key: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Send a request with a key. Returns the status and the body of the response."""
    connection = service.connect()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    connection.request("POST", path, json.dumps(body), headers)
    with connection.getresponse() as response:
        return response.status, json.loads(response.read())


def chat(service: Service, key: str, model: str) -> int:
    return post(
        service, "/v1/chat/completions", key, {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    )[0]


def test_virtual_key(tmp_path: Path, database: Database) -> None:
    """A key that was generated works for its model, is refused for another one, and is refused once it is deleted."""
    with Service(tmp_path, _TWO, NUM_WORKERS="1", **database.variables()) as service:
        service.await_ready()
        status, made = post(service, "/key/generate", KEY, {"models": ["demo"]})
        assert status == 200, made
        key = made["key"]
        assert (chat(service, key, "demo"), chat(service, key, "other")) == (200, 403), service.log()
        assert post(service, "/key/delete", KEY, {"keys": [key]})[0] == 200
        assert chat(service, key, "demo") == 401
        assert service.stop() == 0, service.log()
