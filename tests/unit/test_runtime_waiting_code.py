"""Code of the user's in which a request waits: found without the event loop's help, and nothing else is accused."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from litellm_systemd.runtime.activity import Activity
from litellm_systemd.runtime.failures import ERROR, WARNING
from litellm_systemd.runtime.worker.waiting_code import watch

SCOPE = {"raw_path": b"/v1/chat/completions", "method": "POST", "query_string": b"key=sk-secret"}
#: What serves a request, in the case of a middleware in a task of its own.
STARLETTE = """\
import anyio
async def serve(function, hook):
    await function(hook)
async def in_task(function, hook):
    async with anyio.create_task_group() as group:
        group.start_soon(serve, function, hook)
"""
#: What calls the user's code: functions of LiteLLM.
LITELLM = """\
import asyncio
async def call(hook):
    await hook()
async def call_often(hook):
    while True:
        await hook()
async def middleware(hook):
    await serve(route, hook)
async def gathered(hook):
    await asyncio.gather(hook())
"""
MINE = """\
import asyncio
class Hook:
    async def async_pre_call_hook(self):
        prompt = "a secret prompt"
        await self.ask()
    async def ask(self):
        await silent()
    async def async_moderation_hook(self):
        await silent()
    async def quick(self):
        await asyncio.sleep(0.01)
    async def polls(self):
        while True:
            await self.quick()
    async def with_model(self):
        await call(silent)
    async def starts_a_loop(self):
        self.task = asyncio.create_task(silent_loop())
        await library()
class CustomLLM: pass
class Provider(CustomLLM):
    async def acompletion(self):
        await Hook().ask()
async def silent_loop():
    await silent()
async def route(hook):
    await hook()
"""
LIBRARY = "import asyncio\nasync def silent(): await asyncio.Event().wait()\n"


def load(folder: Path) -> Any:
    """The code of LiteLLM, a library and the user, each with the path that it has on a host."""
    names: dict[str, Any] = {}
    for path, text in (
        ("site-packages/starlette/routing.py", STARLETTE),
        ("site-packages/litellm/utils.py", LITELLM),
        ("site-packages/fastapi/client.py", LIBRARY.replace("silent", "library")),
        ("mine.py", MINE),
    ):
        exec(compile(text, str(folder / path), "exec"), names)
    exec(compile(LIBRARY, asyncio.__file__, "exec"), names)
    return SimpleNamespace(**names)


def lines_about(*serving: Any, expected: int = 0) -> list[tuple[int, str, str]]:
    """What is reported about requests, each served by one of the coroutines, until some time after the expected
    lines.
    """
    lines: list[tuple[int, str, str]] = []

    async def run() -> None:
        activity, loop = Activity(), asyncio.get_running_loop()
        activity.start(loop)
        tasks = [loop.create_task(activity.record(SCOPE, each)) for each in serving]
        tasks.append(loop.create_task(watch(lambda *line: lines.append(line), 0.05)))
        for _ in range(1000):
            if len(lines) >= expected:
                break
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.3)
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    asyncio.run(run())
    return lines


@pytest.mark.parametrize("way", ["serve", "in_task"])
def test_request_that_waits_in_a_hook(tmp_path: Path, way: str) -> None:
    """A request that waits in a hook is reported once, with the line of the user's file and without the prompt."""
    code = load(tmp_path)
    hook = code.Hook().async_pre_call_hook
    ((priority, where, line),) = lines_about(getattr(code, way)(code.call, hook), expected=1)
    assert (priority, where) == (WARNING, f"{tmp_path}/mine.py:7 in ask")
    assert line == f"{where}: POST /v1/chat/completions has been waiting here for more than 0 s"


def test_hook_in_which_each_request_waits(tmp_path: Path) -> None:
    """The third request that waits in the same line is an error: an operator must act. Single ones are warnings."""
    code = load(tmp_path)
    found = lines_about(*(code.serve(code.call, code.Hook().async_pre_call_hook) for _ in range(4)), expected=4)
    assert [priority for priority, _, _ in found] == [WARNING, WARNING, ERROR, ERROR]
    priorities: list[int] = []

    async def wait_now_and_then() -> None:
        activity, loop = Activity(), asyncio.get_running_loop()
        activity.start(loop)
        watching = loop.create_task(watch(lambda priority, *_: priorities.append(priority), 0.05))
        for count in range(1, 4):
            request = loop.create_task(activity.record(SCOPE, code.serve(code.call, code.Hook().async_pre_call_hook)))
            while len(priorities) < count:
                await asyncio.sleep(0.05)
            request.cancel()
            await asyncio.sleep(0.3)
        watching.cancel()

    asyncio.run(asyncio.wait_for(wait_now_and_then(), 60))
    assert priorities == [WARNING] * 3


def test_hook_that_is_a_task(tmp_path: Path) -> None:
    """A moderation hook, which LiteLLM runs as a task of its own, is found. Each of two requests is reported."""
    code = load(tmp_path)
    found = lines_about(*(code.gathered(code.Hook().async_moderation_hook) for _ in range(2)), expected=2)
    assert [where for _, where, _ in found] == [f"{tmp_path}/mine.py:9 in async_moderation_hook"] * 2


def test_hook_that_polls(tmp_path: Path) -> None:
    """A hook that looks again and again for what does not come is reported."""
    code = load(tmp_path)
    ((_, where, _),) = lines_about(code.serve(code.call, code.Hook().polls), expected=1)
    assert where == f"{tmp_path}/mine.py:11 in quick"


@pytest.mark.parametrize("name", ["with_model", "starts_a_loop"])
def test_hooks_that_do_not_wait(tmp_path: Path, name: str) -> None:
    """A hook that calls a slow model, and a task that a hook has left behind, are not reported. Nor is a hook that is
    quick, however often a stream calls it.
    """
    code = load(tmp_path)
    assert (
        lines_about(code.serve(code.call, getattr(code.Hook(), name)), code.serve(code.call_often, code.Hook().quick))
        == []
    )


def test_slow_provider(tmp_path: Path) -> None:
    """A provider of the user's own may take its time, as any other one."""
    code = load(tmp_path)
    assert lines_about(code.serve(code.call, code.Provider().acompletion)) == []


def test_code_that_keeps_no_request(tmp_path: Path) -> None:
    """Neither a callback that logs, in a task of its own, nor a route of the user's own is reported."""
    code = load(tmp_path)
    hook = code.Hook().async_pre_call_hook
    assert lines_about(code.call(hook), code.middleware(hook)) == []


def test_code_outside_of_requests(tmp_path: Path) -> None:
    """A task that goes on after the response, such as a callback that logs it, is not reported."""
    code = load(tmp_path)

    async def answered() -> None:
        asyncio.get_running_loop().create_task(code.call(code.silent_loop))

    assert lines_about(answered()) == []
