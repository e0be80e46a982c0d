"""The dashboard, the alert rules and docs/metrics.md against the metrics that exist."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from litellm_systemd.runtime.metrics.families import FAMILIES, PREFIX
from tests.prometheus import PAGE, list_alerts, list_panels, list_queries, list_rows, read_dashboard
from tests.unit.test_docs_links import anchors

#: The labels that Prometheus adds to a series, and that of a bucket.
_ADDED = {"job", "instance", "le"}
#: The metrics that Prometheus itself has, with their labels.
_OF_PROMETHEUS = {"up": set[str](), "ALERTS": {"alertname", "alertstate"}}


def litellm_types() -> Any:
    """The module of LiteLLM that lists its metrics, loaded alone, because all of LiteLLM takes seconds."""
    litellm = importlib.util.find_spec("litellm")
    assert litellm is not None
    assert litellm.origin is not None
    path = Path(litellm.origin).parent / "types/integrations/prometheus.py"
    spec = importlib.util.spec_from_file_location("litellm_prometheus_types", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def metrics() -> Mapping[str, set[str]]:
    """The labels of each metric by its name, without the suffix of a counter or histogram."""
    found = {family.name.removesuffix("_total"): set(family.labels) for family in FAMILIES}
    types = litellm_types()
    for name in types.DEFINED_PROMETHEUS_METRICS.__args__:
        found[name.removesuffix("_total")] = set(getattr(types.PrometheusMetricLabels, name, ()))
    return found | _OF_PROMETHEUS


def expressions() -> list[tuple[str, str]]:
    """Each query of the dashboard, the alert rules and docs/metrics.md, with a name."""
    return [*list_queries(), *((rule["alert"], rule["expr"]) for rule in list_alerts()), *list_rows()]


def names_in(expression: str) -> set[str]:
    """The metrics that an expression reads."""
    return set(re.findall(r"\b(?:litellm_\w+|up|ALERTS)\b(?=[{\[ )]|$)", without_labels(expression)))


def without_labels(expression: str) -> str:
    """An expression without the labels by which it aggregates."""
    return re.sub(r"\bby \([^)]*\)", "", expression)


def labels_in(expression: str) -> set[str]:
    """The labels by which an expression selects and aggregates."""
    groups = re.findall(r"\bby \(([^)]*)\)", expression)
    selected = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)
    return {label.strip() for group in groups for label in group.split(",")} | set(selected)


def base(name: str) -> str:
    """A metric without the suffix of a counter or histogram."""
    return re.sub(r"_(total|bucket|count|sum)$", "", name)


@pytest.mark.parametrize(("name", "expression"), expressions())
def test_metrics_and_labels_exist(metrics: Mapping[str, set[str]], name: str, expression: str) -> None:
    """Each metric and label of the dashboard, the alerts and the page exists, in the service or in LiteLLM."""
    used = names_in(expression)
    assert used
    assert used <= {each for each in used if base(each) in metrics or each in metrics}
    known = set().union(*(metrics[base(each)] for each in used)) | _ADDED
    assert labels_in(expression) <= known


def test_each_of_our_metrics_is_shown() -> None:
    """The dashboard shows each metric of the service."""
    shown = {each for _, expression in list_queries() for each in names_in(expression)}
    assert {family.name for family in FAMILIES} <= shown


@pytest.mark.parametrize("panel", list_panels(), ids=lambda panel: str(panel["title"]))
def test_panel_can_be_read(panel: Mapping[str, Any]) -> None:
    """Each panel has a description, a unit and a legend for each line, and reads from the chosen data source."""
    assert panel["description"].endswith(".")
    assert panel["type"] == "table" or panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["type"] == "table" or target["legendFormat"]
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels_in(target["expr"])
        assert "$instance" in target["expr"] or "ALERTS" in target["expr"]


def test_panels_do_not_overlap() -> None:
    """Each panel has an id and a position of its own on the grid of 24 columns."""
    panels = read_dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = list(itertools.chain.from_iterable(cells_of(panel["gridPos"]) for panel in panels))
    assert len(set(cells)) == len(cells)
    assert {column for column, _ in cells} <= set(range(24))


def test_fields_are_known_to_grafana() -> None:
    """Grafana's schema has each field of the dashboard: none is lost when it is read and written again."""
    register_default_plugins()
    written = json.loads(JSONEncoder().encode(Dashboard.from_json(read_dashboard())))
    # Fields of the data source Prometheus, which the schema of a dashboard does not have.
    assert set(lost(read_dashboard(), written)) == {"titleFormat", "textFormat"}


def lost(original: Any, written: Any) -> Iterator[str]:
    """The names of fields that `written` lacks or has with another value."""
    if isinstance(original, dict):
        for name, value in original.items():
            if not isinstance(value, dict | list) and written.get(name) != value:
                yield name
            yield from lost(value, written.get(name))
    elif isinstance(original, list):
        for first, second in zip(original, written, strict=True):
            yield from lost(first, second)


def cells_of(place: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    return itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))


@pytest.mark.parametrize("rule", list_alerts(), ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_alert_says_what_to_do(rule: Mapping[str, Any]) -> None:
    """Each alert has a severity, a summary, a command to run, and a section of docs/metrics.md."""
    notes = rule["annotations"]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert notes["summary"]
    assert re.search(r": sudo (litellmctl|systemctl) [\w .-]+$", notes["description"])
    page, _, anchor = notes["runbook"].partition("#")
    assert page == "docs/metrics.md"
    assert anchor == rule["alert"].lower()
    assert anchor in anchors(PAGE.read_text(encoding="utf-8"))


def test_page_lists_our_metrics() -> None:
    """docs/metrics.md lists each metric of the service with its labels, and no other."""
    listed = {}
    for cell, _ in list_rows():
        name, *labels = re.findall(r"`(\w+)`", cell)
        if name.startswith(PREFIX):
            listed[name] = set(labels)
    assert listed == {family.name: set(family.labels) for family in FAMILIES}


def test_page_lists_metrics_of_litellm(metrics: Mapping[str, set[str]]) -> None:
    """docs/metrics.md lists each metric of LiteLLM that the dashboard or an alert reads, and none that is gone."""
    listed = {base(name) for cell, _ in list_rows() for name in re.findall(r"`(litellm_\w+)`", cell.split(", by")[0])}
    read = {base(name) for _, expression in expressions() for name in names_in(expression)}
    assert listed == {name for name in read if name.startswith("litellm_")}
    assert listed <= set(metrics)
