"""The addresses of clients: whose X-Forwarded-For is believed, and what counts as one client."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

#: A proxy on the same host.
_LOOPBACK = ("127.0.0.0/8", "::1/128")
#: Characters of an address that is none: a trusted proxy may pass on any text of its client.
_MAX_LENGTH = 64


def trusted_networks(proxies: Iterable[str]) -> list[str]:
    """The peers that uvicorn's ProxyHeadersMiddleware trusts: loopback and `proxies`, which are networks.

    A socket that listens on `::` shows an IPv4 peer as an IPv6 address (RFC 4291, 2.5.5.2), so each IPv4 network is
    listed in that form too.
    """
    networks = [ipaddress.ip_network(each) for each in (*_LOOPBACK, *proxies)]
    mapped = [f"::ffff:{each.network_address}/{96 + each.prefixlen}" for each in networks if each.version == 4]
    return [*map(str, networks), *mapped]


def client_network(address: str) -> str:
    """What counts as one client: an IPv4 address, or the /64 of an IPv6 address, all of which one host may use."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:_MAX_LENGTH]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))
