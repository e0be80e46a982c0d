"""The alert rules and the example configuration, by promtool."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.prometheus import RULES, SCRAPE, find_program, list_alerts, list_queries, list_rows

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "tests/prometheus/litellm.test.yml"


def promtool(*argv: str | Path) -> str:
    done = subprocess.run((find_program("promtool"), *argv), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("kind", "name"), [("rules", RULES), ("config", SCRAPE)])
def test_files_are_valid(kind: str, name: str) -> None:
    """promtool accepts the alert rules and the example configuration."""
    promtool("check", kind, ROOT / "configs" / name)


def test_alerts() -> None:
    """Each alert fires with the text that its reader gets, and stays silent where it should."""
    promtool("test", "rules", CASES)


def test_each_alert_has_cases() -> None:
    """There is a case in which each alert fires, for each severity, and one in which it is silent."""
    fires, silent = set(), set()
    for case in yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]:
        expectation: dict[str, Any]
        for expectation in case["alert_rule_test"]:
            name = expectation["alertname"]
            fires |= {(name, alert["exp_labels"]["severity"]) for alert in expectation["exp_alerts"]}
            if not expectation["exp_alerts"]:
                silent.add(name)
    assert fires == {(rule["alert"], rule["labels"]["severity"]) for rule in list_alerts()}
    assert silent == {rule["alert"] for rule in list_alerts()}


def test_queries_are_valid(tmp_path: Path) -> None:
    """Prometheus can parse each query of the dashboard and of docs/metrics.md."""
    queries = enumerate(query for _, query in (*list_queries(), *list_rows()))
    rules = [{"record": f"query_{number}", "expr": query} for number, query in queries]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}), encoding="utf-8")
    promtool("check", "rules", file)
