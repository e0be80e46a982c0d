"""The benchmark: `sudo .venv/bin/python -m tests.bench` (docs/benchmark.md). pytest collects nothing here."""

from __future__ import annotations

import sys
from pathlib import Path

# The benchmark uses the boxes of the system tests, whose modules import each other from their own folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))
