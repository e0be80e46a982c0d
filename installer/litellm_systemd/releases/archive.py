"""Read and write bundle files: a tar whose first member is manifest.json. All of it is checked before it is used.

Imports the standard library alone: quickstart.sh reads a bundle with the system's Python, before any installation.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from litellm_systemd.errors import InputError, InstallerError, MissingError
from litellm_systemd.releases.bad_versions import refuse_bad_litellm
from litellm_systemd.user_files import require_trusted

FORMAT = 1
MANIFEST = "manifest.json"
LOCK = "requirements.lock"
WHEELS = "wheels"

#: Bytes; a manifest has about 100 KiB.
_LARGEST_MANIFEST = 4 << 20
_NAME = re.compile(r"requirements\.lock|(wheels/)?[A-Za-z0-9][A-Za-z0-9._+!-]*\.whl")
#: Bytes of an extended header, which has the long name of a file; of a lock, which has about 200 KiB.
_LARGEST_HEADER, _LARGEST_LOCK = 64 << 10, 16 << 20
_EXTENDED = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_LITELLM = re.compile(rf"(?i){WHEELS}/litellm-([^-]+)-")
_REMEDY = "Copy it again and compare both files with sha256sum, or make a new one with 'litellmctl bundle'."


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
        """Return the text of manifest.json."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n"


def write_archive(path: Path, manifest: Manifest, folder: Path) -> None:
    """Write a bundle of the files in `folder` that the manifest names. The same content gives the same bytes."""
    text = manifest.as_json().encode()
    (folder / MANIFEST).write_bytes(text)
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in (MANIFEST, *sorted(manifest.files)):
            member = tarfile.TarInfo(name)
            member.size = (folder / name).stat().st_size
            member.mode = 0o644
            with (folder / name).open("rb") as content:
                archive.addfile(member, content)


def file_entry(path: Path) -> tuple[str, int]:
    """Return the SHA-256 and the size of a file, for a manifest."""
    with path.open("rb") as content:
        return _digest(content), path.stat().st_size


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Return the manifest of a bundle and its lock. Of the other files only names and sizes are checked.

    Raises:
        MissingError: there is no such file.
        InputError: it is not a bundle, it is damaged, or this version does not know its format.
    """
    with _opened(path) as (manifest, members, archive):
        content = archive.extractfile(members[LOCK])
        lock = b"" if content is None else content.read()
        if hashlib.sha256(lock).hexdigest() != manifest.files[LOCK][0]:
            raise _damaged(path, f"{LOCK} doesn't match the manifest")
        return manifest, lock.decode()


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
    with _opened(path) as (manifest, members, archive):
        for name, member in members.items():
            content = archive.extractfile(member)
            if content is None or _digest(content) != manifest.files[name][0]:
                raise _damaged(path, f"{name} doesn't match the manifest")
        for name, member in members.items():
            _write_member(archive, member, folder / name)
    return manifest


def _write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    # Not tarfile's own extraction: names, modes, owners and links of the archive must have no effect.
    content = archive.extractfile(member)
    target.parent.mkdir(exist_ok=True)
    with target.open("xb") as out:
        if content is not None:
            shutil.copyfileobj(content, out, 1 << 20)


class _Header(tarfile.TarInfo):
    """A member's header. tarfile reads extended headers and maps of sparse files into memory, whatever their size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """Called by tarfile for each header."""
        found = super().frombuf(buf, encoding, errors)
        if found.type == tarfile.GNUTYPE_SPARSE or (found.type in _EXTENDED and found.size > _LARGEST_HEADER):
            raise tarfile.ReadError("it has a header that no bundle needs")
        return found


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Manifest, dict[str, tarfile.TarInfo], tarfile.TarFile]]:
    try:
        require_trusted(path)
        with tarfile.open(path, "r:", tarinfo=_Header) as archive:
            manifest = _manifest(path, archive)
            yield manifest, _members(path, archive, manifest), archive
    except FileNotFoundError:
        raise MissingError(f"{path} doesn't exist", "To create a bundle, run: litellmctl bundle") from None
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise _damaged(path, str(error)) from None
    except OSError as error:
        raise InstallerError(f"{path}: {error.strerror}", "Fix that and run it again.") from error


def _manifest(path: Path, archive: tarfile.TarFile) -> Manifest:
    member = archive.next()
    if member is None or member.name != MANIFEST or not member.isreg() or member.size > _LARGEST_MANIFEST:
        raise InputError(f"{path} isn't a bundle of litellmctl", "'litellmctl bundle' makes one.")
    content = archive.extractfile(member)
    try:
        found = json.loads(b"" if content is None else content.read())
        return _parse_manifest(path, found)
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
        raise _damaged(path, f"{MANIFEST} can't be read") from None


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
            raise _damaged(path, f"{name!r} doesn't belong in a bundle")
    if LOCK not in files or sum("/" not in name for name in files) != 2:
        raise _damaged(path, "it must contain one lock and one wheel of litellm-systemd")
    if files[LOCK][1] > _LARGEST_LOCK:
        raise _damaged(path, f"{LOCK} has {files[LOCK][1]} bytes")
    packed = [version for name in files for version in _LITELLM.findall(name)]
    refuse_bad_litellm(packed, f"Use another bundle than {path}.")
    return Manifest(**texts, files=files, sbom=dict(found.get("sbom", {})))


def _members(path: Path, archive: tarfile.TarFile, manifest: Manifest) -> dict[str, tarfile.TarInfo]:
    found: dict[str, tarfile.TarInfo] = {}
    for member in archive:
        if member.name == MANIFEST and not found:
            continue
        if member.name not in manifest.files or member.name in found:
            raise _damaged(path, f"{member.name!r} isn't in the manifest, or is in the archive twice")
        if not member.isreg() or member.size != manifest.files[member.name][1]:
            raise _damaged(path, f"{member.name} doesn't match the manifest")
        found[member.name] = member
    if missing := sorted(set(manifest.files) - set(found)):
        raise _damaged(path, f"it ends before {missing[0]}")
    return found


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path} is damaged: {what}", _REMEDY)


def _digest(content: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := content.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


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
