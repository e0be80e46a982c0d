"""Requests and answers of the three APIs, in the one form that the comparison of routes needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

Json = dict[str, Any]

#: A picture of one pixel.
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
_SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client reads: text, thinking, the signature of the thinking, and the input of a called tool."""

    text: str = ""
    thinking: str = ""
    signature: str = ""
    call: str = ""


def events(body: str) -> Iterator[Json]:
    """The events of a stream, without the end mark of chat."""
    for line in body.splitlines():
        if line.startswith("data: {"):
            yield json.loads(line.removeprefix("data: "))


class Chat:
    """/v1/chat/completions."""

    path = "/v1/chat/completions"
    effort: ClassVar[Json] = {"reasoning_effort": "high"}
    ends = "data: [DONE]"

    def user(self, text: str, *, image: bool = False, ttl: str = "") -> Json:
        mark = {"cache_control": {"type": "ephemeral", "ttl": ttl}} if ttl else {}
        blocks: list[Json] = [{"type": "text", "text": text, **mark}]
        url = {"url": f"data:image/png;base64,{PIXEL}"}
        return {"role": "user", "content": [*([{"type": "image_url", "image_url": url}] if image else []), *blocks]}

    def body(self, items: list[Json], system: list[Json] | None = None, tool: str = "") -> Json:
        function = {"name": tool, "description": "It looks.", "parameters": _SCHEMA}
        messages = [{"role": "system", "content": system}, *items] if system else items
        return {"messages": messages, **({"tools": [{"type": "function", "function": function}]} if tool else {})}

    def read(self, body: Json) -> Answer:
        message = body["choices"][0]["message"]
        thoughts, calls = message.get("thinking_blocks") or [{}], message.get("tool_calls") or []
        return Answer(
            message.get("content") or "",
            message.get("reasoning_content") or "",
            thoughts[0].get("signature") or "",
            calls[0]["function"]["arguments"] if calls else "",
        )

    def read_stream(self, body: str) -> Answer:
        deltas = [event["choices"][0]["delta"] for event in events(body) if event.get("choices")]
        calls = [call for delta in deltas for call in delta.get("tool_calls") or []]
        blocks = [block for delta in deltas for block in delta.get("thinking_blocks") or []]
        return Answer(
            "".join(delta.get("content") or "" for delta in deltas),
            "".join(delta.get("reasoning_content") or "" for delta in deltas),
            "".join(block.get("signature") or "" for block in blocks),
            "".join(call["function"].get("arguments") or "" for call in calls),
        )

    def again(self, body: Json, result: str = "") -> list[Json]:
        """The items that continue a conversation after an answer."""
        message = body["choices"][0]["message"]
        calls = message.get("tool_calls") or []
        results = [{"role": "tool", "tool_call_id": call["id"], "content": result} for call in calls]
        return [message, *(results or [self.user("and now?")])]

    def cached(self, body: Json) -> tuple[int, int]:
        """Tokens read from and written to the cache, as the client sees them."""
        usage = body["usage"]
        details = usage.get("prompt_tokens_details") or {}
        return details.get("cached_tokens") or 0, usage.get("cache_creation_input_tokens") or 0


class Messages:
    """/v1/messages."""

    path = "/v1/messages"
    effort: ClassVar[Json] = {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}}
    ends = "event: message_stop"

    def user(self, text: str, *, image: bool = False, ttl: str = "") -> Json:
        mark = {"cache_control": {"type": "ephemeral", "ttl": ttl}} if ttl else {}
        source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
        images = [{"type": "image", "source": source}] if image else []
        return {"role": "user", "content": [*images, {"type": "text", "text": text, **mark}]}

    def body(self, items: list[Json], system: list[Json] | None = None, tool: str = "") -> Json:
        offered = {"name": tool, "description": "It looks.", "input_schema": _SCHEMA}
        rest = {"system": system} if system else {}
        return {"max_tokens": 4096, "messages": items, **rest, **({"tools": [offered]} if tool else {})}

    def read(self, body: Json) -> Answer:
        def join(kind: str, key: str) -> str:
            return "".join(block[key] for block in body["content"] if block["type"] == kind)

        calls = [block["input"] for block in body["content"] if block["type"] == "tool_use"]
        call = json.dumps(calls[0]) if calls else ""
        return Answer(join("text", "text"), join("thinking", "thinking"), join("thinking", "signature"), call)

    def read_stream(self, body: str) -> Answer:
        """As Anthropic's SDKs: a block starts with what `content_block_start` carries."""
        parts = [event.get("content_block") or event.get("delta") or {} for event in events(body)]

        def join(key: str) -> str:
            return "".join(part.get(key) or "" for part in parts)

        return Answer(join("text"), join("thinking"), join("signature"), join("partial_json"))

    def again(self, body: Json, result: str = "") -> list[Json]:
        calls = [block for block in body["content"] if block["type"] == "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": call["id"], "content": result} for call in calls]
        reply = {"role": "user", "content": results} if results else self.user("and now?")
        return [{"role": "assistant", "content": body["content"]}, reply]

    def cached(self, body: Json) -> tuple[int, int]:
        usage = body["usage"]
        return usage.get("cache_read_input_tokens") or 0, usage.get("cache_creation_input_tokens") or 0


class Responses:
    """/v1/responses."""

    path = "/v1/responses"
    effort: ClassVar[Json] = {"reasoning": {"effort": "high"}}
    ends = "response.completed"

    def user(self, text: str, *, image: bool = False, ttl: str = "") -> Json:
        mark = {"cache_control": {"type": "ephemeral", "ttl": ttl}} if ttl else {}
        images = [{"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"}] if image else []
        return {"role": "user", "content": [*images, {"type": "input_text", "text": text, **mark}]}

    def body(self, items: list[Json], system: list[Json] | None = None, tool: str = "") -> Json:
        offered = {"type": "function", "name": tool, "description": "It looks.", "parameters": _SCHEMA}
        rest = {"instructions": "\n".join(block["text"] for block in system)} if system else {}
        return {"input": items, **rest, **({"tools": [offered]} if tool else {})}

    def read(self, body: Json) -> Answer:
        texts, thoughts, call, signature = [], [], "", ""
        for item in body["output"]:
            if item["type"] == "reasoning":
                thoughts += [part["text"] for part in (item.get("summary") or item.get("content") or [])]
                signature = item.get("encrypted_content") or ""
            elif item["type"] == "function_call":
                call = item["arguments"]
            else:
                texts += [part.get("text") or "" for part in item.get("content") or []]
        return Answer("".join(texts), "".join(thoughts), signature, call)

    def read_stream(self, body: str) -> Answer:
        def join(kind: str) -> str:
            return "".join(event["delta"] for event in events(body) if event.get("type") == kind)

        return Answer(
            join("response.output_text.delta"),
            join("response.reasoning_summary_text.delta") or join("response.reasoning_text.delta"),
            "",
            join("response.function_call_arguments.delta"),
        )

    def again(self, body: Json, result: str = "") -> list[Json]:
        calls = [item for item in body["output"] if item["type"] == "function_call"]
        results = [{"type": "function_call_output", "call_id": call["call_id"], "output": result} for call in calls]
        return [*body["output"], *(results or [self.user("and now?")])]

    def cached(self, body: Json) -> tuple[int, int]:
        details = body["usage"].get("input_tokens_details") or {}
        return details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0


APIS: tuple[Chat | Messages | Responses, ...] = (Chat(), Messages(), Responses())
