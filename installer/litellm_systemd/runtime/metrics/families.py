"""The table of our own metrics. LiteLLM's callback has its own (litellm/types/integrations/prometheus.py).

The names are published: dashboards and alert rules use them. This module needs nothing but the standard library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from litellm_systemd.runtime.http.refuse import Reason

PREFIX = "litellm_systemd_"
#: The value of a label for everything that the table does not list.
OTHER = "other"


class Merge(Enum):
    """How the values of several main processes become one. A restart with a standby has two of them for a while."""

    SUM = "sum"
    MAX = "max"
    #: The values of the main process that started last.
    NEWEST = "newest"


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """A metric.

    Attributes:
        name: as Prometheus shows it, so that of a counter ends with `_total`.
        help: one sentence.
        labels: by name, the values that a label can have; () if the values are bounded in another way.
        merge: how the values of several main processes become one; None for a counter, which is always added up.
    """

    name: str
    help: str
    merge: Merge | None = None
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """`counter` or `gauge`."""
        return "counter" if self.merge is None else "gauge"


_ANY: tuple[str, ...] = ()
_PROCESSES = {"process": ("main", "workers", "engines", "exporter")}


def _reasons(*, connections: bool) -> dict[str, tuple[str, ...]]:
    return {"reason": tuple(each.label for each in Reason if each.is_connection is connections)}


BUILD_INFO = Family(
    f"{PREFIX}build_info",
    "1, with the versions of litellm-systemd and LiteLLM and the name of the release.",
    Merge.NEWEST,
    {"version": _ANY, "litellm_version": _ANY, "release": _ANY},
)
READY = Family(f"{PREFIX}ready", "1 if at least one worker accepts requests, else 0.", Merge.MAX)
START_TIME = Family(f"{PREFIX}start_time_seconds", "When the main process started, in Unix time.", Merge.NEWEST)
GENERATION = Family(
    f"{PREFIX}generation", "The number of the configuration that serves: 1 after a start, 1 more with each reload.",
    Merge.NEWEST,
)  # fmt: skip
WORKERS = Family(
    f"{PREFIX}workers",
    "The workers by state. A hung worker has not proceeded for half of the time after which it is killed.",
    Merge.SUM,
    {"state": ("starting", "ready", "draining", "hung")},
)
WORKER_RESTARTS = Family(
    f"{PREFIX}worker_restarts_total",
    "Workers that were replaced, by cause.",
    None,
    {"cause": ("crash", "exit", "hung", "start_timeout", "max_requests", "memory", "unhealthy")},
)
RELOADS = Family(
    f"{PREFIX}reloads_total", "Reloads that have ended, by outcome.", None, {"outcome": ("success", "failure")}
)
LAST_RELOAD = Family(
    f"{PREFIX}last_reload_successful", "0 if the last reload failed, else 1. 1 before the first one.", Merge.NEWEST
)
DRAINS = Family(
    f"{PREFIX}drains_total",
    "Workers that have drained: complete, or cut when their time was over.",
    None,
    {"outcome": ("complete", "cut")},
)
CUT_REQUESTS = Family(
    f"{PREFIX}cut_requests_total", "Requests in flight that were force-closed at the end of a drain.", None
)
IN_FLIGHT = Family(f"{PREFIX}requests_in_flight", "Requests that have no complete response yet.", Merge.SUM)
CONNECTIONS = Family(f"{PREFIX}connections", "Open connections of clients.", Merge.SUM)
BACKLOG = Family(
    f"{PREFIX}backlog_connections", "Connections that wait until a worker accepts them (TCP only).", Merge.MAX
)
HTTP_REQUESTS = Family(
    f"{PREFIX}http_requests_total",
    "Responses of the gateway, refusals included, by HTTP status. 101 is an accepted WebSocket.",
    None,
    {"status": _ANY},
)
REFUSED_REQUESTS = Family(
    f"{PREFIX}refused_requests_total",
    "Requests that the gateway refused before LiteLLM saw them, by reason.",
    None,
    _reasons(connections=False),
)
CLOSED_CONNECTIONS = Family(
    f"{PREFIX}closed_connections_total",
    "Connections that the gateway closed because of a limit, by reason.",
    None,
    _reasons(connections=True),
)
RESIDENT_MEMORY = Family(
    f"{PREFIX}resident_memory_bytes",
    "Resident memory of the main process, of all workers, of their database engines, and of the process that serves"
    " the metrics. Shared pages count in each.",
    Merge.SUM,
    _PROCESSES,
)
PSS_MEMORY = Family(
    f"{PREFIX}pss_memory_bytes",
    "The same with each shared page divided by the number of processes that share it.",
    Merge.SUM,
    _PROCESSES,
)
EVENT_LOOP_LAG = Family(
    f"{PREFIX}event_loop_lag_seconds",
    "How late the event loop of a worker ran a timer: the longest delay of the last minute, of all workers.",
    Merge.MAX,
)
REDIS_USABLE = Family(
    f"{PREFIX}redis_usable",
    "1 if limits, cooldowns and cache are shared in Redis, 0 if each worker has its own because Redis cannot be used."
    " Only with Redis.",
    Merge.NEWEST,
)
CERTIFICATE_EXPIRY = Family(
    f"{PREFIX}certificate_expiry_timestamp_seconds",
    "When the certificate expires that the gateway serves, in Unix time. Only with HTTPS.",
    Merge.NEWEST,
)
CREDENTIALS_EXPIRY = Family(
    f"{PREFIX}credentials_expiry_timestamp_seconds",
    "When the temporary AWS credentials of the environment expire, in Unix time (AWS_CREDENTIAL_EXPIRATION).",
    Merge.NEWEST,
)
MODEL_END_OF_LIFE = Family(
    f"{PREFIX}model_end_of_life_timestamp_seconds",
    "The day on which the provider retires a model of the configuration, in Unix time, as LiteLLM knows it.",
    Merge.NEWEST,
    {"model": _ANY},
)
LAST_VERIFY = Family(
    f"{PREFIX}last_verify_timestamp_seconds", "When `litellmctl verify` last ended, in Unix time.", Merge.NEWEST
)
LAST_VERIFY_SUCCESSFUL = Family(
    f"{PREFIX}last_verify_successful", "1 if the last `litellmctl verify` passed, else 0.", Merge.NEWEST
)

#: All of them.
FAMILIES: tuple[Family, ...] = tuple(each for each in list(globals().values()) if isinstance(each, Family))
