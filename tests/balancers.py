"""Debian's HAProxy and nginx, which scripts/test.sh unpacks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.skipping import refuse

_UNPACKED = Path(__file__).resolve().parents[1] / ".cache/balancers"


def find_balancer(name: str) -> str:
    """The path of `haproxy` or `nginx`. Skips the test without it; fails it under REQUIRE_SYSTEM_TESTS=1."""
    found = shutil.which(name, path=f"{_UNPACKED}/usr/sbin:{os.environ['PATH']}:/usr/sbin")
    if found is None:
        refuse(f"there is no {name}. ./scripts/test.sh unpacks it")
    return found


def balancer_environment() -> dict[str, str]:
    """The environment in which an unpacked program finds the libraries that came with it."""
    libraries = sorted(map(str, (_UNPACKED / "usr/lib").glob("*-linux-gnu*")))
    return {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": ":".join(libraries)}
