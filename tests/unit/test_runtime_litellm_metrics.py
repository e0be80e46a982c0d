"""What the labels of LiteLLM's metrics may hold."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter

from litellm_systemd.runtime.worker.litellm_metrics import Metric, without_address, without_secrets


@pytest.mark.parametrize(
    ("url", "label"),
    [
        ("https://bedrock-runtime.eu-west-1.amazonaws.com", "https://bedrock-runtime.eu-west-1.amazonaws.com"),
        ("https://me:secret@proxy.example/v1?api-key=secret", "https://proxy.example/v1"),
        ("", ""),
    ],
)
def test_endpoints_are_labels_without_secrets(url: str, label: str) -> None:
    """User, password and query of an endpoint are in no label."""
    assert without_secrets(url) == label


@pytest.mark.parametrize(("user", "label"), [("build-bot", "build-bot"), ("ann@example.com", None), ("", "")])
def test_users_are_labels_without_addresses(user: str, label: str | None) -> None:
    """The identifier of a user is a label, an e-mail address is not."""
    assert without_address(user) == label


def test_labels_are_bounded_however_they_are_passed() -> None:
    """A label is bounded by its name, whether LiteLLM passes its values by name or by position."""
    registry = CollectorRegistry()
    counter = Counter("calls", "Calls.", ("model", "api_base"), registry=registry)
    metric = Metric(counter, ("model", "api_base"), {"api_base": without_secrets})
    metric.labels("m", "https://me:secret@host/").inc()
    metric.labels(api_base="https://you:secret@host/", model="m").inc()
    assert registry.get_sample_value("calls_total", {"model": "m", "api_base": "https://host/"}) == 2
