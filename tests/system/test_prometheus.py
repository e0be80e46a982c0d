"""A real Prometheus scrapes the service."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import service
from box import Box, BoxError
from tests.prometheus import RULES, SCRAPE, find_program, list_alerts, list_queries

from litellm_systemd.resources import read_config

#: Models: one with a price, one that Bedrock ends, one over HTTP, and two that fail, one of them with a fallback.
_CONFIG = """\
model_list:
  - model_name: claude-sonnet-5-5
    litellm_params:
      model: openai/quick
      api_key: none
      mock_response: One two three four.
      input_cost_per_token: 0.001
      output_cost_per_token: 0.001
  - model_name: ending
    litellm_params: {model: bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0}
  - model_name: slow
    litellm_params: {model: openai/slow, api_base: "http://127.0.0.1:9000/v1", api_key: none}
  - model_name: throttled
    litellm_params: {model: openai/throttled, api_key: none, mock_response: litellm.RateLimitError}
  - model_name: broken
    litellm_params: {model: openai/broken, api_key: none, mock_response: litellm.InternalServerError}
  - model_name: gone
    litellm_params: {model: openai/gone, api_key: none, mock_response: litellm.InternalServerError}
router_settings:
  num_retries: 0
  allowed_fails: 0
  fallbacks: [{throttled: [claude-sonnet-5-5]}, {broken: [gone]}]
general_settings: {master_key: os.environ/LITELLM_MASTER_KEY}
"""
_ENV = """\
METRICS=127.0.0.1:9400
NUM_WORKERS=1
AWS_REGION=us-east-1
AWS_ACCESS_KEY_ID=ASIAIOSFODNN7EXAMPLE
AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY
AWS_SESSION_TOKEN=token
AWS_CREDENTIAL_EXPIRATION=2099-01-01T00:00:00Z
"""
#: The panels without data here.
_WITHOUT_DATA = {
    "Prompt cache": "the provider is a mock, which reports no cached tokens",
    "Certificate": "the service serves HTTP",
    "Redis": "the service uses none",
}
_API = "http://127.0.0.1:9090/api/v1"


@contextlib.contextmanager
def prometheus(box: Box, folder: Path) -> Iterator[None]:
    """Prometheus with the shipped configuration and a scrape each second, in the network of the box."""
    (folder / Path(RULES).name).write_text(read_config(RULES))
    (folder / Path(SCRAPE).name).write_text(read_config(SCRAPE).replace("_interval: 15s", "_interval: 1s"))
    argv = ("nsenter", f"--net=/proc/{box.leader}/ns/net", find_program("prometheus"))
    options = ("--config.file", folder / Path(SCRAPE).name, "--storage.tsdb.path", folder / "data")
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            (*argv, *options, "--web.listen-address", "127.0.0.1:9090"), stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()


def ask(box: Box, path: str, **query: str) -> Any:
    """The answer of Prometheus' API (https://prometheus.io/docs/prometheus/latest/querying/api/)."""
    return box.http("GET", f"{_API}/{path}?{urlencode(query)}").json()["data"]


def send_requests(box: Box) -> None:
    """Let the service count: answers, a stream, fallbacks, a failure and a refusal."""
    assert service.chat(box) == 200
    assert service.chat(box, "slow", content="0") == 200
    assert service.chat(box, "throttled") == 200
    assert service.chat(box, "broken") in (429, 500)
    assert service.chat(box, bearer="sk-wrong") == 401
    body = {"model": service.MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": True}
    headers = {"Authorization": f"Bearer {service.key(box)}"}
    assert box.http("POST", f"{service.BASE}/v1/chat/completions", body=body, headers=headers).status == 200


def without_data(box: Box) -> set[str]:
    """The panels whose queries return nothing, or not a number."""
    found = set()
    for title, query in list_queries():
        result = ask(box, "query", query=query)["result"]
        if not any(math.isfinite(float(series["value"][1])) for series in result):
            found.add(title)
    return found


def test_prometheus_scrapes_the_service(idle_box: Box, tmp_path: Path) -> None:
    """With the shipped files Prometheus reads the metrics, evaluates each alert, and each panel of the dashboard has
    data, except those that need HTTPS or a real provider.
    """
    box = idle_box
    service.set_up(box, _ENV, _CONFIG)
    service.ctl(box, "verify", "--no-spend", check=False)
    # A series is known to Prometheus from its first value on, so its growth is seen with the second.
    send_requests(box)
    with prometheus(box, tmp_path):
        box.wait_until(lambda: ask_if_up(box), 120, "a scrape")
        box.systemctl("reload", "litellm")
        send_requests(box)
        with contextlib.suppress(BoxError):
            box.wait_until(lambda: without_data(box) <= set(_WITHOUT_DATA), 180, "data in each panel")
        assert without_data(box) == set(_WITHOUT_DATA)
        [group] = ask(box, "rules")["groups"]
        assert {(rule["name"], rule["health"], rule.get("lastError")) for rule in group["rules"]} == {
            (rule["alert"], "ok", None) for rule in list_alerts()
        }
        firing = {
            alert["labels"]["alertname"] for alert in ask(box, "alerts")["alerts"] if alert["state"] == "firing"
        }
        assert firing == set()
        box.systemctl("stop", "litellm")
        box.wait_until(lambda: not ask_if_up(box), 30, "a failed scrape")


def ask_if_up(box: Box) -> bool:
    """Whether Prometheus could read the metrics with its last scrape."""
    with contextlib.suppress(OSError, json.JSONDecodeError):  # while it starts, it answers 503 with a text
        return [series["value"][1] for series in ask(box, "query", query="up")["result"]] == ["1"]
    return False
