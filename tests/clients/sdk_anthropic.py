"""A program with Anthropic's SDK: see sdk_main.py."""

from __future__ import annotations

import subprocess
from typing import Any

import anthropic
import sdk_main

MODEL = "claude-sonnet-5-5"
TOKENS = 1000
TOOL: Any = {
    "name": "shell",
    "description": "Run a command.",
    "input_schema": {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]},
}


def chat(client: anthropic.Anthropic, prompt: str, *prefill: Any) -> None:
    """The whole answer at once."""
    messages: Any = [{"role": "user", "content": prompt}, *prefill]
    answer = client.messages.create(model=MODEL, max_tokens=TOKENS, messages=messages)
    print("".join(block.text for block in answer.content if block.type == "text"))


def prefill(client: anthropic.Anthropic, prompt: str) -> None:
    """An answer that begins with the given words."""
    chat(client, prompt, {"role": "assistant", "content": "Once upon"})


def stream(client: anthropic.Anthropic, prompt: str) -> None:
    """The answer in pieces."""
    messages: Any = [{"role": "user", "content": prompt}]
    with client.messages.stream(model=MODEL, max_tokens=TOKENS, messages=messages) as events:
        for text in events.text_stream:
            print(text, end="", flush=True)


def loop(client: anthropic.Anthropic, prompt: str) -> None:
    """Run the commands that the model calls until it answers with text."""
    messages: Any = [{"role": "user", "content": prompt}]
    while messages[-1]["role"] == "user":
        with client.messages.stream(model=MODEL, max_tokens=TOKENS, messages=messages, tools=[TOOL]) as events:
            for text in events.text_stream:
                print(text, end="", flush=True)
            answer = events.get_final_message()
        messages.append({"role": "assistant", "content": answer.content})
        results = []
        for block in answer.content:
            if block.type == "tool_use":
                command: Any = block.input["command"]
                result = subprocess.run(command, shell=True, capture_output=True, text=True)
                results.append({"type": "tool_result", "tool_use_id": block.id, "content": result.stdout or "done"})
        if results:
            messages.append({"role": "user", "content": results})


if __name__ == "__main__":
    sdk_main.run(anthropic.Anthropic(), chat, prefill, stream, loop)
