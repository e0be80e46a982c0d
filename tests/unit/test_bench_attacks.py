"""The table of attacks in docs/security.md."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.attacks.client import Measured, Noticed
from tests.bench.attacks import main, render


def test_missed_targets_are_bold() -> None:
    """A failed request, a slower client and a larger process are bold, each by itself."""
    quiet = Noticed([0.01] * 100)
    held = Measured({}, Noticed([0.01] * 98 + [0.02] * 2), 1.25, 0)
    broken = Measured({}, Noticed([0.03] * 98, Counter({"HTTP 503": 2})), 1.5, 0)
    table = render({"ours": {"silent": (quiet, held)}, "other": {"silent": (quiet, broken)}})
    row = table.splitlines()[2]
    assert row.startswith("| 2,000 connections send nothing | 0 of 100 failed, p99 10 → 20 ms, memory 1.25 x ")
    assert row.endswith("| **2 of 100 failed**, **p99 10 → 30 ms**, **memory 1.50 x** |")


def test_missing_programs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without nginx or Caddy the benchmark says how to install them, and starts nothing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 69
    error = capsys.readouterr().err
    assert error.startswith("no benchmark: not in PATH: nginx, caddy. ")
    assert error.endswith("sudo apt-get install --no-install-recommends nginx caddy\n")
