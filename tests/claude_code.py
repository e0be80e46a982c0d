"""A tool loop with the requests of Claude Code 2.1, and the tokens that it reads from the prompt cache.

Each request starts `system` with a billing header that differs (anthropics/claude-code#50085, #68900), marks the
system prompt and the last message for the cache, repeats tools and history, and asks for thinking. The client joins
the events of a stream as Anthropic's SDKs do: a block starts with what `content_block_start` carries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

#: Sends the body of a request to /v1/messages with these headers, and returns status and body of the response.
Post = Callable[[dict[str, Any], Mapping[str, str]], tuple[int, str]]

HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,"
    "prompt-caching-scope-2026-01-05,effort-2025-11-24",
    "user-agent": "claude-cli/2.1.0 (external, cli)",
}
_MARK = {"cache_control": {"type": "ephemeral"}}
#: About 4,000 tokens each of system prompt and tools; Claude Code has more.
_MANUAL = "You help users with software engineering tasks. Use the tools to do so. " * 220
_TOOLS = [
    {
        "name": name,
        "description": f"{name} does what its name says. " * 40,
        "input_schema": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
    }
    for name in ("Read", "Write", "Edit", "Bash", "Glob", "Grep", "Task", "TodoWrite", "WebFetch", "NotebookEdit")
]


@dataclass(frozen=True, slots=True)
class Turn:
    """Tokens of a turn: not cached, read from and written to the cache, and answered."""

    uncached: int
    read: int
    written: int
    answered: int

    @property
    def sent(self) -> int:
        return self.uncached + self.read + self.written


class Failed(Exception):
    """The gateway refused a turn, or its stream did not end."""


def share_read(turns: list[Turn]) -> float:
    """The share of the input tokens that the cache served from the third turn on."""
    later = turns[2:]
    return sum(turn.read for turn in later) / sum(turn.sent for turn in later)


def run_loop(post: Post, model: str, turns: int = 10, *, thinking: bool = True) -> list[Turn]:
    """Let the model read a file in each turn except the last. Raises Failed."""
    prompt = " ".join(f'CALL Read {{"path": "src/module_{number}.py"}}' for number in range(1, turns))
    conversation: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": prompt}]}]
    found = []
    for number in range(turns):
        status, text = post(_build_request(model, conversation, number, thinking=thinking), HEADERS)
        if status != 200:
            raise Failed(f"turn {number + 1}: HTTP {status}: {text}")
        content, turn = _read_stream(text)
        found.append(turn)
        results = [
            {"type": "tool_result", "tool_use_id": block["id"], "content": f"def function_{number}(): ...\n" * 20}
            for block in content
            if block["type"] == "tool_use"
        ]
        if bool(results) == (number == turns - 1):
            raise Failed(f"turn {number + 1}: {content}")
        reminder = {"type": "text", "text": "<system-reminder>The todo list is empty.</system-reminder>"}
        conversation += [{"role": "assistant", "content": content}, {"role": "user", "content": [*results, reminder]}]
    return found


def _build_request(model: str, conversation: list[dict[str, Any]], number: int, *, thinking: bool) -> dict[str, Any]:
    *earlier, last = conversation
    *blocks, end = last["content"]
    billing = f"x-anthropic-billing-header: cc_version=2.1.0.a1b; cc_entrypoint=cli; cch={number:05x};"
    return {
        "model": model,
        "max_tokens": 32_000,
        "stream": True,
        "system": [
            {"type": "text", "text": billing},
            {"type": "text", "text": "You are Claude Code, Anthropic's official CLI for Claude.", **_MARK},
            {"type": "text", "text": _MANUAL, **_MARK},
        ],
        "tools": _TOOLS,
        "messages": [*earlier, {**last, "content": [*blocks, {**end, **_MARK}]}],
        "metadata": {"user_id": "user_fake_account__session_fake"},
        **({"thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"}} if thinking else {}),
    }


def _read_stream(text: str) -> tuple[list[dict[str, Any]], Turn]:
    """The content of the message and its tokens. Raises Failed if the stream has no end."""
    blocks: list[dict[str, Any]] = []
    inputs: dict[int, str] = {}
    usage: dict[str, int] = {}
    ended = False
    for event in _events(text):
        if event["type"] == "message_start":
            usage.update(event["message"]["usage"])
        elif event["type"] == "content_block_start":
            blocks.append(event["content_block"])
        elif event["type"] == "content_block_delta":
            _add(blocks, inputs, event["index"], event["delta"])
        elif event["type"] == "message_delta":
            usage.update(event["usage"])
        ended |= event["type"] == "message_stop"
    if not ended:
        raise Failed(f"a stream without message_stop: {text[-500:]}")
    for index, given in inputs.items():
        blocks[index]["input"] = json.loads(given)
    read, written = usage.get("cache_read_input_tokens", 0), usage.get("cache_creation_input_tokens", 0)
    return blocks, Turn(usage["input_tokens"], read, written, usage["output_tokens"])


def _add(blocks: list[dict[str, Any]], inputs: dict[int, str], index: int, delta: dict[str, Any]) -> None:
    if delta["type"] == "input_json_delta":
        inputs[index] = inputs.get(index, "") + delta["partial_json"]
        return
    for key in ("text", "thinking", "signature"):
        if key in delta:
            blocks[index][key] += delta[key]


def _events(text: str) -> Iterator[dict[str, Any]]:
    for line in text.splitlines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))
