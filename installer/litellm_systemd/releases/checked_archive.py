"""Archives that are checked before their content is used: a tar whose first member, manifest.json, lists all others.

Imports the standard library alone: quickstart.sh reads a bundle with the system's Python, before any installation.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from litellm_systemd.errors import InputError, InstallerError, MissingError
from litellm_systemd.user_files import require_trusted

MANIFEST = "manifest.json"
#: Each file by its name: SHA-256 in hex, and bytes.
Files = Mapping[str, tuple[str, int]]

#: Bytes; a manifest has about 100 KiB, an extended header the long name of a file.
_LARGEST_MANIFEST, _LARGEST_HEADER = 4 << 20, 64 << 10
_EXTENDED = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True, slots=True)
class Kind:
    """What an archive is, for messages: such as `a bundle`, the sentence on what makes one, and how to repair it."""

    title: str
    maker: str
    remedy: str

    def damaged(self, path: Path, what: str) -> InputError:
        return InputError(f"{path} is damaged: {what}", self.remedy)


def write_tar(out: IO[bytes], manifest: bytes, members: Iterable[tuple[str, Path]], *, mode: int = 0o644) -> None:
    """Write an archive of these files, by their names in it. The same content gives the same bytes."""
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        first = tarfile.TarInfo(MANIFEST)
        first.size, first.mode = len(manifest), mode
        archive.addfile(first, io.BytesIO(manifest))
        for name, path in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = path.stat().st_size, mode
            with path.open("rb") as content:
                archive.addfile(member, content)


def file_entry(path: Path) -> tuple[str, int]:
    """Return the SHA-256 and the size of a file, for a manifest."""
    with path.open("rb") as content:
        return _digest(content), path.stat().st_size


def _digest(content: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := content.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


class _Header(tarfile.TarInfo):
    """A member's header.

    tarfile reads extended headers and maps of sparse files into memory, whatever their size. After a member of a
    negative size, older versions of it read the same headers again, without an end.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """Called by tarfile for each header."""
        found = super().frombuf(buf, encoding, errors)
        is_large = found.type in _EXTENDED and found.size > _LARGEST_HEADER
        if found.type == tarfile.GNUTYPE_SPARSE or is_large or found.size < 0:
            raise tarfile.ReadError("it has a header that no such file has")
        return found


@contextmanager
def open_archive(path: Path, kind: Kind) -> Iterator[CheckedArchive]:
    """Open an archive for reading.

    Raises:
        MissingError: there is no such file.
        PermissionDenied: another user could have written it, and this one is root.
        InputError: it is damaged, which the block may notice too.
        InstallerError: it cannot be read.
    """
    try:
        require_trusted(path)
        with tarfile.open(path, "r:", tarinfo=_Header) as archive:
            yield CheckedArchive(path, kind, archive)
    except FileNotFoundError:
        raise MissingError(f"{path} doesn't exist", kind.maker) from None
    except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
        raise kind.damaged(path, str(error)) from None
    except OSError as error:
        raise InstallerError(f"{path}: {error.strerror}", "Fix that and run it again.") from error


class CheckedArchive:
    """An open archive. Call `parse_manifest` first, then `require`."""

    def __init__(self, path: Path, kind: Kind, archive: tarfile.TarFile) -> None:
        self.path, self.kind = path, kind
        self._archive = archive
        self._files: Files = {}
        self._members: dict[str, tarfile.TarInfo] = {}

    def parse_manifest(self, parse: Callable[[Any], _Parsed]) -> _Parsed:
        """Return what `parse` makes of the JSON of the manifest.

        Raises:
            InputError: it is another file, or `parse` rejects it, with an error of Python or an InputError.
        """
        member = self._archive.next()
        if member is None or member.name != MANIFEST or not member.isreg() or member.size > _LARGEST_MANIFEST:
            raise InputError(f"{self.path} isn't {self.kind.title}", self.kind.maker)
        content = self._archive.extractfile(member)
        try:
            return parse(json.loads(b"" if content is None else content.read()))
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError):
            raise self.kind.damaged(self.path, f"{MANIFEST} can't be read") from None

    def require(self, files: Files) -> None:
        """Check that the archive has exactly these files, by name, type and size.

        Raises:
            InputError: it has others.
        """
        for member in self._archive:
            if member.name == MANIFEST and not self._members:
                continue
            if member.name not in files or member.name in self._members:
                what = f"{member.name!r} isn't in the manifest, or is in the archive twice"
                raise self.kind.damaged(self.path, what)
            if not member.isreg() or member.size != files[member.name][1]:
                raise self._mismatch(member.name)
            self._members[member.name] = member
        if missing := sorted(set(files) - set(self._members)):
            raise self.kind.damaged(self.path, f"it ends before {missing[0]}")
        self._files = files

    def read(self, name: str) -> bytes:
        """Return the content of a file, compared with its digest. Raises InputError."""
        content = self._archive.extractfile(self._members[name])
        found = b"" if content is None else content.read()
        if hashlib.sha256(found).hexdigest() != self._files[name][0]:
            raise self._mismatch(name)
        return found

    def unpack(self, folder: Path, *, mode: int = 0o644) -> None:
        """Write all files to a folder, after all of them were compared with their digests.

        Raises:
            InputError: one differs; nothing was written.
        """
        for name, member in self._members.items():
            content = self._archive.extractfile(member)
            if content is None or _digest(content) != self._files[name][0]:
                raise self._mismatch(name)
        for name, member in self._members.items():
            self._write(member, folder / name, mode)

    def _write(self, member: tarfile.TarInfo, target: Path, mode: int) -> None:
        # Not tarfile's own extraction: names, modes, owners and links of the archive must have no effect.
        content = self._archive.extractfile(member)
        target.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as out:
            if content is not None:
                shutil.copyfileobj(content, out, 1 << 20)

    def _mismatch(self, name: str) -> InputError:
        return self.kind.damaged(self.path, f"{name} doesn't match the manifest")
