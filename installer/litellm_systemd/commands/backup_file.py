"""The file of a backup: what it may contain, its manifest, and the paths to which its content belongs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from litellm_systemd import contract
from litellm_systemd.database.prisma_engine import DIGESTS
from litellm_systemd.errors import InputError
from litellm_systemd.releases.checked_archive import CheckedArchive, Kind, open_archive
from litellm_systemd.releases.requirements_lock import LOCK

FORMAT = 1
#: The names of what is no file of a host: the dump of the database, and of the release its lock, the user's wheels
#: and Prisma's query engine.
DUMP, RELEASE_LOCK, WHEELS, ENGINE = "database.dump", f"release/{LOCK}", "release/wheels", "release/query-engine"
#: Folders of the host that a backup has, without the slash at the beginning. Below them every file belongs to it.
ETC, DROP_INS, AWS = "etc/litellm", "etc/systemd/system", "var/lib/litellm/.aws"
#: The units whose drop-ins belong to it.
UNITS = (
    *(contract.SERVICE, contract.SOCKET, contract.METRICS_SOCKET, contract.VERIFY_SERVICE, contract.VERIFY_TIMER),
)

_PLAIN = r"(?!\.{1,2}(?:/|\Z))[^/\0-\x1f\x7f]+"
_NAME = re.compile(
    rf"{re.escape(DUMP)}|{re.escape(RELEASE_LOCK)}|{WHEELS}/[A-Za-z0-9][\w.+!-]*\.whl|{ENGINE}(?:{re.escape(DIGESTS)})?"
    rf"|(?:{ETC}|{AWS})(?:/{_PLAIN})+|{DROP_INS}/(?:{'|'.join(map(re.escape, UNITS))})\.d/{_PLAIN}\.conf"
)
_CONFIG = re.compile(r"[A-Za-z0-9_][\w.+-]*\.ya?ml", re.ASCII)
#: Bytes of all files but the dump, the wheels and the engine: configurations and keys.
_LARGEST = 256 << 20
_KIND = Kind(
    "a backup of litellmctl",
    "'sudo litellmctl backup FILE' makes one.",
    "Copy it again and compare both files with sha256sum, or use another backup.",
)


@dataclass(frozen=True, slots=True)
class BackupManifest:
    """What a backup is of.

    `version` is that of litellm-systemd, `python` such as 3.11, `machine` that of uname(2), `made` UTC (ISO 8601),
    `config` the name of the active configuration, `additions` those of the release. `encrypted`: the host encrypts
    its secrets, which the backup has in the clear. `verify_every`: the interval of the verify timer. `server`: the
    version of PostgreSQL, such as 150013, 0 without a dump. `files` maps each file to its SHA-256 and its size in
    bytes; `modes` maps each file of the host to its mode; `shared` are the files that the service's group may read.
    """

    version: str
    litellm: str
    python: str
    machine: str
    made: str
    host: str
    prefix: str
    config: str
    encrypted: bool
    verify_every: str
    server: int
    additions: tuple[str, ...]
    files: Mapping[str, tuple[str, int]] = field(repr=False)
    modes: Mapping[str, int] = field(default_factory=dict, repr=False)
    shared: tuple[str, ...] = field(default=(), repr=False)

    def as_json(self) -> str:
        return json.dumps({"format": FORMAT, "what": _KIND.title, **asdict(self)}, indent=1) + "\n"


def may_contain(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


@contextmanager
def open_backup(path: Path) -> Iterator[tuple[BackupManifest, CheckedArchive]]:
    """Open a backup, and check names, types and sizes. Digests are checked when its files are read or unpacked.

    Raises:
        InstallerError: as `open_archive`.
    """
    with open_archive(path, _KIND) as archive:
        manifest = archive.parse_manifest(partial(_parse, path))
        archive.require(manifest.files)
        yield manifest, archive


def _parse(path: Path, found: dict[str, Any]) -> BackupManifest:
    if found["what"] != _KIND.title:
        raise InputError(f"{path} isn't {_KIND.title}", _KIND.maker)
    if found["format"] != FORMAT:
        raise InputError(
            f"{path} has format {found['format']}, and this litellmctl knows {FORMAT}",
            "Restore it with the litellmctl that made it.",
        )
    names = ("version", "litellm", "python", "machine", "made", "host", "prefix", "config", "verify_every")
    files = {str(name): (str(entry[0]), int(entry[1])) for name, entry in found["files"].items()}
    modes = {str(name): int(mode) for name, mode in found["modes"].items()}
    manifest = BackupManifest(
        **{name: _text(found[name]) for name in names},
        encrypted=found["encrypted"] is True,
        server=int(found["server"]),
        additions=tuple(map(_text, found["additions"])),
        files=files,
        modes=modes,
        shared=tuple(map(str, found["shared"])),
    )
    _check(path, manifest)
    return manifest


def _text(value: object) -> str:
    if not isinstance(value, str) or not value.isprintable():
        raise ValueError(value)
    return value


def _check(path: Path, manifest: BackupManifest) -> None:
    """Raise InputError for what does not belong in a backup, ValueError for what contradicts itself."""
    for name in manifest.files:
        if not may_contain(name):
            raise _KIND.damaged(path, f"{name!r} doesn't belong in a backup")
    folders = {str(parent) for name in manifest.files for parent in Path(name).parents}
    if both := sorted(folders & manifest.files.keys()):
        raise _KIND.damaged(path, f"{both[0]!r} is a file and a folder")
    size = sum(size for name, (_, size) in manifest.files.items() if not name.startswith((DUMP, WHEELS, ENGINE)))
    if size > _LARGEST:
        raise _KIND.damaged(path, f"its configurations have {size >> 20} MiB")
    if not _CONFIG.fullmatch(manifest.config) or f"{ETC}/configs/{manifest.config}" not in manifest.files:
        raise _KIND.damaged(path, f"it lacks its active configuration {manifest.config!r}")
    needed = (f"{ETC}/litellm.env", RELEASE_LOCK, *((DUMP,) if manifest.server else ()))
    if missing := [name for name in needed if name not in manifest.files]:
        raise _KIND.damaged(path, f"it lacks {missing[0]}")
    if not re.fullmatch(r"(/[A-Za-z0-9._-]+)+", manifest.prefix) or ".." in manifest.prefix:
        raise ValueError(manifest.prefix)
    if any(mode & ~0o777 or mode & 0o022 for mode in manifest.modes.values()):
        raise ValueError("modes")
