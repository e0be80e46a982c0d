"""`python -m inside.run`: run one measurement in the box. Input and output are JSON.

It also runs commands such as systemctl, so that their times are those that an administrator in the box would see.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from .chat import Load, attempt, build_request

_READY = build_request("GET", "/health/readiness")
_CONTROL = "/run/litellm/control.sock"
#: Seconds between two polls of a condition.
_POLL = 0.01
#: The limit of a wait in seconds.
_LIMIT = 120.0
#: Seconds between two polls of the load of a unit.
_LOOK = 0.5

Spec = dict[str, Any]


def build_chat(spec: Spec) -> bytes:
    body: Spec = {"model": "bench", "messages": [{"role": "user", "content": "hi"}]}
    if spec.get("stream"):
        body["stream"] = True
    return build_request("POST", "/v1/chat/completions", json.dumps(body).encode(), spec["bearer"])


# --- measurements ---


async def start(spec: Spec) -> Spec:
    """Measure from a command to its return, and to the first 200 of /health/readiness."""
    begin = time.monotonic()
    command = asyncio.create_task(_command(spec["command"], begin))
    ready = await _wait(_is_ready, begin)
    return {"ready": ready, **await command}


async def load(spec: Spec) -> Spec:
    """Measure the latencies of clients on kept connections, and the processor time of the clients."""
    clients = Load(build_chat(spec), stream=bool(spec.get("stream")))
    clients.start(spec["clients"])
    await clients.warm_up(spec["warm"])
    begin, used = time.monotonic(), _processor()
    await asyncio.sleep(spec["seconds"])
    tally, seconds = clients.tally, time.monotonic() - begin
    result = {
        "answered": len(tally.latencies),
        "seconds": seconds,
        "client_processor": (_processor() - used) / seconds,
    }
    # The latencies include every request that started in time: a client that waits long must show in them.
    await clients.stop()
    return {**result, "latencies": tally.latencies, "failures": dict(tally.failures)}


async def siege(spec: Spec) -> Spec:
    """Run commands in sequence while clients chat, half of them on kept and half on new connections."""
    clients = Load(build_chat(spec))
    half = spec["clients"] // 2
    clients.start(half, spec["clients"] - half)
    await clients.warm_up(spec["before"])
    events = []
    for command in spec["commands"]:
        failed, begin = clients.tally.failed, time.monotonic()
        event = await _command(command, begin)
        event["recovered"] = await _recovered(spec, begin)
        await asyncio.sleep(spec["after"])
        events.append({**event, "failed": clients.tally.failed - failed})
    await clients.stop()
    tally = clients.tally
    return {
        "answered": len(tally.latencies),
        "failures": dict(tally.failures),
        "longest_wait": tally.longest_wait,
        "longest_gap": tally.longest_gap,
        "events": events,
    }


async def live(spec: Spec) -> Spec:
    """Measure from a command to the first response with the marker of the new configuration.

    One client sends requests on new connections. `stale` counts the responses without the marker to requests that
    started after the command had returned.
    """
    request, marker, begin, stale = build_chat(spec), spec["marker"].encode(), time.monotonic(), 0
    command = asyncio.create_task(_command(spec["command"], begin))

    async def is_new() -> bool:
        nonlocal stale
        returned = command.done()
        new = await _answers_with(request, marker)
        stale += returned and not new
        return new

    seconds = await _wait(is_new, begin)
    result = await command
    for _ in range(20):
        await is_new()
    return {"live": seconds, "stale": stale, **result}


async def memory(spec: Spec) -> Spec:
    """Measure the PSS in MiB of all processes of a unit (each counts its share of a shared page)."""
    total, processes = 0, 0
    for folder in _processes(spec["unit"]):
        with contextlib.suppress(OSError, KeyError):  # the process has exited
            fields = dict(line.split(":", 1) for line in (folder / "smaps_rollup").read_text().splitlines()[1:])
            total += int(fields["Pss"].split()[0])
            processes += 1
    return {"pss": total / 1024, "processes": processes}


async def settle(spec: Spec) -> Spec:
    """Wait until a unit is idle in two polls: a second worker may start after the first."""
    begin, before, quiet = time.monotonic(), _work(spec["unit"]), 0
    while quiet < 2 and time.monotonic() < begin + _LIMIT:
        await asyncio.sleep(_LOOK)
        now = _work(spec["unit"])
        quiet = quiet + 1 if now - before < _LOOK / 10 else 0
        before = now
    return {"seconds": time.monotonic() - begin}


# --- what they share ---


async def _command(argv: list[str], begin: float) -> Spec:
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, stderr = await process.communicate()
    return {"returned": time.monotonic() - begin, "code": process.returncode, "said": stderr.decode()[-400:]}


async def _wait(condition: Callable[[], Awaitable[bool]], begin: float) -> float | None:
    """The seconds from `begin` until the condition is true. None after the limit."""
    while time.monotonic() < begin + _LIMIT:
        if await condition():
            return time.monotonic() - begin
        await asyncio.sleep(_POLL)
    return None


async def _is_ready() -> bool:
    connection, failure = await attempt(None, _READY)
    if connection is not None:
        connection.close()
    return not failure


async def _answers_with(request: bytes, marker: bytes) -> bool:
    connection, failure = await attempt(None, request)
    if connection is not None:
        connection.close()
    return not failure and connection is not None and marker in connection.body


async def _recovered(spec: Spec, begin: float) -> float | None:
    """The seconds until the service is ready again, with `workers` serving workers other than `gone`."""
    if "workers" in spec:
        return await _wait(lambda: _is_whole(spec["workers"], spec["gone"]), begin)
    if "gone" in spec:
        # The old workers may still respond after the kill: systemd ends them before it restarts the service.
        await _wait(lambda: _has_new_main(spec["unit"], spec["gone"]), begin)
    return await _wait(_is_ready, begin)


async def _has_new_main(unit: str, gone: int) -> bool:
    show = await asyncio.create_subprocess_exec(
        "systemctl", "show", "--property=MainPID", "--value", unit, stdout=asyncio.subprocess.PIPE
    )
    text, _ = await show.communicate()
    return int(text) not in (0, gone)


async def _is_whole(number: int, gone: int) -> bool:
    """Whether our main process reports this number of serving workers, without the worker `gone`."""
    try:
        reader, writer = await asyncio.open_unix_connection(_CONTROL)
        writer.write(b'{"command": "status"}\n')
        facts = json.loads(await reader.readline())
        writer.close()
    except (OSError, ValueError):
        return False
    serving = [worker["pid"] for worker in facts["workers"] if worker["state"] == "serving"]
    return len(serving) == number and gone not in serving


def _processes(unit: str) -> list[Path]:
    """The /proc folders of the processes of a unit."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"/{unit}\n" in (folder / "cgroup").read_text():
                found.append(folder)
    return found


def _work(unit: str) -> float:
    """The processor seconds of the current processes of a unit (proc_pid_stat(5), utime and stime)."""
    ticks = 0
    for folder in _processes(unit):
        with contextlib.suppress(OSError):
            ticks += sum(map(int, (folder / "stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


_MEASUREMENTS: dict[str, Callable[[Spec], Awaitable[Spec]]] = {
    "start": start, "load": load, "siege": siege, "live": live, "memory": memory, "settle": settle,
}  # fmt: skip


async def main() -> None:
    spec = json.load(sys.stdin)
    sys.stdout.write(json.dumps(await _MEASUREMENTS[spec["measure"]](spec)))


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main())
