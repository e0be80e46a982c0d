"""Workers on a Python whose ContextVar.set can crash when a garbage collection starts inside it."""

from __future__ import annotations

import http.client
import sys
from pathlib import Path

import pytest

from .runtime_service import CONFIG, Service, post_chat

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python does not have the defect")

#: A user's callback whose garbage sets context variables when it is collected, in every request.
_CALLBACK = """
import contextvars, gc, weakref
from litellm import _internal_context
from litellm.integrations.custom_logger import CustomLogger

NAMES = [contextvars.ContextVar(f"name{number}") for number in range(64)]
alive = []

class Node: pass

def set_again(_):
    for name in NAMES[::3]:
        name.set(object())

class Handler(CustomLogger):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        gc.set_threshold(7, 2, 2)
        if data.get("user") == "automatic":
            gc.enable()
        for number in range(2000):
            node = Node()
            node.itself = node
            alive.append(weakref.ref(node, set_again))
            del alive[:-50]
            with _internal_context.service_target("stress"):
                NAMES[number % 64].set(object())
        return data

handler = Handler()
"""
_CONFIG = CONFIG % "hello" + "litellm_settings:\n  callbacks: stress.handler\n"


def test_worker_survives_garbage_that_sets_context_variables(tmp_path: Path) -> None:
    """A worker serves on when garbage sets context variables; with the automatic collector it crashes."""
    # One service in ten does not crash: it depends on where objects are in memory.
    for number in range(4):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "stress.py").write_text(_CALLBACK)
        # With PYTHONMALLOC=debug, freed memory is overwritten.
        with Service(folder, _CONFIG, PYTHONMALLOC="debug") as service:
            service.await_ready()
            connection = service.connect()
            assert [service.chat(connection)[0] for _ in range(20)] == [200] * 20
            if _crashes_with_automatic_collector(service):
                return
    pytest.fail("no service crashed with the automatic collector: this test proves nothing")


def _crashes_with_automatic_collector(service: Service) -> bool:
    for _ in range(100):
        try:
            post_chat(service.connect(), "demo", user="automatic").read()
        except (OSError, http.client.HTTPException):  # the connection of a dead process
            return True
    return False
