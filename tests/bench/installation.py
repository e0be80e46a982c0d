"""`sudo .venv/bin/python -m tests.bench.installation`: what an install takes, beside a venv and pip.

Both in a box without a network: pip takes LiteLLM and its packages from a folder of wheels, at the versions of the
lock, and so does litellmctl's first install, from uv's warm cache. It runs from an installed wheel, as a user's does:
a checkout would have to be built first. In turn, `--rounds` times; medians are shown.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import installed
from box import Bind, Box, Namespaces

from litellm_systemd.releases.source import find_source
from tests.bundle import WHEELS

from .command_line import run
from .measure import say
from .table import as_markdown, here_and_now, spread

_CTL = "/usr/local/bin/litellmctl"
_LOCK = installed.REPOSITORY / "installer/litellm_systemd/requirements.lock"
_PEER = "python -m venv and pip install"
_FIRST = "first install"
#: The part of it that pip's figure compares with: what follows are units and the start of the service.
_RELEASE = "of it, until the release is in place"
_CURRENT = "/opt/litellm-systemd/current"
#: Of what takes a moment, so many are measured a round.
_TIMES = 7
#: Where the box sees the wheel: a folder of its own, since the checkout may be below /srv.
_BOUND = Path("/srv/bench-wheel")


@dataclass(frozen=True, slots=True)
class Goal:
    """At most so many seconds, or so large a part of what venv and pip take."""

    limit: float
    is_share: bool = False

    def judge(self, seconds: float, peer: float) -> tuple[str, str]:
        """The goal in words, and whether it was reached."""
        value = seconds / peer if self.is_share else seconds
        unit = "x of venv and pip" if self.is_share else " s"
        return f"≤ {self.limit:g}{unit}", "reached" if value <= self.limit else "**missed**"


_GOALS = {
    _FIRST: Goal(0.2, is_share=True),
    "second install, nothing to do": Goal(1),
    "install --dry-run": Goal(0.5),
    "status": Goal(0.3),
    "--help": Goal(0.15),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. The exit code says whether it could be measured."""
    return run("installation", __doc__ or "", 3, _measure_and_render, argv)


def _measure_and_render(rounds: int) -> str:
    figures: dict[str, list[float]] = {}
    for number in range(rounds):
        say(f"* round {number + 1} of {rounds}")
        for name, seconds in _round().items():
            figures.setdefault(name, []).extend(seconds)
    return render(figures, rounds)


def _round() -> dict[str, list[float]]:
    """Seconds by name, in a box of its own: a first install is one on a bare host."""
    with tempfile.TemporaryDirectory() as scratch, Namespaces() as namespaces:
        wheel = find_source().origin.prepare(Path(scratch)).wheel
        with Box(namespaces, installed.host_image(), binds=(Bind(Path(scratch), _BOUND),)) as box:
            return _measure(box, _BOUND / wheel.relative_to(scratch))


def _measure(box: Box, wheel: Path) -> dict[str, list[float]]:
    environment = {**installed.install_environment(), "PYTHONPATH": "/root/ours"}
    uv = (f"{sys.prefix}/bin/uv", "pip", "install", "--quiet", "--no-deps", "--compile-bytecode")
    box.run((*uv, "--python", sys.executable, "--target", "/root/ours", str(wheel)), env=environment)
    pip = ("/root/peer/bin/pip", "install", "--quiet", "--no-index", "--find-links", str(WHEELS))
    peer = _time(box, ("/usr/bin/python3", "-m", "venv", "/root/peer"))
    peer += _time(box, (*pip, "--only-binary", ":all:", "--require-hashes", "-r", str(_LOCK)))
    begin = time.time()
    first = _time(box, (f"{sys.prefix}/bin/litellmctl", "install", "-c", "demo.yml", "--no-verify"), environment)
    switched = float(box.run(("find", _CURRENT, "-maxdepth", "0", "-printf", "%T@")).stdout)
    often = {
        "second install, nothing to do": ("install", "--no-verify"),
        "the same, verified": ("install",),
        "install --dry-run": ("install", "--dry-run"),
        "status": ("status",),
        "--help": ("--help",),
    }
    return {
        _PEER: [peer],
        _FIRST: [first],
        _RELEASE: [switched - begin],
        **{name: [_time(box, (_CTL, *verb)) for _ in range(_TIMES)] for name, verb in often.items()},
    }


def _time(box: Box, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> float:
    begin = time.monotonic()
    box.run(tuple(argv), env=environment or {}, cwd="/root", timeout=900)
    return time.monotonic() - begin


def render(figures: Mapping[str, Sequence[float]], rounds: int) -> str:
    """The table as Markdown: seconds by name, each the median, the least and the most."""
    peer = statistics.median(figures[_PEER])
    rows = [["", "median", "from", "to", "wanted", ""]]
    for name, found in figures.items():
        median, goal = statistics.median(found), _GOALS.get(name)
        wanted, verdict = ("–", "") if goal is None else goal.judge(median, peer)
        middle, least, most = spread(found)
        compared = f" ({median / peer:.2f} x)" if name in (_FIRST, _RELEASE) else ""
        rows.append([name, middle + compared, least, most, wanted, verdict])
    where = f"{here_and_now()}; {rounds} round(s), of what takes a moment {_TIMES} each.\n"
    return f"{where}\n{as_markdown(rows)}"


if __name__ == "__main__":
    sys.exit(main())
