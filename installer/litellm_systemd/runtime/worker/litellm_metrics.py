"""LiteLLM's Prometheus metrics with METRICS: the callback is on, its labels are bounded, and it costs a tenth.

LiteLLM's class counts (litellm/integrations/prometheus.py), so that names and labels are LiteLLM's own. This module
replaces what it builds labels with, once, in the main process before the workers are forked. Without METRICS nothing
is replaced, and the callback works as in LiteLLM.

What a label may hold:

- Names of models and routes that the gateway has. Any other name is `other`, because the client chooses it.
- No address of a client or a user, no user agent, and no hash of a key that has an alias.
- Whatever else a configuration adds (`custom_prometheus_metadata_labels`): at most SERIES_LIMIT combinations for each
  metric until the machine restarts. Later ones count as `other`.
"""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

_PROMETHEUS = "litellm.integrations.prometheus"
_SERVER = "litellm.proxy.proxy_server"
#: Adds /metrics to the routes of the gateway.
_MOUNT = "_mount_metrics_endpoint"
#: How the callback is named in litellm_settings.
CALLBACK = "prometheus"
#: What a label becomes, by its name.
Bounds = Mapping[str, Callable[[Any], str | None]]
#: Combinations of labels that each metric may have. This setting of LiteLLM overrides it.
SERIES_LIMIT = 500
_LIMIT_SETTING = "prometheus_metrics_max_series_per_metric"
#: LiteLLM's own label of models that it does not have (UNRECOGNIZED_REQUESTED_MODEL_LABEL).
OTHER = "other"
#: Combinations of labels that a worker remembers, 16 kB each. Above that it begins again.
_REMEMBERED = 500
#: Metrics of budgets, users, keys and batches in LiteLLM's database. Without one they are 0 or infinite.
_DATABASE_METRICS = (
    *("team_budget", "team_max_budget", "team_members", "org_budget", "org_max_budget", "api_key_budget"),
    *("api_key_max_budget", "user_budget", "user_max_budget", "customer_budget", "customer_max_budget"),
    *("total_users", "active_users", "teams_count", "check_batch_cost"),
)


def apply() -> None:
    """Prepare the imported LiteLLM. Call it once, before the workers are forked.

    PROMETHEUS_MULTIPROC_DIR must be in the environment: prometheus_client reads it at its import.

    Raises:
        ImportError, AttributeError: this LiteLLM lacks what is replaced here.
    """
    litellm: Any = importlib.import_module("litellm")
    prometheus: Any = importlib.import_module(_PROMETHEUS)
    setattr(litellm, _LIMIT_SETTING, SERIES_LIMIT)
    prometheus.SharedPrometheusSeriesAdmissions = _shared_admissions(prometheus.SharedPrometheusSeriesAdmissions)
    bounds = _find_bounds(Names())
    _bound_labels(prometheus, bounds)
    _wrap_metrics(prometheus, bounds)
    _skip_unused_gauges(prometheus)
    setattr(prometheus.PrometheusLogger, _MOUNT, lambda: None)
    # The last: with a LiteLLM that differs, nothing counts without bounds.
    _add_callback(litellm)


def _add_callback(litellm: Any) -> None:
    """Register the callback once, however the configuration names it.

    LiteLLM calls `_init_litellm_callbacks` at its startup, after it has loaded the configuration. In the lists of
    `success_callback` and `failure_callback` the callback would count a second time.
    """
    proxy: Any = importlib.import_module("litellm.proxy.utils").ProxyLogging
    original: Any = proxy._init_litellm_callbacks

    @functools.wraps(original)
    def initialize(self: Any, *args: Any, **options: Any) -> Any:
        for callbacks in (litellm.callbacks, litellm.success_callback, litellm.failure_callback):
            callbacks[:] = [each for each in callbacks if each != CALLBACK]
        litellm.callbacks.append(CALLBACK)
        return original(self, *args, **options)

    proxy._init_litellm_callbacks = initialize


def _shared_admissions(parent: Any) -> Any:
    """LiteLLM's list of the series that exist, next to the folder of the counts of this main process.

    There it holds for all main processes. The sums that a restart keeps have the series of all of them.
    """

    class Admissions(parent):  # type: ignore[misc]
        def __init__(self, directory: str) -> None:
            super().__init__(directory=str(Path(directory).parent))

    return Admissions


# --- The values of labels ---


def _bound_labels(prometheus: Any, bounds: Bounds) -> None:
    """Replace the classes that hold the labels of a request.

    LiteLLM makes about 13 of these objects for a request, each with `dataclasses.fields`, and escapes all 40 values
    for each. Here the labels of equal requests are computed once.
    """
    values: Any = prometheus.UserAPIKeyLabelValues
    litellm: Any = importlib.import_module("litellm")
    aliases = importlib.import_module("litellm.types.integrations.prometheus")._USER_API_KEY_LABEL_VALUE_INIT_ALIASES
    defaults = {**values().__dict__, "custom_metadata_labels": ()}

    class LabelValues(values):  # type: ignore[misc]
        def __init__(self, **given: Any) -> None:
            found = self.__dict__
            found.update(defaults)
            for name, value in given.items():
                known = name if name in defaults else aliases.get(name)
                if known is not None and value is not None:
                    found[known] = value
            for name, bound in bounds.items():
                if found[name] is not None:
                    found[name] = bound(found[name])
            if found["api_key_alias"] is not None:
                found["hashed_api_key"] = None
            # Only configured tags become labels. The others are the client's.
            found["tags"] = tuple(map(str, found["tags"])) if litellm.custom_prometheus_tags else ()
            found["custom_metadata_labels"] = _Custom(found["custom_metadata_labels"])
            if found["stream"] is not None:
                found["stream"] = str(found["stream"])

        def model_dump(self) -> dict[str, Any]:
            custom = dict(self.custom_metadata_labels)
            return {**self.__dict__, "tags": list(self.tags), "custom_metadata_labels": custom}

    prometheus.UserAPIKeyLabelValues = LabelValues
    context: Any = prometheus.PrometheusLabelFactoryContext
    subset: Any = prometheus._prometheus_labels_from_context
    remembered: dict[Any, _Labels] = {}

    def find_context(enum_values: Any) -> _Labels:
        key = tuple(enum_values.__dict__.values())
        labels = remembered.get(key)
        if labels is None:
            if len(remembered) >= _REMEMBERED:
                remembered.clear()
            labels = remembered[key] = _Labels(context(enum_values), subset)
        return labels

    def prometheus_label_factory(
        supported_enum_labels: list[str],
        enum_values: Any,
        _tag: str | None = None,
        *,
        label_context: _Labels | None = None,
    ) -> dict[str, Any]:
        return (label_context or find_context(enum_values)).select(supported_enum_labels)

    prometheus.PrometheusLabelFactoryContext = find_context
    prometheus.prometheus_label_factory = prometheus_label_factory


class _Custom(dict[str, str]):
    """Labels of `custom_prometheus_metadata_labels`, which never change."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


class _Labels:
    """The labels of equal requests, for each metric."""

    __slots__ = ("_context", "_select", "_selected")

    def __init__(self, context: Any, select: Callable[[list[str], Any], dict[str, Any]]) -> None:
        self._context = context
        self._select = select
        #: By the id of the list of a metric's labels, which is kept so that its id stays unique.
        self._selected: dict[int, tuple[list[str], dict[str, Any]]] = {}

    def select(self, names: list[str]) -> dict[str, Any]:
        """The labels of a metric. The caller does not change them."""
        found = self._selected.get(id(names))
        if found is None:
            found = self._selected[id(names)] = names, self._select(names, self._context)
        return found[1]


def _find_bounds(names: Names) -> Bounds:
    models = ("requested_model", "model_group", "model", "litellm_model_name", "fallback_model")
    return {
        **dict.fromkeys(("client_ip", "user_agent", "user_email"), lambda _: None),
        **dict.fromkeys(("user", "user_alias", "end_user"), without_address),
        **dict.fromkeys(models, names.model),
        "route": names.route,
        "api_base": without_secrets,
    }


def without_address(user: Any) -> str | None:
    """The identifier of a user, or None if it is an e-mail address."""
    return None if "@" in str(user) else str(user)


def without_secrets(url: Any) -> str:
    """A URL without user, password and query."""
    scheme, separator, rest = str(url).partition("?")[0].partition("://")
    return scheme + separator + rest.rpartition("@")[2]


class Names:
    """The models and routes that the gateway has."""

    def __init__(self) -> None:
        self._router: tuple[int, int] | None = None
        self._models: frozenset[str] = frozenset()
        self._has_patterns = False

    def model(self, name: Any) -> str:
        """`name` if it is a model of the configuration, or one that LiteLLM knows and a wildcard matches."""
        if name == "":
            return ""
        router = getattr(importlib.import_module(_SERVER), "llm_router", None)
        if router is None or not isinstance(name, str):
            return OTHER
        state = id(router), len(router.model_list)
        if state != self._router:
            self._router = state
            self._models = frozenset(_model_names(router))
            self._has_patterns = bool(router.pattern_router.patterns or router.team_pattern_routers)
        if name in self._models or router.is_recognized_model(name):
            return name
        prices = importlib.import_module("litellm").model_cost
        is_priced = self._has_patterns and (name in prices or name.partition("/")[2] in prices)
        return name if is_priced else OTHER

    def route(self, path: Any) -> str:
        """`path` if a route is exactly this, or the constant start of a route with `*` for what the client chose."""
        exact, starts = _routes()
        if not isinstance(path, str):
            return OTHER
        if path in exact:
            return path
        at = path.rfind("/")
        while at > 0:
            if path[: at + 1] in starts:
                return path[: at + 1] + "*"
            at = path.rfind("/", 0, at)
        return OTHER


def _model_names(router: Any) -> Iterator[str]:
    """The names of the models of deployments, with and without the provider and the parts after it."""
    yield from router.team_public_model_names
    for deployment in router.model_list:
        name = str(deployment["litellm_params"]["model"])
        while name:
            yield name
            name = name.partition("/")[2]


@functools.cache
def _routes() -> tuple[frozenset[str], frozenset[str]]:
    """The paths of LiteLLM's routes (LiteLLMRoutes), and the constant starts of paths below or with parameters."""
    routes = importlib.import_module("litellm.proxy._types").LiteLLMRoutes
    paths = {path for each in routes for path in each.value if isinstance(path, str) and path != "/"}
    exact = {path for path in paths if not set("{*") & set(path)}
    starts = {path.partition("{")[0].partition("*")[0] for path in paths - exact} | {f"{path}/" for path in exact}
    return frozenset(exact), frozenset(starts) - {"/"}


# --- The metrics ---


def _wrap_metrics(prometheus: Any, bounds: Bounds) -> None:
    """Create metrics that find the series of known labels at once, and gauges that are gone with their worker.

    Without a mode, prometheus_client gives each worker a gauge of its own, which stays when the worker is gone.
    """
    logger = prometheus.PrometheusLogger
    create: Any = logger._create_metric_factory
    gauge: Any = importlib.import_module("prometheus_client").Gauge

    def create_metric_factory(self: Any, metric_class: Any, *args: Any, **options: Any) -> Callable[..., Any]:
        factory = create(self, metric_class, *args, **options)

        def make(*values: Any, **named: Any) -> Any:
            name = values[0] if values else named["name"]
            if not os.environ.get("DATABASE_URL") and any(each in name for each in _DATABASE_METRICS):
                return prometheus.NoOpMetric()
            if metric_class is gauge:
                named.setdefault("multiprocess_mode", "livemostrecent")
            metric = factory(*values, **named)
            labels = tuple(named.get("labelnames", ()))
            if not labels or isinstance(metric, prometheus.NoOpMetric):
                return metric
            return Metric(metric, labels, bounds)

        return make

    logger._create_metric_factory = create_metric_factory


class Metric:
    """A metric of prometheus_client, or LiteLLM's wrapper of one, that remembers its series."""

    __slots__ = ("_bounds", "_metric", "_names", "_series")

    def __init__(self, metric: Any, names: tuple[str, ...], bounds: Bounds) -> None:
        self._metric = metric
        self._names = names
        self._bounds = bounds
        self._series: dict[tuple[Any, ...], Any] = {}

    def labels(self, *values: Any, **named: Any) -> Any:
        """The series of these values."""
        key = values or tuple([named[name] for name in self._names])
        series = self._series.get(key)
        if series is None:
            if len(self._series) >= _REMEMBERED:
                self._series.clear()
            series = self._series[key] = self._metric.labels(*map(self._bound, self._names, key))
        return series

    def _bound(self, name: str, value: Any) -> Any:
        """The value of a label that LiteLLM passes without LabelValues."""
        return self._bounds[name](value) if value is not None and name in self._bounds else value

    def remove(self, *values: Any) -> None:
        """Nothing: prometheus_client cannot remove a series while several processes count, and would warn."""


def _skip_unused_gauges(prometheus: Any) -> None:
    """Set the gauges of rate limits only if the request has a limit.

    LiteLLM reports a missing limit as 9.2e18, and spends two fifths of its time to remove series that are not there.
    """
    logger = prometheus.PrometheusLogger
    limits: Any = logger._set_v3_rate_limit_allowed_and_used_metrics
    remaining: Any = logger._set_virtual_key_rate_limit_metrics

    def has_limit(payload: Mapping[str, Any] | None) -> bool:
        headers = ((payload or {}).get("hidden_params") or {}).get("additional_headers") or ()
        return any(str(name).startswith("x-ratelimit-") for name in headers)

    @functools.wraps(limits)
    def set_limits(self: Any, standard_logging_payload: Any, enum_values: Any) -> None:
        if has_limit(standard_logging_payload):
            limits(self, standard_logging_payload=standard_logging_payload, enum_values=enum_values)

    @functools.wraps(remaining)
    def set_remaining(self: Any, *args: Any, kwargs: Any, metadata: Any, **options: Any) -> None:
        if has_limit(kwargs.get("standard_logging_object")) or any(
            str(name).startswith("litellm-key-remaining-") for name in metadata
        ):
            remaining(self, *args, kwargs=kwargs, metadata=metadata, **options)

    logger._set_v3_rate_limit_allowed_and_used_metrics = set_limits
    logger._set_virtual_key_rate_limit_metrics = set_remaining
