"""Prisma's query engine: the program between LiteLLM and PostgreSQL, one process for each worker.

Prisma publishes it compressed, for each machine and version of OpenSSL. A release has it in one file, with another
file next to it that has the digests of the program and of what was published.
"""

from __future__ import annotations

import ctypes
import gzip
import hashlib
import os
import shutil
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from litellm_systemd.command import run
from litellm_systemd.errors import CommandError, InputError, MissingError, Unavailable, UsageError
from litellm_systemd.user_files import require_trusted

#: The version that prisma-client-py 0.15 is for (its `prisma/_config.py`).
COMMIT = "393aa359c9ad4a4bb28630fb5613f9c281cde053"
#: For each machine, Prisma's name for it, and the SHA-256 of the compressed program: from a published Nix recipe.
_PUBLISHED = {
    "x86_64": ("debian-openssl-3.0.x", "9bc857debe0d5760c571ee6271076223d94be981c29a22401de681f3f70e067d"),
    "aarch64": ("linux-arm64-openssl-3.0.x", "3654258278c7b1812c0c7a299add1777141a298b6ebb72eabdb5cad38a0e8d20"),
}
_HOST = "https://binaries.prisma.sh"
MIRROR = "PRISMA_ENGINES_MIRROR"
#: Added to the name of an engine: the file with its digests.
DIGESTS = ".sha256"
_GZIP = b"\x1f\x8b"
#: Bytes; it has 7 MB compressed, and 17 MB otherwise.
_LARGEST = 200 << 20
#: Seconds for a part of it, and for all of it.
_TIMEOUT, _LONGEST = 60, 900
_REMEDY = (
    "Download it elsewhere and pass the file with --prisma-engine. PRISMA_ENGINES_MIRROR names another server. A"
    " bundle has it: litellmctl bundle --with database"
)


def published_digest(machine: str) -> str:
    """The SHA-256 of what Prisma publishes for a machine. Raises InputError if there is nothing."""
    if machine not in _PUBLISHED:
        raise InputError(f"Prisma has no query engine for {machine}", "Use the service without a database there.")
    return _PUBLISHED[machine][1]


def fetch_engine(machine: str, folder: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Download what Prisma publishes for a machine, from its server or a mirror.

    Raises:
        InputError: it has another digest.
        Unavailable: the server cannot be reached, or does not have it.
    """
    server = environ.get(MIRROR) or _HOST
    if not server.startswith(("https://", "http://")):
        raise UsageError(f"{MIRROR}={server} is not the URL of a server", "Write it as https://HOST/PATH.")
    if "@" in urlsplit(server).netloc:
        # Without the value, which has a password.
        raise UsageError(
            f"{MIRROR} has a user or a password, which is not supported",
            "Name a mirror that needs none, or download the engine, and pass it with --prisma-engine.",
        )
    url = f"{server.rstrip('/')}/all_commits/{COMMIT}/{_PUBLISHED[machine][0]}/query-engine.gz"
    target = folder / "query-engine.gz"
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, target.open("wb") as out:  # noqa: S310
            deadline = time.monotonic() + _LONGEST
            while (chunk := response.read1(1 << 20)) and out.tell() < _LARGEST:
                out.write(chunk)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"it takes longer than {_LONGEST} s")
    except urllib.error.HTTPError as error:
        raise Unavailable(f"{url}: HTTP {error.code} {error.reason}", _REMEDY) from None
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise Unavailable(f"Prisma's query engine cannot be downloaded: {url}: {reason}", _REMEDY) from None
    if (found := digest_of(target)) != published_digest(machine):
        raise InputError(
            f"{url} is not Prisma's query engine: its SHA-256 is {found}, not {published_digest(machine)}", _REMEDY
        )
    return target


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_given(path: Path) -> Path:
    """Check the path of an engine that the user gave, and return it.

    Raises:
        MissingError: there is no such file.
        InstallerError: another user may change it.
    """
    if not path.is_file():
        raise MissingError(f"{path} doesn't exist", "Give the path of Prisma's query engine: --prisma-engine FILE")
    require_trusted(path)
    return path.absolute()


def matches(path: Path, digest: str) -> bool:
    """Whether a file has this digest, or is the program of a release that was made of a file with this digest."""
    if not path.is_file():
        return False
    found = digest_of(path)
    return found == digest or _digests_of(path) == (found, digest)


def _digests_of(path: Path) -> tuple[str, ...]:
    try:
        lines = path.with_name(path.name + DIGESTS).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ()
    return tuple(line.split(" ")[0] for line in lines)


def write_engine(source: Path, target: Path) -> None:
    """Write the program of a published or given file to a release, with the digests of both. See `matches`.

    Raises:
        InputError: the file is damaged.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with source.open("rb") as content:
            is_compressed = content.read(2) == _GZIP
        with gzip.open(source) if is_compressed else source.open("rb") as content, target.open("wb") as out:
            shutil.copyfileobj(content, out)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{source} is damaged: {error}", "Download it again.") from None
    target.chmod(0o755)
    own = _digests_of(source)
    origin = own[1] if own else digest_of(source)
    text = f"{digest_of(target)}  {target.name}\n{origin}  {source.name}\n"
    target.with_name(target.name + DIGESTS).write_text(text, encoding="utf-8")


def try_engine(engine: Path) -> None:
    """Run the engine for its version, which needs no database.

    Raises:
        InputError: it does not run on this host, or has another version.
    """
    try:
        version = run((str(engine), "--version"), timeout=60).stdout.removeprefix("query-engine").strip()
    except (CommandError, OSError) as error:
        raise InputError(
            f"Prisma's query engine does not run on this host: {error}", "Pass one that does: --prisma-engine FILE"
        ) from None
    if version != COMMIT:
        raise InputError(
            f"the query engine has version {version[:80]!r}, and the client of this release needs {COMMIT}",
            f"Pass that of {COMMIT}: --prisma-engine FILE",
        )


def require_openssl(load: Callable[[str], object] = ctypes.CDLL) -> None:
    """Check that this host has OpenSSL 3, for which the published engine is built.

    Raises:
        InputError: it has none.
    """
    try:
        load("libssl.so.3")
    except OSError:
        raise InputError(
            "Prisma's query engine needs OpenSSL 3, which this host lacks",
            "Use a system with OpenSSL 3, such as Debian 12, Ubuntu 22.04 or Amazon Linux 2023. For an engine of"
            " your own that needs no OpenSSL 3: --prisma-engine FILE",
        ) from None
