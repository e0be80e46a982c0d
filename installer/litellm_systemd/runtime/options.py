"""What the environment tells the runtime, as a value."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.env.mock_testing import allows_mock_testing
from litellm_systemd.errors import InputError

_ON = frozenset({"true", "1", "yes"})
_OFF = frozenset({"false", "0", "no", ""})


@dataclass(frozen=True, slots=True)
class Options:
    """Where to serve, with how many workers and which limits. Times are seconds, memory is MiB; 0 is no limit."""

    config: Path
    host: str = contract.DEFAULT_HOST
    port: int = contract.DEFAULT_PORT
    workers: int = 1
    keepalive_timeout: int = contract.DEFAULT_KEEPALIVE_TIMEOUT
    start_timeout: float = contract.DEFAULT_START_TIMEOUT
    drain_timeout: float = contract.DEFAULT_DRAIN_TIMEOUT
    lame_duck_timeout: float = contract.DEFAULT_LAME_DUCK_TIMEOUT
    watchdog_timeout: float = contract.DEFAULT_WATCHDOG_TIMEOUT
    max_requests: int = 0
    #: A worker may answer up to so many requests more than `max_requests`, so that not all are due at once.
    jitter: int = 0
    memory_limit: int = 0
    json_logs: bool = False
    access_log: bool = False
    runtime_directory: Path | None = None
    #: A throwaway instance listens here, with one worker, and on no port.
    trial_socket: Path | None = None
    #: Clients may make models fail, for tests.
    mock_testing: bool = False

    @property
    def hang_limit(self) -> float:
        """A worker that answers nothing for this long is hung.

        Half of the service's own watchdog: the master has replaced the worker, and it alone, before systemd would
        restart everything.
        """
        return self.watchdog_timeout / 2

    @property
    def beat_interval(self) -> float:
        """Time between two probes of a worker by itself. A few may get lost before `hang_limit`."""
        return min(1.0, self.hang_limit / 4)


def read_options(config: Path, environ: Mapping[str, str]) -> Options:
    """`Options` from the service's environment; an empty variable counts as unset. InputError names the variable."""
    max_requests = _limit(environ, contract.MAX_REQUESTS)
    trial = environ.get(contract.TRIAL_SOCKET)
    directories = environ.get("RUNTIME_DIRECTORY", "")  # colon-separated if there are several (systemd.exec(5))
    return Options(
        config=config.absolute(),
        host=environ.get(contract.HOST) or contract.DEFAULT_HOST,
        port=_whole(environ, contract.PORT, contract.DEFAULT_PORT, 0, 65535),
        workers=1 if trial else _whole(environ, contract.NUM_WORKERS, len(os.sched_getaffinity(0)), 1, 1024),
        keepalive_timeout=_whole(environ, contract.KEEPALIVE_TIMEOUT, contract.DEFAULT_KEEPALIVE_TIMEOUT, 1, 86400),
        start_timeout=_seconds(environ, contract.START_TIMEOUT, contract.DEFAULT_START_TIMEOUT, 1),
        drain_timeout=_seconds(environ, contract.DRAIN_TIMEOUT, contract.DEFAULT_DRAIN_TIMEOUT, 0),
        lame_duck_timeout=_seconds(environ, contract.LAME_DUCK_TIMEOUT, contract.DEFAULT_LAME_DUCK_TIMEOUT, 0),
        watchdog_timeout=_seconds(environ, contract.WATCHDOG_TIMEOUT, contract.DEFAULT_WATCHDOG_TIMEOUT, 2),
        max_requests=max_requests,
        jitter=_limit(environ, contract.MAX_REQUESTS_JITTER, max_requests // 10),
        memory_limit=_limit(environ, contract.WORKER_MEMORY_LIMIT),
        json_logs=_switch(environ, contract.JSON_LOGS),
        access_log=_switch(environ, contract.ACCESS_LOG),
        runtime_directory=Path(directories.split(":")[0]) if directories else None,
        trial_socket=Path(trial) if trial else None,
        mock_testing=allows_mock_testing(environ),
    )


def is_on(environ: Mapping[str, str], name: str) -> bool:
    """Whether a switch is set to a word for yes; for whoever can't wait until `read_options` has judged the rest."""
    return environ.get(name, "").strip().lower() in _ON


def _switch(environ: Mapping[str, str], name: str) -> bool:
    text = environ.get(name, "").strip()
    if text.lower() not in _ON | _OFF:
        raise InputError(f"{name} is {text!r}", "Give true or false.")
    return is_on(environ, name)


def _whole(environ: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise InputError(f"{name} is {text!r}", f"Give a whole number from {least} to {most}.")
    return int(text)


def _limit(environ: Mapping[str, str], name: str, default: int = 0) -> int:
    return _whole(environ, name, default, *contract.RECYCLING_RANGES[name])


def _seconds(environ: Mapping[str, str], name: str, default: float, least: float) -> float:
    text = environ.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < least:
        raise InputError(f"{name} is {text!r}", f"Give seconds, {least:g} or more.")
    return value
