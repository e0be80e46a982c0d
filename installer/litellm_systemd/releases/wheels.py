"""Wheels: build the one of this package from a checkout, pack it from an installation, read it; that of sdnotify."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import re
import shutil
import sys
import zipfile
from importlib.metadata import Distribution
from importlib.resources import files
from pathlib import Path

from litellm_systemd.command import inherited_environment, run
from litellm_systemd.errors import InputError, MissingError

#: The only dependency that package indexes have as source alone. Its wheel of 3 kB is part of this package:
#: scripts/lock.sh built it from the source with the known hash. The lock can't name the source: each installation
#: would need a setuptools to build it, offline too, and earlier versions of litellmctl, which install a lock with
#: --only-binary, could not upgrade. Nor can the lock name a wheel that each host builds, since its bytes depend on
#: the version of setuptools.
SDNOTIFY = "sdnotify"
_SDNOTIFY_WHEEL = "sdnotify-0.3.2-py3-none-any.whl"

#: Where quickstart.sh installs uv; a release has none.
_BOOTSTRAP_UV = Path("/opt/litellm-systemd/bootstrap/bin/uv")

_WHEEL = re.compile(r"litellm_systemd-([^-/]+)\.dist-info/METADATA")
#: Files that an installation adds to those of a wheel.
_ADDED = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"})


def sdnotify_wheel() -> Path:
    """Return the path of sdnotify's wheel."""
    return Path(str(files("litellm_systemd.releases") / _SDNOTIFY_WHEEL))


def find_uv() -> str | None:
    """Return the path of uv: next to this Python, on PATH, or where quickstart.sh installed it; None without one."""
    sibling = Path(sys.executable).with_name("uv")
    for candidate in (sibling, Path(shutil.which("uv") or sibling), _BOOTSTRAP_UV):
        if os.access(candidate, os.X_OK):
            return str(candidate)
    return None


def wheel_name(version: str) -> str:
    """Return the file name of this package's wheel."""
    return f"litellm_systemd-{version}-py3-none-any.whl"


def build_wheel(source: Path, out: Path) -> Path:
    """Build the wheel of a source tree; the build writes to that tree. Raises CommandError."""
    argv: tuple[str, ...]
    if uv := find_uv():
        argv = (uv, "build", "--quiet", "--wheel", "--out-dir", str(out), str(source))
    else:
        argv = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(source))
    # One time for every entry, so that the same source gives the same bytes.
    run(argv, environment=inherited_environment() | {"SOURCE_DATE_EPOCH": "946684800"}, timeout=600)
    return next(out.glob("litellm_systemd-*.whl"))


def read_wheel(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return version and files of a wheel of this package.

    Raises:
        MissingError: there is no such file.
        InputError: it is not a wheel of this package.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {item.filename: archive.read(item) for item in archive.infolist() if not item.is_dir()}
    except FileNotFoundError:
        raise MissingError(f"{path} doesn't exist", "Give a wheel of litellm-systemd, or a bundle.") from None
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(f"{path} is not a readable wheel: {error}", "Fetch or build it again.") from None
    versions = [found[1] for name in entries if (found := _WHEEL.fullmatch(name))]
    if len(versions) != 1:
        raise InputError(f"{path} isn't a wheel of litellm-systemd", "Give a wheel of litellm-systemd, or a bundle.")
    return versions[0], entries


def pack_wheel(found: Distribution) -> bytes:
    """Pack the files of an installed distribution into a wheel, without those that its installation added."""
    entries = [
        (str(path), Path(str(path.locate())).read_bytes())
        for path in sorted(found.files or (), key=str)
        if path.parts[0].startswith("litellm_systemd") and path.suffix != ".pyc" and path.name not in _ADDED
    ]
    metadata = next(name.split("/")[0] for name, _ in entries if name.endswith(".dist-info/METADATA"))
    entries.append((f"{metadata}/RECORD", _record(entries, metadata)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for entry, content in entries:
            archive.writestr(zipfile.ZipInfo(entry), content)
    return buffer.getvalue()


def _record(entries: list[tuple[str, bytes]], metadata: str) -> bytes:
    """Return the RECORD of a wheel (PEP 376): name, hash and size of each file."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for name, content in entries:
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.writerow((name, f"sha256={digest}", len(content)))
    rows.writerow((f"{metadata}/RECORD", "", ""))
    return text.getvalue().encode()
