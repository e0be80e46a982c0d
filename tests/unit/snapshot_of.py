"""Take a snapshot of a LiteLLM, and answer for it: `python -m tests.unit.snapshot_of` with names on standard input.

A process of its own, because LiteLLM takes seconds to import and only one version can be imported. Standard input
is a list of calls of get_llm_provider, as keyword arguments; standard output is the snapshot and what LiteLLM
answers.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from typing import Any

from litellm_systemd.releases.litellm_snapshot import build_snapshot


def answer(call: dict[str, Any]) -> list[str] | None:
    """The provider and the model that the router of LiteLLM works with; None if it drops the model."""
    litellm: Any = importlib.import_module("litellm")
    logic: Any = importlib.import_module("litellm.litellm_core_utils.get_llm_provider_logic")
    json_providers: Any = importlib.import_module("litellm.llms.openai_like.json_loader").JSONProviderRegistry
    custom = call.pop("custom_providers", ())
    litellm.custom_provider_map = [{"provider": name, "custom_handler": None} for name in custom]
    try:
        model, provider, *_ = logic.get_llm_provider(**call)
    except litellm.exceptions.BadRequestError:
        return None
    # As the router checks it (Router._add_deployment in litellm/router.py).
    known = provider in litellm.provider_list or json_providers.exists(provider) or provider in custom
    return [str(getattr(provider, "value", provider)), model] if known else None


if __name__ == "__main__":
    calls = json.load(sys.stdin)
    snapshot = build_snapshot()
    with contextlib.redirect_stdout(sys.stderr):
        answers = [answer(dict(call)) for call in calls]
    sys.stdout.write(json.dumps({"snapshot": snapshot, "answers": answers}))
