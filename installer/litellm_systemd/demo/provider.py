"""The interface of the demo model to LiteLLM: `custom_provider_map` in configs/demo.yml names `demo_model`.

LiteLLM imports this module in a worker when it reads that setting. It looks for a file next to the configuration, and
then for an installed package (`get_instance_fn` in litellm/proxy/types_utils/utils.py). The name is in configurations
of users, so it stays. https://docs.litellm.ai/docs/providers/custom_llm_server
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import litellm
from litellm.exceptions import BadRequestError
from litellm.llms.custom_llm import CustomLLM

from litellm_systemd.demo.answer import Answer, build_answer

#: Seconds between the pieces of a stream, so that it looks like one.
PAUSE = 0.01


class DemoModel(CustomLLM):
    """Answers chats. LiteLLM translates Anthropic's Messages and OpenAI's Responses to chats and back."""

    def completion(self, *_: Any, **request: Any) -> Any:
        """Answer as a whole: a `ModelResponse`. Raises BadRequestError like `streaming`."""
        answer, usage = _answer(request)
        message: dict[str, Any] = {"role": "assistant", "content": answer.text or None}
        if answer.call is not None:
            message["tool_calls"] = [_tool_call(answer, json.dumps(answer.call.arguments))]
        choice = {"index": 0, "finish_reason": answer.finish_reason, "message": message}
        return litellm.ModelResponse(model=request["model"], choices=[choice], usage=usage)

    async def acompletion(self, *_: Any, **request: Any) -> Any:
        """Answer as a whole: a `ModelResponse`. Raises BadRequestError like `streaming`."""
        return await asyncio.to_thread(self.completion, **request)  # it counts tokens, which takes processor time

    def streaming(self, *_: Any, **request: Any) -> Iterator[Any]:
        """Answer in pieces, without pauses: `GenericStreamingChunk`s.

        Raises:
            BadRequestError: a tool or a message does not have the form of OpenAI's chat completions.
        """
        answer, usage = _answer(request)
        for piece in answer.pieces:
            yield _chunk(text=piece)
        if answer.call is not None:
            yield _chunk(tool_use=_tool_call(answer, ""))
            arguments = json.dumps(answer.call.arguments)
            for start in range(0, len(arguments), 24):
                function = {"name": None, "arguments": arguments[start : start + 24]}
                yield _chunk(tool_use={"id": None, "index": 0, "type": "function", "function": function})
        yield _chunk(finish_reason=answer.finish_reason, usage=usage)

    async def astreaming(self, *_: Any, **request: Any) -> AsyncIterator[Any]:  # type: ignore[override]
        """Answer in pieces: `GenericStreamingChunk`s."""
        for chunk in await asyncio.to_thread(list, self.streaming(**request)):
            yield chunk
            await asyncio.sleep(PAUSE)


demo_model = DemoModel()


def _answer(request: Any) -> tuple[Answer, dict[str, int]]:
    given = request["model"], request["messages"], request["optional_params"], request["encoding"]
    try:
        answer = build_answer(*given)
        return answer, _usage(request, answer)
    except (AttributeError, KeyError, TypeError) as error:
        text = f"a tool or a message does not have the form of chat completions: {error!r}"
        raise BadRequestError(text, request["model"], "demo") from error


def _usage(request: Any, answer: Answer) -> dict[str, int]:
    tools = request["optional_params"].get("tools")
    # Without a model, since LiteLLM downloads the tokenizer of some, as it downloads pictures to measure them.
    prompt: int = litellm.token_counter(
        model="",
        messages=request["messages"],
        tools=tools,
        use_default_image_token_count=True,
        default_token_count=1,  # of what has no text, such as audio
    )
    return {"prompt_tokens": prompt, "completion_tokens": answer.tokens, "total_tokens": prompt + answer.tokens}


def _tool_call(answer: Answer, arguments: str) -> dict[str, Any]:
    name = answer.call.name if answer.call is not None else ""
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{uuid.uuid4().hex}", "index": 0, "type": "function", "function": function}


def _chunk(
    text: str = "", tool_use: Any = None, finish_reason: str = "", usage: dict[str, int] | None = None
) -> dict[str, Any]:
    return {
        "text": text,
        "tool_use": tool_use,
        "is_finished": bool(finish_reason),
        "finish_reason": finish_reason,
        "usage": usage,
        "index": 0,
    }
