"""The dashboard and alerts of configs/, and the programs of Debian's package prometheus, which test.sh unpacks."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from litellm_systemd.resources import read_config
from tests.skipping import refuse

_PROGRAMS = Path(__file__).resolve().parents[2] / ".cache/prometheus/usr/bin"
PAGE = Path(__file__).resolve().parents[2] / "docs/metrics.md"
RULES = "prometheus/litellm.rules.yml"
SCRAPE = "prometheus/prometheus.yml"
#: What Grafana puts in place of its variables, for scrapes that are a second apart.
VARIABLES = {"$__rate_interval": "30s", "$__range": "1h", "$__interval": "1m", "$instance": ".*"}


def find_program(name: str) -> str:
    """The path of `prometheus` or `promtool`. Skips the test without it; fails it under REQUIRE_SYSTEM_TESTS=1."""
    found = shutil.which(name, path=f"{_PROGRAMS}:{os.environ['PATH']}")
    if found is None:
        refuse(f"there is no {name}. ./scripts/test.sh unpacks it")
    return found


def read_dashboard() -> dict[str, Any]:
    """The dashboard, as Grafana imports it."""
    found: dict[str, Any] = json.loads(read_config("grafana/litellm.json"))
    return found


def list_panels() -> list[dict[str, Any]]:
    """The panels of the dashboard that show data, without the rows."""
    return [panel for panel in read_dashboard()["panels"] if panel["type"] != "row"]


def list_queries() -> Iterator[tuple[str, str]]:
    """Title and expression of each query of the dashboard, with `VARIABLES` replaced."""
    for panel in list_panels():
        for target in panel["targets"]:
            yield panel["title"], replace_variables(target["expr"])
    for annotation in read_dashboard()["annotations"]["list"]:
        if "expr" in annotation:
            yield annotation["name"], replace_variables(annotation["expr"])


def list_rows() -> list[tuple[str, str]]:
    """The rows of the tables of metrics in docs/metrics.md: the names with their labels, and the example query."""
    return re.findall(r"^\| (`litellm_[^|]+) \| .* \| `(.+)` \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def replace_variables(expression: str) -> str:
    """A query as Grafana sends it."""
    return re.sub(r"\$\w+", lambda found: VARIABLES[found[0]], expression)


def list_alerts() -> list[Mapping[str, Any]]:
    [group] = yaml.safe_load(read_config(RULES))["groups"]
    rules: list[Mapping[str, Any]] = group["rules"]
    return rules
