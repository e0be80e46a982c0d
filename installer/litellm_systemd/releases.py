"""Self-contained releases: a venv with the installer, LiteLLM and every dependency, under the prefix.

A service can't run from a checkout, nor from a venv in somebody's home: ProtectHome hides it, SELinux refuses it,
and the next `git pull` changes it under the running process.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlparse

from litellm_systemd.command import inherited_environment, run
from litellm_systemd.errors import InstallerError, MissingError, Unavailable
from litellm_systemd.files import remove_path
from litellm_systemd.host import RELEASE_MARK, observe_releases
from litellm_systemd.layout import Layout

DISTRIBUTION = "litellm-systemd"

#: What ProtectHome= hides from the service (systemd.exec(5)).
HIDDEN = ("/home/", "/root/", "/run/user/")


@dataclass(frozen=True, slots=True)
class Source:
    """What a release is made from: this package as a wheel, and the Python that its venv is built on."""

    version: str
    wheel: bytes
    python: Path

    @property
    def identifier(self) -> str:
        """The name of the release: version, and a digest of the code and the Python."""
        digest = hashlib.sha256(self.wheel + str(self.python).encode())
        return f"{self.version}-{digest.hexdigest()[:10]}"


def installed_version() -> str:
    """The version of this package."""
    return _distribution().version


def running_release(layout: Layout) -> str | None:
    """The release that this process runs from, None if it runs from elsewhere."""
    prefix = Path(sys.prefix).resolve()
    return prefix.name if prefix.parent == layout.real(layout.releases).resolve() else None


def find_source() -> Source:
    """The package and the Python that run now, as the source of a release.

    Raises:
        Unavailable: this Python lies where the service can't reach it.
        InstallerError: the package can't be packed.
    """
    found = _distribution()
    return Source(found.version, _wheel(found), _reachable_python())


def _distribution() -> Distribution:
    try:
        return distribution(DISTRIBUTION)
    except PackageNotFoundError:
        raise MissingError(
            f"{DISTRIBUTION} runs from a folder, not from an installed package", "pip install it and run litellmctl."
        ) from None


def _reachable_python() -> Path:
    python = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    if str(python).startswith(HIDDEN):
        raise Unavailable(
            f"the Python in use, {python}, lies in a home folder, which the service can't reach",
            "Make the venv with a Python of the system (3.10 or later): /usr/bin/python3 -m venv DIR, and pip install"
            " litellm-systemd there.",
        )
    return python


def _wheel(found: Distribution) -> bytes:
    """The package as a wheel: built from its source if it is installed editable, else packed from its files."""
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        return _build_wheel(Path(unquote(urlparse(origin["url"]).path)))
    return _pack_wheel(found)


def _build_wheel(source: Path) -> bytes:
    with tempfile.TemporaryDirectory(prefix="litellmctl-") as folder:
        # A copy, so that building as root leaves no root-owned build/ in the user's checkout.
        copy = Path(folder, "source")
        ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "tests")
        shutil.copytree(source, copy, ignore=ignored)
        argv: tuple[str, ...]
        if uv := find_uv():
            argv = (uv, "build", "--quiet", "--wheel", "--out-dir", folder, str(copy))
        else:
            argv = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, str(copy))
        # One instant for every entry: the same source gives the same bytes, and so the same release.
        run(argv, environment=inherited_environment() | {"SOURCE_DATE_EPOCH": "946684800"}, timeout=600)
        return next(Path(folder).glob("*.whl")).read_bytes()


def _pack_wheel(found: Distribution) -> bytes:
    """Put the files of an installed distribution into a wheel again, without what its installation added."""
    added = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
    names = sorted(
        (
            path
            for path in found.files or ()
            if path.name not in added and path.suffix != ".pyc" and ".." not in path.parts
        ),
        key=str,
    )
    entries = [(str(path), Path(str(path.locate())).read_bytes()) for path in names]
    metadata = next(name.split("/")[0] for name, _ in entries if name.endswith(".dist-info/METADATA"))
    entries.append((f"{metadata}/RECORD", _record(entries, metadata)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _record(entries: list[tuple[str, bytes]], metadata: str) -> bytes:
    """The RECORD of a wheel (PEP 376): name, hash and size of each file."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for name, content in entries:
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.writerow((name, f"sha256={digest}", len(content)))
    rows.writerow((f"{metadata}/RECORD", "", ""))
    return text.getvalue().encode()


def find_uv() -> str | None:
    """The uv program beside this Python, or on PATH; None if there is none."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("uv")


def build_release(layout: Layout, source: Source, say: Callable[[str], None] = lambda _line: None) -> str:
    """Make the release of `source` under the prefix, unless it is there already. Gives its identifier.

    Args:
        layout: where.
        source: what from.
        say: told what is going on, a line each.

    Raises:
        CommandError: uv or pip failed; their last line is the message.
        InstallerError: the finished venv doesn't work.
    """
    identifier = source.identifier
    if identifier in observe_releases(layout):
        return identifier
    remove_path(layout, layout.release(identifier))
    folder = layout.real(layout.release(identifier))
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        _make_venv(folder, source, say)
        _prove(folder)
        (folder / RELEASE_MARK).write_text(json.dumps({"version": source.version, "python": str(source.python)}))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return identifier


def _make_venv(folder: Path, source: Source, say: Callable[[str], None]) -> None:
    environment = inherited_environment()
    python = str(folder / "bin" / "python")
    install: tuple[str, ...]
    with tempfile.TemporaryDirectory(prefix="litellmctl-") as scratch:
        wheel = Path(scratch, f"litellm_systemd-{source.version}-py3-none-any.whl")
        wheel.write_bytes(source.wheel)
        if uv := find_uv():
            say("building the release with uv (about 700 MB; seconds, or a minute when packages must be fetched)")
            base = ("--quiet", "--python", str(source.python), str(folder))
            run((uv, "venv", "--relocatable", *base), environment=environment)
            install = (uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python, str(wheel))
        else:
            say("building the release with pip (about 700 MB; a minute or more)")
            run((str(source.python), "-m", "venv", str(folder)), environment=environment, hint=_VENV_HINT)
            install = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(wheel))
        run(install, environment=environment, timeout=1800)


_VENV_HINT = "Debian and Ubuntu keep venv in a package of its own: apt-get install python3-venv."


def _prove(folder: Path) -> None:
    """Import what the service and litellmctl import first; a broken venv must not become a release.

    LiteLLM itself is only looked for: importing it takes seconds, and the start of the service does it anyway.
    """
    code = (
        "import litellm_systemd.runtime, litellm_systemd.commands, uvicorn, importlib.util as util;"
        "assert util.find_spec('litellm.proxy')"
    )
    failed = run((str(folder / "bin" / "python"), "-I", "-c", code), check=False, timeout=300)
    if failed.returncode != 0:
        reason = (failed.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InstallerError(f"the new release doesn't work: {reason}", "Run it again; if it stays so, report it.")
