"""The answers of the demo model: text or a tool call, cut at the limit of tokens. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from litellm_systemd.demo.tools import Call, Turn, choose_call, example_prompt, find_file, read_turn

_COUNT = re.compile(r"\bcount from (\d{1,6}) to (\d{1,6})\b", re.IGNORECASE)
#: The longest count: a stream of half a minute.
_MOST = 2000
#: Characters of a tool's result that an answer repeats.
_RESULT = 400


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: `pieces` of text as they are streamed, then `call` if a tool is called.

    `tokens`: its length. `finish_reason` as in OpenAI's chat completions.
    """

    pieces: tuple[str, ...]
    call: Call | None
    tokens: int
    finish_reason: str

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def build_answer(
    model: str, messages: Sequence[Mapping[str, Any]], params: Mapping[str, Any], encoding: Any
) -> Answer:
    """Answer a chat. `params` are the parameters of OpenAI's chat completions, `encoding` is a tiktoken encoding."""
    tools = params.get("tools") or ()
    turn = read_turn(messages)
    call = choose_call(turn, tools, params.get("tool_choice"))
    if call is not None:
        tokens = len(encoding.encode(call.name + json.dumps(call.arguments), disallowed_special=()))
        return Answer((), call, tokens, "tool_calls")
    most = params.get("max_completion_tokens") or params.get("max_tokens")
    pieces: list[str] = []
    tokens = 0
    for piece in re.findall(r"\s*\S+", _text(model, turn, tools)):
        size = len(encoding.encode(piece, disallowed_special=()))
        if isinstance(most, int) and tokens + size > most:
            return Answer(tuple(pieces), None, tokens, "length")
        pieces.append(piece)
        tokens += size
    return Answer(tuple(pieces), None, tokens, "stop")


def _text(model: str, turn: Turn, tools: Sequence[Mapping[str, Any]]) -> str:
    said = [f"This is the demo configuration, in place of {model}. No model was called."]
    if turn.results:
        name, result = turn.results[-1]
        said.append(f"The tool {name} returned: {result[:_RESULT]}")
    elif count := _COUNT.search(turn.prompt):
        first, last = int(count.group(1)), int(count.group(2))
        said.append(" ".join(str(number) for number in range(first, min(last, first + _MOST) + 1)))
    elif example := example_prompt(tools):
        said.append(f"To see a tool call, ask for example: {example}")
    elif file := find_file(turn.prompt):
        # The form that aider reads.
        said.append("\n\n{}\n```\n{}\n```".format(*file))
    return " ".join(said)
