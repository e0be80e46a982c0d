"""Build a release: a venv below the prefix with this package, LiteLLM and every dependency.

A service can't run from a checkout or from a venv in a home folder: ProtectHome hides it, SELinux refuses it, and the
next `git pull` changes it under the running process.

A release is built in a staging folder next to the others. After its trial, one rename gives it its name.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from litellm_systemd.command import Result, run, runtime_argv
from litellm_systemd.env.variables import Section, names_in
from litellm_systemd.errors import CommandError, InstallerError, Unavailable
from litellm_systemd.gateway.snapshot import SNAPSHOT
from litellm_systemd.host.files import exchange, plain_umask
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import RELEASE_MARK, observe_releases, read_installed
from litellm_systemd.host.service_user import as_service_user, service_environment
from litellm_systemd.releases.advisories import published_day
from litellm_systemd.releases.archive import WHEELS
from litellm_systemd.releases.bad_versions import refuse_bad_litellm
from litellm_systemd.releases.checked_archive import file_entry
from litellm_systemd.releases.integrity import find_damage, restore_access, write_record
from litellm_systemd.releases.inventory import Release
from litellm_systemd.releases.prisma_parts import add_parts, engine_component, prepare_parts
from litellm_systemd.releases.requirements_lock import (
    LOCK,
    additions_of,
    litellm_versions,
    lock_digest,
    parse_lock,
    pinned_version,
    pinned_versions,
    render_lock,
)
from litellm_systemd.releases.sbom import SBOM, build_sbom, installed_packages, packed_package
from litellm_systemd.releases.source import Source, find_cause, sdnotify_wheel
from litellm_systemd.releases.venvs import Venv, install_lock, install_wheel, make_movable, make_venv, size_of
from litellm_systemd.report.progress import Step

_PROBE = """
import importlib.metadata, json, platform
import litellm_systemd.runtime, litellm_systemd.commands, uvicorn, packaging.markers, packaging.utils
found = importlib.metadata.distributions()
print(json.dumps({
    "python": platform.python_version(),
    "environment": packaging.markers.default_environment(),
    "versions": {packaging.utils.canonicalize_name(item.name): item.version for item in found},
}))
"""

#: As the service does it: without the network, and with the modules that it preloads.
_IMPORT = """
import os
from litellm_systemd.runtime.worker.litellm_adapter import preload
preload(os.environ)
"""

_REMEDY = "Run it again; if it fails again, report it."

Say = Callable[[str], None]

_STAGING = ".staging-"


def build_release(layout: Layout, source: Source, say: Say = lambda _line: None, *, starts: bool = False) -> str:
    """Build the release of `source` below the prefix, unless it exists undamaged, and return its identifier.

    `starts`: whether the service starts with it at once. That imports LiteLLM, so the trial doesn't have to.

    Raises:
        CommandError: uv or pip failed; the message is its last line.
        InputError: the lock has a LiteLLM that is refused.
        InstallerError: the finished venv doesn't work, or a file can't be written.
    """
    refuse_bad_litellm(
        litellm_versions(parse_lock(source.lock)),
        "Choose a bundle, or a version of litellm-systemd, with another LiteLLM.",
    )
    identifier = source.identifier
    damage = ""
    if identifier in observe_releases(layout):
        damage = _repair_access(layout, identifier)
        if not damage:
            return identifier
        say(f"release {identifier} is damaged and is built again: {damage}")
    try:
        with plain_umask(), _staging(layout, identifier) as staging:
            venv, python = _build(layout, source, staging, say, starts=starts)
            _complete(layout, source, venv, python)
    except OSError as error:
        raise InstallerError(
            f"the release can't be built: {error.strerror}: {error.filename}", "Fix that and run it again."
        ) from error
    except CommandError as error:
        failure = f"is damaged ({damage}) and can't be built again" if damage else "can't be built"
        error.message = f"release {identifier} {failure}: {find_cause(error)}"
        raise
    return identifier


def _repair_access(layout: Layout, identifier: str) -> str:
    """Restore the modes of a release, which needs no source, and return the damage that is left."""
    if not find_damage(layout, identifier):
        return ""
    restore_access(layout, identifier)
    return find_damage(layout, identifier)


def _build(layout: Layout, source: Source, staging: Path, say: Say, *, starts: bool) -> tuple[Venv, str]:
    scratch = staging / "scratch"
    scratch.mkdir()
    say(Step("preparing the packages"))
    materials = source.origin.prepare(scratch)
    parts_folder = scratch / "prisma-parts"
    parts_folder.mkdir()
    # First: what cannot be had should be reported before a minute has passed.
    parts = prepare_parts(
        source.lock,
        source.python,
        platform.machine(),
        parts_folder,
        engine=source.engine,
        wheels=materials.others,
        bundled=materials.prisma,
        say=say,
    )
    venv = make_venv(staging / "venv", source.python)
    (venv.folder / LOCK).write_text(source.lock, encoding="utf-8")
    wanted = scratch / LOCK
    wanted.write_text(render_lock(parse_lock(source.lock)), encoding="utf-8")
    given = _keep_wheels(source, venv.folder, materials.others)
    pace = "seconds to minutes" if venv.uv else "a minute or more"
    say(Step(f"building the release with {venv.maker} (about 700 MB; {pace})"))
    install_lock(venv, wanted, materials.others, given, additions_of(source.lock))
    install_wheel(venv, sdnotify_wheel())
    install_wheel(venv, materials.wheel)
    if parts is not None:
        say(Step("generating Prisma's client"))
        add_parts(parts, venv.folder, venv.python, scratch / "prisma-client")
    make_movable(venv, layout.release(source.identifier))
    say(Step("trying the new release"))
    python = try_release(venv.python, source.lock, source.version)
    take_snapshot(venv.python, venv.folder / SNAPSHOT, say)
    if not try_configuration(layout, venv.python, say) and not starts:
        try_import(venv.python)
    return venv, python


def _keep_wheels(source: Source, release: Path, others: Path | None) -> Path | None:
    """Copy the wheels that the user gave to a folder of the release, for later releases. None if there are none."""
    given = (Path(each).name for each in additions_of(source.lock) if each.endswith(".whl"))
    bundled = () if others is None else (others / name for name in given)
    wheels = (*source.wheels, *bundled)
    if not wheels:
        return None
    (release / WHEELS).mkdir()
    for wheel in wheels:
        shutil.copyfile(wheel, release / WHEELS / wheel.name)
    return release / WHEELS


def _complete(layout: Layout, source: Source, venv: Venv, python: str) -> None:
    """Write release.json and the bill of materials, and rename the venv to its final name: now it is a release."""
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    packages = installed_packages(venv.folder, _hashes(source.lock))
    sbom = build_sbom(source.version, packages, made, source.identifier, engine_component(source.lock))
    (venv.folder / SBOM).write_text(json.dumps(sbom, indent=1) + "\n", encoding="utf-8")
    litellm = pinned_version(source.lock, "litellm")
    mark = Release(
        identifier=source.identifier,
        version=source.version,
        litellm=litellm,
        python=str(source.python),
        python_version=python,
        lock=lock_digest(source.lock),
        made=made,
        made_by=venv.maker,
        size=size_of(venv.folder),
        litellm_released=published_day(litellm),
        checkout=source.checkout,
        additions=additions_of(source.lock),
        files=write_record(venv.folder),
    )
    (venv.folder / RELEASE_MARK).write_text(mark.as_mark(), encoding="utf-8")
    # After a power failure the name must not exist without the files; rename(2) promises no such order.
    run(("sync", "--file-system", str(venv.folder)), timeout=600)
    target = layout.real(layout.release(source.identifier))
    # The name never lacks a release: an incomplete or damaged one moves into the staging folder, which is removed.
    if not target.exists():
        venv.folder.rename(target)
    elif not exchange(venv.folder, target):
        shutil.rmtree(target)
        venv.folder.rename(target)
    run(("sync", "--file-system", str(target.parent)), timeout=600)


def _hashes(lock: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """The hashes that each package of a release may have: those of the lock, and that of our wheel of sdnotify."""
    known = {(pin.name, pin.version): pin.hashes for pin in parse_lock(lock)}
    own = packed_package(sdnotify_wheel(), file_entry(sdnotify_wheel())[0])
    return known | {(own.name, own.version): own.hashes}


@contextmanager
def _staging(layout: Layout, identifier: str) -> Iterator[Path]:
    """Give an empty folder on the file system of the releases, and remove it at the end.

    Folders that killed runs left are removed first.
    """
    releases = layout.real(layout.releases)
    releases.mkdir(parents=True, exist_ok=True)
    remove_leftovers(layout)
    folder = releases / f"{_STAGING}{identifier}"
    folder.mkdir()
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # The lock shows that a process builds here; the kernel releases it when the process ends (flock(2)).
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def remove_leftovers(layout: Layout) -> None:
    """Remove what killed builds and removals of releases left.

    Raises:
        Unavailable: another process builds a release.
    """
    for leftover in layout.real(layout.releases).glob(f"{_STAGING}*"):
        _remove_leftover(leftover)


def _remove_leftover(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
    except BlockingIOError:
        raise Unavailable(
            f"another process is building a release in {folder}", "Wait until it has finished."
        ) from None
    finally:
        os.close(handle)


def try_release(python: str, lock: str, version: str) -> str:
    """Import what the service and litellmctl import first, and compare each version with the lock; Python's version.

    LiteLLM takes seconds to import: `try_configuration`, `try_import` or the start of the service does that.

    Raises:
        InstallerError: an import fails, or a version differs from the lock.
    """
    found: dict[str, Any] = json.loads(_try(python, _PROBE))
    versions = {str(name): str(value) for name, value in found["versions"].items()}
    wanted = pinned_versions(parse_lock(lock), found["environment"]) | {"litellm-systemd": version}
    for name, value in wanted.items():
        if versions.get(name) != value:
            raise InstallerError(
                f"the new release has {name} {versions.get(name, 'not at all')}, and the lock {value}", _REMEDY
            )
    return str(found["python"])


def take_snapshot(python: str, target: Path, say: Say) -> None:
    """Write what the release's LiteLLM knows, for the checks of configurations.

    It takes no time if the release's package ships the snapshot of that version, and otherwise half a minute. Without
    it, the checks use the shipped one.
    """
    module = "litellm_systemd.releases.litellm_snapshot"
    done = run((python, "-I", "-m", module, str(target)), check=False, timeout=600)
    # An earlier version of this package has no snapshot.
    if done.returncode != 0 and f"No module named {module}" not in done.stderr:
        say(f"the checks use the names of another LiteLLM, because this one can't be asked: {_last_line(done)}")


def try_import(python: str) -> None:
    """Import LiteLLM as the service does.

    Raises:
        InstallerError: the import fails.
    """
    _try(python, _IMPORT)


def _try(python: str, code: str) -> str:
    done = run((python, "-I", "-c", code), check=False, timeout=300)
    if done.returncode != 0:
        raise InstallerError(f"the new release doesn't work: {_last_line(done)}", _REMEDY)
    return done.stdout


def try_configuration(layout: Layout, python: str, say: Callable[[str], None]) -> bool:
    """Let the release load the installed configuration as the service's user does. Nothing is served.

    A configuration that the release in use can't load either doesn't count against the new one.

    Returns:
        Whether a configuration is installed.

    Raises:
        InstallerError: it can't be loaded, and the release in use can load it.
    """
    if not layout.is_host or not layout.real(layout.config_link).is_file():
        return False
    say(Step(f"loading {layout.config_link} with the new release (some seconds)"))
    failed = _check(layout, python)
    if failed is None:
        return True
    present = layout.real(layout.current) / "bin" / "python"
    if present.exists() and _check(layout, str(present)) is not None:
        say(f"{layout.config_link} doesn't load with the release in use either: {failed}")
        return True
    raise InstallerError(
        f"the new release can't load {layout.config_link}: {failed}",
        "The service was not touched. Fix the configuration, or keep the release in use.",
    )


def _check(layout: Layout, python: str) -> str | None:
    """Return why the runtime of that Python can't load the installed configuration, None if it can.

    It has no database: that is not migrated yet, and after an uninstall there is no user to whom it belongs.
    """
    argv = runtime_argv("check", "--config", layout.config_link, python=python)
    left_out = names_in(Section.DATABASE)
    installed = {name: value for name, value in read_installed(layout).items() if name not in left_out}
    environment = service_environment(layout, installed)
    done = run(as_service_user(layout, argv), check=False, environment=environment, timeout=600)
    return None if done.returncode == 0 else _last_line(done)


def _last_line(done: Result) -> str:
    lines = (done.stderr.strip() or done.stdout.strip()).splitlines() or [f"exit code {done.returncode}"]
    return re.sub(r"^<\d>", "", lines[-1])
