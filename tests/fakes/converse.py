"""Answers in the form of Converse and ConverseStream."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.fakes import eventstream
from tests.fakes.answer import Answer, Block


def render(answer: Answer) -> dict[str, Any]:
    return {
        "metrics": {"latencyMs": 12},
        "output": {"message": {"role": "assistant", "content": [_block(block) for block in answer.blocks]}},
        "stopReason": _stop_reason(answer),
        "usage": _usage(answer),
        **_tier(answer),
    }


def events(answer: Answer) -> Iterator[bytes]:
    yield eventstream.event("messageStart", {"role": "assistant"})
    for index, block in enumerate(answer.blocks):
        if block.kind == "tool":
            start = {"toolUse": {"toolUseId": block.id, "name": block.name}}
            yield eventstream.event("contentBlockStart", {"contentBlockIndex": index, "start": start})
        for delta in _deltas(block):
            yield eventstream.event("contentBlockDelta", {"contentBlockIndex": index, "delta": delta})
        yield eventstream.event("contentBlockStop", {"contentBlockIndex": index})
    yield eventstream.event("messageStop", {"stopReason": _stop_reason(answer)})
    end = {"usage": _usage(answer), "metrics": {"latencyMs": 12}, **_tier(answer)}
    yield eventstream.event("metadata", end)


def _block(block: Block) -> dict[str, Any]:
    if block.kind == "thinking":
        return {"reasoningContent": {"reasoningText": {"text": block.text, "signature": block.signature}}}
    if block.kind == "tool":
        return {"toolUse": {"toolUseId": block.id, "name": block.name, "input": json.loads(block.text)}}
    return {"text": block.text}


def _deltas(block: Block) -> Iterator[dict[str, Any]]:
    for piece in block.pieces():
        if block.kind == "thinking":
            yield {"reasoningContent": {"text": piece}}
        elif block.kind == "tool":
            yield {"toolUse": {"input": piece}}
        else:
            yield {"text": piece}
    if block.signature:
        yield {"reasoningContent": {"signature": block.signature}}


def _stop_reason(answer: Answer) -> str:
    return "tool_use" if answer.calls_tool else "end_turn"


def _tier(answer: Answer) -> dict[str, Any]:
    return {"serviceTier": {"type": answer.tier}} if answer.tier else {}


def _usage(answer: Answer) -> dict[str, Any]:
    cache, written = answer.cache, sum(answer.cache.written.values())
    details = [{"ttl": ttl, "inputTokens": tokens} for ttl, tokens in cache.written.items() if tokens]
    return {
        "inputTokens": cache.uncached,
        "outputTokens": answer.tokens,
        "totalTokens": cache.uncached + answer.tokens + cache.read + written,
        "cacheReadInputTokens": cache.read,
        "cacheWriteInputTokens": written,
        **({"cacheDetails": details} if details else {}),
    }
