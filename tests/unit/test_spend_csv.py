"""The names in the CSV of `spend`, which users of the gateway choose, do nothing in a spreadsheet or a terminal."""

from __future__ import annotations

import csv

import pytest

from litellm_systemd.commands.spend import render_csv
from litellm_systemd.report.spend_page import Spend


@pytest.mark.parametrize("name", ["=1+1", "\n=1+1", " \t@SUM(A1)", "\x1b]0;title\x07"])
def test_names_are_text(name: str) -> None:
    """A name is no formula, also after white space, and has no control sequence."""
    text = render_csv((Spend("2026-11-01", "id", name, 1.0, 1, 0, 1, 1),), "team")
    shown = next(csv.DictReader(text.splitlines(keepends=True)))["team"]
    assert not shown.lstrip().startswith(("=", "@"))
    assert not {"\x1b", "\x07"} & set(text)
