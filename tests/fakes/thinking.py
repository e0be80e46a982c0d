"""Reasoning blocks: their signatures, and what Bedrock refuses about them.

The messages are those of public issue threads, such as openclaw/openclaw#88020 and can1357/oh-my-pi#10486.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

from tests.fakes.catalogue import Model
from tests.fakes.prompt import Body, Part, thinking_of

#: What a model thinks when `thinking` is on.
THOUGHT = "I read the question and I know the answer."
_SECRET = b"the signing key of the models"
_BUDGET_MINIMUM = 1024
_ADAPTIVE_ONLY = (
    '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and'
    ' "output_config.effort" to control thinking behavior.'
)
_NO_ADAPTIVE = "adaptive thinking is not supported on this model"
_SMALL_BUDGET = f"thinking.enabled.budget_tokens: Input should be greater than or equal to {_BUDGET_MINIMUM}"
_BIG_BUDGET = "`max_tokens` must be greater than `thinking.budget_tokens`."


def sign(thought: str) -> str:
    """The signature of a thought. The model accepts the thought again only with it."""
    return base64.b64encode(hmac.digest(_SECRET, thought.encode(), hashlib.sha256)).decode()


def is_on(body: Body, form: str) -> bool:
    return thinking_of(body, form).get("type") in ("enabled", "adaptive")


def find_fault(model: Model, body: Body, form: str, parts: list[Part]) -> str | None:
    """The message of the error for a wrong `thinking`, or for a thinking block without its signature."""
    thinking = thinking_of(body, form)
    kind = thinking.get("type")
    if kind in ("enabled", "adaptive") and kind not in model.thinking:
        return _ADAPTIVE_ONLY if kind == "enabled" else _NO_ADAPTIVE
    if kind == "enabled":
        most = body.get("max_tokens") or body.get("inferenceConfig", {}).get("maxTokens") or 64_000
        if (budget := thinking.get("budget_tokens", 0)) < _BUDGET_MINIMUM:
            return _SMALL_BUDGET
        if budget >= most:
            return _BIG_BUDGET
        if (missing := _missing_block(parts)) is not None:
            return missing
    return next((fault for part in parts if (fault := _wrong_signature(part)) is not None), None)


def _wrong_signature(part: Part) -> str | None:
    found: Any = part.block
    if part.role != "assistant":
        return None
    if "reasoningContent" in found:
        reasoning = found["reasoningContent"].get("reasoningText")
        if reasoning is None:
            return None
        thought, signature = reasoning.get("text", ""), reasoning.get("signature", "")
    elif found.get("type") == "thinking":
        thought, signature = found.get("thinking", ""), found.get("signature", "")
    else:
        return None
    if not signature:
        return f"{part.path}.thinking.signature: Field required"
    if not hmac.compare_digest(sign(thought), signature):
        return f"{part.path}: Invalid `signature` in `thinking` block"
    return None


def _missing_block(parts: list[Part]) -> str | None:
    """With `thinking` enabled, the assistant's part of a running tool loop must start with its thinking."""
    if not parts[-1].is_tool_result:
        return None
    call = next((part for part in reversed(parts) if part.role == "assistant"), None)
    if call is None:
        return None
    message = call.path.rpartition(".")[0]
    first = next(part for part in parts if part.path.startswith(f"{message}."))
    if "reasoningContent" in first.block or first.block.get("type") in ("thinking", "redacted_thinking"):
        return None
    kind = "tool_use" if first.calls_tool else "text"
    return (
        f"{first.path}.type: Expected `thinking` or `redacted_thinking`, but found `{kind}`. When `thinking` is"
        " enabled, a final `assistant` message must start with a thinking block (preceeding the"
        " lastmost set of `tool_use` and `tool_result` blocks)."
    )
