"""The write-ahead journal of a change: each step is on the disk before it is taken (docs/adr/0006).

One JSON object a line. The first tells what the host was like, each further one a step that is about to be taken, the
last one that all is done. Whoever finds the file, and the lock free, finds a change that was cut short.
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
    """A change that was cut short: which verb of litellmctl, begun when (Unix time), and the steps begun, in order.

    `host` is what it was like before, as far as going back needs it: which paths there were, with no content; units;
    whether there was the user. `manifest` is the new manifest if all steps had been taken, else None. `purge` is
    that of an uninstall.
    """

    verb: str
    began: float
    host: HostState
    taken: tuple[Action, ...] = ()
    manifest: str | None = None
    purge: bool = False


class UndoLog:
    """Written by the one who makes the change. Every method returns with the disk up to date."""

    def __init__(self, layout: Layout, verb: str, host: HostState, *, purge: bool = False) -> None:
        self._layout = layout
        self._path = layout.real(layout.journal)
        make_folder(self._path.parent)
        head = {"format": _FORMAT, "verb": verb, "pid": os.getpid(), "began": time.time(), "purge": purge}
        try:
            append_line(self._path, json.dumps({**head, "host": _host_facts(host)}))
        except BaseException:
            self.close()
            raise

    def record(self, action: Action) -> None:
        """A step is about to be taken."""
        step = {"verb": action.verb.value, "target": action.target, "reason": action.reason}
        append_line(self._path, json.dumps({"step": step}))

    def commit(self, manifest: str) -> None:
        """All steps have been taken: from here on the change is finished and not undone."""
        append_line(self._path, json.dumps({"manifest": manifest}))

    def close(self) -> None:
        """The change is over, done or undone."""
        remove_path(self._layout, self._layout.journal)


def read_undo_log(layout: Layout) -> Unfinished | None:
    """The change that was cut short, None if there is none.

    Raises:
        InputError: the file isn't a journal of this version's.
    """
    path = layout.real(layout.journal)
    try:
        lines = path.read_bytes().split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        return None
    # What was being written when it was cut short was not taken yet: what has no end doesn't count.
    whole = lines[:-1]
    if not whole:
        return Unfinished("change", path.stat().st_mtime, HostState())
    try:
        return _unfinished([json.loads(line) for line in whole])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: not a journal that this version can read ({type(error).__name__})",
            "Run the litellmctl that wrote it. Or move the file away and look at 'litellmctl diff'.",
        ) from None


def _unfinished(lines: list[Any]) -> Unfinished:
    head, rest = lines[0], lines[1:]
    if head["format"] != _FORMAT:
        raise ValueError(head["format"])
    steps = [line["step"] for line in rest if "step" in line]
    return Unfinished(
        verb=head["verb"],
        began=head["began"],
        host=_read_host(head["host"]),
        taken=tuple(Action(Verb(step["verb"]), step["target"], step["reason"]) for step in steps),
        manifest=next((line["manifest"] for line in rest if "manifest" in line), None),
        purge=head["purge"],
    )


def _host_facts(host: HostState) -> dict[str, Any]:
    units = {
        name: {"load": unit.load, "active": unit.active, "enabled": unit.enabled} for name, unit in host.units.items()
    }
    return {"paths": sorted(host.files), "units": units, "user": host.user_exists}


def _read_host(facts: Mapping[str, Any]) -> HostState:
    return HostState(
        files={path: FileState(path) for path in facts["paths"]},
        units={name: UnitState(name, **unit) for name, unit in facts["units"].items()},
        user_exists=facts["user"],
    )
