"""configs/cloudwatch: the files for the CloudWatch agent."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from litellm_systemd.aws.policy import LOG_GROUPS, METRICS_NAMESPACE
from litellm_systemd.runtime.metrics.families import FAMILIES

FOLDER = Path(__file__).parents[2] / "configs/cloudwatch"
AGENT: Any = json.loads((FOLDER / "amazon-cloudwatch-agent.json").read_text(encoding="utf-8"))
SCRAPES: Any = yaml.safe_load((FOLDER / "litellm-prometheus.yml").read_text(encoding="utf-8"))
PROMETHEUS = AGENT["logs"]["metrics_collected"]["prometheus"]
DECLARATIONS = PROMETHEUS["emf_processor"]["metric_declaration"]


def metrics() -> dict[str, set[str] | None]:
    """All metrics that the agent can take, which drops histograms, with their labels; None: those of LiteLLM."""
    spec = find_spec("litellm")
    assert spec is not None
    assert spec.origin is not None
    table = Path(spec.origin).parent / "types/integrations/prometheus.py"
    names = re.findall(r'"(litellm_\w+)"', table.read_text(encoding="utf-8"))
    own = {each.name: {*each.labels, "host"} for each in FAMILIES}
    return {**{f"{name}_total": None for name in names if "latency" not in name}, **own}


@pytest.mark.parametrize("declaration", DECLARATIONS, ids=lambda each: each["metric_selectors"][0])
def test_the_metrics_and_their_labels_exist(declaration: Any) -> None:
    """Each metric that the agent selects is one of the gateway's, with a unit, and has its dimensions as labels."""
    known = metrics()
    (selector,) = declaration["metric_selectors"]
    found = [name for name in known if re.search(selector, name)]
    # As many as the expression has alternatives: (a|b) has two.
    assert len(found) == selector.count("|") + 1, found
    for name in found:
        assert name in PROMETHEUS["emf_processor"]["metric_unit"]
        labels = known[name]
        assert labels is None or {*declaration["dimensions"][0]} <= labels, name


def test_units_are_of_selected_metrics() -> None:
    """Each metric with a unit is selected once."""
    selectors = [each["metric_selectors"][0] for each in DECLARATIONS]
    for name in PROMETHEUS["emf_processor"]["metric_unit"]:
        assert sum(re.search(selector, name) is not None for selector in selectors) == 1, name


def test_the_policy_allows_what_the_agent_writes() -> None:
    """The log groups and the namespaces are those of `litellmctl iam-policy --with cloudwatch`."""
    (journal,) = AGENT["logs"]["logs_collected"]["journald"]["collect_list"]
    assert all(each["log_group_name"].startswith(LOG_GROUPS) for each in (journal, PROMETHEUS))
    namespaces = {AGENT["metrics"]["namespace"], PROMETHEUS["emf_processor"]["metric_namespace"]}
    assert namespaces == {METRICS_NAMESPACE}


def test_the_scrape_configuration_fits() -> None:
    """The agent reads the scrape configuration next to it, and selects its job and its label."""
    assert Path(PROMETHEUS["prometheus_config_path"]).name == "litellm-prometheus.yml"
    (job,) = SCRAPES["scrape_configs"]
    assert {each["label_matcher"] for each in DECLARATIONS} == {f"^{job['job_name']}$"}
    assert all("host" in each["dimensions"][0] for each in DECLARATIONS)
    assert "host" in job["static_configs"][0]["labels"]
