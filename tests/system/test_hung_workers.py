"""Workers that hang, leak memory or cannot start. A slow upstream is not a hang."""

from __future__ import annotations

import http.client
import json
import re

import pytest
from box import Box
from load import loaded
from service import (
    CALLBACK,
    CONFIG,
    chat,
    ctl,
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
#: Code before the class: the import of the module fails if the flag exists.
FRAGILE = """\
if os.path.exists("/var/lib/litellm/flag"):
    raise RuntimeError("the table of prices is gone")
"""


def test_blocked_worker_and_slow_upstream(idle_box: Box) -> None:
    """With WATCHDOG_TIMEOUT=10 a response after 15 s succeeds, and a worker whose callback blocks is replaced."""
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
        r"was blocked for \d+ s in POST /v1/chat/completions \(mine.py:\d+ async_pre_call_hook < .*\)"
        r" and was killed, replaced in",
        said(idle_box, "warning", start)[-1],
    )
    # The journal contains the stack of the hung worker.
    assert any('mine.py", line' in line and "async_pre_call_hook" in line for line in said(idle_box, since=start))
    assert chat(idle_box, bearer=secret) == 200

    # One error names the line of the callback, and so do `status` and `doctor`.
    where = "/etc/litellm/mine.py:6 in async_pre_call_hook"
    [error] = said(idle_box, "err", start)
    assert f"{where}, time.sleep, blocks the event loop of a worker" in error
    assert f"{where} has blocked workers once" in ctl(idle_box, "status")
    found = json.loads(ctl(idle_box, "doctor", "--json", check=False))["checks"]
    [finding] = [check for check in found if check["outcome"] in ("failed", "warning")]
    assert (finding["name"], finding["outcome"]) == ("service-blocked", "failed")
    assert finding["detail"].startswith(f"{where} (time.sleep): 1 time, for up to ")


def test_memory_leak(idle_box: Box) -> None:
    """A worker that exceeds WORKER_MEMORY_LIMIT because of a leak is recycled, and no request fails."""
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


def test_no_worker_can_start(idle_box: Box) -> None:
    """If no worker can start, retries have growing delays, then the service exits with 78 and the port closes."""
    write_callback(idle_box, "pass\n", FRAGILE)
    set_up(idle_box, "NUM_WORKERS=2\n", CONFIG + CALLBACK)
    start = now(idle_box)
    idle_box.write("/var/lib/litellm/flag", "", 0o644)
    idle_box.run(("kill", "-KILL", *workers(idle_box)))
    idle_box.wait_until(lambda: state(idle_box)["ActiveState"] == "failed", 180, "the service fails")
    assert (state(idle_box)["ExecMainStatus"], state(idle_box)["NRestarts"]) == ("78", "0")
    errors = [line for line in said(idle_box, "err", start) if "cannot start" in line or "can start" in line]
    assert all("the table of prices is gone" in line for line in errors), errors
    assert errors[-1].startswith("no worker can start: ")
    delays = [int(found[1]) for line in errors if (found := re.search(r"Retrying in (\d+) s", line))]
    # Two slots with five starts each. One slot may be at its sixth start when the other one gives up.
    assert list(dict.fromkeys(delays)) in ([1, 2, 4, 8], [1, 2, 4, 8, 16])
    assert max(delays.count(delay) for delay in delays) <= 2
    idle_box.wait_until(lambda: refused(idle_box), 60, "the port is closed")
    assert all(refused(idle_box) for _ in range(3))
    assert state(idle_box)["NRestarts"] == "0"
