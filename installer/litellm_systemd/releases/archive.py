"""Read and write bundle files: a tar whose first member is manifest.json. All of it is checked before it is used.

Imports the standard library alone: quickstart.sh reads a bundle with the system's Python, before any installation.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from litellm_systemd.errors import InputError, InstallerError
from litellm_systemd.releases.bad_versions import refuse_bad_litellm
from litellm_systemd.releases.checked_archive import CheckedArchive, Kind, open_archive, write_tar

FORMAT = 1
LOCK = "requirements.lock"
WHEELS = "wheels"

_NAME = re.compile(
    r"requirements\.lock|(wheels/)?[A-Za-z0-9][A-Za-z0-9._+!-]*\.whl|prisma/[A-Za-z0-9][A-Za-z0-9._-]*"
)
#: Bytes; a lock has about 200 KiB.
_LARGEST_LOCK = 16 << 20
_LITELLM = re.compile(rf"(?i){WHEELS}/litellm-([^-]+)-")
_KIND = Kind(
    "a bundle of litellmctl",
    "'litellmctl bundle' makes one.",
    "Copy it again and compare both files with sha256sum, or make a new one with 'litellmctl bundle'.",
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The manifest of a bundle.

    `python` is a version such as 3.11, `machine` that of uname(2), `code` the `source.code_digest` of our wheel.
    `files` maps each file to its SHA-256 and its size in bytes.
    `sbom` is its bill of materials in CycloneDX, see `releases.sbom`; empty in bundles of earlier versions.
    """

    version: str
    litellm: str
    python: str
    machine: str
    code: str
    made: str
    files: Mapping[str, tuple[str, int]] = field(repr=False)
    sbom: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def wheel(self) -> str:
        """The file name of our own wheel."""
        return next(name for name in self.files if "/" not in name and name.endswith(".whl"))

    def as_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


def write_archive(path: Path, manifest: Manifest, folder: Path) -> None:
    """Write a bundle of the files in `folder` that the manifest names. The same content gives the same bytes."""
    with path.open("wb") as out:
        names = sorted(manifest.files)
        write_tar(out, manifest.as_json().encode(), ((name, folder / name) for name in names))


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Return the manifest of a bundle and its lock. Of the other files only names and sizes are checked.

    Raises:
        MissingError: there is no such file.
        InputError: it is not a bundle, it is damaged, or this version does not know its format.
    """
    with _opened(path) as (manifest, archive):
        return manifest, archive.read(LOCK).decode()


def require_fit(path: Path, manifest: Manifest, python: str, machine: str | None = None) -> None:
    """Check that a bundle is for this Python and machine.

    Raises:
        InputError: it is for another one.
    """
    here = machine or os.uname().machine
    if manifest.machine != here:
        raise InputError(
            f"{path} is for {manifest.machine}, and this machine is {here}",
            f"Make one for it: litellmctl bundle --platform {here}",
        )
    if manifest.python != python:
        raise InputError(
            f"{path} is for Python {manifest.python}, and this is Python {python}",
            f"Make one for it: litellmctl bundle --python {python}, or run this with Python {manifest.python}.",
        )


def unpack(path: Path, folder: Path) -> Manifest:
    """Write the files of a bundle to a folder, after all of them were compared with the manifest.

    Raises:
        InstallerError: as `read_manifest`; nothing was written in that case.
    """
    with _opened(path) as (manifest, archive):
        archive.unpack(folder)
    return manifest


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Manifest, CheckedArchive]]:
    with open_archive(path, _KIND) as archive:
        manifest = archive.parse_manifest(partial(_parse_manifest, path))
        archive.require(manifest.files)
        yield manifest, archive


def _parse_manifest(path: Path, found: dict[str, Any]) -> Manifest:
    if found["format"] != FORMAT:
        raise InputError(
            f"{path} has format {found['format']}, and this litellmctl knows {FORMAT}",
            "Make it with the litellmctl that is to read it, or install with a later one.",
        )
    texts = {name: str(found[name]) for name in ("version", "litellm", "python", "machine", "code", "made")}
    files = {str(name): (str(entry[0]), int(entry[1])) for name, entry in found["files"].items()}
    for name in files:
        if not _NAME.fullmatch(name):
            raise _KIND.damaged(path, f"{name!r} doesn't belong in a bundle")
    if LOCK not in files or sum("/" not in name for name in files) != 2:
        raise _KIND.damaged(path, "it must contain one lock and one wheel of litellm-systemd")
    if files[LOCK][1] > _LARGEST_LOCK:
        raise _KIND.damaged(path, f"{LOCK} has {files[LOCK][1]} bytes")
    packed = [version for name in files for version in _LITELLM.findall(name)]
    refuse_bad_litellm(packed, f"Use another bundle than {path}.")
    return Manifest(**texts, files=files, sbom=dict(found.get("sbom", {})))


def main(arguments: list[str]) -> int:
    """For quickstart.sh: `python FILE` prints the Python of a bundle; `unpack FILE FOLDER` checks and unpacks it."""
    try:
        manifest, _ = read_manifest(Path(arguments[1]))
        if arguments[0] == "unpack":
            require_fit(Path(arguments[1]), manifest, "{}.{}".format(*sys.version_info))
            unpack(Path(arguments[1]), Path(arguments[2]))
    except InstallerError as error:
        sys.stderr.write(f"{error.message}\n  {error.hint}\n")
        return int(error.code)
    sys.stdout.write(f"{manifest.python}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
