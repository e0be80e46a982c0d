"""The installed service with a database."""

from __future__ import annotations

import json
from typing import Any

from box import Box, Image
from service import BASE, MODEL, chat, ctl, key

from conftest import MakeBox


def generate_key(box: Box, **limits: Any) -> str:
    """Let LiteLLM make a virtual key."""
    headers = {"Authorization": f"Bearer {key(box)}"}
    answer = box.http("POST", f"{BASE}/key/generate", body=limits, headers=headers)
    assert answer.status == 200, answer.text
    return str(answer.json()["key"])


def test_key_after_a_restart(make_box: MakeBox, database_image: Image) -> None:
    """A virtual key works after a restart of the service, and only for its model. The release stays as it is."""
    box = make_box(database_image)
    virtual = generate_key(box, models=[MODEL])
    box.systemctl("restart", "litellm")
    assert (chat(box, bearer=virtual), chat(box, "demo-slow", bearer=virtual)) == (200, 403)
    assert json.loads(ctl(box, "releases", "verify", "--json"))["ok"]
