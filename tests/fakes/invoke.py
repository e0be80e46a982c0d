"""Answers in the form of InvokeModel and InvokeModelWithResponseStream: Anthropic's messages."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from tests.fakes import eventstream
from tests.fakes.answer import Answer, Block

#: By kind of block: its type, the type of its deltas, and the key of the text in both.
_NAMES = {
    "thinking": ("thinking", "thinking_delta", "thinking"),
    "text": ("text", "text_delta", "text"),
    "tool": ("tool_use", "input_json_delta", "partial_json"),
}


def render(answer: Answer, model: str) -> dict[str, Any]:
    """`model`: the name that Anthropic gives the model, as in the answer."""
    return {
        "id": "msg_bdrk_fake1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [_block(block) for block in answer.blocks],
        "stop_reason": "tool_use" if answer.calls_tool else "end_turn",
        "stop_sequence": None,
        "usage": _usage(answer),
    }


def events(answer: Answer, model: str) -> Iterator[bytes]:
    whole = render(answer, model)
    begin: dict[str, Any] = {"content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    yield _chunk({"type": "message_start", "message": {**whole, **begin}})
    for index, block in enumerate(answer.blocks):
        yield from _block_events(index, block)
    stop = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield _chunk({"type": "message_delta", "delta": stop, "usage": {"output_tokens": answer.tokens}})
    metrics = {
        "inputTokenCount": answer.cache.uncached,
        "outputTokenCount": answer.tokens,
        "invocationLatency": 12,
        "firstByteLatency": 9,
        "cacheReadInputTokenCount": answer.cache.read,
        "cacheWriteInputTokenCount": sum(answer.cache.written.values()),
    }
    yield _chunk({"type": "message_stop", "amazon-bedrock-invocationMetrics": metrics})


def _block_events(index: int, block: Block) -> Iterator[bytes]:
    _, delta_type, key = _NAMES[block.kind]
    yield _chunk({"type": "content_block_start", "index": index, "content_block": _block(block, empty=True)})
    deltas = [{"type": delta_type, key: piece} for piece in block.pieces()]
    deltas += [{"type": "signature_delta", "signature": block.signature}] if block.signature else []
    for delta in deltas:
        yield _chunk({"type": "content_block_delta", "index": index, "delta": delta})
    yield _chunk({"type": "content_block_stop", "index": index})


def _block(block: Block, *, empty: bool = False) -> dict[str, Any]:
    """`empty`: as at the start of a stream."""
    name, _, key = _NAMES[block.kind]
    if block.kind == "tool":
        return {"type": name, "id": block.id, "name": block.name, "input": {} if empty else json.loads(block.text)}
    signature = {"signature": "" if empty else block.signature} if block.kind == "thinking" else {}
    return {"type": name, key: "" if empty else block.text, **signature}


def _usage(answer: Answer) -> dict[str, Any]:
    written = answer.cache.written
    return {
        "input_tokens": answer.cache.uncached,
        "output_tokens": answer.tokens,
        "cache_read_input_tokens": answer.cache.read,
        "cache_creation_input_tokens": sum(written.values()),
        "cache_creation": {f"ephemeral_{ttl}_input_tokens": tokens for ttl, tokens in written.items()},
    }


def _chunk(body: dict[str, Any]) -> bytes:
    return eventstream.event("chunk", {"bytes": base64.b64encode(json.dumps(body).encode()).decode()})
