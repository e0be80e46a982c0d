"""`sudo .venv/bin/python -m tests.bench.installation`: what an install takes, beside a venv and pip.

Both in a box without a network: pip takes LiteLLM and its packages from a folder of wheels, at the versions of the
lock, and so does litellmctl's first install, from uv's warm cache. In turn, `--rounds` times; medians are shown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence

import installed
from box import Box, Yard, why_not

from tests.bundle import WHEELS

from .measure import say

_CTL = "/usr/local/bin/litellmctl"
_LOCK = installed.REPOSITORY / "installer/litellm_systemd/requirements.lock"
#: The goals, in the words of the table.
_GOALS = {
    "first install": "0.2x of venv and pip",
    "second install": "1 s",
    "dry-run": "0.5 s",
    "status": "0.3 s",
    "--help": "0.15 s",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. The exit code says whether it could be measured."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.installation", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="in turn (default: 3)")
    options = parser.parse_args(argv)
    if (reason := why_not()) is not None:
        parser.exit(69, f"no benchmark: {reason}\n")
    figures: dict[str, list[float]] = {}
    for number in range(options.rounds):
        say(f"* round {number + 1} of {options.rounds}")
        for name, seconds in _round().items():
            figures.setdefault(name, []).append(seconds)
    medians = {name: statistics.median(each) for name, each in figures.items()}
    _show(medians)
    sys.stdout.write(
        json.dumps({"seconds": {name: [round(each, 3) for each in found] for name, found in figures.items()}}) + "\n"
    )
    return 0


def _round() -> dict[str, float]:
    """Seconds by name, in a box of its own: a first install is one on a bare host."""
    with Yard() as yard, Box(yard, installed.host_image()) as box:
        environment = installed.install_environment()
        install = (f"{sys.prefix}/bin/litellmctl", "install", "-c", "demo.yml", "--no-verify")
        pip = ("/root/peer/bin/pip", "install", "--quiet", "--no-index", "--find-links", str(WHEELS))
        peer = _time(box, ("/usr/bin/python3", "-m", "venv", "/root/peer"))
        peer += _time(box, (*pip, "--only-binary", ":all:", "--require-hashes", "-r", str(_LOCK)))
        first = _time(box, install, environment)
        return {
            "venv and pip": peer,
            "first install": first,
            "second install": _time(box, (_CTL, "install", "--no-verify")),
            "second install, verified": _time(box, (_CTL, "install")),
            "dry-run": _time(box, (_CTL, "install", "--dry-run")),
            "status": _time(box, (_CTL, "status")),
            "--help": _time(box, (_CTL, "--help")),
        }


def _time(box: Box, argv: Sequence[str], environment: dict[str, str] | None = None) -> float:
    begin = time.monotonic()
    box.run(tuple(argv), env=environment or {}, cwd="/root", timeout=900)
    return time.monotonic() - begin


def _show(medians: dict[str, float]) -> None:
    peer = medians["venv and pip"]
    for name, seconds in medians.items():
        goal = f"   goal: {_GOALS[name]}" if name in _GOALS else ""
        sys.stdout.write(f"{name:26} {seconds:8.2f} s {seconds / peer:7.3f}x{goal}\n")


if __name__ == "__main__":
    sys.exit(main())
