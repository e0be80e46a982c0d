"""Detect damage in a release: compare its files with the digests that its build recorded.

RECORD (PEP 376) has no digests of compiled files. Each line of our record is a digest, a size and a name. Without its
size it is one of sha256sum(1), which can check the record when no Python of the release works:

    cd /opt/litellm-systemd/current && sed 's/ [0-9]*  /  /' files.sha256 | sha256sum --quiet --check
"""

from __future__ import annotations

import calendar
import hashlib
import os
import re
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from litellm_systemd.errors import MissingError, PermissionDenied
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import RELEASE_MARK
from litellm_systemd.releases.inventory import Release, read_release
from litellm_systemd.report.report import render_count

#: Below the folder of a release: a digest for each other file, except for release.json, which has that of this file.
FILES = "files.sha256"

#: What the start of the service reads is compared first, in case the time is limited.
_CODE = (".py", ".pyc", ".so")
_THREADS, _CHUNK = min(4, os.cpu_count() or 1), 50
_OTHERS_READ, _OTHERS_ENTER = 0o004, 0o005


@dataclass(frozen=True, slots=True)
class Verification:
    """How the files of a release differ from the record; paths below its folder, sorted.

    `unreadable`: the service's user cannot read or enter them. `added`: files that the build did not make. They are
    no damage: an administrator may have installed a package by hand. `number`: of how many files the content was
    compared. `is_complete`: whether the time sufficed for that.
    """

    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    number: int = 0
    is_complete: bool = True

    @property
    def is_damaged(self) -> bool:
        """Whether a file differs in a way that can keep the service from working."""
        return bool(self.missing or self.changed or self.unreadable)

    @property
    def is_slow(self) -> bool:
        """Whether only compiled files are missing, as after a cleanup: Python compiles modules at each start."""
        modules = [_source_of(name) for name in self.missing]
        return self.is_damaged and not (self.changed or self.unreadable or {"", *self.missing}.intersection(modules))

    @property
    def replaced(self) -> tuple[str, ...]:
        """Packages that another program than the build, such as pip or uv, has changed or removed, in words."""
        gone, new = (dict(filter(None, map(_package_of, names))) for names in (self.missing, self.added))
        return tuple(
            f"{name} {version} " + (f"was replaced by {new[name]}" if name in new else "is no longer installed")
            for name, version in gone.items()
        )

    def render(self) -> str:
        """The damage in one line, with the first file of each kind; empty if there is none."""
        packages = self.replaced[:_MAX_PACKAGES]
        kinds = ((self.missing, "missing"), (self.changed, "changed"), (self.unreadable, "not readable for litellm"))
        files = (
            f"{'its folder' if names[0] == './' else names[0]} is {kind}"
            + (f" (and {render_count(len(names) - 1, 'more file')})" if names[1:] else "")
            for names, kind in kinds
            if names
        )
        return "; ".join((*packages, *files))


#: The file of each installed package that names its version (PEP 376); packages that are named in a message.
_METADATA = re.compile(r".*site-packages/(?P<name>[^/-]+)-(?P<version>[^/-]+)\.dist-info/METADATA")
_MAX_PACKAGES = 3


def _package_of(name: str) -> tuple[str, str] | None:
    """Name and version of a package by the path of its METADATA; None for another file."""
    found = _METADATA.fullmatch(name)
    return (found["name"], found["version"]) if found else None


def write_record(folder: Path) -> str:
    """Write size and digest of each file below the folder of a new release. Returns the digest of the record."""
    sizes = {name: entry.st_size for name, entry in _walk(folder) if stat.S_ISREG(entry.st_mode)}
    names = sorted(sizes.keys() - {RELEASE_MARK})
    rows = (f"{digest} {sizes[name]}  {name}\n" for name, digest in zip(names, _digests(folder, names), strict=True))
    content = "".join(rows).encode()
    (folder / FILES).write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def verify_release(
    layout: Layout, identifier: str, *, is_thorough: bool = True, seconds: float | None = None
) -> Verification:
    """Compare the files of a release with its record.

    Names, modes and sizes are compared first, and the content of files that were changed after the build. That takes
    a fraction of a second. A change below the file system shows in the content alone, which takes seconds to read.

    `is_thorough`: read the content of all files.
    `seconds`: the time for reading content; None for no limit.

    Raises:
        MissingError: an earlier version of this package made the release, without a record.
        PermissionDenied: this user cannot read it.
    """
    folder, release = layout.real(layout.release(identifier)), read_release(layout, identifier)
    if not release.version:  # release.json is cut, or no JSON
        return Verification(changed=(RELEASE_MARK,))
    if not release.files:
        raise MissingError(
            f"release {identifier} cannot be verified: an earlier litellm-systemd made it, without the digests of its"
            " files",
            "A new release has them: sudo litellmctl upgrade",
        )
    recorded = _read_record(folder, release)
    if recorded is None:
        return Verification(changed=(FILES,))
    try:
        found = dict(_walk(folder))
    except PermissionError as error:
        raise PermissionDenied(f"only root can read {error.filename}") from None
    files = {name: entry for name, entry in found.items() if stat.S_ISREG(entry.st_mode)}
    unreadable = [*_closed_parents(layout), *(name for name, entry in found.items() if not _is_readable(entry))]
    added = sorted(files.keys() - recorded.keys() - {RELEASE_MARK, FILES})
    built = _built_at(release)
    known = sorted(files.keys() & recorded.keys(), key=lambda name: (not name.endswith(_CODE), name))
    changed = {name for name in known if files[name].st_size != recorded[name][1]}
    same_size = [name for name in known if name not in changed]
    # Those that were changed after the build first.
    names = [name for name in same_size if is_thorough or files[name].st_ctime > built]
    names.sort(key=lambda name: files[name].st_ctime <= built)
    wanted = len(changed) + len(names)
    compared = len(changed)
    end = None if seconds is None else time.monotonic() + seconds
    for name, digest in zip(names, _digests(folder, names, end), strict=False):
        compared += 1
        # Another user than root may not be allowed to read it.
        if digest != recorded[name][0] and (digest or name not in unreadable):
            changed.add(name)
    return Verification(
        missing=tuple(sorted(recorded.keys() - files.keys())),
        changed=tuple(sorted(name for name in changed if not _is_recompiled(name, files, built))),
        unreadable=tuple(sorted(unreadable)),
        added=tuple(name for name in added if not _is_compiled(name, files)),
        number=compared,
        is_complete=compared == wanted,
    )


def find_damage(layout: Layout, identifier: str, *, is_thorough: bool = True) -> str:
    """The damage of a release in one line; empty if there is none, or if it has no record. See `verify_release`."""
    try:
        return verify_release(layout, identifier, is_thorough=is_thorough).render()
    except MissingError:
        return ""


def find_own_damage() -> str:
    """As `find_damage`, for the release that this process runs from; empty if it runs from none."""
    folder = Path(sys.prefix).resolve()
    return find_damage(Layout(prefix=str(folder.parent.parent)), folder.name) if (folder / FILES).exists() else ""


def restore_access(layout: Layout, identifier: str) -> None:
    """Let every user read the files of a release again, as its build did. Only root may call it."""
    folder = layout.real(layout.release(identifier))
    closed = [name for name, entry in _walk(folder) if not _is_readable(entry)]
    for path in (*map(layout.real, _closed_parents(layout)), *(folder / name for name in closed)):
        path.chmod(stat.S_IMODE(path.stat().st_mode) | (0o555 if path.is_dir() else 0o444))


def _closed_parents(layout: Layout) -> tuple[str, ...]:
    """The folders above the releases that the service's user cannot enter. In an image they may have any mode."""
    parents = (layout.prefix, layout.releases) if layout.is_host else ()
    return tuple(path for path in parents if not _is_readable(layout.real(path).stat()))


def _walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Each file, folder and link below a folder, and that folder itself as `./`; links are not followed."""
    yield "./", folder.stat()
    waiting, root = [""], str(folder)
    while waiting:
        below = waiting.pop()
        with os.scandir(f"{root}/{below}") as entries:
            for entry in entries:
                name = f"{below}{entry.name}"
                yield name, entry.stat(follow_symlinks=False)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{name}/")


def _digests(folder: Path, names: Sequence[str], end: float | None = None) -> Iterator[str]:
    """The digest of each file, until a time of the monotonic clock."""
    chunks = [names[start : start + _CHUNK] for start in range(0, len(names), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        for digests in pool.map(lambda chunk: [_digest(folder / name, end) for name in chunk], chunks):
            for digest in digests:
                if digest is None:
                    return
                yield digest


def _digest(path: Path, end: float | None) -> str | None:
    """The digest of a file; empty if it cannot be read, such as on a bad block; None if it is too late."""
    if end is not None and time.monotonic() > end:
        return None
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def _read_record(folder: Path, release: Release) -> Mapping[str, tuple[str, int]] | None:
    """Digest and size by name; None if the record is not the one that the build wrote."""
    try:
        content = (folder / FILES).read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != release.files:
        return None
    rows = (line.split(" ", 3) for line in content.decode().splitlines())
    return {name: (digest, int(size)) for digest, size, _, name in rows}


def _is_readable(entry: os.stat_result) -> bool:
    if stat.S_ISLNK(entry.st_mode):
        return True
    needed = _OTHERS_ENTER if stat.S_ISDIR(entry.st_mode) else _OTHERS_READ
    return entry.st_mode & needed == needed


def _source_of(name: str) -> str:
    """The module of a compiled file; empty for another file."""
    path = Path(name)
    is_compiled = path.suffix == ".pyc" and path.parent.name == "__pycache__"
    return str(path.parent.parent / f"{path.name.partition('.')[0]}.py") if is_compiled else ""


def _is_compiled(name: str, files: Mapping[str, object]) -> bool:
    """Whether Python may have written a file: the compiled form of a module, such as for another optimization."""
    return _source_of(name) in files


def _is_recompiled(name: str, files: Mapping[str, os.stat_result], built: float) -> bool:
    """Whether root's Python may have compiled a module again, because its source has a later time, as in a copy."""
    source = files.get(_source_of(name))
    return source is not None and source.st_mtime > built


def _built_at(release: Release) -> float:
    """The time of the build as Unix time."""
    try:
        return calendar.timegm(time.strptime(release.made, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return 0.0
