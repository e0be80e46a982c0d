"""`python -m litellm_systemd.env`, in a checkout: generate the files that follow from the table of variables."""

from __future__ import annotations

from pathlib import Path

from litellm_systemd.env.reference import render_example, render_page

Path("configs/env.example").write_text(render_example(), encoding="utf-8")
Path("docs/variables.md").write_text(render_page(), encoding="utf-8")
