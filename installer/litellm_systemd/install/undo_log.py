"""The undo log of a change: each step is on the disk before it is taken (docs/adr/0006).

The file has one JSON object on each line. The first line has the state of the host before the change, each further
line a step that is about to be taken, the last line the new manifest. If the file exists while no process holds the
install lock, the change was interrupted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from litellm_systemd.errors import InputError
from litellm_systemd.host.files import append_line, make_folder, remove_path
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import Action, FileState, HostState, UnitState, Verb

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An interrupted change: the verb of litellmctl, its start (Unix time), and the steps taken, in order.

    `host` is the state before, as far as the undo needs it: existing paths without content, units, and whether the
    user existed. `manifest` is the new manifest if all steps were taken, else None. `purge` is the option of an
    uninstall.
    """

    verb: str
    began: float
    host: HostState
    taken: tuple[Action, ...] = ()
    manifest: str | None = None
    purge: bool = False

    @property
    def command(self) -> str:
        """The command that does it again."""
        return f"sudo litellmctl {self.verb}{' --purge' if self.purge else ''}"


class UndoLog:
    """Writes the undo log. Every method returns after the file is on the disk."""

    def __init__(self, layout: Layout, verb: str, host: HostState, *, purge: bool = False) -> None:
        self._layout = layout
        self._path = layout.real(layout.undo_log)
        make_folder(self._path.parent)
        head = {"format": _FORMAT, "verb": verb, "pid": os.getpid(), "began": time.time(), "purge": purge}
        try:
            append_line(self._path, json.dumps({**head, "host": _host_facts(host)}))
        except BaseException:
            self.close()
            raise

    def record(self, action: Action) -> None:
        step = {"verb": action.verb.value, "target": action.target, "reason": action.reason}
        append_line(self._path, json.dumps({"step": step}))

    def commit(self, manifest: str) -> None:
        """Record that all steps were taken. From here on, an interrupted change is completed, not undone."""
        append_line(self._path, json.dumps({"manifest": manifest}))

    def close(self) -> None:
        """Remove the log: the change is complete or undone."""
        remove_path(self._layout, self._layout.undo_log)


def read_undo_log(layout: Layout) -> Unfinished | None:
    """The interrupted change, or None.

    Raises:
        InputError: this version cannot read the file.
    """
    path = layout.real(layout.undo_log)
    try:
        lines = path.read_bytes().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    # The step of an incomplete last line was not taken yet.
    complete = lines[:-1]
    if not complete:
        return Unfinished("change", path.stat().st_mtime, HostState())
    try:
        return _unfinished([json.loads(line) for line in complete])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is not an undo log that this version can read ({type(error).__name__})",
            "Run the litellmctl that wrote it. Or move the file away and check the host with: litellmctl diff",
        ) from None


def _unfinished(lines: list[Any]) -> Unfinished:
    head, rest = lines[0], lines[1:]
    if head["format"] != _FORMAT:
        raise ValueError(head["format"])
    steps = [line["step"] for line in rest if "step" in line]
    manifest = next((line["manifest"] for line in rest if "manifest" in line), None)
    return Unfinished(
        verb=str(head["verb"]),
        began=float(head["began"]),
        host=_read_host(head["host"]),
        taken=tuple(Action(Verb(step["verb"]), str(step["target"]), str(step["reason"])) for step in steps),
        manifest=None if manifest is None else str(manifest),
        purge=bool(head["purge"]),
    )


def _host_facts(host: HostState) -> dict[str, Any]:
    units = {
        name: {"load": unit.load, "active": unit.active, "enabled": unit.enabled, "invocation": unit.invocation}
        for name, unit in host.units.items()
    }
    return {"paths": sorted(host.files), "units": units, "user": host.user_exists}


def _read_host(facts: Mapping[str, Any]) -> HostState:
    return HostState(
        files={str(path): FileState(str(path)) for path in facts["paths"]},
        units={name: _read_unit(name, unit) for name, unit in facts["units"].items()},
        user_exists=bool(facts["user"]),
    )


def _read_unit(name: str, facts: Mapping[str, Any]) -> UnitState:
    return UnitState(
        name,
        load=str(facts["load"]),
        active=str(facts["active"]),
        enabled=str(facts["enabled"]),
        invocation=str(facts.get("invocation", "")),  # an earlier version does not write it
    )
