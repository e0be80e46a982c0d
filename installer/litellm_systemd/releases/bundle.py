"""Bundles: one file with everything that a release is made from, for a host without a network."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from litellm_systemd.command import inherited_environment, run
from litellm_systemd.errors import CommandError, InputError, InstallerError
from litellm_systemd.releases.archive import LOCK, WHEELS, Manifest, read_manifest, require_fit, unpack, write_archive
from litellm_systemd.releases.bad_versions import refuse_bad_litellm
from litellm_systemd.releases.checked_archive import file_entry
from litellm_systemd.releases.prisma_parts import FOLDER, collect_parts, engine_component, read_build_lock
from litellm_systemd.releases.requirements_lock import (
    Pin,
    litellm_versions,
    lock_digest,
    parse_lock,
    pinned_version,
    pins_for,
    render_lock,
)
from litellm_systemd.releases.sbom import build_sbom, packed_package
from litellm_systemd.releases.source import (
    INDEX_HINT,
    Materials,
    Source,
    code_digest,
    find_cause,
    find_source,
    reachable_python,
    read_wheel,
    sdnotify_wheel,
    wheel_source,
)
from litellm_systemd.releases.venvs import pip_argv

#: The newest glibc that a wheel may need: Amazon Linux 2023 has 2.34, the oldest of the supported systems.
_NEWEST_GLIBC, _OLDEST_GLIBC = 34, 5
_LEGACY = ("manylinux2014", "manylinux2010", "manylinux1", "linux")


@dataclass(frozen=True, slots=True)
class BundleFile:
    """A bundle as the origin of this package and of all others."""

    path: Path

    def prepare(self, scratch: Path) -> Materials:
        """Check every file and unpack them. Raises InputError."""
        manifest = unpack(self.path, scratch)
        version, entries = read_wheel(scratch / manifest.wheel)
        if (version, code_digest(entries)) != (manifest.version, manifest.code):
            raise InputError(
                f"{self.path}: its wheel doesn't match the manifest", "Make a new one with 'litellmctl bundle'."
            )
        prisma = scratch / FOLDER
        return Materials(scratch / manifest.wheel, scratch / WHEELS, prisma if prisma.is_dir() else None)


@dataclass(frozen=True, slots=True)
class Target:
    """The Python (`3.11`) and the machine (`x86_64`, `aarch64`) that a bundle is for."""

    python: str = "{}.{}".format(*sys.version_info)
    machine: str = platform.machine()


def open_bundle(path: Path) -> Source:
    """Return a bundle as the source of a release. Fast: the content is checked when the release is built.

    Raises:
        MissingError: there is no such file.
        InputError: it is not a bundle for this machine and Python, or it is damaged.
    """
    manifest, lock = read_manifest(path)
    require_fit(path, manifest, Target().python)
    parse_lock(lock, f"{path}: {LOCK}")
    return Source(manifest.version, manifest.code, lock, reachable_python(), BundleFile(path.absolute()))


def open_own_bundle(path: Path) -> Source:
    """Return a bundle with the same code as this process, since `install` renders the units with its own code.

    Raises:
        InputError: the bundle has other code, or as `open_bundle`.
    """
    source = open_bundle(path)
    if source.code != find_source().code:
        raise InputError(
            f"{path} contains another litellm-systemd ({source.version}) than this one",
            f"sudo litellmctl upgrade --from {path}; on a fresh host: scripts/quickstart.sh --bundle {path}",
        )
    return source


def open_source(path: Path) -> Source:
    """Return a wheel of this package, or a bundle, as the source of a release. Raises InstallerError."""
    return wheel_source(path) if path.suffix == ".whl" else open_bundle(path)


def write_bundle(
    source: Source,
    out: Path,
    target: Target,
    *,
    wheels: Path | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> Manifest:
    """Fetch the packages of the lock and write a bundle.

    Args:
        source: the package and its lock.
        out: the file to write. It appears when it is complete.
        target: the Python and machine that it is for.
        wheels: a folder that keeps the fetched packages for the next bundle; None keeps none.
        say: called with each line of progress.

    Raises:
        InputError: the lock has a LiteLLM that is refused.
        CommandError: a package can't be fetched, or doesn't match its hash.
    """
    pins = parse_lock(source.lock)
    refuse_bad_litellm(litellm_versions(pins), "Make the bundle with another version of litellm-systemd.")
    try:
        with tempfile.TemporaryDirectory(prefix=".bundle-", dir=out.absolute().parent) as name:
            scratch = Path(name)
            folder = wheels or scratch / "fetched"
            say("preparing the packages")
            materials = source.origin.prepare(_made(scratch / "package"))
            wanted = pins_for((*pins, *read_build_lock(source.lock)), target.python, target.machine)
            found = _find_wheels(folder, source.wheels, wanted, target)
            if missing := tuple(pin for pin in wanted if pin not in found):
                _fetch(missing, target, folder, pip_argv(source.python, scratch), say)
                found = _find_wheels(folder, source.wheels, wanted, target)
            parts = collect_parts(
                source.lock,
                source.python,
                target.machine,
                _made(scratch / "parts"),
                folder,
                engine=source.engine,
                say=say,
            )
            say(f"writing {out} (about {250 if parts else 170} MB)")
            return _pack(source, out, target, (materials.wheel, sdnotify_wheel(), *found.values()), parts, scratch)
    except OSError as error:
        raise InstallerError(f"{error.filename or out}: {error.strerror}", "Fix that and run it again.") from error


def _find_wheels(folder: Path, given: tuple[Path, ...], pins: tuple[Pin, ...], target: Target) -> dict[Pin, Path]:
    """Return the pins for which there is a wheel with one of their hashes that fits the target, with that wheel."""
    wheels = (*given, *sorted(folder.glob("*.whl")))
    usable = {file_entry(path)[0]: path for path in wheels if _supported(target) & _tags_of(path)}
    found = {pin: next((usable[value] for value in pin.hashes if value in usable), None) for pin in pins}
    return {pin: path for pin, path in found.items() if path is not None}


def _tags_of(wheel: Path) -> frozenset[Tag]:
    try:
        return parse_wheel_filename(wheel.name)[3]
    except InvalidWheelFilename:
        return frozenset()


@cache
def _supported(target: Target) -> frozenset[Tag]:
    version = tuple(int(part) for part in target.python.split("."))
    ours = cpython_tags(version, abis=_abis(target), platforms=_platforms(target))
    return frozenset((*ours, *compatible_tags(version, platforms=_platforms(target))))


def _fetch(
    pins: tuple[Pin, ...], target: Target, folder: Path, pip: tuple[str, ...], say: Callable[[str], None]
) -> None:
    say(f"fetching {len(pins)} packages for Python {target.python} on {target.machine} (a minute or more)")
    # pip evaluates markers for its own Python, not for the target's.
    wanted = _made(folder) / "wanted.txt"
    wanted.write_text(render_lock(pin.everywhere() for pin in pins), encoding="utf-8")
    options = ("--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--dest", str(folder))
    version = ("--python-version", target.python, "--implementation", "cp")
    abis = tuple(word for abi in _abis(target) for word in ("--abi", abi))
    platforms = tuple(word for name in _platforms(target) for word in ("--platform", name))
    argv = (*pip, "download", *options, *version, *abis, *platforms, "--requirement", str(wanted))
    try:
        run(argv, environment=inherited_environment(), timeout=3600, hint=INDEX_HINT)
    except CommandError as error:
        error.message = f"the packages can't be fetched: {find_cause(error)}"
        raise


def _abis(target: Target) -> tuple[str, ...]:
    return (f"cp{target.python.replace('.', '')}", "abi3", "none")


def _platforms(target: Target) -> tuple[str, ...]:
    levels = [f"manylinux_2_{minor}" for minor in range(_NEWEST_GLIBC, _OLDEST_GLIBC - 1, -1)]
    return tuple(f"{level}_{target.machine}" for level in (*levels, *_LEGACY))


def _pack(
    source: Source, out: Path, target: Target, wheels: tuple[Path, ...], parts: Mapping[str, Path], scratch: Path
) -> Manifest:
    """Write the archive. The first of the wheels is our own."""
    folder = _made(scratch / "content")
    _made(folder / WHEELS)
    (folder / LOCK).write_text(source.lock, encoding="utf-8")
    names = [LOCK, wheels[0].name, *(f"{WHEELS}/{path.name}" for path in wheels[1:])]
    for name, path in zip(names[1:], wheels, strict=True):
        (folder / name).symlink_to(path.absolute())
    if parts:
        _made(folder / FOLDER)
        for name, path in parts.items():
            (folder / FOLDER / name).symlink_to(path.absolute())
    files = {name: file_entry(folder / name) for name in sorted((*names, *(f"{FOLDER}/{name}" for name in parts)))}
    packages = [packed_package(path, files[name][0]) for name, path in zip(names[1:], wheels, strict=True)]
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_now()))
    identity = " ".join((source.code, lock_digest(source.lock), target.python, target.machine))
    manifest = Manifest(
        version=source.version,
        litellm=pinned_version(source.lock, "litellm"),
        python=target.python,
        machine=target.machine,
        code=source.code,
        made=made,
        files=files,
        sbom=build_sbom(source.version, packages, made, identity, engine_component(source.lock)),
    )
    write_archive(scratch / "bundle.tar", manifest, folder)
    (scratch / "bundle.tar").replace(out)
    return manifest


def _now() -> float:
    """Seconds since 1970; SOURCE_DATE_EPOCH, where it is set, makes a bundle reproducible."""
    return float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
