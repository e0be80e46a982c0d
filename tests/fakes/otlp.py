"""A collector of OpenTelemetry on loopback: OTLP over HTTP, with the protobuf messages of opentelemetry-proto."""

from __future__ import annotations

import gzip
import importlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fakes.http import Reply, Request, serving

_SERVICES = "opentelemetry.proto.collector"
#: Path of each signal, with the module and class of its request.
_REQUESTS = {
    "/v1/traces": (f"{_SERVICES}.trace.v1.trace_service_pb2", "ExportTraceServiceRequest"),
    "/v1/metrics": (f"{_SERVICES}.metrics.v1.metrics_service_pb2", "ExportMetricsServiceRequest"),
}


@dataclass(frozen=True, slots=True)
class Span:
    """A span: its name, its attributes, and the id of the process (service.instance.id) that sent it."""

    name: str
    instance: str
    attributes: dict[str, Any]


@dataclass(slots=True)
class Collector:
    """What was received. `requests` has the headers of each request, `status` is the answer to the next ones."""

    port: int = 0
    status: int = 200
    spans: list[Span] = field(default_factory=list)
    #: The newest count of each histogram, by name and process: OTLP's cumulative temporality.
    counts: dict[tuple[str, str], int] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def named(self, name: str) -> list[Span]:
        return [each for each in list(self.spans) if each.name == name]

    def total(self, name: str) -> int:
        """The count of a histogram, of all processes together."""
        return sum(count for (metric, _), count in list(self.counts.items()) if metric == name)

    def receive(self, path: str, body: bytes) -> None:
        """Decode a request. Raises an exception if it is none."""
        module, name = _REQUESTS[path]
        message = getattr(importlib.import_module(module), name).FromString(body)
        for resource in getattr(message, "resource_spans", ()):
            instance = _attributes(resource.resource).get("service.instance.id", "")
            spans = [span for scope in resource.scope_spans for span in scope.spans]
            self.spans += [Span(span.name, instance, _attributes(span)) for span in spans]
        for resource in getattr(message, "resource_metrics", ()):
            instance = _attributes(resource.resource).get("service.instance.id", "")
            for metric in (metric for scope in resource.scope_metrics for metric in scope.metrics):
                self.counts[metric.name, instance] = sum(point.count for point in metric.histogram.data_points)


def _attributes(message: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in message.attributes}


@contextmanager
def run_collector(port: int = 0) -> Iterator[Collector]:
    """A collector on `port` of 127.0.0.1, or on a free port."""
    collector = Collector()

    def answer(request: Request) -> Reply:
        if request.method == "GET":
            return Reply(body=json.dumps(_count(collector)).encode())
        collector.requests.append((request.target, dict(request.headers)))
        if collector.status == 200:
            is_compressed = request.headers.get("content-encoding") == "gzip"
            collector.receive(request.target, gzip.decompress(request.body) if is_compressed else request.body)
        return Reply(collector.status)

    with serving(answer, port=port) as server:
        collector.port = server.server_port
        yield collector


def _count(collector: Collector) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for span in list(collector.spans):
        of_process = found.setdefault(span.name, {})
        of_process[span.instance] = of_process.get(span.instance, 0) + 1
    for (name, instance), count in list(collector.counts.items()):
        found.setdefault(name, {})[instance] = count
    return found


def main(port: int) -> None:
    """Run a collector. `GET /` is the number of spans and of observations, by name and by process."""
    with run_collector(port):
        threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]))
