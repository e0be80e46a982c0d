"""What a release is made from: this package, the lock, and the Python that its venv is built on.

Finding a source takes milliseconds and no network, for `install --dry-run` needs the name that its release will
have. The wheel is made when the release is.
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

#: What ProtectHome= hides from the service (systemd.exec(5)).
HIDDEN = ("/home/", "/root/", "/run/user/")

#: What of the package's folders is part of it, in a checkout as in a wheel.
_SUFFIXES = frozenset({".py", ".j2", ".yml", ".lock"})
_NAMES = frozenset({"py.typed", "env.example"})


@dataclass(frozen=True, slots=True)
class Materials:
    """Our package as a wheel, and a folder with the wheels of all others; None: they come from a package index."""

    wheel: Path
    others: Path | None = None


class PackageOrigin(Protocol):
    """Where this package comes from."""

    def prepare(self, scratch: Path) -> Materials:
        """Make the materials in an empty folder, or point to where they are."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a release is made from. `code` is the digest of the package's own files, see `code_digest`."""

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
    """A folder with setup.cfg that the package is installed from, editable."""

    folder: Path

    def prepare(self, scratch: Path) -> Materials:
        """Build the wheel; raises CommandError."""
        # A copy, so that building as root leaves no root-owned build/ in the user's checkout.
        ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "tests")
        shutil.copytree(self.folder, scratch / "source", ignore=ignored)
        return Materials(build_wheel(scratch / "source", scratch))


@dataclass(frozen=True, slots=True)
class Installed:
    """An installed distribution, which is packed into a wheel again."""

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
        """Give a copy: pip and uv want the name that the standard prescribes."""
        version, _ = read_wheel(self.path)
        return Materials(Path(shutil.copyfile(self.path, scratch / wheel_name(version))))


def installed_version() -> str:
    """The version of this package."""
    return _distribution().version


def find_source() -> Source:
    """The package and the Python that run now, as the source of a release.

    Raises:
        MissingError: the package isn't installed.
        Unavailable: this Python lies where the service can't reach it.
    """
    found = _distribution()
    return Source(found.version, code_digest(_own_files()), current_lock(), reachable_python(), _origin(found))


def wheel_source(path: Path) -> Source:
    """A wheel of this package as the source of a release.

    Raises:
        MissingError: there is no such file.
        InputError: it isn't a wheel of this package, or one without a lock.
    """
    version, entries = read_wheel(path)
    return Source(version, code_digest(entries), _lock_among(entries, path), reachable_python(), WheelFile(path))


def folder_source(folder: Path) -> Source:
    """The package that pip or uv put into a folder (`--target`) as the source of a release.

    Raises:
        InputError: it isn't there, or has no lock.
    """
    found = next((item for item in distributions(path=[str(folder)]) if item.name == DISTRIBUTION), None)
    if found is None:
        raise InputError(f"{folder}: {DISTRIBUTION} isn't there", "Try again.")
    entries = _read_tree({PACKAGE: folder / PACKAGE})
    lock = _lock_among(entries, folder)
    return Source(found.version, code_digest(entries), lock, reachable_python(), Installed(found))


def current_lock() -> str:
    """The lock of the release that this process runs from; elsewhere the one that ships."""
    prefix = Path(sys.prefix)
    if (prefix / RELEASE_MARK).is_file() and (prefix / LOCK).is_file():
        return (prefix / LOCK).read_text(encoding="utf-8")
    return read_lock()


def code_digest(entries: Mapping[str, bytes]) -> str:
    """One digest over the package's own files, by their names in a wheel: the same wherever they lie."""
    digest = hashlib.sha256()
    for name in sorted(filter(_is_code, entries)):
        digest.update(f"{name}\0{len(entries[name])}\0".encode() + entries[name])
    return digest.hexdigest()


def reachable_python() -> Path:
    """The Python that this one's venv was made with.

    Raises:
        Unavailable: it lies in somebody's home.
    """
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if str(python).startswith(HIDDEN):
        raise Unavailable(
            f"the Python in use, {python}, lies in a home folder, which the service can't reach",
            "Make the venv with a Python of the system (3.10 or later): /usr/bin/python3 -m venv DIR, and pip install"
            " litellm-systemd there.",
        )
    return python


def _distribution() -> Distribution:
    try:
        return distribution(DISTRIBUTION)
    except PackageNotFoundError:
        raise MissingError(
            f"{DISTRIBUTION} runs from a folder, not from an installed package", "pip install it and run litellmctl."
        ) from None


def _origin(found: Distribution) -> PackageOrigin:
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return Checkout(Path(unquote(urlparse(origin["url"]).path)))
    return Installed(found)


def _own_files() -> dict[str, bytes]:
    # Three roots, for a checkout keeps two of them elsewhere (docs/adr/0001).
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
        raise InputError(f"{where}: it has no {LOCK}", "Take a later version of litellm-systemd.") from None
