"""What the checks look at. Each part is observed once, when a check first reads it, and may be unavailable."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

from litellm_systemd import contract
from litellm_systemd.env.settings import Dotenv, Settings, build_settings
from litellm_systemd.errors import InputError, InstallerError, PermissionDenied, Unavailable
from litellm_systemd.gateway.config import GatewayConfig, read_config, real_path
from litellm_systemd.host.effective import MANAGER, EffectiveEnvironment, observe_environment
from litellm_systemd.host.files import observe_file
from litellm_systemd.host.journald import JournalGap, find_gap
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import ask_service, is_booted, read_manifest
from litellm_systemd.host.state import FileState, Record, UnitState
from litellm_systemd.host.systemctl import Event, Systemctl, sync_journal, unit_state_of
from litellm_systemd.logs.events import LogEvent, read_events

T = TypeVar("T")
_MAX_PATIENCE = 5.0
#: Seconds of the journal that `recent_events` has.
_RECENT = 3600

#: The properties of each unit that are read (org.freedesktop.systemd1(5)); systemd omits those that it does not know.
PROPERTIES = (
    *("LoadState", "LoadError", "ActiveState", "SubState", "UnitFileState", "FragmentPath", "DropInPaths"),
    *("NeedDaemonReload", "Result", "NRestarts", "MainPID", "ExecMainCode", "ExecMainStatus", "Listen"),
    "InvocationID",
    *("InactiveExitTimestamp", "StatusText", "InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic"),
    *("User", "DynamicUser", "NoNewPrivileges", "ProtectSystem", "CapabilityBoundingSet", "AmbientCapabilities"),
    *("ConditionResult", "ConditionTimestamp", "AssertResult", "AssertTimestamp", "Job"),
    *("Requires", "Requisite", "BindsTo", "Conflicts", "ConflictedBy", "Triggers"),
    *("StandardOutput", "StandardError", "LogLevelMax"),
    *("Environment", "EnvironmentFiles", "PassEnvironment", "UnsetEnvironment"),
    *(
        "Type",
        "NotifyAccess",
        "ExecStart",
        "Restart",
        "KillMode",
        "WatchdogUSec",
        "MemoryMax",
        "MemoryHigh",
        "MemoryCurrent",
        "MemoryAccounting",
        "IPAddressDeny",
        "IPAddressAllow",
    ),
)


def edit_command(path: str) -> str:
    """The command that opens a file, and if it is one of systemd's own, loads it again."""
    return f"sudoedit {path}" + (" && sudo systemctl daemon-reload" if path.endswith((".conf", ".service")) else "")


class ObservedOnce(Generic[T]):
    """A property that one thread computes while the others wait for it. An error is cached as well."""

    def __init__(self, find: Callable[[Any], T]) -> None:
        self.__doc__ = find.__doc__
        self._find = find
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        """Called by Python with the name of the attribute."""
        self._name = name

    @overload
    def __get__(self, snapshot: None, owner: type) -> ObservedOnce[T]: ...
    @overload
    def __get__(self, snapshot: Snapshot, owner: type) -> T: ...
    def __get__(self, snapshot: Snapshot | None, owner: type) -> ObservedOnce[T] | T:
        """The cached value; raises the cached error."""
        if snapshot is None:
            return self
        found: T = snapshot.cached(self._name, partial(self._find, snapshot))
        return found


@dataclass(frozen=True, slots=True)
class _Observation:
    """The value or the error of an observation."""

    value: Any = None
    error: Exception | None = None


class Snapshot:
    """The state of one host. Reading a part that is unavailable raises InstallerError or OSError with the reason."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.is_root = os.geteuid() == 0
        #: How much longer than on an idle host a check may take, by the load of this one.
        self.patience = min(_MAX_PATIENCE, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))
        #: Whether even that may be too short, so that a missing answer means little.
        self.is_overloaded = self.patience == _MAX_PATIENCE
        #: Seconds for optional requests of a check: less than the time for the whole check (`engine.CHECK_TIMEOUT`).
        self.optional_timeout = 2.5 * self.patience
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._observations: dict[str, _Observation] = {}

    def cached(self, name: str, find: Callable[[], Any]) -> Any:
        """The result of `find`, which is called once for each `name`."""
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self._observations:
                try:
                    self._observations[name] = _Observation(find())
                except (InstallerError, OSError) as error:
                    self._observations[name] = _Observation(error=error)
            observation = self._observations[name]
        if observation.error is not None:
            raise observation.error
        return observation.value

    def with_timeout(self, ask: Callable[[], T]) -> T | None:
        """The result or the error of `ask`; None if it takes longer than `optional_timeout` and is abandoned."""
        answer: Future[T] = Future()

        def wait() -> None:
            try:
                answer.set_result(ask())
            except Exception as error:  # the waiting thread raises it
                answer.set_exception(error)

        threading.Thread(target=wait, daemon=True).start()
        try:
            return answer.result(self.optional_timeout)
        except FutureTimeout:
            return None

    # --- files ---

    def file(self, path: str) -> FileState | None:
        """The file, folder or link at a path; None if there is none. PermissionDenied if this user may not look."""
        try:
            self.layout.real(path).lstat()
        except PermissionError:
            raise PermissionDenied(f"only root can read {path}") from None
        except (FileNotFoundError, NotADirectoryError):
            return None
        return observe_file(self.layout, path)

    @ObservedOnce
    def manifest(self) -> Mapping[str, Record]:
        """The files that earlier runs wrote, by path."""
        if not self.is_root:
            raise PermissionDenied("only root can read the manifest of installed files")
        return read_manifest(self.layout)

    @ObservedOnce
    def records(self) -> Mapping[str, Record]:
        """As `manifest`, but empty if the manifest is damaged or this user cannot read it."""
        try:
            return self.manifest
        except (InputError, PermissionDenied):
            return {}

    @ObservedOnce
    def effective(self) -> EffectiveEnvironment:
        """The environment of the service, drop-ins included, with the origin of each variable."""
        is_known = self.layout.is_host and is_booted()
        return observe_environment(self.layout, self.service if is_known else None)

    @property
    def dotenv(self) -> Dotenv:
        """The variables of `effective`."""
        return self.effective.dotenv

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables of `effective`, without their origins."""
        return self.dotenv.values

    def edit_command(self, name: str) -> str:
        """The command that opens the file with a variable, and what makes systemd read it again."""
        path = self.dotenv.file_of(name)
        if path == MANAGER:
            return f"sudo systemctl unset-environment {name}"
        if path == self.layout.secrets:
            return f"sudo systemd-creds decrypt {path}"
        return edit_command(path)

    @ObservedOnce
    def settings(self) -> Settings:
        """The environment of the service, validated."""
        return build_settings(self.dotenv, installed={}, new_key=str)

    @ObservedOnce
    def gateway(self) -> GatewayConfig:
        """The active configuration. Its source is `config_path`, as in the messages of the service."""
        return read_config(real_path(self.layout.real(self.layout.config_link)))

    @property
    def config_path(self) -> str:
        """The file that the link to the active configuration leads to: sudoedit does not edit through a link."""
        file = real_path(self.layout.real(self.layout.config_link))
        return str(Path("/", os.path.relpath(file, self.layout.root)))

    # --- systemd ---

    @property
    def systemctl(self) -> Systemctl:
        """The client for systemd."""
        return Systemctl(self.layout)

    @ObservedOnce
    def service(self) -> Mapping[str, str]:
        """Properties of the service."""
        return self.systemctl.show(contract.SERVICE, *PROPERTIES)

    @ObservedOnce
    def socket(self) -> Mapping[str, str]:
        """Properties of the socket."""
        return self.systemctl.show(contract.SOCKET, *PROPERTIES)

    @ObservedOnce
    def metrics_socket(self) -> Mapping[str, str]:
        """Properties of the socket of the metrics."""
        return self.systemctl.show(contract.METRICS_SOCKET, *PROPERTIES)

    def unit(self, name: str) -> UnitState:
        """The state of one of the units."""
        if name == contract.METRICS_SOCKET:
            return unit_state_of(name, self.metrics_socket)
        return unit_state_of(name, self.service if name == contract.SERVICE else self.socket)

    @property
    def is_active(self) -> bool:
        """Whether systemd considers the service active."""
        return is_booted() and self.service.get("ActiveState") in ("active", "reloading", "refreshing")

    @ObservedOnce
    def journal_gap(self) -> JournalGap | None:
        """Why the journal lacks messages of the service; None if it has them."""
        return find_gap(self.layout, self.systemctl, self.service)

    def require_journal(self) -> None:
        """Raise Unavailable if the journal lacks messages of the service: nothing can be concluded from it."""
        if self.journal_gap is not None:
            raise Unavailable(f"the journal has no messages of the service ({self.journal_gap.reason})")

    @ObservedOnce
    def events(self) -> tuple[Event, ...]:
        """The last hundred journal entries of systemd about the service since boot, oldest first.

        Raises:
            Unavailable: the journal lacks messages of the service, and these have nothing from its last start.
        """
        if self.is_root and not self.is_active:
            sync_journal(1)
        found = self.systemctl.events(contract.SERVICE, 100)
        if not found and not self.is_root:
            raise PermissionDenied("only root and the group systemd-journal can read the journal")
        last_start = self.service.get("InvocationID")
        if not found or (last_start and all(each.fields.get("INVOCATION_ID") != last_start for each in found)):
            self.require_journal()
        return found

    @property
    def known_events(self) -> tuple[Event, ...]:
        """As `events`, but none if the journal lacks them: for checks that also judge systemd's result."""
        try:
            return self.events
        except Unavailable:
            return ()

    @ObservedOnce
    def recent_events(self) -> tuple[LogEvent, ...]:
        """What the journal of the last hour has on the service, notices and worse, oldest first."""
        since = f"@{int(time.time()) - _RECENT}"
        return read_events(
            self.systemctl.entries(since=since, priority="notice", timeout=self.optional_timeout).entries
        )

    # --- the service itself ---

    @ObservedOnce
    def runtime(self) -> Mapping[str, Any]:
        """The status that the main process reports for itself and its workers; empty if it does not answer."""
        if not self.is_root:
            raise PermissionDenied("only root and the user litellm can query the main process")
        return ask_service(timeout=self.optional_timeout)
