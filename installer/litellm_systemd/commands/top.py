"""top: what the service does at this moment, again and again."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from litellm_systemd import contract
from litellm_systemd.client.metrics import Samples
from litellm_systemd.commands.figures import (
    ACTIVE,
    Ends,
    Figures,
    MetricsReader,
    Sample,
    build_figures,
    build_sample,
    can_scrape,
    observe_ends,
)
from litellm_systemd.commands.logs import recent_errors
from litellm_systemd.commands.status import describe_service, observe_backlog, observe_memory, observe_service
from litellm_systemd.errors import InstallerError, InvalidAnswer, NotInstalled, PermissionDenied
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import ask_service, require_installed, require_systemd
from litellm_systemd.host.systemctl import Systemctl

#: Without METRICS, how to get the rest.
TURN_ON = (
    "No statuses, tokens, models, latencies and cost without METRICS. To see them: METRICS=127.0.0.1:9400 in .env,"
    " then sudo litellmctl install"
)
_NO_WORKERS = "Only root sees the workers: sudo litellmctl top"
#: Seconds that rates and latencies cover: a single interval has too few requests of a model.
RATE_WINDOW, LATENCY_WINDOW = 10.0, 60.0
#: Seconds between two readings of what changes slowly or costs more, such as the journal.
_SLOWLY = 10.0
#: Seconds for an answer of the service.
_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What `top` shows at one moment.

    Attributes:
        at: Unix time.
        title: the state of the service, and what to do about it.
        service: `active`, `sub` and `status` as systemd reports them, and `standby`: its state, empty if none runs.
        workers: as the main process reports them, with their memory (`pss_mib`); empty if they are unknown.
        last_reload: its outcome, as the main process reports it; None without one.
        figures: the numbers.
        errors: kinds of warnings and errors in the journal of the last hour, the latest first; None if unknown.
        notes: what cannot be seen, and why.
    """

    at: float
    title: str
    service: Mapping[str, str]
    workers: tuple[Mapping[str, Any], ...]
    last_reload: Mapping[str, Any] | None
    figures: Figures
    errors: tuple[Mapping[str, Any], ...] | None
    notes: tuple[str, ...]

    @property
    def is_served(self) -> bool:
        """Whether the service or its standby runs."""
        return can_scrape(self.service)

    def as_dict(self) -> dict[str, Any]:
        """For programs. The names are published."""
        return {
            "at": round(self.at, 3),
            "title": self.title,
            "service": dict(self.service),
            "workers": [dict(each) for each in self.workers],
            "last_reload": self.last_reload,
            "figures": self.figures.as_dict(),
            "errors": None if self.errors is None else list(self.errors),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class _Slow:
    """What is read less often, and when. `memory` is in MiB, by pid; `notes` say why there are no `errors`."""

    moment: float
    memory: Mapping[int, int | None]
    ends: Ends
    listen: str
    errors: tuple[Mapping[str, Any], ...] | None
    notes: tuple[str, ...]


class Monitor:
    """Observes the service on this host. `clock` returns monotonic seconds."""

    def __init__(self, layout: Layout, clock: Callable[[], float] = time.monotonic) -> None:
        """Check that there is something to observe.

        Raises:
            Unavailable: systemd does not run here.
            MissingError: the service is not installed.
        """
        self._systemctl = Systemctl(layout)
        require_systemd(self._systemctl)
        require_installed(self._systemctl)
        self._clock = clock
        self._metrics = MetricsReader(self._systemctl)
        self._history = History()
        self._slow: _Slow | None = None

    def observe(self) -> Snapshot:
        """What the service does now.

        Raises:
            PermissionDenied: this user can see neither the workers nor the metrics.
            NotInstalled: the service was uninstalled.
        """
        service = observe_service(self._systemctl)
        if service["load"] == "not-found":
            raise NotInstalled
        runtime, notes = self._ask(service)
        counted, unread = self._read_metrics(service)
        if can_scrape(service) and not runtime and counted is None and os.geteuid() != 0:
            raise PermissionDenied("only root sees the workers and the metrics", "Run: sudo litellmctl top")
        now = build_sample(self._clock(), counted, runtime)
        before, longer_ago = self._history.add(now)
        slow = self._read_slowly(now.moment, tuple(each["pid"] for each in runtime.get("workers", ())))
        backlog = observe_backlog(slow.listen) if counted is None else None
        return Snapshot(
            at=time.time(),
            title=describe_service(service),
            service={name: service[name] for name in ("active", "sub", "status", "standby")},
            workers=tuple({**each, "pss_mib": slow.memory.get(each["pid"])} for each in runtime.get("workers", ())),
            last_reload=runtime.get("last_reload"),
            figures=build_figures(
                now, runtime, before=before, longer_ago=longer_ago, ends=slow.ends, backlog=backlog
            ),
            errors=slow.errors,
            notes=(*notes, *unread, *slow.notes),
        )

    def _ask(self, service: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The status of the main process, empty if it does not answer; and why."""
        if service["active"] not in ACTIVE:
            return {}, ("The standby serves; its workers are not listed.",) if service["standby"] else ()
        try:
            found = ask_service(_TIMEOUT)
        except InvalidAnswer as error:
            return {}, (error.render(),)
        if found:
            return found, ()
        return {}, (_NO_WORKERS if os.geteuid() != 0 else "The main process does not answer.",)

    def _read_metrics(self, service: Mapping[str, Any]) -> tuple[Samples | None, tuple[str, ...]]:
        if not can_scrape(service):
            return None, ()
        counted, notes = self._metrics.try_read()
        return counted, notes if counted is not None or notes else (TURN_ON,)

    def _read_slowly(self, moment: float, pids: tuple[int, ...]) -> _Slow:
        last = self._slow
        if last is not None and moment - last.moment < _SLOWLY and set(pids) <= last.memory.keys():
            return last
        errors: tuple[Mapping[str, Any], ...] | None = None
        notes: tuple[str, ...] = ()
        try:
            errors = recent_errors(self._systemctl)
        except InstallerError as error:
            notes = (f"The errors are not known: {error.render()}",)
        self._slow = _Slow(
            moment,
            {pid: observe_memory(pid) for pid in pids},
            observe_ends(self._systemctl.layout),
            self._systemctl.show(contract.SOCKET, "Listen").get("Listen", ""),
            errors,
            notes,
        )
        return self._slow


class History:
    """The samples of the last minute."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()

    def add(self, now: Sample) -> tuple[Sample | None, Sample | None]:
        """Add a sample. Returns those with which rates and latencies begin, None if there is none yet.

        Samples of other sources, such as those from before METRICS could be read, are dropped.
        """
        last = self._samples[-1] if self._samples else None
        if last is not None and _sources(last) != _sources(now):
            self._samples.clear()
        while len(self._samples) > 1 and now.moment - self._samples[1].moment >= LATENCY_WINDOW:
            self._samples.popleft()
        recent = [each for each in self._samples if now.moment - each.moment <= RATE_WINDOW + 0.5]
        before = recent[0] if recent else self._samples[-1] if self._samples else None
        longer_ago = self._samples[0] if self._samples else None
        self._samples.append(now)
        return before, longer_ago


def _sources(sample: Sample) -> tuple[bool, bool]:
    """What the rates come from: the workers only without metrics."""
    return sample.metrics is not None, sample.metrics is None and bool(sample.workers)
