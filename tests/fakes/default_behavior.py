"""What a model does without a `Script`: a prompt can ask for tool calls and for long streams.

    CALL read_file {"path": "a.txt"}   calls that tool with that input. Several CALLs in a prompt are made in order,
                                       each after the result of the one before. Then the model answers `It says`
                                       and the last result, or with the STREAM of the same prompt.
    STREAM 425 EVENTS                  answers 425 numbers, each one event of a stream.
    STREAM 425 EVENTS EVERY 10 MS      the same, with that pause between the events.

The text may be anywhere in the last message of the user without a tool result. Without it a model that is offered
one tool calls it with the word `one` for each property, and a model that is offered several answers `pong`.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tests.fakes.prompt import Part, tool_names

_CALL = re.compile(r"\bCALL ([\w.-]+) (?=\{)")
_STREAM = re.compile(r"\bSTREAM ([1-9]\d*) EVENTS(?: EVERY ([\d.]+) MS)?")


def behave(parts: list[Part]) -> dict[str, Any]:
    """The fields of a `Script` for a prompt. Empty: the default text."""
    prompt, results = _read_turn(parts)
    offered = tool_names(parts)
    calls = _read_calls(prompt)
    if len(results) < len(calls):
        name, given = calls[len(results)]
        if name in offered:
            return {"text": "", "tool": (name, given)}
        return {"text": f"I have no tool {name}. I have: {', '.join(offered) or 'none'}."}
    if (stream := _STREAM.search(prompt)) is not None:
        # LiteLLM ends a stream with an error after 100 equal pieces (REPEATED_STREAMING_CHUNK_LIMIT).
        words = [f"{number % 10_000:04} " for number in range(int(stream[1]))]
        return {"text": "".join(words), "size": len(words[0]), "pause": float(stream[2] or 0) / 1000}
    if results:
        return {"text": f"It says {json.dumps(results[-1].block)}"}
    return _call_only_tool(parts) if len(offered) == 1 else {}


def _read_turn(parts: list[Part]) -> tuple[str, list[Part]]:
    """The text of the user in the running turn, and the results of tools since then.

    A message with a tool result belongs to the loop, with its text: Claude Code adds reminders there.
    """
    messages: dict[str, list[Part]] = {}
    for part in parts:
        if part.path.startswith("messages."):
            messages.setdefault(part.path.split(".")[1], []).append(part)
    prompts: list[str] = []
    results: list[Part] = []
    for message in reversed(messages.values()):
        found = [part for part in message if part.is_tool_result]
        if message[0].role == "user" and not found:
            prompts[:0] = [part.text for part in message]
        elif prompts:
            break
        results[:0] = found
    return "\n".join(prompts), results


def _read_calls(prompt: str) -> list[tuple[str, dict[str, Any]]]:
    """The CALLs of a prompt. Text that only resembles one is skipped."""
    found = []
    for match in _CALL.finditer(prompt):
        try:
            given, _ = json.JSONDecoder().raw_decode(prompt, match.end())
        except ValueError:
            continue
        found.append((match[1], given))
    return found


def _call_only_tool(parts: list[Part]) -> dict[str, Any]:
    tool = parts[0].block.get("toolSpec", parts[0].block)
    schema = tool.get("input_schema") or tool.get("inputSchema", {}).get("json", {})
    return {"text": "", "tool": (tool["name"], dict.fromkeys(schema.get("properties", {}), "one"))}
