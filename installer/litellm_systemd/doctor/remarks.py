"""What isn't wrong and still worth a word."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

from litellm_systemd import contract
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import InstallerError
from litellm_systemd.host.install_lock import find_holder
from litellm_systemd.host.observe import is_booted
from litellm_systemd.host.state import FileKind


def find_remarks(snapshot: Snapshot, seconds: float = 1.0) -> tuple[str, ...]:
    """A sentence each; what can't be seen, or isn't there within `seconds`, is left out."""
    found: list[str] = []

    def look() -> None:
        for remark in _REMARKS:
            with contextlib.suppress(InstallerError, OSError):
                found.extend(remark(snapshot))

    # A check that hangs may hold what a remark asks for; it is left behind as the check is.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(seconds)
    return tuple(found)


def _busy(snapshot: Snapshot) -> Iterator[str]:
    holder = find_holder(snapshot.layout)
    if holder is not None:
        yield f"{holder}: what is found may be of this moment only."


def _edited(snapshot: Snapshot) -> Iterator[str]:
    edited = [
        path
        for path, record in sorted(snapshot.manifest.items())
        if (found := snapshot.file(path)) is not None
        and (found.kind, record.kind) == (FileKind.FILE, FileKind.FILE)
        and found.digest != record.digest
    ]
    if edited:
        yield f"Edited by hand, which is fine: {', '.join(edited)} ('litellmctl diff' shows how)."


def _stopped(snapshot: Snapshot) -> Iterator[str]:
    if not is_booted():
        return
    unit = snapshot.unit(contract.SERVICE)
    if unit.load == "loaded" and unit.active == "inactive" and snapshot.service.get("Result") == "success":
        at_boot = "it starts at the next boot" if unit.is_enabled else "it is disabled as well"
        yield f"{contract.SERVICE} is stopped, without a failure; {at_boot}. To start it: sudo litellmctl start"


_REMARKS: tuple[Callable[[Snapshot], Iterator[str]], ...] = (_busy, _edited, _stopped)
