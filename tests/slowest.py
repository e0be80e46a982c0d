"""`python -m tests.slowest FILE...`: the slowest tests in JUnit reports of scripts/test.sh."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

_COUNT = 25
_WIDTH = 100


def main(files: Sequence[str]) -> int:
    """Print the table. The time of a test includes that of the fixtures that it was the first to need."""
    found = sorted((each for name in files for each in _read(Path(name))), reverse=True)
    if found:
        share = _total(found[:_COUNT]) / (_total(found) or 1)
        title = f"the slowest {min(_COUNT, len(found))} of {len(found)} tests, {share:.0%} of their time"
        sys.stdout.write(f"     s  folder       {title}\n")
    for seconds, folder, test in found[:_COUNT]:
        sys.stdout.write(f"{seconds:6.1f}  {folder:11}  {test}\n")
    return 0


def _total(found: Sequence[tuple[float, str, str]]) -> float:
    return sum(seconds for seconds, *_ in found)


def _read(file: Path) -> Iterator[tuple[float, str, str]]:
    for case in ElementTree.parse(file).iter("testcase"):
        # Such as tests.unit.test_plan; empty if a module could not be imported.
        folder, _, module = case.get("classname", "").partition(".")[2].partition(".")
        yield float(case.get("time", "0")), folder, f"{module}::{case.get('name')}"[:_WIDTH]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
