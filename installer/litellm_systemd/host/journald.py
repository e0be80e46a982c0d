"""Whether the journal records what the service logs: journald itself, its settings, and those of the unit.

Sources: journald.conf(5), systemd.exec(5) "Logging and Standard Input/Output".
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.errors import PermissionDenied, Unavailable
from litellm_systemd.host.effective import UnitLine, read_manager_files, read_unit_lines
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import is_booted
from litellm_systemd.host.systemctl import Systemctl

JOURNALD = "systemd-journald.service"
#: The properties of the service that decide where its messages go.
PROPERTIES = (
    *("StandardOutput", "StandardError", "LogLevelMax", "FragmentPath", "DropInPaths"),
    "InactiveExitTimestampMonotonic",
)
#: Outputs of a unit that reach the journal. `inherit` is that of the standard output or of the manager.
_JOURNAL_OUTPUTS = ("", "journal", "journal+console", "kmsg", "kmsg+console", "syslog", "syslog+console", "inherit")
#: Limits that keep errors (3) out of the journal.
_BELOW_ERROR = frozenset(("emerg", "alert", "crit", "0", "1", "2"))
#: Seconds after which journald has stored an entry. In a loop of restarts, on a busy host, it stores them late.
_DELAY = 10.0
_RELOAD_JOURNALD = "sudo systemctl restart systemd-journald"
_RELOAD_UNIT = "sudo systemctl daemon-reload && sudo litellmctl restart"


@dataclass(frozen=True, slots=True)
class JournalGap:
    """Why the journal does not have all that the service logs, and the command that fixes it."""

    reason: str
    remedy: str


def observe_gap(layout: Layout) -> JournalGap | None:
    """As `find_gap`, for a verb that knows nothing of the service yet; None if systemd does not run here."""
    if not (layout.is_host and is_booted()):
        return None
    systemctl = Systemctl(layout)
    return find_gap(layout, systemctl, systemctl.show(contract.SERVICE, *PROPERTIES))


def require_journal() -> None:
    """Check that this user can read the journal of the system (systemd-journald.service(8)).

    Raises:
        PermissionDenied: this user can't read it.
        Unavailable: there is no journal.
    """
    folders = [folder for path in ("/run/log/journal", "/var/log/journal") for folder in Path(path).glob("*")]
    if not folders:
        gap = next(_settings(Layout()), None)
        raise Unavailable(
            "this system has no journal: /run/log/journal and /var/log/journal are empty"
            + (f" ({gap.reason})" if gap else ""),
            f"Run: {gap.remedy}" if gap else "If systemd runs here: systemctl status systemd-journald",
        )
    if os.geteuid() != 0 and not any(os.access(folder / "system.journal", os.R_OK) for folder in folders):
        raise PermissionDenied(
            "only root and the group systemd-journal can read the journal", "Run the command with sudo."
        )


def find_gap(layout: Layout, systemctl: Systemctl, service: Mapping[str, str]) -> JournalGap | None:
    """The first reason why messages of the service are missing; None if there is none.

    `service`: `PROPERTIES` of the service.
    """
    found = systemctl.show(JOURNALD, "LoadState", "ActiveState", "UnitFileState")
    if found.get("ActiveState") not in ("active", "activating", "reloading", "refreshing"):
        is_masked = "masked" in (found.get("LoadState"), found.get("UnitFileState"))
        masked = "masked and " if is_masked else ""
        units = ("systemd-journald.socket", "systemd-journald-dev-log.socket", JOURNALD)
        remedy = f"{systemctl.unmask_command(*units)}sudo systemctl start {' '.join(units)}"
        return JournalGap(f"{JOURNALD} is {masked}{found.get('ActiveState')}", remedy)
    return next(chain(_settings(layout), _unit(layout, service)), None) or _silence(systemctl, service)


def _settings(layout: Layout) -> Iterator[JournalGap]:
    """The settings of journald that keep errors out."""
    found: dict[str, UnitLine] = {}
    for each in read_manager_files(layout, "journald.conf"):
        if each.section == "[Journal]":
            found[each.name] = each
    for name, refused in (("Storage", {"none"}), ("MaxLevelStore", _BELOW_ERROR)):
        line = found.get(name)
        if line is not None and line.value.lower() in refused:
            yield JournalGap(f"{line.where}: {name}={line.value}", f"sudoedit {line.path} && {_RELOAD_JOURNALD}")


def _unit(layout: Layout, service: Mapping[str, str]) -> Iterator[JournalGap]:
    """The settings of the service that send its messages elsewhere."""
    lines = {each.name: each for each in read_unit_lines(layout, service)}
    outputs = (service.get("StandardOutput", ""), service.get("StandardError", ""))
    wrong = {
        "StandardOutput": outputs[0] not in _JOURNAL_OUTPUTS,
        "StandardError": outputs[1] not in _JOURNAL_OUTPUTS,
        "LogLevelMax": service.get("LogLevelMax", "") in _BELOW_ERROR,
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            line = lines.get(name)
            where, path = (line.where, line.path) if line else ("the unit", "/etc/systemd/system.conf")
            yield JournalGap(f"{where}: {name}={service[name]}", f"sudoedit {path} && {_RELOAD_UNIT}")


def _silence(systemctl: Systemctl, service: Mapping[str, str]) -> JournalGap | None:
    """Whether the journal has nothing from after the last start. Other users than root may not see its entries."""
    started = int(service.get("InactiveExitTimestampMonotonic") or "0")
    newest = systemctl.newest_entry() if started and os.geteuid() == 0 else None
    return None if newest is None else judge_silence(started, newest)


def judge_silence(started: int, newest: int) -> JournalGap | None:
    """The gap between the newest entry and a later start, both in microseconds; None if it is too short to count."""
    seconds = (started - newest) / 1e6
    if seconds < _DELAY:
        return None
    age = f"{seconds:.0f} s older than the last start of the service"
    return JournalGap(f"the newest entry of the journal is {age}", _RELOAD_JOURNALD)
