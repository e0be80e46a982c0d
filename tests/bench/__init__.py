"""The benchmark: `sudo .venv/bin/python -m tests.bench` (docs/benchmark.md). pytest collects nothing here."""

from __future__ import annotations

import sys
from pathlib import Path

# The boxes are those of the system tests, whose modules find each other beside themselves.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "system"))
