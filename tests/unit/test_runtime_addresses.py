"""The addresses of clients behind proxies, and what counts as one client."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from litellm_systemd.runtime.http.addresses import client_network
from litellm_systemd.runtime.worker.draining_server import build_config

PROXIES = ("10.0.2.0/24", "2001:db8:1::/64")


def read_client(peer: str, *forwarded: str) -> str:
    """The address that the application gets for a request of `peer` with these X-Forwarded-For headers."""
    seen: list[str] = []

    async def application(scope: Any, _receive: Any, _send: Any) -> None:
        seen.append(scope["client"][0])

    config = build_config(application, 75, PROXIES)
    config.load()
    headers = [(b"x-forwarded-for", value.encode()) for value in forwarded]
    scope = {"type": "http", "client": (peer, 1), "headers": headers}
    asyncio.run(config.loaded_app(scope, None, None))
    return seen[0]


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", (), "203.0.113.9"),
        ("127.0.0.1", ("192.0.2.7",), "192.0.2.7"),
        ("::1", ("192.0.2.7",), "192.0.2.7"),
        ("::ffff:127.0.0.1", ("192.0.2.7",), "192.0.2.7"),
        ("10.0.2.9", ("192.0.2.7",), "192.0.2.7"),
        ("::ffff:10.0.2.9", ("192.0.2.7",), "192.0.2.7"),
        ("2001:db8:1::5", ("2001:db8:9::7",), "2001:db8:9::7"),
        # The first address is what the client itself has sent.
        ("10.0.2.9", ("198.51.100.1, 192.0.2.7",), "192.0.2.7"),
        ("10.0.2.9", ("198.51.100.1", "192.0.2.7, 10.0.2.8"), "192.0.2.7"),
        ("10.0.3.9", ("192.0.2.7",), "10.0.3.9"),
        ("::ffff:10.0.3.9", ("192.0.2.7",), "::ffff:10.0.3.9"),
        ("203.0.113.9", ("127.0.0.1",), "203.0.113.9"),
    ],
)
def test_client_behind_proxies(peer: str, forwarded: tuple[str, ...], client: str) -> None:
    """Only TRUSTED_PROXIES and proxies on this host set the address of a client, and no client can choose its own."""
    assert read_client(peer, *forwarded) == client


def test_uvicorn_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """FORWARDED_ALLOW_IPS does not let clients choose their address."""
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    assert read_client("203.0.113.9", "192.0.2.7") == "203.0.113.9"


@pytest.mark.parametrize(
    ("address", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:9:1::7", "2001:db8:9:1::/64"),
        ("2001:db8:9:1:ffff::1", "2001:db8:9:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("unknown" * 100, ("unknown" * 100)[:64]),
    ],
)
def test_client_network(address: str, client: str) -> None:
    """An IPv6 client counts by its /64, an IPv4 client by its address in either form."""
    assert client_network(address) == client
