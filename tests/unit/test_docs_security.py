"""docs/security.md against the tests that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.attacks.attacks import ATTACKS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
#: Such as `tests/integration/test_attacks.py::test_attack[silent]`.
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)(?:\[([^]]+)\])?`")


def rows() -> list[str]:
    """The rows of the tables of protections, without their heads."""
    found = []
    for table in re.findall(r"^\| protection .*\n\|[-|]+\n((?:\|.*\n)+)", PAGE, re.MULTILINE):
        found += table.splitlines()
    return found


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.split("|")[1].strip()[:40])
def test_protection_names_its_tests(row: str) -> None:
    """Each protection has a default, a setting and a test, and the test exists."""
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    assert len(cells) == 4
    assert all(cells)
    named = TEST.findall(cells[3])
    assert named
    for path, function, _ in named:
        assert re.search(rf"^(?:async )?def {function}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


def test_attacks_are_named() -> None:
    """Each attack proves a protection of the page."""
    found = TEST.findall("".join(rows()))
    proven = {name for _, function, case in found if function == "test_attack" for name in case.split("+")}
    assert proven == set(ATTACKS)
