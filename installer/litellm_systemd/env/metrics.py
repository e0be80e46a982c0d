"""METRICS: the address on which Prometheus scrapes the service. Pure.

A release without this module does not know the variable; see `commands.releases`.
"""

from __future__ import annotations

import ipaddress
import os.path
import re
from dataclasses import dataclass

from litellm_systemd.contract import METRICS_DIRECTORY, RUNTIME_DIRECTORY

#: Bytes of the path of a UNIX socket, without the NUL at its end (unix(7)).
_LONGEST_PATH = 107


@dataclass(frozen=True, slots=True)
class MetricsAddress:
    """An IP address and a TCP port, or the path of a UNIX socket; then the host is empty and the port 0."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def listen(self) -> str:
        """As systemd and messages write it: `127.0.0.1:9400`, `[::1]:9400`, `/run/metrics.sock`."""
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_open(self) -> bool:
        """Whether a scrape needs no key: only this machine can connect."""
        return bool(self.path) or ipaddress.ip_address(self.host).is_loopback

    def takes(self, host: str, port: int) -> bool:
        """Whether no other socket can listen on that IP address and port at the same time."""
        if self.path or self.port != port:
            return False
        both = ipaddress.ip_address(self.host), ipaddress.ip_address(host)
        # An unspecified IPv6 address takes IPv4 too (BindIPv6Only= in systemd.socket(5), ipv6(7)).
        return both[0] == both[1] or any(
            each.is_unspecified and (each.version == 6 or both[0].version == both[1].version) for each in both
        )


def parse_host(text: str) -> str:
    """An IP address to listen on, in its normal form. ValueError if it is none."""
    if bracketed := re.fullmatch(r"\[(.*:.*)\]", text):
        text = bracketed[1]
    address = ipaddress.ip_address({"localhost": "127.0.0.1", "*": "0.0.0.0"}.get(text, text))  # noqa: S104
    # systemd reads no zone, as in fe80::1%eth0: it would take %e for a specifier, and %%eth0 for no address.
    if "%" in str(address):
        raise ValueError(text)
    return str(address)


def parse_metrics(text: str) -> MetricsAddress:
    """HOST:PORT, [HOST]:PORT with IPv6, unix:/PATH or /PATH. ValueError if it is none of these."""
    path = text.removeprefix("unix:")
    if path.startswith("/"):
        return MetricsAddress(path=_parse_path(path))
    host, _, port = text.rpartition(":")
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65_535:
        raise ValueError(text)
    # Without brackets, the last number of an IPv6 address would be taken for a port.
    if ":" in host and not host.startswith("["):
        raise ValueError(text)
    return MetricsAddress(parse_host(host), int(port))


def _parse_path(path: str) -> str:
    # A line of the unit has this path; see `_parse_credential_path` in variables.py.
    if path.startswith("//") or path != os.path.normpath(path) or not path.isprintable() or path.endswith("\\"):
        raise ValueError(path)
    # The last two belong to the service alone: no scraper could enter them.
    inside = tuple(f"{folder}/" for folder in (RUNTIME_DIRECTORY, METRICS_DIRECTORY))
    if len(os.fsencode(path)) > _LONGEST_PATH or path == "/" or path.startswith(inside):
        raise ValueError(path)
    return path
