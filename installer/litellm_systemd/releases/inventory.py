"""The releases on a host: what their marks say, and which of them are in use."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from litellm_systemd.errors import UsageError
from litellm_systemd.host.files import observe_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import RELEASE_MARK, observe_releases, previous_release


@dataclass(frozen=True, slots=True)
class Release:
    """A release as its mark describes it. `made` is UTC, ISO 8601; `size` is bytes; what isn't known is empty."""

    identifier: str
    version: str = ""
    litellm: str = ""
    python: str = ""
    python_version: str = ""
    lock: str = ""
    made: str = ""
    made_by: str = ""
    size: int = 0

    def as_mark(self) -> str:
        """The text of its mark."""
        return json.dumps({"format": 1, **asdict(self)}, indent=2) + "\n"


def read_release(layout: Layout, identifier: str) -> Release:
    """What is known of a release; a mark of another time or hand gives what it has."""
    try:
        found = json.loads((layout.real(layout.release(identifier)) / RELEASE_MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    known = found if isinstance(found, dict) else {}
    texts = {
        name: str(known.get(name, ""))
        for name in ("version", "litellm", "python", "python_version", "lock", "made", "made_by")
    }
    size = known.get("size", 0)
    return Release(identifier, **texts, size=size if isinstance(size, int) else 0)


def list_releases(layout: Layout) -> tuple[Release, ...]:
    """The complete releases, the newest first."""
    found = [read_release(layout, name) for name in observe_releases(layout) if not name.startswith(".")]
    return tuple(sorted(found, key=lambda release: (release.made, release.identifier), reverse=True))


def current_release(layout: Layout) -> str | None:
    """The release that `current` leads to, None if there is none."""
    found = observe_file(layout, layout.current)
    return Path(found.content.decode()).name if found is not None and found.content else None


def running_release(layout: Layout) -> str | None:
    """The release that this process runs from, None if it runs from elsewhere."""
    prefix = Path(sys.prefix).resolve()
    return prefix.name if prefix.parent == layout.real(layout.releases).resolve() else None


def choose_rollback(layout: Layout, identifier: str | None) -> Release:
    """The release to go back to: the named one, else the one before the present one.

    Raises:
        UsageError: there is none of that name, or no other at all.
    """
    current = current_release(layout)
    others = [release for release in list_releases(layout) if release.identifier != current]
    named = [release for release in others if identifier is not None and release.identifier.startswith(identifier)]
    if identifier is not None and len(named) != 1:
        what = "in use already" if current == identifier else "several" if named else "none"
        raise UsageError(f"release {identifier}: {what}", "'litellmctl releases list' shows what there is.")
    if named:
        return named[0]
    if not others:
        raise UsageError("there is no other release to go back to", "'litellmctl releases list' shows what there is.")
    return _before(layout, others)


def _before(layout: Layout, others: list[Release]) -> Release:
    """Which of the others was in use before; if that one is gone, the one made last."""
    former = previous_release(layout)
    return next((release for release in others if release.identifier == former), others[0])


def missing_python(layout: Layout, identifier: str) -> str | None:
    """The path of the release's Python if it isn't there any more, as after an upgrade of the system; else None."""
    python = layout.real(layout.release(identifier)) / "bin" / "python"
    if os.access(python, os.X_OK):
        return None
    return read_release(layout, identifier).python or str(python)


def releases_in_use(layout: Layout, proc: Path = Path("/proc")) -> frozenset[str]:
    """The releases that some process runs from, as far as this user may look (all, for root)."""
    processes = proc.glob("[0-9]*")
    found = (name for process in processes for name in _mentions(process, _pattern(layout)))
    return frozenset(found) & frozenset(observe_releases(layout))


def releases_of(layout: Layout, process: Path) -> frozenset[str]:
    """The releases that one process, given by its folder in /proc, runs from; empty where this user may not look."""
    return frozenset(_mentions(process, _pattern(layout)))


def _pattern(layout: Layout) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(str(layout.real(layout.releases).resolve()))}/([^/\s]+)/")


def _mentions(process: Path, pattern: re.Pattern[str]) -> Iterator[str]:
    # Modules in C are mapped; a process that has just begun shows the path only in its arguments (proc(5)).
    for name in ("maps", "cmdline"):
        try:
            yield from pattern.findall((process / name).read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
