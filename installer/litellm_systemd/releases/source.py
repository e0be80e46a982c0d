"""The source of a release: this package, its wheel, the lock, and the Python of its venv.

Finding a source takes milliseconds and no network, since `install --dry-run` needs the name of the future release.
The wheel is built when the release is.

An upgrade fetches its source, this package or another LiteLLM, from the user's package index. `packaging` is imported
where it is needed: all verbs that change the host import this module.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
import shlex
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import Distribution, PackageNotFoundError, distribution, distributions, requires
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlparse

from litellm_systemd.command import inherited_environment, module_argv, run
from litellm_systemd.contract import QUERY_ENGINE
from litellm_systemd.errors import (
    REINSTALL,
    CommandError,
    InputError,
    InstallerError,
    MissingError,
    ProgramError,
    Unavailable,
    UsageError,
)
from litellm_systemd.gateway.packages import read_groups
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import RELEASE_MARK
from litellm_systemd.releases.archive import WHEELS
from litellm_systemd.releases.bad_versions import find_bad
from litellm_systemd.releases.inventory import read_mark, read_release, read_release_lock
from litellm_systemd.releases.requirements_lock import (
    LOCK,
    SUPPORTED_LITELLM,
    Pin,
    lock_digest,
    parse_lock,
    pinned_version,
    render_lock,
    split_lock,
)
from litellm_systemd.releases.venvs import find_uv, index_environment, install_argv, pip_argv, uv_argv
from litellm_systemd.resources import read_lock
from litellm_systemd.user_files import require_trusted

if TYPE_CHECKING:
    from packaging.version import Version


#: The only dependency that package indexes have as source alone. Its wheel of 3 kB is part of this package:
#: scripts/lock.sh built it from the source with the known hash. The lock can't name the source: each installation
#: would need a setuptools to build it, offline too, and earlier versions of litellmctl, which install a lock with
#: --only-binary, could not upgrade. Nor can the lock name a wheel that each host builds, since its bytes depend on
#: the version of setuptools.
SDNOTIFY = "sdnotify"
_SDNOTIFY_WHEEL = "sdnotify-0.3.2-py3-none-any.whl"

#: Bytes of all files of our own wheel, which has about 2 MiB.
_LARGEST_WHEEL = 64 << 20
_WHEEL = re.compile(r"litellm_systemd-([^-/]+)\.dist-info/METADATA")
#: Files that an installation adds to those of a wheel.
_ADDED = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json", "uv_build.json"})

#: In the venv that quickstart.sh makes: a file with the path of its checkout.
CHECKOUT_MARK = "checkout"
_QUICKSTART = "scripts/quickstart.sh"

DISTRIBUTION = "litellm-systemd"
PACKAGE = "litellm_systemd"

#: Folders that ProtectHome= hides from the service (systemd.exec(5)).
HIDDEN = ("/home/", "/root/", "/run/user/")

#: The files that count as code, in a checkout as in a wheel. Installed versions check bundles of later ones by this
#: rule, so it must not change. What else the package has, litellm.json among it, follows from the code and the lock.
_SUFFIXES = frozenset({".py", ".j2", ".yml", ".lock"})
_NAMES = frozenset({"py.typed", "env.example"})

#: What to do if a package can't be fetched.
INDEX_HINT = (
    "Does the package index have it? PIP_INDEX_URL and UV_INDEX_URL name another index, PIP_FIND_LINKS a folder."
)


@dataclass(frozen=True, slots=True)
class Materials:
    """Our package as a wheel, and a folder with the wheels of all others; None if they come from a package index.

    `prisma`: the folder of the parts of a bundle that are for a database, see `prisma_parts`; None without one.
    """

    wheel: Path
    others: Path | None = None
    prisma: Path | None = None


class PackageOrigin(Protocol):
    """Where the wheel of this package comes from."""

    def prepare(self, scratch: Path) -> Materials:
        """Return the materials; those that must be built are written to `scratch`, an empty folder."""


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a release.

    `code` is the digest of the package's own files, see `code_digest`. `groups` is the text of groups.lock, empty if
    it does not fit the lock. `wheels` are the files of packages that the user gave as wheels. `engine` is the query
    engine of Prisma that the user gave, or that of the release in use.
    `checkout`: the folder of the checkout that the package was installed from, empty if there is none.
    """

    version: str
    code: str
    lock: str = field(repr=False)
    python: Path
    origin: PackageOrigin = field(repr=False)
    checkout: str = ""
    groups: str = field(default="", repr=False)
    wheels: tuple[Path, ...] = ()
    engine: Path | None = None

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
    path: Path

    def prepare(self, scratch: Path) -> Materials:
        """Copy the wheel: pip and uv require the file name of the standard."""
        version, _ = read_wheel(self.path)
        return Materials(Path(shutil.copyfile(self.path, scratch / wheel_name(version))))


def installed_version() -> str:
    return _distribution().version


def find_source() -> Source:
    """Return the package and the Python of this process as the source of a release.

    Raises:
        MissingError: the package is not installed.
        Unavailable: the service can't reach this Python.
    """
    found = _distribution()
    lock = current_lock()
    return Source(
        version=found.version,
        code=code_digest(_own_files()),
        lock=lock,
        python=reachable_python(),
        origin=_origin(found),
        checkout=_checkout(found),
        groups=read_groups() if split_lock(lock)[0] == read_lock() else "",
    )


def wheel_source(path: Path) -> Source:
    """Return a wheel of this package as the source of a release.

    Raises:
        MissingError: there is no such file.
        InputError: it is not a wheel of this package, or it has no lock.
    """
    version, entries = read_wheel(path)
    lock, groups = _lock_among(entries, path), _groups_among(entries)
    return Source(version, code_digest(entries), lock, reachable_python(), WheelFile(path), groups=groups)


def folder_source(folder: Path) -> Source:
    """Return the package that pip or uv installed into a folder (`--target`) as the source of a release.

    Raises:
        InputError: it is not there, or it has no lock.
    """
    found = _distribution_in(folder)
    if found is None:
        raise InputError(f"{folder} doesn't contain {DISTRIBUTION}", "Try again.")
    entries = _read_tree({PACKAGE: folder / PACKAGE})
    lock = _lock_among(entries, folder)
    groups = _groups_among(entries)
    return Source(found.version, code_digest(entries), lock, reachable_python(), Installed(found), groups=groups)


def release_source(layout: Layout, identifier: str) -> Source:
    """Return the source that an existing release was built from, to build it again.

    Raises:
        Unavailable: the release's own files are damaged too, and with them the source.
    """
    folder, mark = layout.real(layout.release(identifier)), read_release(layout, identifier)
    packages = next(folder.glob("lib/python*/site-packages"), folder)
    found = _distribution_in(packages)
    if found is not None:
        entries = _read_tree({PACKAGE: packages / PACKAGE})
        source = Source(
            version=found.version,
            code=code_digest(entries),
            lock=read_release_lock(layout, identifier),
            python=Path(mark.python),
            origin=Installed(found),
            checkout=mark.checkout,
            wheels=tuple(sorted((folder / WHEELS).glob("*.whl"))),
            engine=folder / QUERY_ENGINE,
        )
        # The name of a release is a digest of its source, and the files of a wheel are packed by RECORD.
        if source.identifier == identifier and entries.keys() <= {str(path) for path in found.files or ()}:
            return source
    raise Unavailable(
        f"release {identifier} cannot be built again from its own files: those of {DISTRIBUTION} are damaged too",
        _from_elsewhere(mark.checkout),
    )


def _from_elsewhere(checkout: str) -> str:
    """How to install again without the files of the release."""
    if checkout:
        return f"Install again from the checkout: cd {shlex.quote(checkout)} && sudo ./scripts/quickstart.sh"
    return (
        "Without a network, in a checkout: sudo ./scripts/quickstart.sh --bundle FILE. Otherwise install again:"
        f" {REINSTALL}"
    )


def _distribution_in(folder: Path) -> Distribution | None:
    return next((item for item in distributions(path=[str(folder)]) if item.name == DISTRIBUTION), None)


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


def _checkout(found: Distribution) -> str:
    """Return the checkout that this package was installed from: as a release, quickstart.sh or pip recorded it."""
    prefix = Path(sys.prefix)
    if (prefix / RELEASE_MARK).is_file():
        return read_mark(prefix, prefix.name).checkout
    if (prefix / CHECKOUT_MARK).is_file():
        return (prefix / CHECKOUT_MARK).read_text(encoding="utf-8").strip()
    origin = json.loads(found.read_text("direct_url.json") or "{}")
    folder = Path(unquote(urlparse(origin["url"]).path)) if "dir_info" in origin else None
    return str(folder) if folder is not None and (folder / _QUICKSTART).is_file() else ""


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
    except UnicodeDecodeError:
        raise InputError(f"{where}: {LOCK} isn't UTF-8 text", "Fetch or build it again.") from None


def _groups_among(entries: Mapping[str, bytes]) -> str:
    """The text of groups.lock; empty in earlier versions."""
    return entries.get(f"{PACKAGE}/groups.lock", b"").decode(errors="replace")


def sdnotify_wheel() -> Path:
    return Path(str(files("litellm_systemd.releases") / _SDNOTIFY_WHEEL))


def wheel_name(version: str) -> str:
    """Return the file name of this package's wheel."""
    return f"litellm_systemd-{version}-py3-none-any.whl"


def build_wheel(source: Path, out: Path) -> Path:
    """Build the wheel of a source tree; the build writes to that tree. Raises CommandError."""
    argv: tuple[str, ...]
    if uv := find_uv():
        argv = (*uv_argv(uv), "build", "--quiet", "--wheel", "--out-dir", str(out), str(source))
    else:
        argv = module_argv("pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(source))
    # One time for every entry, so that the same source gives the same bytes.
    run(argv, environment=index_environment() | {"SOURCE_DATE_EPOCH": "946684800"}, timeout=600)
    return next(out.glob("litellm_systemd-*.whl"))


def read_wheel(path: Path) -> tuple[str, dict[str, bytes]]:
    """Return version and files of a wheel of this package.

    Raises:
        MissingError: there is no such file.
        InputError: it is not a wheel of this package.
        PermissionDenied: another user could have written what root would install.
    """
    try:
        require_trusted(path)
        with zipfile.ZipFile(path) as archive:
            if sum(item.file_size for item in archive.infolist()) > _LARGEST_WHEEL:
                raise ValueError(f"its files have more than {_LARGEST_WHEEL >> 20} MiB")
            entries = {item.filename: archive.read(item) for item in archive.infolist() if not item.is_dir()}
    except FileNotFoundError:
        raise MissingError(f"{path} doesn't exist", "Give a wheel of litellm-systemd, or a bundle.") from None
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, struct.error) as error:
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


def fetch_package(
    version: str | None, scratch: Path, say: Callable[[str], None] = lambda _line: None, *, hint: str = ""
) -> Source:
    """Fetch this package from the user's package index and return it as the source of a release.

    Args:
        version: the version to fetch; None for the newest.
        scratch: an empty folder, which must exist until the release is built.
        say: called with each line of progress.
        hint: what else to do if it can't be fetched.

    Raises:
        UsageError: `version` is not a version.
        CommandError: it can't be fetched.
    """
    wanted = DISTRIBUTION if version is None else f"{DISTRIBUTION}=={parse_version(version)}"
    say(f"fetching {wanted}")
    python = reachable_python()
    folder = scratch / "package"
    # Without dependencies: the release gets those of its own lock, checked by their hashes.
    options = ("--upgrade", "--no-deps", "--only-binary", ":all:", "--target", str(folder))
    argv = (*install_argv(python, scratch), *options, wanted)
    try:
        run(argv, environment=index_environment(), timeout=600, hint=f"{INDEX_HINT} {hint}".strip())
    except CommandError as error:
        error.message = f"{wanted} can't be fetched: {find_cause(error)}"
        raise
    return folder_source(folder)


def fetch_litellm(version: str, scratch: Path, say: Callable[[str], None] = lambda _line: None) -> Source:
    """Return this package with a new lock for another LiteLLM, in which other packages change only if they must.

    Raises:
        UsageError: `version` is not a version, or not one that this package supports.
        InstallerError: it can't be fetched, or conflicts with other packages.
    """
    source = find_source()
    requirements = _requirements(str(parse_version(version)))
    say(f"resolving the dependencies of LiteLLM {version}")
    try:
        lock = (_by_uv if find_uv() else _by_pip)(source, requirements, scratch)
    except CommandError as error:
        raise ProgramError(f"no lock for LiteLLM {version}: {find_cause(error)}", error.hint) from error
    if (found := pinned_version(lock, "litellm")) != version:
        raise InstallerError(
            f"the new lock has {f'LiteLLM {found}' if found else 'no LiteLLM'}, not {version}", "Report this."
        )
    parse_lock(lock)
    return replace(source, lock=lock, groups="")


#: What uv prints before a URL that it cannot fetch, and pip before the error of a connection.
_FETCHED, _BROKEN = "Failed to fetch: ", "connection broken by '"


def find_cause(error: CommandError) -> str:
    """Return the reason of a failed resolution or download, which is rarely the last line of uv or pip."""
    lines = [line.strip() for line in error.stderr.splitlines()]
    causes = [line.partition(": ")[2] for line in lines if line.startswith(("cause: ", "Caused by: "))]
    fetched, broken = (next((line for line in lines if mark in line), "") for mark in (_FETCHED, _BROKEN))
    if fetched and causes:
        return f"{fetched.partition(_FETCHED)[2].strip('`')} cannot be fetched: {causes[-1]}"
    # pip goes on without the index, and then finds no version.
    if broken and "Could not find a version" in error.stderr:
        reason = broken.partition(_BROKEN)[2].rpartition("': ")[0].rpartition(": ")[2].rstrip("')")
        return f"the package index cannot be reached: {reason}"
    reasons = [line for mark in ("Because", "ERROR:", "error:") for line in lines if mark in line]
    return (reasons or [error.message])[0].removeprefix("cause: ").partition(", we can conclude")[0]


def parse_version(text: str) -> Version:
    """Parse a version (PEP 440). Raises UsageError."""
    from packaging.version import InvalidVersion, Version

    try:
        return Version(text)
    except InvalidVersion:
        raise UsageError(f"{text} is not a version", "A version looks like 1.108.7.") from None


def _requirements(version: str) -> list[str]:
    """Return the requirements of this package for the lock, with that version of LiteLLM."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    declared = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    own = [item for item in declared if item.marker is None or "extra" not in str(item.marker)]
    litellm = next(item for item in own if item.name == "litellm")
    if bad := find_bad(version):
        raise UsageError(str(bad), "Choose another version.")
    if not SpecifierSet(SUPPORTED_LITELLM).contains(version, prereleases=True):
        raise UsageError(
            f"this litellm-systemd works with LiteLLM {SUPPORTED_LITELLM}, not {version}",
            "'litellmctl upgrade' fetches a later litellm-systemd.",
        )
    others = [str(item) for item in own if item.name not in (litellm.name, SDNOTIFY)]
    return [f"litellm[{','.join(sorted(litellm.extras))}]=={version}", *others]


def _by_uv(source: Source, requirements: list[str], scratch: Path) -> str:
    """Resolve for every Python and machine, as scripts/lock.sh does."""
    wanted, lock = scratch / "requirements.in", scratch / LOCK
    wanted.write_text("\n".join(requirements) + "\n", encoding="utf-8")
    # uv prefers the versions that the output file has.
    lock.write_text(source.lock, encoding="utf-8")
    run(
        (
            *(
                *uv_argv(find_uv() or "uv"),
                "pip",
                "compile",
                "--quiet",
                "--universal",
                "--python-version",
                "3.10",
                "--no-build",
            ),
            *("--python", str(source.python), "--generate-hashes", "--no-header", "--no-annotate"),
            *("--upgrade-package", "litellm", "--output-file", str(lock), str(wanted)),
        ),
        environment=index_environment(),
        timeout=600,
        hint=INDEX_HINT,
    )
    return lock.read_text(encoding="utf-8")


def _by_pip(source: Source, requirements: list[str], scratch: Path) -> str:
    """Resolve for this Python and machine alone: pip can't do it for others."""
    report = scratch / "report.json"
    options = ("--quiet", "--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", str(report))
    argv = (*pip_argv(source.python, scratch), "install", *options, *requirements)
    run(argv, environment=inherited_environment(), timeout=900, hint=f"{INDEX_HINT} pip 22.2 or later is needed.")
    found = json.loads(report.read_text(encoding="utf-8"))["install"]
    return render_lock(
        Pin(item["metadata"]["name"], item["metadata"]["version"], (wheel_hash(item),))
        for item in sorted(found, key=lambda item: str(item["metadata"]["name"]).lower())
    )


def wheel_hash(item: dict[str, Any]) -> str:
    """Return the SHA-256 of a file in pip's report, which has none for a file in a folder (PIP_FIND_LINKS).

    Raises:
        InstallerError: the index gives no SHA-256.
    """
    info = item["download_info"]
    if found := info["archive_info"].get("hashes", {}).get("sha256"):
        return str(found)
    url = urlparse(info["url"])
    if url.scheme != "file":
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        raise InstallerError(
            f"the package index gives no SHA-256 for {name} {version}, which a lock needs",
            "Use another index: PIP_INDEX_URL names it; or put the file into a folder: PIP_FIND_LINKS",
        )
    return hashlib.sha256(Path(unquote(url.path)).read_bytes()).hexdigest()
