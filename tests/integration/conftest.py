"""Fixtures of all integration tests."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer timeouts for a busy machine: litellmctl waits only one to three seconds for a host.

    What is asked here is on loopback, and often in the threads of this very process.
    """
    monkeypatch.setattr("litellm_systemd.aws.sources.METADATA_TIMEOUT", 20.0)
    monkeypatch.setattr("litellm_systemd.doctor.check_network._TIMEOUT", 60.0)
