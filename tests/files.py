"""Trees of files to compare: a failed comparison shows what differs, and not two whole trees."""

from __future__ import annotations

from collections.abc import Hashable

_SHOWN = 40


class Files(dict[str, Hashable]):
    """What is known of each file by its path. pytest explains a comparison of two (tests/system/conftest.py)."""


def explain(left: Files, right: Files) -> list[str]:
    """The paths that differ, at most 40 lines of them: `-` as it is on the left alone, `+` on the right."""
    lines = [
        f"{sign} {path} {'' if side[path] == () else side[path]}".rstrip()
        for path in sorted(left.keys() | right.keys())
        for sign, side, other in (("-", left, right), ("+", right, left))
        if path in side and (path not in other or side[path] != other[path])
    ]
    rest = [f"... and {len(lines) - _SHOWN} more lines"] if len(lines) > _SHOWN else []
    return [f"of {len(left)} and {len(right)} files differ:", *lines[:_SHOWN], *rest]
