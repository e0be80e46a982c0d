"""`python -m tests.bench.profile_start`: from exec to READY=1 and the first chat, in phases (docs/profile.md)."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.integration.runtime_service import CONFIG, DEADLINE, environment, post_chat, wait_for
from tests.ports import free_port

Marks = list[dict[str, Any]]
_WORKERS = 2


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.profile_start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, metavar="N")
    parser.add_argument("--packages", type=int, default=12, metavar="N", help="the number of packages to print")
    options = parser.parse_args(argv)
    rounds = [_start_once() for _ in range(options.rounds)]
    _say(f"{'phase':34} {'seconds':>8} {'processor':>10}   (medians of {options.rounds})")
    for name in rounds[0][0]:
        wall, cpu = (statistics.median(phases[name][which] for phases, _ in rounds) for which in (0, 1))
        _say(f"{name:34} {wall:8.3f} {cpu:10.3f}")
    packages = rounds[-1][1]
    _say(f"\nthe import by packages, processor seconds, of {sum(packages.values()):.2f} (the last round)")
    for name, seconds in sorted(packages.items(), key=lambda each: -each[1])[: options.packages]:
        _say(f"  {name:32} {seconds:8.3f}")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _start_once() -> tuple[dict[str, tuple[float, float]], dict[str, float]]:
    """Seconds and processor seconds by phase; processor seconds of imports by package."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file, config, port = folder / "marks", folder / "config.yaml", free_port()
        config.write_text(CONFIG % "hello")
        argv = (sys.executable, "-m", "tests.bench.trace_start", str(file), "--config", str(config))
        variables = environment(PORT=str(port), NUM_WORKERS=str(_WORKERS))
        begin = time.monotonic()
        with subprocess.Popen(argv, env=variables, stderr=subprocess.DEVNULL) as process:
            try:
                wait_for("READY=1", lambda: process.poll() is not None or _find(_read(file), "READY=1"))
                chats = [_chat(port) for _ in range(2)]
            finally:
                process.terminate()
                process.wait(DEADLINE)
        marks = _read(file)
    phases = _phases(begin, marks)
    return {**phases, "the first chat": (chats[0], 0.0), "the next": (chats[1], 0.0)}, _find(marks, "preloaded")[0][
        "packages"
    ]


def _chat(port: int) -> float:
    from http.client import HTTPConnection

    begin = time.monotonic()
    post_chat(HTTPConnection("127.0.0.1", port, timeout=DEADLINE), "demo").read()
    return time.monotonic() - begin


def _read(file: Path) -> Marks:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _find(marks: Marks, phase: str) -> Marks:
    return [each for each in marks if each["phase"] == phase]


def _phases(begin: float, marks: Marks) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    master = [each for each in marks if each["pid"] == marks[0]["pid"] and each["phase"] != "preloaded"]
    before = {"at": begin, "cpu": 0.0}
    for each in master:
        if each["phase"] != "READY=1":
            found[each["phase"]] = _between(before, each)
            before = each
    for number, pid in enumerate(dict.fromkeys(each["pid"] for each in _find(marks, "fork")), 1):
        last = {"at": before["at"], "cpu": 0.0}
        for phase in ("fork", "set-up", "lifespan", "first 200"):
            each = next(each for each in marks if (each["pid"], each["phase"]) == (pid, phase))
            if phase == "fork":
                last = {"at": each["at"], "cpu": 0.0}
            else:
                found[f"worker {number}: {phase}"] = _between(last, each)
                last = each
    ready = _find(marks, "READY=1")[0]
    first_fork = _find(marks, "fork")[0]
    found["from the first fork to READY=1"] = ready["at"] - first_fork["at"], 0.0
    found["exec to READY=1"] = ready["at"] - begin, ready["cpu"]
    return found


def _between(before: dict[str, float], after: dict[str, float]) -> tuple[float, float]:
    return after["at"] - before["at"], after["cpu"] - before["cpu"]


if __name__ == "__main__":
    sys.exit(main())
