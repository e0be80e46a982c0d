"""What the checks look at. Each part is observed once, when the first check asks for it, and may be missing."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar, overload

from litellm_systemd import contract
from litellm_systemd.env.settings import Dotenv, Settings, build_settings
from litellm_systemd.errors import InputError, InstallerError, MissingError, PermissionDenied
from litellm_systemd.gateway.config import GatewayConfig, read_config
from litellm_systemd.host.files import observe_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import is_booted, read_installed, read_manifest
from litellm_systemd.host.state import FileState, Record, UnitState
from litellm_systemd.host.systemctl import Event, Systemctl, unit_state_of
from litellm_systemd.instances.runtime_calls import ask_service

T = TypeVar("T")

#: What systemd is asked about each unit (org.freedesktop.systemd1(5)); one that it doesn't know is left out.
PROPERTIES = (
    *("LoadState", "LoadError", "ActiveState", "SubState", "UnitFileState", "FragmentPath", "DropInPaths"),
    *("NeedDaemonReload", "Result", "NRestarts", "MainPID", "ExecMainCode", "ExecMainStatus", "Listen"),
    *("InactiveExitTimestamp", "InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic"),
    *("User", "DynamicUser", "NoNewPrivileges", "ProtectSystem", "CapabilityBoundingSet", "AmbientCapabilities"),
    *(
        "EnvironmentFiles",
        "Type",
        "NotifyAccess",
        "ExecStart",
        "Restart",
        "KillMode",
        "WatchdogUSec",
        "MemoryMax",
        "MemoryHigh",
    ),
)


class Observed(Generic[T]):
    """A property that is worked out once, whichever thread asks first; the others wait. An error is kept as well."""

    def __init__(self, find: Callable[[Any], T]) -> None:
        self.__doc__ = find.__doc__
        self._find = find
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        """Called by Python with the name that it has in its class."""
        self._name = name

    @overload
    def __get__(self, snapshot: None, owner: type) -> Observed[T]: ...
    @overload
    def __get__(self, snapshot: Snapshot, owner: type) -> T: ...
    def __get__(self, snapshot: Snapshot | None, owner: type) -> Observed[T] | T:
        """What was found; raises what was raised then."""
        if snapshot is None:
            return self
        found: T = snapshot.once(self._name, partial(self._find, snapshot))
        return found


@dataclass(frozen=True, slots=True)
class _Observation:
    """What an observation gave."""

    value: Any = None
    error: Exception | None = None


class Snapshot:
    """One host at one moment. What can't be seen raises InstallerError or OSError, whose text says why."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.is_root = os.geteuid() == 0
        #: Seconds for what a check can do without: less than all that it has (`engine.EACH`).
        self.patience = 2.5
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._seen: dict[str, _Observation] = {}

    def once(self, name: str, find: Callable[[], Any]) -> Any:
        """What `find` gives, or gave when it was called by that name."""
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if name not in self._seen:
                try:
                    self._seen[name] = _Observation(find())
                except (InstallerError, OSError) as error:
                    self._seen[name] = _Observation(error=error)
            seen = self._seen[name]
        if seen.error is not None:
            raise seen.error
        return seen.value

    def within(self, ask: Callable[[], T]) -> T | None:
        """What `ask` gives, or raises; None if it takes longer than is worth waiting for: it is left behind then."""
        answer: Future[T] = Future()

        def wait() -> None:
            try:
                answer.set_result(ask())
            except Exception as error:  # whoever waits gets it
                answer.set_exception(error)

        threading.Thread(target=wait, daemon=True).start()
        try:
            return answer.result(self.patience)
        except FutureTimeout:
            return None

    # --- files ---

    def file(self, path: str) -> FileState | None:
        """What stands at a path; None if nothing does. PermissionDenied where this user may not look."""
        try:
            self.layout.real(path).lstat()
        except PermissionError:
            raise PermissionDenied(f"only root may look at {path}") from None
        except (FileNotFoundError, NotADirectoryError):
            return None
        return observe_file(self.layout, path)

    @Observed
    def manifest(self) -> Mapping[str, Record]:
        """What earlier runs wrote, by path."""
        if not self.is_root:
            raise PermissionDenied("only root may read what was installed")
        return read_manifest(self.layout)

    @Observed
    def records(self) -> Mapping[str, Record]:
        """As `manifest`, but empty where that is damaged, or not for this user to see."""
        try:
            return self.manifest
        except (InputError, PermissionDenied):
            return {}

    @Observed
    def environment(self) -> Mapping[str, str]:
        """The variables of the installed environment file, as systemd reads them."""
        found = read_installed(self.layout)
        if not found and self.file(self.layout.environment_file) is None:
            raise MissingError(f"{self.layout.environment_file} is gone")
        return found

    @Observed
    def settings(self) -> Settings:
        """The installed environment, validated."""
        return build_settings(Dotenv(self.layout.environment_file, self.environment), installed={}, new_key=str)

    @Observed
    def gateway(self) -> GatewayConfig:
        """The active configuration."""
        return read_config(self.layout.real(self.layout.config_link))

    # --- systemd ---

    @property
    def systemctl(self) -> Systemctl:
        """How to ask systemd."""
        return Systemctl(self.layout)

    @Observed
    def service(self) -> Mapping[str, str]:
        """Properties of the service."""
        return self.systemctl.show(contract.SERVICE, *PROPERTIES)

    @Observed
    def socket(self) -> Mapping[str, str]:
        """Properties of the socket."""
        return self.systemctl.show(contract.SOCKET, *PROPERTIES)

    def unit(self, name: str) -> UnitState:
        """The state of one of the two units."""
        return unit_state_of(name, self.service if name == contract.SERVICE else self.socket)

    @property
    def is_active(self) -> bool:
        """Whether the service serves, as far as systemd knows."""
        return is_booted() and self.service.get("ActiveState") in ("active", "reloading", "refreshing")

    @Observed
    def events(self) -> tuple[Event, ...]:
        """What systemd itself has said of the service since boot, the oldest first; the last hundred lines."""
        found = self.systemctl.events(contract.SERVICE, 100)
        if not found and not self.is_root:
            raise PermissionDenied("only root and the group systemd-journal may read the journal")
        return found

    @Observed
    def last_error(self) -> str:
        """The last line that the units' own processes logged at error level since the last start; may be empty."""
        return self.systemctl.last_error(self.service.get("InactiveExitTimestamp", ""))

    # --- the service itself ---

    @Observed
    def runtime(self) -> Mapping[str, Any]:
        """What the main process says of itself and its workers; empty if it doesn't answer."""
        if not self.is_root:
            raise PermissionDenied("only root and the service's user may ask the main process")
        return ask_service(timeout=2.5)
