"""The page that the benchmark writes its tables into."""

from __future__ import annotations

from pathlib import Path

from tests.bench.table import write_between_markers


def test_table_replaces_the_one_before_and_nothing_else(tmp_path: Path) -> None:
    """What the command writes stands between the markers of docs/benchmark.md, once, and the rest stays as it was."""
    page = Path(__file__).resolve().parents[2] / "docs/benchmark.md"
    before, after = page.read_text(encoding="utf-8").split("<!-- results:")[0], "\n## More\n"
    copy = tmp_path / "page.md"
    copy.write_text(page.read_text(encoding="utf-8") + after, encoding="utf-8")
    for text in ("| old |\n", "| new |\n"):
        write_between_markers(copy, text)
    written = copy.read_text(encoding="utf-8")
    assert (written.startswith(before), written.endswith(after)) == (True, True)
    assert (written.count("| new |"), written.count("| old |")) == (1, 0)
