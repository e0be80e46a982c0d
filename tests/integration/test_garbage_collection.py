"""Workers on a Python whose ContextVar.set can crash when a garbage collection starts inside it."""

from __future__ import annotations

import contextlib
import http.client
import sys
from pathlib import Path

import pytest

from .runtime_service import CONFIG, Service, post_chat

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python does not have the defect")

#: A user's callback whose garbage sets context variables when it is collected. Each request notes in which function
#: collections started.
_CALLBACK = """
import contextvars, gc, pathlib, sys, weakref
from litellm import _internal_context
from litellm.integrations.custom_logger import CustomLogger

NAMES = [contextvars.ContextVar(f"name{number}") for number in range(64)]
alive, started_in = [], set()

class Node: pass

def set_again(_):
    for name in NAMES[::3]:
        name.set(object())

def note(phase, _):
    started_in.add(sys._getframe(1).f_code.co_name)

gc.callbacks.append(note)

class Handler(CustomLogger):
    async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
        gc.set_threshold(7, 2, 2)
        for number in range(2000):
            if data.get("user") == "automatic" and number == 1000:
                gc.enable()
            node = Node()
            node.itself = node
            alive.append(weakref.ref(node, set_again))
            del alive[:-50]
            with _internal_context.service_target("stress"):
                NAMES[number % 64].set(object())
        with pathlib.Path(__file__).with_name("started_in").open("a") as file:
            file.writelines(f"{name}\\n" for name in started_in)
        return data

handler = Handler()
"""
_CONFIG = CONFIG % "hello" + "litellm_settings:\n  callbacks: stress.handler\n"


def test_collections_start_outside_of_requests(tmp_path: Path) -> None:
    """A worker collects garbage between requests only, and serves on when this garbage sets context variables."""
    (tmp_path / "stress.py").write_text(_CALLBACK)
    # With PYTHONMALLOC=debug, freed memory is overwritten: a use of it crashes.
    with Service(tmp_path, _CONFIG, PYTHONMALLOC="debug") as service:
        service.await_ready()
        connection = service.connect()
        assert [service.chat(connection)[0] for _ in range(20)] == [200] * 20
        started_in = (tmp_path / "started_in").read_text().split()
        assert set(started_in) == {"collect_due"}
        # With the automatic collector they start anywhere. Where one starts in ContextVar.set, the worker crashes.
        with contextlib.suppress(OSError, http.client.HTTPException):
            post_chat(service.connect(), "demo", user="automatic").read()
            assert "async_pre_call_hook" in (tmp_path / "started_in").read_text()
