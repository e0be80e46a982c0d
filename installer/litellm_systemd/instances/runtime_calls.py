"""The runtime's own small commands, run as programs: the two sides share no code (docs/adr/0002)."""

from __future__ import annotations

import json
import sys
from typing import Any

from litellm_systemd.command import run
from litellm_systemd.errors import CommandError, InstallerError

_RUNTIME = (sys.executable, "-I", "-m", "litellm_systemd.runtime")


def ask_service(timeout: float = 20) -> dict[str, Any]:
    """What the main process says of itself; empty if it doesn't speak to this user within `timeout` seconds."""
    try:
        answer = run((*_RUNTIME, "status"), timeout=timeout)
    except InstallerError:
        return {}
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def port_trouble(listen: str) -> str:
    """Who holds HOST:PORT and what to do about it, in a line; empty if it is free, or if that can't be told."""
    try:
        run((*_RUNTIME, "port", listen), timeout=20)
    except CommandError as error:
        return error.stderr.strip().splitlines()[-1]
    return ""
