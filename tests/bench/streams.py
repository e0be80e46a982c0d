"""`python -m tests.bench.streams`: long streams, as coding agents use them, through the gateway (docs/benchmark.md).

No box and no root: the runtime of litellm-systemd and plain `litellm` run side by side from this venv.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import box_images
import uvloop

from tests.integration.litellm_process import OFFLINE, run_litellm
from tests.integration.runtime_service import KEY, Service
from tests.processes import descendants, processor

from .inside.chat import Connection, build_request
from .peers import PLAIN, TWO, Peer
from .stream_figures import CASES, Case, Cell, render
from .table import here_and_now, say, write_between_markers

OURS_ONE = Peer("ours1", "litellm-systemd, 1 worker", "", 1, None)
OURS_TWO = Peer("ours2", "litellm-systemd, 2 workers", "", 2, None)
PEERS = (PLAIN, TWO, OURS_ONE, OURS_TWO)
_MODEL = "us.anthropic.claude-sonnet-4-6"
#: The route of the shipped configurations, and the older one.
_CONFIG = f"""\
model_list:
  - {{model_name: shipped, litellm_params: {{model: bedrock/{_MODEL}}}}}
  - {{model_name: converse, litellm_params: {{model: bedrock/converse/{_MODEL}}}}}
litellm_settings: {{drop_params: true}}
router_settings: {{num_retries: 0}}
general_settings: {{master_key: os.environ/LITELLM_MASTER_KEY}}
"""
#: Seconds over which the starts of the streams are spread.
_SPREAD = 4.0
#: The events of a stream to warm up or to measure the upstream itself.
_SHORT = 50
#: Milliseconds between two events of a stream: 50 a second.
_PAUSE = 20
_PATIENCE = 600.0
#: A word of the upstream's answer, one in each event.
_WORD = re.compile(rb'"\d{4} "')


@dataclass(frozen=True, slots=True)
class Scale:
    """The streams at once, and the numbers of events of a stream, in turn."""

    rounds: int
    levels: tuple[int, ...]
    events: tuple[int, ...]


FULL = Scale(rounds=2, levels=(16, 64, 256), events=(400, 800, 2000))
QUICK = Scale(rounds=1, levels=(16,), events=(400,))


@dataclass(frozen=True, slots=True)
class Running:
    """A service: its port and the pid of its main process."""

    port: int
    pid: int


class Stream(Connection):
    """One streamed response. `first`: when its first word arrived. Its words are counted and its body is not kept."""

    patience = _PATIENCE

    def __init__(self) -> None:
        super().__init__()
        self.first: float | None = None
        self.words = 0

    def on_body(self, body: bytes) -> None:
        found = len(_WORD.findall(body))
        if found and self.first is None:
            self.first = time.monotonic()
        self.words += found
        self.body = (self.body + body)[-300:]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. The exit code reports whether it could measure, not whether a target was reached."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.streams", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few streams of 400 events, with rough numbers")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds over all cases (default: {FULL.rounds})")
    parser.add_argument("--streams", type=int, nargs="+", metavar="N", help="streams at once (default: 16 64 256)")
    parser.add_argument("--events", type=int, nargs="+", metavar="N", help="events of a stream, in turn")
    parser.add_argument("--record", action="store_true", help="write the table in docs/benchmark.md")
    options = parser.parse_args(argv)
    scale = QUICK if options.quick else FULL
    scale = Scale(
        options.rounds or scale.rounds, tuple(options.streams or scale.levels), tuple(options.events or scale.events)
    )
    begin, busy = time.monotonic(), os.getloadavg()[2]
    tables = render(measure(scale), {peer.name: peer.title for peer in PEERS})
    events, minutes = ", ".join(map(str, scale.events)), (time.monotonic() - begin) / 60
    text = (
        f"{here_and_now()}; {scale.rounds} round(s), streams of {events} events, one every {_PAUSE} ms; "
        f"{minutes:.0f} minutes in all. Load of the machine before: {busy:.1f}, after: {os.getloadavg()[2]:.1f}.\n\n"
        f"{tables}"
    )
    sys.stdout.write(f"{text}\n")
    if options.record:
        write_between_markers(box_images.REPOSITORY / "docs/benchmark.md", text, "streams")
    return 0


def measure(scale: Scale) -> dict[tuple[str, str, int], list[Cell]]:
    """Run all services side by side and measure one after the other, in reverse order in every other round."""
    cells: dict[tuple[str, str, int], list[Cell]] = {}
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(run_upstream())
        running = {}
        for peer in PEERS:
            say(f"* {peer.title}: start")
            running[peer.name] = stack.enter_context(run_peer(peer, upstream.port))
            for case in CASES:
                _warm_up(running[peer.name], upstream, case, 2 * peer.workers)
        for number in range(scale.rounds):
            for level in scale.levels:
                for case in CASES:
                    direct = uvloop.run(run_direct(upstream, level))
                    for peer in PEERS[:: -1 if number % 2 else 1]:
                        found = uvloop.run(
                            _run_cell(running[peer.name], upstream, case, level, scale.events, _SPREAD, direct)
                        )
                        cells.setdefault((peer.name, case.name, level), []).append(found)
                        _report(peer, case, level, found)
    return cells


def _warm_up(service: Running, upstream: Running, case: Case, level: int) -> None:
    """Run short streams. Raises RuntimeError if one of them fails."""
    if failures := uvloop.run(_run_cell(service, upstream, case, level, (_SHORT,), 0)).failures:
        raise RuntimeError(f"{case.title} doesn't work: {dict(failures)}")


def _report(peer: Peer, case: Case, level: int, cell: Cell) -> None:
    each = cell.processor * 1000 / cell.events if cell.events else 0
    failed = f", failed: {dict(cell.failures)}" if cell.failures else ""
    say(f"  {level} x {case.title}, {peer.title}: {each:.3f} ms an event, {cell.elapsed:.0f} s{failed}")


# --- services ---


@contextlib.contextmanager
def run_upstream() -> Iterator[Running]:
    command = (sys.executable, "-m", "tests.bench.upstream")
    with subprocess.Popen(command, cwd=box_images.REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Running(int(process.stdout.readline()), process.pid)
        finally:
            process.terminate()


@contextlib.contextmanager
def run_peer(peer: Peer, upstream: int, **more: str) -> Iterator[Running]:
    """Run a service, with `more` variables, until the block ends."""
    variables = {
        **OFFLINE,
        "LITELLM_MASTER_KEY": KEY,
        "AWS_REGION_NAME": "us-east-1",
        "AWS_ACCESS_KEY_ID": "AKIAFAKE",
        "AWS_SECRET_ACCESS_KEY": "fake",
        "AWS_BEDROCK_RUNTIME_ENDPOINT": f"http://127.0.0.1:{upstream}",
        **more,
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if peer.ours:
            with Service(folder, _CONFIG, **variables, NUM_WORKERS=str(peer.workers)) as service:
                service.await_ready()
                yield Running(service.port, service.process.pid)
        else:
            config = folder / "config.yaml"
            config.write_text(_CONFIG)
            with run_litellm(config, variables, *(peer.options or "").split()) as gateway:
                yield Running(gateway.port, gateway.pid)


# --- measurements ---


def build_stream(case: Case, events: int) -> bytes:
    prompt = f"STREAM {events} EVENTS EVERY {_PAUSE} MS"
    body: dict[str, object] = {"model": case.model, "stream": True, "max_tokens": 4096}
    messages = [{"role": "user", "content": prompt}]
    if case.path == "/v1/responses":
        body = {"model": case.model, "stream": True, "input": messages}
    else:
        body["messages"] = messages
    return build_request("POST", case.path, json.dumps(body).encode(), KEY)


async def _run_cell(
    service: Running,
    upstream: Running,
    case: Case,
    level: int,
    events: tuple[int, ...],
    spread: float,
    direct: tuple[float, ...] = (),
) -> Cell:
    """Run that number of streams at once."""
    processes = descendants(service.pid)
    before, others = processor(processes), processor([upstream.pid])
    clients, begin = time.process_time(), time.monotonic()
    lengths = [events[number % len(events)] for number in range(level)]
    found = await asyncio.gather(
        *(
            _ask(service.port, build_stream(case, length), length, spread * number / level)
            for number, length in enumerate(lengths)
        )
    )
    elapsed, clients = time.monotonic() - begin, time.process_time() - clients
    others = processor([upstream.pid]) - others
    used = await settle(processes) - before
    whole = [(length, each) for length, each in zip(lengths, found, strict=True) if isinstance(each, float)]
    failures = Counter(each for each in found if isinstance(each, str))
    return Cell(
        sum(length for length, _ in whole),
        used,
        tuple(each for _, each in whole),
        direct,
        elapsed,
        others,
        clients,
        failures,
    )


async def run_direct(upstream: Running, level: int) -> tuple[float, ...]:
    """The times to the first word of direct calls, with that number of streams. Only the first word counts."""
    prompt = f"STREAM {_SHORT} EVENTS EVERY {_PAUSE} MS"
    body = {"messages": [{"role": "user", "content": [{"text": prompt}]}]}
    request = build_request("POST", f"/model/{_MODEL}/converse-stream", json.dumps(body).encode())
    found = await asyncio.gather(
        *(_ask(upstream.port, request, _SHORT, _SPREAD * number / level) for number in range(level))
    )
    if failures := [each for each in found if isinstance(each, str)]:
        raise RuntimeError(f"a direct call failed: {failures[0]}")
    return tuple(each for each in found if isinstance(each, float))


async def _ask(port: int, request: bytes, events: int, delay: float) -> float | str:
    """The seconds from the connection to the first word of a complete stream, or the failure."""
    await asyncio.sleep(delay)
    begin = time.monotonic()
    try:
        stream = await Stream.open(port)
        await stream.ask(request)
    except (OSError, asyncio.TimeoutError) as error:
        return str(error) or type(error).__name__
    stream.close()
    if stream.status != 200:
        return f"HTTP {stream.status}: {stream.body.decode(errors='replace')}"
    if stream.first is None or stream.words < events:
        return f"{stream.words} of {events} events: {stream.body.decode(errors='replace')}"
    return stream.first - begin


async def settle(processes: list[int]) -> float:
    """Wait until the processes are idle, since LiteLLM accounts for a stream after its end. Return their time."""
    limit, now = time.monotonic() + 30, processor(processes)
    quiet = 0
    while quiet < 2 and time.monotonic() < limit:
        await asyncio.sleep(0.5)
        before, now = now, processor(processes)
        quiet = quiet + 1 if now - before < 0.03 else 0
    return now


if __name__ == "__main__":
    sys.exit(main())
