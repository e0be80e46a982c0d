"""Callbacks and upstreams that take their time: what blocks the loop is a hang, what waits isn't."""

from __future__ import annotations

import http.client
import re

import pytest
from box import Box
from load import loaded
from service import (
    CALLBACK,
    CONFIG,
    chat,
    key,
    now,
    refused,
    said,
    set_up,
    state,
    wait_for_workers,
    workers,
    write_callback,
)

BLOCKING = """\
async def async_pre_call_hook(self, user_api_key_dict, cache, data, call_type):
    if data["messages"][-1]["content"] == "block":
        time.sleep(600)
"""
LEAKING = """\
kept = []
async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
    if len(self.kept) < 100:
        self.kept.append(b"x" * 4 * 2**20)
"""
#: Before the class: the module can't be imported once the flag is there.
FRAGILE = """\
if os.path.exists("/var/lib/litellm/flag"):
    raise RuntimeError("the table of prices is gone")
"""


def test_slow_is_not_hung(idle_box: Box) -> None:
    """With WATCHDOG_TIMEOUT=10 an upstream of 15 s is waited for; a worker whose callback blocks is replaced."""
    write_callback(idle_box, BLOCKING)
    set_up(idle_box, "NUM_WORKERS=2\nWATCHDOG_TIMEOUT=10\n", CONFIG + CALLBACK)
    before, secret, start = workers(idle_box), key(idle_box), now(idle_box)
    assert chat(idle_box, "slow", secret, "15") == 200
    assert workers(idle_box) == before

    with pytest.raises((OSError, http.client.HTTPException)):
        chat(idle_box, bearer=secret, content="block")
    idle_box.wait_until(lambda: len(before - workers(idle_box)) == 1, 60, "the hung worker is gone")
    wait_for_workers(idle_box)
    assert len(before & workers(idle_box)) == 1
    idle_box.wait_until(lambda: said(idle_box, "warning", start), 30, "a line about it")
    assert re.search(
        r"failed its health check for \d+ s and was killed, replaced in", said(idle_box, "warning", start)[-1]
    )
    # Where it hung is there for whoever looks closer.
    assert any('mine.py", line' in line and "async_pre_call_hook" in line for line in said(idle_box, since=start))
    assert chat(idle_box, bearer=secret) == 200


def test_leak_is_recycled(idle_box: Box) -> None:
    """A worker that a callback's leak drives over WORKER_MEMORY_LIMIT is recycled, and no request fails."""
    write_callback(idle_box, LEAKING)
    set_up(idle_box, "NUM_WORKERS=2\nWORKER_MEMORY_LIMIT=600\n", CONFIG + CALLBACK)
    before, main = workers(idle_box), state(idle_box)["MainPID"]
    with loaded(idle_box) as load:
        idle_box.wait_until(lambda: not before & workers(idle_box), 240, "each worker was replaced")
    assert (load.failed, load.answered > 100) == ([], True)
    recycled = [line for line in said(idle_box) if "recycled at" in line]
    sizes = [int(found[1]) for line in recycled if (found := re.search(r"recycled at (\d+) MiB of memory", line))]
    assert len(sizes) >= 2
    assert min(sizes) > 600
    assert (state(idle_box)["MainPID"], state(idle_box)["NRestarts"]) == (main, "0")


def test_worker_that_cannot_start_any_more(idle_box: Box) -> None:
    """When no worker can start any more, tries come ever later and end in exit 78 with the cause, the port closed."""
    write_callback(idle_box, "pass\n", FRAGILE)
    set_up(idle_box, "NUM_WORKERS=2\n", CONFIG + CALLBACK)
    start = now(idle_box)
    idle_box.write("/var/lib/litellm/flag", "", 0o644)
    idle_box.run(("kill", "-KILL", *workers(idle_box)))
    idle_box.wait_until(lambda: state(idle_box)["ActiveState"] == "failed", 180, "the service gives up")
    assert (state(idle_box)["ExecMainStatus"], state(idle_box)["NRestarts"]) == ("78", "0")
    errors = [line for line in said(idle_box, "err", start) if "cannot start" in line or "can start" in line]
    assert all("the table of prices is gone" in line for line in errors), errors
    assert errors[-1].startswith("no worker can start any more: ")
    pauses = [int(found[1]) for line in errors if (found := re.search(r"Retrying in (\d+) s", line))]
    # Two places, one beside the other. Five tries of each; one may be at its sixth when the other gives up.
    assert list(dict.fromkeys(pauses)) in ([1, 2, 4, 8], [1, 2, 4, 8, 16])
    assert max(pauses.count(pause) for pause in pauses) <= 2
    idle_box.wait_until(lambda: refused(idle_box), 60, "the port is closed")
    assert all(refused(idle_box) for _ in range(3))
    assert state(idle_box)["NRestarts"] == "0"
