"""The comparison of trees of files in the tests."""

from __future__ import annotations

from tests.files import Files, explain


def test_only_differences_are_shown() -> None:
    """Of two trees only the paths that differ are shown, with both versions."""
    left = Files({"/same": (1,), "/changed": (0o644, 5), "/gone": ()})
    right = Files({"/same": (1,), "/changed": (0o600, 5), "/new": ()})
    assert explain(left, right) == [
        "of 3 and 3 files differ:",
        *("- /changed (420, 5)", "+ /changed (384, 5)", "- /gone", "+ /new"),
    ]


def test_a_large_difference_is_cut_short() -> None:
    """At most 40 different paths are shown, with the number of the others."""
    lines = explain(Files((f"/{number}", ()) for number in range(30_000)), Files())
    assert (len(lines), lines[-1]) == (42, "... and 29960 more lines")
