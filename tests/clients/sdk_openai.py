"""A program with OpenAI's SDK: see sdk_main.py."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import openai
import sdk_main

MODEL = "claude-sonnet-5-5"
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "shell",
        "description": "Run a command.",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
    },
}


def chat(client: openai.OpenAI, prompt: str, *prefill: Any) -> None:
    """The whole answer at once."""
    messages: Any = [{"role": "user", "content": prompt}, *prefill]
    answer = client.chat.completions.create(model=MODEL, messages=messages)
    print(answer.choices[0].message.content)


def prefill(client: openai.OpenAI, prompt: str) -> None:
    """An answer that begins with the given words."""
    chat(client, prompt, {"role": "assistant", "content": "Once upon"})


def stream(client: openai.OpenAI, prompt: str) -> None:
    """The answer in pieces."""
    messages: Any = [{"role": "user", "content": prompt}]
    with client.chat.completions.create(model=MODEL, messages=messages, stream=True) as chunks:
        for chunk in chunks:
            print((chunk.choices and chunk.choices[0].delta.content) or "", end="", flush=True)


def responses(client: openai.OpenAI, prompt: str) -> None:
    """The answer of the Responses API in pieces."""
    with client.responses.create(model=MODEL, input=prompt, stream=True) as events:
        for event in events:
            if event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)


def loop(client: openai.OpenAI, prompt: str) -> None:
    """Run the commands that the model calls until it answers with text."""
    messages: Any = [{"role": "user", "content": prompt}]
    calls: dict[int, Any] = {0: None}
    piece: Any
    while calls:
        calls = {}
        with client.chat.completions.create(model=MODEL, messages=messages, tools=[TOOL], stream=True) as chunks:
            for chunk in chunks:
                delta = chunk.choices[0].delta if chunk.choices else None
                print((delta and delta.content) or "", end="", flush=True)
                for piece in (delta and delta.tool_calls) or ():
                    call = calls.setdefault(piece.index, {"id": piece.id, "name": piece.function.name, "input": ""})
                    call["input"] += piece.function.arguments or ""
        made = [
            {"id": each["id"], "type": "function", "function": {"name": each["name"], "arguments": each["input"]}}
            for each in calls.values()
        ]
        messages.append({"role": "assistant", "tool_calls": made})
        for each in calls.values():
            result = subprocess.run(json.loads(each["input"])["command"], shell=True, capture_output=True, text=True)
            messages.append({"role": "tool", "tool_call_id": each["id"], "content": result.stdout or "done"})


if __name__ == "__main__":
    sdk_main.run(openai.OpenAI(), chat, prefill, stream, responses, loop)
