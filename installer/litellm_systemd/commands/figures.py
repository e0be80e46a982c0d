"""The figures of the service, as `top` and `status --json` print them.

The main process knows its workers. Requests by status, tokens, models and cost come from the metrics listener, which
exists with METRICS in .env.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime, timezone
from typing import TYPE_CHECKING, Any

from litellm_systemd import contract
from litellm_systemd.client import metrics
from litellm_systemd.client.metrics import Samples, find_listener, needs_key, read_samples
from litellm_systemd.env.credentials_expiry import find_end
from litellm_systemd.env.variables import MASTER_KEY, METRICS_KEY
from litellm_systemd.errors import InstallerError, PermissionDenied, Unavailable
from litellm_systemd.gateway.config import read_config
from litellm_systemd.gateway.models import build_served, ends_by_name
from litellm_systemd.host.effective import observe_environment
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import in_words
from litellm_systemd.host.stored_secrets import with_stored_secrets
from litellm_systemd.host.systemctl import Systemctl

if TYPE_CHECKING:
    from litellm_systemd.client.gateway import Gateway

#: The states of a unit in which its main process answers. In another one a connection would wait, or start it.
ACTIVE = ("active", "reloading", "refreshing")


@dataclass(frozen=True, slots=True)
class Rate:
    """A counter: its value, and how much it grows in a second; None if there was no earlier value."""

    total: float
    per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that half of the requests took at most, and 95 % of them; estimated from a histogram."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """One model, by the name that clients use. `cost` is in US dollars, `errors` are failed requests."""

    model: str
    requests: Rate
    errors: Rate
    input_tokens: Rate
    output_tokens: Rate
    cost: float
    first_token: Latency | None
    latency: Latency | None


@dataclass(frozen=True, slots=True)
class Ends:
    """Unix times at which the certificate, the AWS credentials and models end; None and empty if unknown."""

    certificate: float | None = None
    credentials: float | None = None
    models: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Figures:
    """What the service does and has done. None: unknown to this user, or without METRICS.

    Attributes:
        window: seconds to which the rates refer; None if there was no earlier value.
        worker_states: the number of workers by state, as the metrics have it.
        inflight: requests without an answer.
        connections: open ones, with those without a request.
        backlog: connections that wait for a worker.
        requests: answered ones, refused ones as well.
        statuses: the same by HTTP status.
        input_tokens, output_tokens: of all models.
        cost: US dollars, and how many of them a second.
        models: the busiest first.
        restarts: workers that were replaced.
        reloads: by outcome.
        ends: what ends, and when.
    """

    window: float | None = None
    worker_states: Mapping[str, int] | None = None
    inflight: int | None = None
    connections: int | None = None
    backlog: int | None = None
    requests: Rate | None = None
    statuses: Mapping[str, Rate] | None = None
    input_tokens: Rate | None = None
    output_tokens: Rate | None = None
    cost: Rate | None = None
    models: tuple[ModelFigures, ...] | None = None
    restarts: int | None = None
    reloads: Mapping[str, int] | None = None
    ends: Ends = field(default_factory=Ends)

    def as_dict(self) -> dict[str, Any]:
        """For programs. The names are published."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sample:
    """What was counted at a moment (monotonic seconds): by the metrics, and by each worker that runs (by its pid)."""

    moment: float
    metrics: Samples | None
    workers: Mapping[str, float]


def build_sample(moment: float, counted: Samples | None, runtime: Mapping[str, Any]) -> Sample:
    """What the metrics and the workers in a status of the main process have counted."""
    return Sample(moment, counted, {str(each["pid"]): each["requests"] for each in runtime.get("workers", ())})


def can_scrape(service: Mapping[str, Any]) -> bool:
    """Whether the metrics listener answers, from the states of the service and of its standby."""
    return service["active"] in ACTIVE or service["standby"] in ACTIVE


class MetricsReader:
    """Reads the metrics listener of the service on this host."""

    def __init__(self, systemctl: Systemctl) -> None:
        self._systemctl = systemctl
        self._key: str | None = None

    def read(self, timeout: float = 5) -> Samples | None:
        """What the service has counted; None without METRICS. Call it only while the service or its standby runs.

        Raises:
            InstallerError: it cannot be read, as in `read_samples`.
        """
        found = self._systemctl.show(contract.METRICS_SOCKET, "LoadState", "ActiveState", "Listen")
        if found.get("LoadState") != "loaded" or (listener := find_listener(found.get("Listen", ""))) is None:
            return None
        if found.get("ActiveState") != "active":
            raise Unavailable(
                f"{contract.METRICS_SOCKET} {in_words(found.get('ActiveState', ''))}",
                "Start it: sudo litellmctl restart",
            )
        try:
            return read_samples(self._with_key(listener), timeout)
        except PermissionDenied:
            self._key = None  # it may have been rotated
            raise

    def try_read(self) -> tuple[Samples | None, tuple[str, ...]]:
        """The same, with a note in place of an error."""
        try:
            return self.read(), ()
        except InstallerError as error:
            return None, (f"The metrics are not known: {error.render()}",)

    def _with_key(self, listener: Gateway) -> Gateway:
        if not needs_key(listener):
            return listener
        if self._key is None:
            environment = with_stored_secrets(observe_environment(self._systemctl.layout).dotenv.values)
            self._key = environment.get(METRICS_KEY.name) or environment.get(MASTER_KEY.name, "")
        return replace(listener, api_key=self._key)


def observe_ends(layout: Layout) -> Ends:
    """When the AWS credentials and the models of the active configuration end, as far as this user can read that."""
    try:
        environment = observe_environment(layout).dotenv.values
        served = build_served(read_config(layout.real(layout.config_link)), environment)
    except (InstallerError, OSError):
        return Ends()
    credentials = find_end(environment)
    return Ends(
        credentials=None if credentials is None else credentials.timestamp(),
        models={name: _midnight(end) for name, end in ends_by_name(served).items()},
    )


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=timezone.utc).timestamp()


def build_figures(
    now: Sample,
    runtime: Mapping[str, Any],
    *,
    before: Sample | None = None,
    longer_ago: Sample | None = None,
    ends: Ends | None = None,
    backlog: int | None = None,
) -> Figures:
    """The figures of a moment.

    Args:
        now: what was counted until now.
        runtime: the status of the main process, empty if it is unknown.
        before: an earlier sample from the same sources, for the rates.
        longer_ago: one from before that, for the latencies: those of the requests since then. A model without such a
            request has those of all its requests.
        ends: those of `observe_ends`.
        backlog: connections that wait for a worker, if the metrics do not have them.
    """
    window = None if before is None else now.moment - before.moment
    found = replace(_from_runtime(now, runtime, before, window), backlog=backlog)
    if now.metrics is not None:
        metrics_before = None if before is None else before.metrics
        found = _add_metrics(found, _Counted(now.metrics, metrics_before, window), longer_ago)
    return replace(found, window=window, ends=_join(ends or Ends(), found.ends))


def _from_runtime(now: Sample, runtime: Mapping[str, Any], before: Sample | None, window: float | None) -> Figures:
    if not runtime:
        return Figures()
    workers = runtime["workers"]
    grown = None if before is None else sum(metrics.subtract(now.workers, before.workers).values())
    certificate = runtime.get("tls")
    return Figures(
        inflight=sum(each["inflight"] for each in workers),
        # A release from before that field may run.
        connections=sum(each.get("connections", 0) for each in workers),
        requests=Rate(sum(now.workers.values()), None if not window or grown is None else grown / window),
        restarts=runtime["restarts"],
        ends=Ends(certificate=None if certificate is None else certificate["not_after"]),
    )


@dataclass(frozen=True, slots=True)
class _Counted:
    """The samples of the metrics, and their growth within `window` seconds."""

    now: Samples
    before: Samples | None
    window: float | None

    def rates(self, name: str) -> dict[str, Rate]:
        found = self.now.sums.get(name, {})
        if self.before is None or not self.window:
            return {label: Rate(total) for label, total in found.items()}
        grown = metrics.subtract(found, self.before.sums.get(name, {}))
        return {label: Rate(total, grown[label] / self.window) for label, total in found.items()}

    def rate(self, name: str) -> Rate:
        """A counter over all labels."""
        found = tuple(self.rates(name).values())
        grown = None if self.before is None or not self.window else sum(each.per_second or 0 for each in found)
        return Rate(sum(each.total for each in found), grown)

    def gauge(self, name: str) -> float | None:
        """The value of a gauge, None without one."""
        return self.now.total(name) if name in self.now.sums else None


def _add_metrics(found: Figures, counted: _Counted, longer_ago: Sample | None) -> Figures:
    inflight, connections, backlog = map(counted.gauge, (metrics.IN_FLIGHT, metrics.CONNECTIONS, metrics.BACKLOG))
    return replace(
        found,
        # Those of the standby count too.
        worker_states={state: int(number) for state, number in counted.now.sums.get(metrics.WORKERS, {}).items()},
        inflight=found.inflight if inflight is None else int(inflight),
        connections=found.connections if connections is None else int(connections),
        backlog=found.backlog if backlog is None else int(backlog),
        requests=counted.rate(metrics.HTTP_REQUESTS),
        statuses=dict(sorted(counted.rates(metrics.HTTP_REQUESTS).items())),
        input_tokens=counted.rate(metrics.INPUT_TOKENS),
        output_tokens=counted.rate(metrics.OUTPUT_TOKENS),
        cost=counted.rate(metrics.SPEND),
        models=_models(counted, None if longer_ago is None else longer_ago.metrics),
        restarts=int(counted.now.total(metrics.RESTARTS)),
        reloads={name: int(count) for name, count in counted.now.sums.get(metrics.RELOADS, {}).items()},
        ends=Ends(
            found.ends.certificate or counted.gauge(metrics.CERTIFICATE_END),
            counted.gauge(metrics.CREDENTIALS_END),
            counted.now.sums.get(metrics.MODEL_END, {}),
        ),
    )


def _models(counted: _Counted, longer_ago: Samples | None) -> tuple[ModelFigures, ...]:
    names = (metrics.REQUESTS, metrics.FAILED, metrics.INPUT_TOKENS, metrics.OUTPUT_TOKENS)
    requests, errors, inputs, outputs = map(counted.rates, names)
    spent = counted.now.sums.get(metrics.SPEND, {})
    recent = None if longer_ago is None else counted.now.since(longer_ago)
    none = Rate(0, None if counted.window is None else 0.0)

    def latency(metric: str, model: str) -> Latency | None:
        for samples in (recent, counted.now):
            p50, p95 = (None if samples is None else samples.quantile(metric, model, part) for part in (0.5, 0.95))
            if p50 is not None and p95 is not None:
                return Latency(p50, p95)
        return None

    found = (
        ModelFigures(
            model,
            requests.get(model, none),
            errors.get(model, none),
            inputs.get(model, none),
            outputs.get(model, none),
            spent.get(model, 0.0),
            latency(metrics.FIRST_TOKEN, model),
            latency(metrics.LATENCY, model),
        )
        for model in {**requests, **errors, **inputs, **outputs}
    )
    return tuple(sorted(found, key=lambda each: (-(each.requests.per_second or 0), -each.requests.total, each.model)))


def _join(own: Ends, reported: Ends) -> Ends:
    """What this user can read, else what the service reports."""
    return Ends(
        own.certificate or reported.certificate,
        own.credentials or reported.credentials,
        own.models or reported.models,
    )
