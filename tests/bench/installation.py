"""`sudo .venv/bin/python -m tests.bench.installation`: the time of an install, compared with venv and pip.

Both run in a box without a network and install the versions of the lock: pip from a folder of wheels, litellmctl's
first install from uv's warm cache. litellmctl runs from an installed wheel, as for a user: a checkout would need a
build first. The table has the medians of `--rounds` rounds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import box_images
from box import Bind, Box, Namespaces

from litellm_systemd.releases.source import find_source
from tests.bundle import WHEELS

from .command_line import run
from .table import as_markdown, here_and_now, say, spread

_CTL = "/usr/local/bin/litellmctl"
_LOCK = box_images.REPOSITORY / "installer/litellm_systemd/requirements.lock"
_PEER = "python -m venv and pip install"
_FIRST = "first install"
#: The part that is comparable with pip. The units and the start of the service follow.
_RELEASE = "of it, until the release is in place"
_CURRENT = "/opt/litellm-systemd/current"
#: The number of measurements of a short command in a round.
_TIMES = 7
#: The path of the wheel in the box: a separate folder, since the checkout may be below /srv.
_BOUND = Path("/srv/bench-wheel")


@dataclass(frozen=True, slots=True)
class Goal:
    """A limit in seconds, or as a share of the time of venv and pip."""

    limit: float
    is_share: bool = False

    def judge(self, seconds: float, peer: float) -> tuple[str, str]:
        """The goal as text, and whether it was reached."""
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
    """Run the command line. The exit code reports whether it could measure."""
    return run("installation", __doc__ or "", 3, _measure_and_render, argv)


def _measure_and_render(rounds: int) -> str:
    figures: dict[str, list[float]] = {}
    for number in range(rounds):
        say(f"* round {number + 1} of {rounds}")
        for name, seconds in _round().items():
            figures.setdefault(name, []).extend(seconds)
    return render(figures, rounds)


def _round() -> dict[str, list[float]]:
    """Seconds by name, in a new box, since a first install needs a host without an installation."""
    with tempfile.TemporaryDirectory() as scratch, Namespaces() as namespaces:
        wheel = find_source().origin.prepare(Path(scratch)).wheel
        with Box(namespaces, box_images.host_image(), binds=(Bind(Path(scratch), _BOUND),)) as box:
            return _measure(box, _BOUND / wheel.relative_to(scratch))


def _measure(box: Box, wheel: Path) -> dict[str, list[float]]:
    environment = {**box_images.install_environment(), "PYTHONPATH": "/root/ours"}
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
    """The table as Markdown: the median, the minimum and the maximum of the seconds by name."""
    peer = statistics.median(figures[_PEER])
    rows = [["", "median", "from", "to", "wanted", ""]]
    for name, found in figures.items():
        median, goal = statistics.median(found), _GOALS.get(name)
        wanted, verdict = ("–", "") if goal is None else goal.judge(median, peer)
        middle, least, most = spread(found)
        compared = f" ({median / peer:.2f} x)" if name in (_FIRST, _RELEASE) else ""
        rows.append([name, middle + compared, least, most, wanted, verdict])
    where = f"{here_and_now()}; {rounds} round(s), short commands {_TIMES} times each.\n"
    return f"{where}\n{as_markdown(rows)}"


if __name__ == "__main__":
    sys.exit(main())
