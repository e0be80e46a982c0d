"""The metrics of the service, read from its metrics listener as Prometheus reads them.

The service is not trusted here: labels may have any text, and what is no finite number is left out.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from litellm_systemd.env.variables import is_loopback
from litellm_systemd.errors import InvalidAnswer, PermissionDenied, Unavailable

if TYPE_CHECKING:
    from litellm_systemd.client.gateway import Gateway

HTTP_REQUESTS = "litellm_systemd_http_requests_total"
RESTARTS = "litellm_systemd_worker_restarts_total"
RELOADS = "litellm_systemd_reloads_total"
WORKERS = "litellm_systemd_workers"
IN_FLIGHT = "litellm_systemd_requests_in_flight"
CONNECTIONS = "litellm_systemd_connections"
BACKLOG = "litellm_systemd_backlog_connections"
CERTIFICATE_END = "litellm_systemd_certificate_expiry_timestamp_seconds"
CREDENTIALS_END = "litellm_systemd_credentials_expiry_timestamp_seconds"
MODEL_END = "litellm_systemd_model_end_of_life_timestamp_seconds"
#: Those of LiteLLM's callback (litellm/types/integrations/prometheus.py).
REQUESTS = "litellm_proxy_total_requests_metric_total"
FAILED = "litellm_proxy_failed_requests_metric_total"
INPUT_TOKENS = "litellm_input_tokens_metric_total"
OUTPUT_TOKENS = "litellm_output_tokens_metric_total"
SPEND = "litellm_spend_metric_total"
FIRST_TOKEN = "litellm_llm_api_time_to_first_token_metric"  # noqa: S105 - a token of a model
LATENCY = "litellm_request_total_latency_metric"

_OF_MODELS = "requested_model"
#: The label by which each metric is added up; empty for all of its samples.
LABELS = {
    HTTP_REQUESTS: "status",
    RESTARTS: "cause",
    RELOADS: "outcome",
    WORKERS: "state",
    MODEL_END: "model",
    **dict.fromkeys((IN_FLIGHT, CONNECTIONS, BACKLOG, CERTIFICATE_END, CREDENTIALS_END), ""),
    **dict.fromkeys((REQUESTS, FAILED, INPUT_TOKENS, OUTPUT_TOKENS, SPEND), _OF_MODELS),
    **{f"{name}_bucket": _OF_MODELS for name in (FIRST_TOKEN, LATENCY)},
}
#: The beginnings of the lines that are parsed: the others, such as those of `_created`, are most of them.
_WANTED = tuple(f"{name}{end}" for name in LABELS for end in "{ ")

_TCP = re.compile(r"(\[[0-9a-fA-F:.]+\]|[0-9.]+):\d+")

#: Sums by metric and label; those of a histogram have its metric and model, and a number for each upper bound.
Sums = Mapping[str, Mapping[str, float]]
Buckets = Mapping[float, float]
_Key = TypeVar("_Key", str, float)


@dataclass(frozen=True, slots=True)
class Samples:
    """What the service has counted since its host booted.

    `sums`: by metric, and by the one label of it that is used. `buckets`: by metric and model, the number of requests
    by upper bound in seconds, those of the smaller bounds included.
    """

    sums: Sums
    buckets: Mapping[str, Mapping[str, Buckets]]

    def total(self, name: str) -> float:
        """The sum over all labels, 0 for an unknown metric."""
        return sum(self.sums.get(name, {}).values())

    def since(self, earlier: Samples) -> Samples:
        """What was counted after `earlier`."""
        return Samples(
            {name: subtract(found, earlier.sums.get(name, {})) for name, found in self.sums.items()},
            {
                name: {
                    model: subtract(found, earlier.buckets.get(name, {}).get(model, {}))
                    for model, found in models.items()
                }
                for name, models in self.buckets.items()
            },
        )

    def quantile(self, name: str, model: str, part: float) -> float | None:
        """Seconds that the given part of the requests took at most; None without a request.

        Interpolated within the bucket, as histogram_quantile() of Prometheus does.
        """
        buckets = sorted(self.buckets.get(name, {}).get(model, {}).items())
        if not buckets or not (wanted := part * buckets[-1][1]) > 0:
            return None
        lower = below = 0.0
        for upper, count in buckets:
            if count >= wanted:
                is_last = math.isinf(upper)
                return lower if is_last else lower + (upper - lower) * (wanted - below) / max(count - below, 1e-9)
            lower, below = upper, count
        return lower


def subtract(found: Mapping[_Key, float], earlier: Mapping[_Key, float]) -> dict[_Key, float]:
    """The growth of counters. One that is less than before has begun again."""
    return {
        key: value - before if value >= (before := earlier.get(key, 0.0)) else value for key, value in found.items()
    }


def find_listener(listen: str) -> Gateway | None:
    """The metrics listener in the property Listen of its socket unit, without a key; None without one."""
    from litellm_systemd.client.gateway import Gateway  # requests takes 100 ms, and only with METRICS

    address, _, kind = listen.partition("\n")[0].rpartition(" ")
    if kind != "(Stream)":
        return None
    if address.startswith("/"):
        return Gateway("http://localhost", socket=address)
    return Gateway(f"http://{address}") if _TCP.fullmatch(address) else None


def needs_key(listener: Gateway) -> bool:
    """Whether it is reachable from other machines, and therefore answers only with a key."""
    return not listener.socket and not is_loopback(urlsplit(listener.base_url).hostname or "")


def read_samples(listener: Gateway, timeout: float) -> Samples:
    """Scrape once.

    Raises:
        Unavailable: there is no response within `timeout` seconds, or another status than 200.
        PermissionDenied: this user may not connect to the UNIX socket, or the key is refused.
        InvalidAnswer: the response is no exposition.
    """
    path = listener.socket
    if path and os.path.lexists(path) and not os.access(path, os.W_OK):
        raise PermissionDenied(f"this user may not connect to {path}", "Run the command with sudo.")
    answer = listener.get("/metrics", timeout=timeout)
    if answer.status == 401:
        raise PermissionDenied(f"the metrics at {listener.where} need a key", "Run the command with sudo.")
    if not answer.ok:
        raise Unavailable(f"{listener.where} answers the request for metrics with HTTP {answer.status}")
    return parse_samples(answer.text)


def parse_samples(text: str) -> Samples:
    """The samples of an exposition in the text format.

    Raises:
        InvalidAnswer: it is none.
    """
    from prometheus_client.parser import text_string_to_metric_families  # 50 ms, and only with METRICS

    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    buckets: dict[str, dict[str, dict[float, float]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(float)))
    wanted = "".join(f"{line}\n" for line in text.splitlines() if line.startswith(_WANTED))
    try:
        for family in text_string_to_metric_families(wanted):
            for sample in family.samples:
                label = sample.labels.get(LABELS[sample.name], "")
                if not math.isfinite(sample.value):
                    continue
                if sample.name.endswith("_bucket"):
                    bound = float(sample.labels["le"])
                    if math.isnan(bound):
                        continue
                    buckets[sample.name.removesuffix("_bucket")][label][bound] += sample.value
                else:
                    sums[sample.name][label] += sample.value
    except (ValueError, KeyError, IndexError, AttributeError) as error:
        raise InvalidAnswer(f"the metrics of the service cannot be read: {error}") from None
    return Samples(
        {name: dict(found) for name, found in sums.items()},
        {name: {model: dict(found) for model, found in models.items()} for name, models in buckets.items()},
    )
