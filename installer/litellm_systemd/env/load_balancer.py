"""The times of an instance behind a load balancer: which fit together, and which lose requests. Pure.

docs/load-balancer.md has the same table, with the defaults of each load balancer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

from litellm_systemd.env.variables import (
    BEHIND_LOAD_BALANCER,
    DEREGISTRATION_DELAY,
    DRAIN_TIMEOUT,
    HOST,
    KEEPALIVE_TIMEOUT,
    LIFECYCLE_HEARTBEAT_TIMEOUT,
    LOAD_BALANCER_IDLE_TIMEOUT,
    TRUSTED_PROXIES,
    Variable,
    find_deregistration_delay,
    is_loopback,
)
from litellm_systemd.errors import InputError

#: Seconds of a stop after DEREGISTRATION_DELAY and DRAIN_TIMEOUT: for idle connections, cut requests, ExecStopPost=.
STOP_MARGIN = 30
#: Seconds by which KEEPALIVE_TIMEOUT should exceed the time of the load balancer: they start at different moments.
KEEPALIVE_MARGIN = 15

Where = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Times:
    """The times that must fit together, in seconds.

    `delay` is 0 without a load balancer, `heartbeat` None without a lifecycle hook. `idle` is how long the load
    balancer waits for a byte, between two requests as well as in a response.
    """

    idle: float
    keepalive: float
    delay: float
    drain: float
    heartbeat: float | None

    @property
    def is_behind(self) -> bool:
        return self.delay > 0

    @property
    def stop(self) -> float:
        """How long a stop takes at most."""
        return ceil(self.delay + self.drain) + STOP_MARGIN


def read_times(values: Mapping[str, str], where: Where | None = None) -> Times:
    """The times in the variables of the service. Raises InputError for a value that is not a time."""
    return Times(
        idle=LOAD_BALANCER_IDLE_TIMEOUT.read(values, where),
        keepalive=KEEPALIVE_TIMEOUT.read(values, where),
        delay=find_deregistration_delay(values),
        drain=DRAIN_TIMEOUT.read(values, where),
        heartbeat=LIFECYCLE_HEARTBEAT_TIMEOUT.read(values, where),
    )


def check_load_balancer(values: Mapping[str, str], where: Where) -> list[str]:
    """Warnings about variables that probably do not do what the user wants.

    Raises:
        InputError: requests would surely be lost, or a value is not a time.
    """
    times = read_times(values, where)
    if times.is_behind and times.keepalive <= times.idle:
        position = _position(values, where, KEEPALIVE_TIMEOUT, LOAD_BALANCER_IDLE_TIMEOUT)
        show = partial(_show, values, where, position)
        raise InputError(
            f"{position}{show(KEEPALIVE_TIMEOUT, times.keepalive)} is not longer than"
            f" {show(LOAD_BALANCER_IDLE_TIMEOUT, times.idle)}: the load balancer would send requests on connections"
            " that the gateway closes",
            f"Set KEEPALIVE_TIMEOUT={ceil(times.idle) + KEEPALIVE_MARGIN}, or LOAD_BALANCER_IDLE_TIMEOUT to the value"
            " of the load balancer.",
        )
    if times.heartbeat is not None and times.stop > times.heartbeat:
        position = _position(values, where, LIFECYCLE_HEARTBEAT_TIMEOUT)
        show = partial(_show, values, where, position)
        parts = [show(DEREGISTRATION_DELAY, times.delay)] if times.is_behind else []
        parts += [show(DRAIN_TIMEOUT, times.drain), f"{STOP_MARGIN} s to exit"]
        shorter = "DEREGISTRATION_DELAY or DRAIN_TIMEOUT" if times.is_behind else "DRAIN_TIMEOUT"
        raise InputError(
            f"{position}{show(LIFECYCLE_HEARTBEAT_TIMEOUT, times.heartbeat)} is shorter than a stop, which takes up"
            f" to {times.stop:.9g} s ({', '.join(parts)}): EC2 would terminate the instance with requests in flight",
            f"Set LIFECYCLE_HEARTBEAT_TIMEOUT={times.stop:.9g} here and in the lifecycle hook, or a shorter"
            f" {shorter}.",
        )
    return list(_warnings_behind(values, where) if times.is_behind else _warnings_alone(values, where))


def _warnings_alone(values: Mapping[str, str], where: Where) -> Iterator[str]:
    is_off = _is_set(values, BEHIND_LOAD_BALANCER)
    switch = f"BEHIND_LOAD_BALANCER={values[BEHIND_LOAD_BALANCER.name]}" if is_off else "BEHIND_LOAD_BALANCER"
    for each in (DEREGISTRATION_DELAY, LOAD_BALANCER_IDLE_TIMEOUT):
        if _is_set(values, each):
            reason = f"with {switch}" if is_off else f"without {switch}"
            yield (
                f"{where(each.name)}: {each.name}={values[each.name]} has no effect {reason}. Set"
                f" BEHIND_LOAD_BALANCER=true, or remove {each.name}."
            )


def _warnings_behind(values: Mapping[str, str], where: Where) -> Iterator[str]:
    host = HOST.read(values)
    if is_loopback(host):
        yield (
            f"{_position(values, where, HOST, BEHIND_LOAD_BALANCER, DEREGISTRATION_DELAY)}HOST={host}"
            " lets only a load balancer on this host connect. For one on another host set HOST=0.0.0.0."
        )
    elif not TRUSTED_PROXIES.read(values):
        yield (
            f"{_position(values, where, BEHIND_LOAD_BALANCER, DEREGISTRATION_DELAY)}TRUSTED_PROXIES is not set: all"
            " clients behind a load balancer for HTTP have its address, and share MAX_CONNECTIONS_PER_ADDRESS and the"
            " delays of a client that guesses keys. Set TRUSTED_PROXIES to the networks of the load balancer. A"
            " Network Load Balancer that preserves client addresses needs none."
        )


def _is_set(values: Mapping[str, str], variable: Variable[Any]) -> bool:
    return not variable.is_unset(values.get(variable.name, ""))


def _show(values: Mapping[str, str], where: Where, shown: str, variable: Variable[Any], value: float) -> str:
    """The variable with its value, and its position unless that is `shown` already."""
    assignment = f"{variable.name}={value:.9g}"
    if not _is_set(values, variable):
        return f"{assignment} (default)"
    position = where(variable.name)
    return assignment if shown == f"{position}: " else f"{assignment} ({position})"


def _position(values: Mapping[str, str], where: Where, *variables: Variable[Any]) -> str:
    """The position of the first of these variables that is set, for the start of a message."""
    name = next((each.name for each in variables if _is_set(values, each)), None)
    return "" if name is None else f"{where(name)}: "
