"""Debian's HAProxy and nginx, which scripts/test.sh unpacks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from tests.unpacked import require_unpacked, unpacked_environment

_FOLDER = "balancers"
_PAGE = Path(__file__).resolve().parents[1] / "docs/load-balancer.md"


def find_balancer(name: str) -> str:
    """The path of `haproxy` or `nginx`. Skips the test without it; fails it under REQUIRE_SYSTEM_TESTS=1."""
    return require_unpacked(_FOLDER, name)


def balancer_environment() -> dict[str, str]:
    """The environment in which an unpacked program finds the libraries that came with it."""
    return unpacked_environment(_FOLDER)


def documented(kind: str) -> str:
    """The only fenced block of a kind, such as `haproxy`, in docs/load-balancer.md."""
    (found,) = re.findall(rf"^```{kind}\n(.*?)^```$", _PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return str(found)


def substitute(text: str, replaced: Mapping[str, str]) -> str:
    """Replace parts of a configuration, each of which it must have."""
    for before, after in replaced.items():
        assert before in text
        text = text.replace(before, after)
    return text
