"""The source of a release: this package, the lock, and the Python of its venv.

Finding a source takes milliseconds and no network, since `install --dry-run` needs the name of the future release.
The wheel is built when the release is.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions
from importlib.resources import files
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlparse

from litellm_systemd.errors import InputError, MissingError, Unavailable
from litellm_systemd.host.observe import RELEASE_MARK
from litellm_systemd.releases.requirements_lock import LOCK, lock_digest
from litellm_systemd.releases.wheels import build_wheel, pack_wheel, read_wheel, wheel_name
from litellm_systemd.resources import read_lock

DISTRIBUTION = "litellm-systemd"
PACKAGE = "litellm_systemd"

#: Folders that ProtectHome= hides from the service (systemd.exec(5)).
HIDDEN = ("/home/", "/root/", "/run/user/")

#: The files that count as code, in a checkout as in a wheel.
_SUFFIXES = frozenset({".py", ".j2", ".yml", ".lock"})
_NAMES = frozenset({"py.typed", "env.example"})


@dataclass(frozen=True, slots=True)
class Materials:
    """Our package as a wheel, and a folder with the wheels of all others; None if they come from a package index."""

    wheel: Path
    others: Path | None = None


class PackageOrigin(Protocol):
    """Where the wheel of this package comes from."""

    def prepare(self, scratch: Path) -> Materials:
        """Return the materials; those that must be built are written to `scratch`, an empty folder."""


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a release. `code` is the digest of the package's own files, see `code_digest`."""

    version: str
    code: str
    lock: str = field(repr=False)
    python: Path
    origin: PackageOrigin = field(repr=False)

    @property
    def identifier(self) -> str:
        """The name of the release: version, and a digest of the code, the lock and the Python."""
        parts = (self.code, lock_digest(self.lock), str(self.python))
        return f"{self.version}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:10]}"


@dataclass(frozen=True, slots=True)
class Checkout:
    """A folder with setup.cfg from which the package is installed as editable."""

    folder: Path

    def prepare(self, scratch: Path) -> Materials:
        """Build the wheel. Raises CommandError."""
        # From a copy, so that a build as root leaves no files of root in the user's checkout.
        ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "tests")
        shutil.copytree(self.folder, scratch / "source", ignore=ignored)
        return Materials(build_wheel(scratch / "source", scratch))


@dataclass(frozen=True, slots=True)
class Installed:
    """An installed distribution, whose files are packed into a wheel again."""

    found: Distribution

    def prepare(self, scratch: Path) -> Materials:
        """Pack the wheel."""
        wheel = scratch / wheel_name(self.found.version)
        wheel.write_bytes(pack_wheel(self.found))
        return Materials(wheel)


@dataclass(frozen=True, slots=True)
class WheelFile:
    """A wheel of this package."""

    path: Path

    def prepare(self, scratch: Path) -> Materials:
        """Copy the wheel: pip and uv require the file name of the standard."""
        version, _ = read_wheel(self.path)
        return Materials(Path(shutil.copyfile(self.path, scratch / wheel_name(version))))


def installed_version() -> str:
    """Return the version of this package."""
    return _distribution().version


def find_source() -> Source:
    """Return the package and the Python of this process as the source of a release.

    Raises:
        MissingError: the package is not installed.
        Unavailable: the service can't reach this Python.
    """
    found = _distribution()
    return Source(found.version, code_digest(_own_files()), current_lock(), reachable_python(), _origin(found))


def wheel_source(path: Path) -> Source:
    """Return a wheel of this package as the source of a release.

    Raises:
        MissingError: there is no such file.
        InputError: it is not a wheel of this package, or it has no lock.
    """
    version, entries = read_wheel(path)
    return Source(version, code_digest(entries), _lock_among(entries, path), reachable_python(), WheelFile(path))


def folder_source(folder: Path) -> Source:
    """Return the package that pip or uv installed into a folder (`--target`) as the source of a release.

    Raises:
        InputError: it is not there, or it has no lock.
    """
    found = next((item for item in distributions(path=[str(folder)]) if item.name == DISTRIBUTION), None)
    if found is None:
        raise InputError(f"{folder} doesn't contain {DISTRIBUTION}", "Try again.")
    entries = _read_tree({PACKAGE: folder / PACKAGE})
    lock = _lock_among(entries, folder)
    return Source(found.version, code_digest(entries), lock, reachable_python(), Installed(found))


def current_lock() -> str:
    """Return the lock of the release that this process runs from, otherwise the one in this package."""
    prefix = Path(sys.prefix)
    if (prefix / RELEASE_MARK).is_file() and (prefix / LOCK).is_file():
        return (prefix / LOCK).read_text(encoding="utf-8")
    return read_lock()


def code_digest(entries: Mapping[str, bytes]) -> str:
    """Return one digest of the package's own files, by their names in a wheel: the same for checkout and wheel."""
    digest = hashlib.sha256()
    for name in sorted(filter(_is_code, entries)):
        digest.update(f"{name}\0{len(entries[name])}\0".encode() + entries[name])
    return digest.hexdigest()


def reachable_python() -> Path:
    """Return the Python that this process's venv was created with.

    Raises:
        Unavailable: it is in a home folder.
    """
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if str(python).startswith(HIDDEN):
        raise Unavailable(
            f"the Python in use, {python}, is in a home folder, which the service can't reach",
            "Create the venv with a Python of the system (3.10 or later), and install litellm-systemd there:"
            " /usr/bin/python3 -m venv DIR",
        )
    return python


def _distribution() -> Distribution:
    try:
        return distribution(DISTRIBUTION)
    except PackageNotFoundError:
        raise MissingError(
            f"{DISTRIBUTION} runs from a folder and is not installed", "Install it with pip and run litellmctl."
        ) from None


def _origin(found: Distribution) -> PackageOrigin:
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return Checkout(Path(unquote(urlparse(origin["url"]).path)))
    return Installed(found)


def _own_files() -> dict[str, bytes]:
    # Three roots: in a checkout two of them are outside of the package (docs/adr/0001).
    names = ("", ".units", ".configs")
    return _read_tree({f"{PACKAGE}{name}".replace(".", "/"): Path(str(files(PACKAGE + name))) for name in names})


def _read_tree(roots: Mapping[str, Path]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for prefix, root in roots.items():
        for path in _files_below(root):
            found[f"{prefix}/{path.relative_to(root)}"] = path.read_bytes()
    return found


def _files_below(root: Path) -> Iterable[Path]:
    return (path for path in root.rglob("*") if _is_code(f"{PACKAGE}/{path.name}") and path.is_file())


def _is_code(name: str) -> bool:
    path = Path(name)
    return path.parts[0] == PACKAGE and (path.suffix in _SUFFIXES or path.name in _NAMES)


def _lock_among(entries: Mapping[str, bytes], where: Path) -> str:
    try:
        return entries[f"{PACKAGE}/{LOCK}"].decode()
    except KeyError:
        raise InputError(f"{where} has no {LOCK}", "Use a later version of litellm-systemd.") from None
