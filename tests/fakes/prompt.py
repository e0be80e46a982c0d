"""Read a request body of Converse or of Anthropic's messages (InvokeModel) as one list of parts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]


@dataclass(slots=True)
class Part:
    """One tool, system block or content block.

    Attributes:
        path: where it is, as in Bedrock's errors: `messages.1.content.0`.
        role: "tools", "system", "user" or "assistant".
        block: its JSON without the cache mark.
        mark: the TTL of the cache mark behind it ("5m" or "1h"), None without a mark.
    """

    path: str
    role: str
    block: Body
    mark: str | None = None

    @property
    def text(self) -> str:
        """The text of a text block, otherwise empty."""
        return str(self.block.get("text", ""))

    @property
    def calls_tool(self) -> bool:
        return "toolUse" in self.block or self.block.get("type") == "tool_use"

    @property
    def is_tool_result(self) -> bool:
        return "toolResult" in self.block or self.block.get("type") == "tool_result"

    @property
    def tokens(self) -> int:
        """Four characters are a token."""
        return len(json.dumps(self.block)) // 4 + 1


def read_parts(body: Body) -> list[Part]:
    """The parts in the order of the cache: tools, system, messages. Marks of both APIs belong to the part before."""
    parts: list[Part] = []
    for path, role, block in _walk(body):
        if "cachePoint" in block:
            if parts:
                parts[-1].mark = block["cachePoint"].get("ttl", "5m")
            continue
        plain = {name: value for name, value in block.items() if name != "cache_control"}
        control = block.get("cache_control")
        parts.append(Part(path, role, plain, control.get("ttl", "5m") if control else None))
    return parts


def _walk(body: Body) -> Iterator[tuple[str, str, Body]]:
    for index, tool in enumerate(body.get("toolConfig", {}).get("tools") or body.get("tools") or []):
        yield f"tools.{index}", "tools", tool
    for index, block in enumerate(_blocks(body.get("system") or [])):
        yield f"system.{index}", "system", block
    for number, message in enumerate(body["messages"]):
        for index, block in enumerate(_blocks(message["content"])):
            yield f"messages.{number}.content.{index}", message["role"], block


def _blocks(content: str | list[Body]) -> list[Body]:
    return [{"text": content}] if isinstance(content, str) else content


def count_tokens(body: Body) -> int:
    return sum(part.tokens for part in read_parts(body))


def additional_fields(body: Body, form: str) -> Body:
    """The fields that only Anthropic's models know: a part of a Converse body, all of an InvokeModel body."""
    return (body.get("additionalModelRequestFields") or {}) if form == "converse" else body


def thinking_of(body: Body, form: str) -> Body:
    """The field `thinking`, empty if it is absent."""
    return additional_fields(body, form).get("thinking") or {}


def tool_names(parts: list[Part]) -> list[str]:
    return [part.block.get("toolSpec", part.block).get("name", "") for part in parts if part.role == "tools"]
