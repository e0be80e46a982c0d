"""Claude Code's tool loop through the service, over a Bedrock that compares exact prefixes: what the cache serves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.claude_code import Failed, Post, run_loop, share_read
from tests.fakes import Cloud, run_cloud
from tests.integration.runtime_service import KEY, Service

CONFIGS = Path(__file__).parents[2] / "configs"
MODEL = "claude-sonnet-5-5"


@contextmanager
def gateway(folder: Path, route: str) -> Iterator[tuple[Post, Cloud]]:
    """The service with the default configuration, its models called by `route`, and the fake Bedrock."""
    shutil.copytree(CONFIGS / "shared", folder / "shared")
    models = folder / "shared/models.yml"
    shipped = models.read_text()
    assert "bedrock/us." in shipped
    models.write_text(shipped.replace("bedrock/us.", f"{route}us."))
    text = (CONFIGS / "iam_role_config.yml").read_text()
    with run_cloud() as aws, Service(folder, text, AWS_REGION_NAME="us-east-1", **aws.environment) as service:
        service.await_ready()

        def post(body: dict[str, Any], headers: Mapping[str, str]) -> tuple[int, str]:
            connection = service.connect()
            sent = {**headers, "Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
            connection.request("POST", "/v1/messages?beta=true", json.dumps(body), sent)
            response = connection.getresponse()
            return response.status, response.read().decode()

        yield post, aws


def test_the_shipped_route_keeps_the_cache(tmp_path: Path) -> None:
    """With the shipped route at least 90 % of Claude Code's input is read from the cache from the third turn on,
    although its billing header changes with each request; thinking is accepted again, and an hour's TTL arrives.
    """
    with gateway(tmp_path, "bedrock/") as (post, aws):
        turns = run_loop(post, MODEL, turns=10)
        assert len(turns) == 10
        assert share_read(turns) >= 0.9, turns
        assert turns[0].read == 0
        marked = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
        body = {"model": MODEL, "max_tokens": 99, "messages": [{"role": "user", "content": [marked]}]}
        assert post(body, {})[0] == 200
        assert aws.runtime.bodies[-1]["messages"][0]["content"] == [marked]


def test_the_converse_route_loses_the_cache(tmp_path: Path) -> None:
    """With `bedrock/converse/` the same loop reads nothing from the cache, and breaks at its second turn if the model
    thinks. If this test fails, LiteLLM has changed: update docs/routes.md.
    """
    with gateway(tmp_path, "bedrock/converse/") as (post, _):
        turns = run_loop(post, MODEL, turns=10, thinking=False)
        assert share_read(turns) < 0.1, turns
        with pytest.raises(Failed, match=r"turn 2: HTTP 400.*Invalid `signature` in `thinking` block"):
            run_loop(post, MODEL, turns=3)
