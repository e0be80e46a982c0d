"""The running service: whether it answers, and with what it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from litellm_systemd.client.errors import GatewayError
from litellm_systemd.client.gateway import Gateway
from litellm_systemd.client.ready import READINESS
from litellm_systemd.doctor.cause import Cause, Finding, looks_for
from litellm_systemd.doctor.check_exit import GROUND
from litellm_systemd.doctor.check_port import listen_addresses
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.settings import Settings
from litellm_systemd.errors import PermissionDenied
from litellm_systemd.releases.inventory import current_release, releases_of
from litellm_systemd.report.report import Outcome

_NEEDS = ("host-systemd-absent", "host-systemd-silent", "files-not-installed", "unit-masked")

SILENT = Cause(
    "service-silent",
    "The main process doesn't answer: it hangs, or was stopped by a signal. Its workers may serve on; the watchdog"
    " ends it after WATCHDOG_TIMEOUT seconds.",
    "sudo systemctl restart litellm",
    needs=_NEEDS,
)


@looks_for(SILENT)
def silent(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the main process answers on its control socket."""
    if snapshot.is_active and not snapshot.runtime:
        process = f"main process {snapshot.service['MainPID']} is {_state(snapshot)}"
        seen = f"/run/litellm/control.sock gives no answer, {process}"
        yield SILENT.found(seen)


def _state(snapshot: Snapshot) -> str:
    """What the kernel says of the main process: `T (stopped)`."""
    try:
        text = Path(f"/proc/{snapshot.service['MainPID']}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "gone"
    found = re.search(r"^State:\s+(.*)$", text, re.MULTILINE)
    return found[1] if found else "there"


NOT_READY = Cause(
    "service-not-ready",
    "systemd calls the service active, and it doesn't answer that it is ready.",
    "journalctl -u litellm -n 50    # then: sudo litellmctl restart",
    needs=_NEEDS,
    follows=(*GROUND, "service-silent", "port-socket-failed", "port-closed"),
)


@looks_for(NOT_READY)
def not_ready(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the service answers on its port that it is ready. That costs nothing and takes no key."""
    addresses = listen_addresses(snapshot.socket.get("Listen", ""))
    if not snapshot.is_active or not addresses:
        return
    host, _, port = addresses[0].rpartition(":")
    gateway = Gateway(Settings({}, host=host.strip("[]") or "::", port=int(port)).base_url, timeout=2.0)
    try:
        answer = gateway.get(READINESS)
    except GatewayError as error:
        yield NOT_READY.found(error.message)
        return
    if not answer.ok:
        yield NOT_READY.found(f"{gateway.base_url}{READINESS}: HTTP {answer.status}, {gateway.explain(answer)}")


WORKERS = Cause(
    "service-workers",
    "A worker doesn't serve: it can't start, or has answered nothing for a while. The others take its load.",
    "journalctl -u litellm -p warning -n 50    # why; then: sudo litellmctl restart",
    outcome=Outcome.WARNING,
    needs=(*_NEEDS, "service-silent"),
    follows=GROUND,
)
#: Seconds for a worker to begin, and between its signs of life.
_BEGINNING, _QUIET = 60, 30


@looks_for(WORKERS)
def workers(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether each worker of the live generation serves."""
    if not snapshot.is_active:
        return
    said = str(snapshot.runtime.get("status", ""))
    if re.search(r"\d+ of \d+ workers|cannot start a worker|a worker can't start", said):
        yield WORKERS.found(said)
    for worker in snapshot.runtime.get("workers", ()):
        late = worker["state"] == "starting" and worker["age"] > _BEGINNING
        if late or (worker["state"] == "serving" and worker["answered"] > _QUIET):
            quiet = f"{worker['answered']:.0f} s without a sign of life"
            yield WORKERS.found(f"worker {worker['worker']} (pid {worker['pid']}) is {worker['state']}, {quiet}")


RELOAD = Cause(
    "service-reload-failed",
    "The last reload failed, and the service runs on with the configuration before it.",
    "sudo systemctl reload litellm    # when the cause is mended",
    outcome=Outcome.WARNING,
    needs=(*_NEEDS, "service-silent"),
    follows=("configuration-unusable", "files-config-gone", "files-gone", "files-unreadable"),
)


@looks_for(RELOAD)
def reload_failed(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the last reload came to its end."""
    last = snapshot.runtime.get("last_reload") if snapshot.is_active else None
    if last and not last["ok"]:
        yield RELOAD.found(str(last["error"]))


OLD_RELEASE = Cause(
    "service-old-release",
    "The service still runs from another release than the one that is in use by now.",
    "sudo litellmctl restart",
    outcome=Outcome.WARNING,
    needs=(*_NEEDS, "files-release-gone"),
)


@looks_for(OLD_RELEASE)
def old_release(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the main process runs from the release that `current` leads to."""
    if not snapshot.is_active:
        return
    if not snapshot.is_root:
        raise PermissionDenied("only root may see what a process runs from")
    current = current_release(snapshot.layout)
    used = releases_of(snapshot.layout, Path(f"/proc/{snapshot.service['MainPID']}"))
    if used and current not in used:
        yield OLD_RELEASE.found(
            f"it runs from {', '.join(sorted(used))}, {snapshot.layout.current} leads to {current}"
        )
