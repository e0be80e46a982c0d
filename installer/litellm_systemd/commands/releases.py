"""upgrade, rollback, releases list and prune, bundle: what there is to run, and which of it runs."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.command import replace_process
from litellm_systemd.commands.transaction import changing, require_root
from litellm_systemd.errors import InputError, InstallerError, MissingError, Unavailable, UsageError
from litellm_systemd.host.layout import Layout
from litellm_systemd.releases.build import build_release
from litellm_systemd.releases.bundle import Target, open_source, write_bundle
from litellm_systemd.releases.fetch import fetch_litellm, fetch_package
from litellm_systemd.releases.inventory import (
    Release,
    choose_rollback,
    current_release,
    list_releases,
    missing_python,
    releases_in_use,
    running_release,
)
from litellm_systemd.releases.source import Source, find_source
from litellm_systemd.report.report import Report

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class UpgradeTarget:
    """What to upgrade to: a version of this package (None: the newest), or a file with it, or a LiteLLM."""

    version: str | None = None
    file: Path | None = None
    litellm: str | None = None


def upgrade(
    layout: Layout, wish: UpgradeTarget, *, as_json: bool = False, wait: bool = False, say: Say = lambda _line: None
) -> Report:
    """Build a release beside the present one and let its own `install` switch to it.

    That install restarts without a pause, verifies, and goes back by itself if that fails. This function only returns
    when there was nothing to do.

    Raises:
        InstallerError: the release can't be had, or doesn't work. The service was not touched.
    """
    if len([given for given in asdict(wish).values() if given is not None]) > 1:
        raise UsageError("VERSION, --from and --litellm exclude each other", "Give one of them.")
    current = _require_current(layout)
    with changing(layout, "upgrade", say, wait=wait), tempfile.TemporaryDirectory(prefix="litellmctl-") as scratch:
        source = _source(wish, Path(scratch), say)
        if source.identifier == current:
            return Report(f"nothing to do: release {current} is in use already", data={"changed": False})
        say(f"release {source.identifier}")
        identifier = build_release(layout, source, say)
    return _hand_over(layout, identifier, as_json=as_json, say=say)


def _require_current(layout: Layout) -> str:
    current = current_release(layout)
    if current is None:
        raise MissingError("nothing is installed here", "'litellmctl install' comes first.")
    return current


def _source(wish: UpgradeTarget, scratch: Path, say: Say) -> Source:
    if wish.file is not None:
        return open_source(wish.file)
    if wish.litellm is not None:
        return fetch_litellm(wish.litellm, scratch, say)
    return fetch_package(wish.version, scratch, say)


def rollback(
    layout: Layout, identifier: str | None = None, *, as_json: bool = False, say: Say = lambda _line: None
) -> Report:
    """Go back to another release, by its own `install`: the one before, or the named one (the beginning will do).

    Raises:
        UsageError: there is no such release.
        Unavailable: its Python isn't there any more.
    """
    require_root("litellmctl rollback")
    chosen = choose_rollback(layout, identifier)
    if (python := missing_python(layout, chosen.identifier)) is not None:
        raise Unavailable(
            f"release {chosen.identifier} needs {python}, which isn't there any more",
            "'litellmctl upgrade' builds a new one.",
        )
    return _hand_over(layout, chosen.identifier, as_json=as_json, say=say)


def _hand_over(layout: Layout, identifier: str, *, as_json: bool, say: Say) -> Report:
    """Become the release's own litellmctl: only it knows what units and files it wants."""
    say(f"release {identifier} takes over")
    if leaves_timer(layout, identifier):
        say(
            f"release {identifier} is older than {contract.VERIFY_TIMER} and leaves it as it is. If its check fails"
            f" there: sudo systemctl disable --now {contract.VERIFY_TIMER}"
        )
    program = layout.real(layout.release(identifier)) / "bin" / "litellmctl"
    replace_process((str(program), "install", "--installed", *(("--json",) if as_json else ())))
    raise AssertionError("exec doesn't return")  # pragma: no cover


def leaves_timer(layout: Layout, identifier: str) -> bool:
    """Whether the timer of the check is installed, and the release doesn't know it. Any other renders it anew."""
    template = f"lib/python*/site-packages/litellm_systemd/units/{contract.VERIFY_TIMER}.j2"
    knows = any(layout.real(layout.release(identifier)).glob(template))
    return layout.real(layout.verify_timer).exists() and not knows


def list_all(layout: Layout) -> Report:
    """Each release: its versions, when and with what it was made, and whether it is in use."""
    current, used = current_release(layout), releases_in_use(layout)
    found = list_releases(layout)
    rows = [
        asdict(release)
        | {
            "current": release.identifier == current,
            "in_use": release.identifier in used,
            "missing_python": missing_python(layout, release.identifier),
        }
        for release in found
    ]
    facts = tuple((release.identifier, _describe(layout, release, current, used)) for release in found)
    return Report(f"{len(found)} releases in {layout.releases}", facts=facts, data={"releases": rows})


def _describe(layout: Layout, release: Release, current: str | None, used: frozenset[str]) -> str:
    gone = missing_python(layout, release.identifier)
    parts = (
        f"LiteLLM {release.litellm or 'unknown'}",
        f"Python {release.python_version or 'unknown'}",
        f"made {release.made or 'at an unknown time'}" + (f" by {release.made_by}" if release.made_by else ""),
        f"{release.size >> 20} MiB" if release.size else "",
        "current" if release.identifier == current else "",
        "in use" if release.identifier in used else "",
        f"its Python {gone} is gone" if gone else "",
    )
    return ", ".join(filter(None, parts))


def prune(layout: Layout, keep: int, *, wait: bool = False, say: Say = lambda _line: None) -> Report:
    """Remove releases: all but the current one, those that a process runs from, and the newest `keep` others.

    Raises:
        PermissionDenied: the user isn't root.
    """
    with changing(layout, "releases prune", say, wait=wait):
        held = {current_release(layout), running_release(layout), *releases_in_use(layout)}
        others = [release.identifier for release in list_releases(layout) if release.identifier not in held]
        doomed = others[keep:]
        for identifier in doomed:
            say(f"removing release {identifier}")
            _remove(layout, identifier)
    title = f"removed {len(doomed)} releases" if doomed else "nothing to do: no release is to go"
    return Report(
        title, notes=tuple(f"removed {name}" for name in doomed), data={"changed": bool(doomed), "removed": doomed}
    )


def _remove(layout: Layout, identifier: str) -> None:
    """First its name: what is left when this is cut short is no release, and the next build takes it away."""
    folder = layout.real(layout.release(identifier))
    hidden = folder.with_name(f".staging-{identifier}")
    try:
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        raise InstallerError(f"{error.filename}: {error.strerror}", "Mend that and run it again.") from error


def bundle(out: Path | None, target: Target, *, wheels: Path | None = None, say: Say = lambda _line: None) -> Report:
    """Make one file of all that a release needs, for `install --bundle` on a host with no way out.

    Raises:
        InputError: that Python isn't one that litellm-systemd runs on.
        CommandError: a package can't be had.
    """
    if target.python not in ("3.10", "3.11", "3.12", "3.13", "3.14"):
        raise InputError(f"Python {target.python}: not one that litellm-systemd runs on", "3.10 to 3.14 are.")
    source = find_source()
    path = out or Path(f"litellm-systemd-{source.version}-cp{target.python.replace('.', '')}-{target.machine}.tar")
    manifest = write_bundle(source, path, target, wheels=wheels, say=say)
    size = path.stat().st_size
    return Report(
        f"{path}: litellm-systemd {manifest.version} with LiteLLM {manifest.litellm} for Python {manifest.python} on"
        f" {manifest.machine}, {size >> 20} MiB",
        notes=(f"There: sudo litellmctl install --bundle {path.name}, or sudo ./scripts/quickstart.sh --bundle ...",),
        data={"file": str(path), "size": size, "python": manifest.python, "machine": manifest.machine},
    )
