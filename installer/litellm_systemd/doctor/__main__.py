"""`python -m litellm_systemd.doctor docs/troubleshooting.md`: make the tables of causes in that page anew."""

from __future__ import annotations

import sys
from pathlib import Path

from litellm_systemd.doctor.docs_table import replace_tables
from litellm_systemd.doctor.registry import PROBES

page = Path(sys.argv[1])
page.write_text(replace_tables(page.read_text(encoding="utf-8"), (probe.cause for probe in PROBES)), encoding="utf-8")
