"""`sudo .venv/bin/python -m tests.bench`: measure the peers in one box and print the results."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import box_images
from box import Box, BoxError, Namespaces

from .command_line import require_box
from .figures import judge, summarize, summarize_events, summarize_load
from .measure import FULL, QUICK, Bench, Scale
from .peers import OURS, PEERS, Peer, stop
from .table import render, say, write_between_markers

_DOCS = box_images.REPOSITORY / "docs"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. The exit code reports whether it could measure, not whether a target was reached."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run of a few minutes, with rough numbers")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds over all peers (default: {FULL.rounds})")
    parser.add_argument(
        "--record", action="store_true", help="write docs/benchmark/ and the table in docs/benchmark.md"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="write results.json and the picture there")
    parser.add_argument(
        "--render", type=Path, metavar="FILE", help="print an earlier results.json without a measurement"
    )
    options = parser.parse_args(argv)
    if options.render:
        return _show(json.loads(options.render.read_text(encoding="utf-8")), options)
    require_box(parser)
    scale = QUICK if options.quick else FULL
    return _show(_measure(replace(scale, rounds=options.rounds or scale.rounds)), options)


def _measure(scale: Scale) -> dict[str, Any]:
    begin = time.monotonic()
    say("* a box with the service installed")
    with Namespaces() as namespaces, Box(namespaces, box_images.host_image()) as box:
        box_images.install_demo(box)
        bench = Bench(box, scale)
        bench.set_up()
        rounds, endurance = _run_rounds(bench)
        versions = box.run(("/usr/local/bin/litellmctl", "status", "--json"), check=False).stdout
    summaries = {peer.name: summarize([_compact(each[peer.name]) for each in rounds]) for peer in PEERS}
    summaries[OURS.name] |= {name: summarize_events([siege]) for name, siege in endurance.items()}
    return {
        "machine": _describe_machine(versions),
        "scale": asdict(replace(scale, rounds=len(rounds))),
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "summary": summaries,
        "targets": [asdict(each) | {"verdict": each.verdict} for each in judge(summaries)],
        "rounds": [{name: _compact(each) for name, each in found.items()} for found in rounds],
        "endurance": endurance,
    }


def _run_rounds(bench: Bench) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Measure all peers in each round, in reverse order in every other one: a machine that slows down affects all.

    If the box fails in a later round, the earlier rounds are kept.
    """
    rounds: list[dict[str, Any]] = []
    endurance: dict[str, Any] = {}
    for number in range(bench.scale.rounds):
        say(f"* round {number + 1} of {bench.scale.rounds}")
        try:
            rounds.append(_run_round(bench, PEERS[:: -1 if number % 2 else 1], endurance))
        except (BoxError, ValueError) as error:
            if not rounds:
                raise
            say(f"! skipped the round: {error}")
            break
    return rounds, endurance


def _run_round(bench: Bench, order: tuple[Peer, ...], endurance: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for peer in order:
        found[peer.name] = bench.run_round(peer)
        if peer is OURS and not endurance:
            endurance.update(bench.endure())
        stop(bench.box, peer)
    return found


def _compact(found: dict[str, Any]) -> dict[str, Any]:
    """A round without the latencies of single requests."""
    loads = {
        kind: {level: summarize_load(each) for level, each in levels.items()}
        for kind, levels in found["load"].items()
    }
    return {**found, "load": loads}


def _describe_machine(status: str) -> dict[str, Any]:
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": names[0] if names else platform.machine(),
        "processors": os.cpu_count(),
        "busy_before": round(os.getloadavg()[2], 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "litellm": json.loads(status)["data"].get("litellm", ""),
    }


def _show(results: dict[str, Any], options: argparse.Namespace) -> int:
    text = render(results)
    sys.stdout.write(f"{text}\n")
    folders = [_DOCS / "benchmark"] if options.record else []
    for folder in [*folders, *([options.output] if options.output else [])]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        from .picture import draw  # only with the extra `bench`

        draw(results, folder)
    if options.record:
        write_between_markers(_DOCS / "benchmark.md", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
