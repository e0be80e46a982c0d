"""Comparison of trees of files that shows only the differences."""

from __future__ import annotations

from collections.abc import Hashable

_SHOWN = 40


class Files(dict[str, Hashable]):
    """The known properties of each file by path. pytest explains a comparison of two (tests/system/conftest.py)."""


def explain(left: Files, right: Files) -> list[str]:
    """The paths that differ, at most 40 lines: `-` for the left side, `+` for the right side."""
    lines = [
        f"{sign} {path} {'' if side[path] == () else side[path]}".rstrip()
        for path in sorted(left.keys() | right.keys())
        for sign, side, other in (("-", left, right), ("+", right, left))
        if path in side and (path not in other or side[path] != other[path])
    ]
    rest = [f"... and {len(lines) - _SHOWN} more lines"] if len(lines) > _SHOWN else []
    return [f"of {len(left)} and {len(right)} files differ:", *lines[:_SHOWN], *rest]
