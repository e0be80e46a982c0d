"""The releases on a host: what their release.json records, and which of them are in use."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from litellm_systemd.errors import NotInstalled, UsageError
from litellm_systemd.host.files import observe_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import RELEASE_MARK, observe_releases, previous_release
from litellm_systemd.releases.archive import LOCK

_LIST = "'litellmctl releases list' shows all of them."


@dataclass(frozen=True, slots=True)
class Release:
    """A release as release.json describes it. Unknown fields are empty.

    `made` is UTC (ISO 8601), `litellm_released` the day on which that LiteLLM was published, `size` in bytes,
    `checkout` the folder of the checkout that it was installed from, `additions`
    the groups and packages that were added to its requirements lock, `files` the digest of the record of its files
    (see `releases.integrity`).
    """

    identifier: str
    version: str = ""
    litellm: str = ""
    python: str = ""
    python_version: str = ""
    lock: str = ""
    made: str = ""
    made_by: str = ""
    size: int = 0
    litellm_released: str = ""
    checkout: str = ""
    additions: tuple[str, ...] = ()
    files: str = ""

    def as_mark(self) -> str:
        """Return the text of its release.json."""
        return json.dumps({"format": 1, **asdict(self)}, indent=2) + "\n"


def read_release(layout: Layout, identifier: str) -> Release:
    """Read the release.json of a release. Missing fields, and a file that can't be read, give empty values."""
    return read_mark(layout.real(layout.release(identifier)), identifier)


def read_mark(folder: Path, identifier: str) -> Release:
    try:
        found = json.loads((folder / RELEASE_MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = {}
    known = found if isinstance(found, dict) else {}
    texts = {
        name: str(known.get(name, ""))
        for name in (
            *("version", "litellm", "python", "python_version", "lock"),
            *("made", "made_by", "litellm_released", "checkout", "files"),
        )
    }
    size = known.get("size", 0)
    additions = known.get("additions")
    return Release(
        identifier,
        **texts,
        size=size if isinstance(size, int) else 0,
        additions=tuple(map(str, additions)) if isinstance(additions, list) else (),
    )


def read_release_lock(layout: Layout, identifier: str) -> str:
    """Return the lock of a release; empty if it can't be read."""
    try:
        return (layout.real(layout.release(identifier)) / LOCK).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


def list_releases(layout: Layout) -> tuple[Release, ...]:
    """Return the complete releases, the newest first."""
    found = [read_release(layout, name) for name in observe_releases(layout) if not name.startswith(".")]
    return tuple(sorted(found, key=lambda release: (release.made, release.identifier), reverse=True))


def installed_litellm(layout: Layout, identifier: str) -> tuple[str, ...]:
    """Return the versions of LiteLLM in the folder of a release, also one that was installed there by hand."""
    found = layout.real(layout.release(identifier)).glob("lib/python*/site-packages/litellm-*.dist-info")
    return tuple(sorted({path.name.removeprefix("litellm-").removesuffix(".dist-info") for path in found}))


def current_release(layout: Layout) -> str | None:
    """Return the release that the link `current` points to, None without one."""
    found = observe_file(layout, layout.current)
    return Path(found.content.decode()).name if found is not None and found.content else None


def running_release(layout: Layout) -> str | None:
    """Return the release that this process runs from, None if it runs from another folder."""
    prefix = Path(sys.prefix).resolve()
    return prefix.name if prefix.parent == layout.real(layout.releases).resolve() else None


def find_release(releases: Iterable[Release], identifier: str) -> Release:
    """Return the release whose name is `identifier` or begins so.

    Raises:
        UsageError: no release matches, or several.
    """
    named = [release for release in releases if release.identifier.startswith(identifier)]
    if len(named) != 1:
        reason = "is not unique" if named else "doesn't exist"
        raise UsageError(f"release {identifier} {reason}", _LIST)
    return named[0]


def choose_rollback(layout: Layout, identifier: str | None) -> Release:
    """Return the release to roll back to: the named one, otherwise the one that was in use before.

    Raises:
        UsageError: no other release matches, or there is no other.
        NotInstalled: there is no release at all.
    """
    current = current_release(layout)
    others = [release for release in list_releases(layout) if release.identifier != current]
    if identifier is not None and identifier == current:
        raise UsageError(f"release {identifier} is in use already", _LIST)
    if identifier is not None:
        return find_release(others, identifier)
    if not others and current is None:
        raise NotInstalled
    if not others:
        raise UsageError("there is no other release to roll back to", _LIST)
    return _before(layout, others)


def _before(layout: Layout, others: list[Release]) -> Release:
    """Return the release that was in use before; if it was removed, the newest of the others."""
    previous = previous_release(layout)
    return next((release for release in others if release.identifier == previous), others[0])


def missing_python(layout: Layout, identifier: str) -> str | None:
    """Return the path of a release's Python if it no longer exists, as after a system upgrade; otherwise None.

    That is the one which the release was made with, unless it exists: then the link to it is wrong.
    """
    link = f"{layout.release(identifier)}/bin/python"
    if os.access(layout.real(link), os.X_OK):
        return None
    made_with = read_release(layout, identifier).python
    return made_with if made_with and not os.access(layout.real(made_with), os.X_OK) else link


def releases_in_use(layout: Layout, proc: Path = Path("/proc")) -> frozenset[str]:
    """Return the releases that a process runs from, of the processes that this user may inspect (root: all)."""
    processes = proc.glob("[0-9]*")
    found = (name for process in processes for name in _mentions(process, _pattern(layout)))
    return frozenset(found) & frozenset(observe_releases(layout))


def releases_of(layout: Layout, process: Path) -> frozenset[str]:
    """Return the releases that the process of that /proc folder runs from; empty if this user may not inspect it."""
    return frozenset(_mentions(process, _pattern(layout)))


def _pattern(layout: Layout) -> re.Pattern[str]:
    return re.compile(rf"{re.escape(str(layout.real(layout.releases).resolve()))}/([^/\s]+)/")


def _mentions(process: Path, pattern: re.Pattern[str]) -> Iterator[str]:
    # C modules are mapped; a process that has just started shows the path in its arguments alone (proc(5)).
    for name in ("maps", "cmdline"):
        try:
            yield from pattern.findall((process / name).read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
