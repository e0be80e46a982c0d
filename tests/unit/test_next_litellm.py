"""The report of `python -m tests.next_litellm`."""

from __future__ import annotations

from pathlib import Path

from tests.next_litellm import flatten, read_run, render_names, render_packages, render_starts, render_tests

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.unit.test_a" name="good"/>
<testcase classname="tests.unit.test_a" name="bad"><failure message="assert 1 == 2&#10;more"/></testcase>
<testcase classname="tests.unit.test_a" name="late"><skipped message="no root"/></testcase>
</testsuite></testsuites>"""


def test_failed_tests(tmp_path: Path) -> None:
    """The report counts the tests by result and names each that failed; a run without results counts as failed."""
    (tmp_path / "junit.xml").write_text(JUNIT, encoding="utf-8")
    runs = [read_run("tests/unit", tmp_path / "junit.xml"), read_run("tests/clients", tmp_path / "none.xml")]
    text = "\n".join(render_tests(runs))
    assert "| tests/unit | 1 | 1 | 1 |" in text
    assert "- `tests.unit.test_a::bad`: assert 1 == 2\n" in text
    assert [bool(run.failed) for run in runs] == [True, True]


def test_names_that_came_and_went() -> None:
    """The report lists by kind the settings, providers and callbacks that a version adds and removes."""
    old = dict(flatten({"version": "1", "sections": {"router_settings": {"a": 1, "b": 1}}, "providers": ["x"]}))
    new = dict(flatten({"version": "2", "sections": {"router_settings": {"b": 1, "c": 1}}, "providers": ["x"]}))
    assert list(render_names(old, new))[3:] == [
        "- settings of router_settings, 1 came: c",
        "- settings of router_settings, 1 went: a",
    ]
    assert "The names are the same." in render_names(old, old)


def test_starts_side_by_side() -> None:
    """The report has the medians of both versions next to each other, and the packages that differ."""
    starts = [({"ready": seconds}, {"ready": seconds + 1}) for seconds in (3.0, 9.0, 4.0)]
    assert "| ready | 4.0 | 5.0 |" in render_starts("1.0", "1.1", starts)
    digest = "--hash=sha256:" + "a" * 64
    before, after = (f"litellm=={version} {digest}\nother==1 {digest}\n" for version in ("1.0", "1.1"))
    assert list(render_packages(before, after))[3:] == ["- litellm 1.0 -> 1.1"]
