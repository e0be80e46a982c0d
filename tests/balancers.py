"""Debian's HAProxy and nginx, which scripts/test.sh unpacks."""

from __future__ import annotations

from tests.unpacked import require_unpacked, unpacked_environment

_FOLDER = "balancers"


def find_balancer(name: str) -> str:
    """The path of `haproxy` or `nginx`. Skips the test without it; fails it under REQUIRE_SYSTEM_TESTS=1."""
    return require_unpacked(_FOLDER, name)


def balancer_environment() -> dict[str, str]:
    """The environment in which an unpacked program finds the libraries that came with it."""
    return unpacked_environment(_FOLDER)
