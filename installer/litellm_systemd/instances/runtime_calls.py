"""Run the small commands of the runtime as programs: commands do not import it (docs/adr/0002)."""

from __future__ import annotations

import json
from typing import Any

from litellm_systemd.command import run, runtime_argv
from litellm_systemd.errors import CommandError, InstallerError


def ask_service(timeout: float = 20) -> dict[str, Any]:
    """The status that the main process reports; empty if it does not answer this user within `timeout` seconds."""
    try:
        answer = run(runtime_argv("status"), timeout=timeout)
    except InstallerError:
        return {}
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def port_trouble(listen: str) -> str:
    """The process that listens on HOST:PORT and the remedy, in one line; empty if the port is free or unknown."""
    try:
        run(runtime_argv("port", listen), timeout=20)
    except CommandError as error:
        return error.stderr.strip().splitlines()[-1]
    return ""
