"""OpenTelemetry inside the sandbox of the service."""

from __future__ import annotations

import json
import sys

import pytest
from box import Box
from box_images import REPOSITORY
from service import CONFIG, chat, said, set_up, write_config

#: The packages of the group `opentelemetry`, as test.sh installs them.
PACKAGES = REPOSITORY / ".cache/additions"
COLLECTOR = 4318
ENVIRONMENT = f"""\
NUM_WORKERS=2
OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:{COLLECTOR}
LITELLM_OTEL_INTEGRATION_ENABLE_METRICS=true
"""
#: LiteLLM's span of each request, and its histogram of the calls.
REQUEST, CALLS = "Received Proxy Server Request", "gen_ai.client.operation.duration"


def start_collector(box: Box) -> None:
    folder = ("--unit=collector", f"--working-directory={REPOSITORY}", f"--setenv=PYTHONPATH={PACKAGES}")
    command = (sys.executable, "-B", "-m", "tests.fakes.otlp", str(COLLECTOR))
    box.run(("systemd-run", "--quiet", *folder, *command))
    box.wait_until(lambda: received(box) == {}, 60, "the collector answers")


def received(box: Box) -> dict[str, dict[str, int]] | None:
    """The number of spans and of observations, by name and by process; None if there is no collector."""
    try:
        found: dict[str, dict[str, int]] = json.loads(box.http("GET", f"http://127.0.0.1:{COLLECTOR}/").body)
    except OSError:
        return None
    return found


def test_all_that_is_held_is_sent(idle_box: Box) -> None:
    """In the sandbox each request is sent as a span, and counted in the metrics, by the worker that served it, also
    if the service stops right after it.
    """
    if not (PACKAGES / "opentelemetry/sdk").is_dir():
        pytest.skip(f"{PACKAGES} has no opentelemetry-sdk. Run first: ./scripts/test.sh --setup")
    start_collector(idle_box)
    # A release with the group would take longer to build than all the rest takes.
    target = "/opt/litellm-systemd/current/lib/python3*/site-packages/"
    set_up(idle_box, ENVIRONMENT)
    idle_box.run(("sh", "-c", f"cp -r {PACKAGES}/. {target}"))
    write_config(idle_box, f"{CONFIG}litellm_settings: {{callbacks: [otel]}}\n")
    idle_box.systemctl("reload", "litellm")
    for _ in range(5):
        assert chat(idle_box) == 200
    idle_box.systemctl("stop", "litellm")
    found = received(idle_box) or {}
    assert sum(found[REQUEST].values()) == sum(found[CALLS].values()) == 5
    assert not [line for line in said(idle_box, "warning") if "opentelemetry" in line]
