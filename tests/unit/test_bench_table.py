"""The pages that the benchmarks write their tables into."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import doctor
from tests.bench.installation import render
from tests.bench.table import write_between_markers


@pytest.mark.parametrize("name", ["results", "streams", "installation", "doctor"])
def test_table_replaces_only_the_previous_one(tmp_path: Path, name: str) -> None:
    """The table replaces the text between its markers in docs/benchmark.md, and the rest of the page stays."""
    page = Path(__file__).resolve().parents[2] / "docs/benchmark.md"
    before, after = page.read_text(encoding="utf-8").split(f"<!-- {name}:")[0], "\n## More\n"
    copy = tmp_path / "page.md"
    copy.write_text(page.read_text(encoding="utf-8") + after, encoding="utf-8")
    for text in ("| old |\n", "| new |\n"):
        write_between_markers(copy, text, name)
    written = copy.read_text(encoding="utf-8")
    assert (written.startswith(before), written.endswith(after)) == (True, True)
    assert (written.count("| new |"), written.count("| old |")) == (1, 0)


def test_installation_targets() -> None:
    """A first install is compared with venv and pip, the other figures with limits in seconds; those without a target
    get no verdict.
    """
    figures = {
        "python -m venv and pip install": [50.0, 40.0, 60.0],
        "first install": [10.0],
        "status": [0.2, 0.4, 0.5],
        "the same, verified": [0.9],
    }
    rows = {row.split("|")[1].strip(): row for row in render(figures, 1).splitlines() if row.startswith("| ")}
    assert "10.00 s (0.20 x)" in rows["first install"]
    assert "reached" in rows["first install"]
    assert "**missed**" in rows["status"]
    assert "0.20 s" in rows["status"]
    assert not {"reached", "missed"} & set(rows["the same, verified"].replace("*", "").split())


def test_doctor_targets() -> None:
    """The slowest run of each case is compared with five seconds, and the table has the reported cause."""
    text = doctor.render(
        {
            "quick": doctor.Measured((1.0, 2.0, 5.0), ()),
            "slow": doctor.Measured((1.0, 2.0, 5.1), ("network-dns", "aws-role")),
        }
    )
    rows = {row.split("|")[1].strip(): row for row in text.splitlines() if row.startswith("| ")}
    assert "each 3 times" in text
    assert [cell.strip() for cell in rows["quick"].split("|")[2:-1]] == ["2.00 s", "1.00 s", "5.00 s", "reached", "–"]
    assert [cell.strip() for cell in rows["slow"].split("|")[5:-1]] == ["**missed**", "`network-dns`, `aws-role`"]
