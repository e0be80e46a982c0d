"""upgrade, rollback, releases build, list, sbom, verify and prune, and bundle."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType

from litellm_systemd import contract
from litellm_systemd.command import replace_process
from litellm_systemd.commands.additions import bundle_source, choose_release, kept_additions
from litellm_systemd.commands.config_files import read_gateway
from litellm_systemd.commands.migration import settle_rollback
from litellm_systemd.commands.resolve import Request, resolve
from litellm_systemd.commands.service import verify_service
from litellm_systemd.contract import ExitCode
from litellm_systemd.database.steps import installed_settings
from litellm_systemd.env import database, metrics, retired_keys, secret_references, tls
from litellm_systemd.env.variables import METRICS, TLS_CERT_FILE
from litellm_systemd.errors import (
    CannotCreate,
    InputError,
    InstallerError,
    Interrupted,
    MissingError,
    NotInstalled,
    Unavailable,
    UsageError,
    remedy_of,
)
from litellm_systemd.gateway.config import GatewayConfig
from litellm_systemd.host import encrypted_secrets
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import observe_releases, read_environment_file, require_root
from litellm_systemd.install.apply import changing
from litellm_systemd.instances.temporary_unit import restart_without_pause
from litellm_systemd.releases.additions import extend, require_additions
from litellm_systemd.releases.archive import read_manifest
from litellm_systemd.releases.bad_versions import refuse_bad_litellm
from litellm_systemd.releases.build import build_release, remove_leftovers
from litellm_systemd.releases.bundle import Target, open_source, write_bundle
from litellm_systemd.releases.integrity import find_damage, verify_release
from litellm_systemd.releases.inventory import (
    Release,
    choose_rollback,
    current_release,
    find_release,
    installed_litellm,
    list_releases,
    missing_python,
    read_release,
    releases_in_use,
    running_release,
)
from litellm_systemd.releases.newest import fetch_newest_litellm
from litellm_systemd.releases.requirements_lock import additions_of, pinned_version
from litellm_systemd.releases.sbom import SBOM
from litellm_systemd.releases.source import Source, current_lock, fetch_litellm, fetch_package, release_source
from litellm_systemd.report.report import Check, Outcome, Report, render_count
from litellm_systemd.user_files import require_output

Say = Callable[[str], None]

#: How many files of a damaged release are printed, of each kind.
_SHOWN = 20

#: As the version of LiteLLM: the newest that can be installed.
NEWEST = "newest"

_OTHER_SOURCES = (
    "From a bundle: sudo litellmctl upgrade --from FILE. From a checkout: git pull && sudo ./scripts/quickstart.sh"
)


@dataclass(frozen=True, slots=True)
class UpgradeTarget:
    """The target of an upgrade: a version of this package (None: the newest), a file with it, or a LiteLLM.

    `litellm`: its version, `NEWEST` for the newest that can be installed.
    """

    version: str | None = None
    file: Path | None = None
    litellm: str | None = None


def upgrade(
    layout: Layout, target: UpgradeTarget, *, as_json: bool = False, wait: bool = False, say: Say = lambda _line: None
) -> Report:
    """Build a release next to the current one, and let its own `install` switch to it.

    That install restarts without a pause, verifies, and rolls back if that fails. This function returns only if there
    was nothing to do, or if the release in use was damaged: then it verifies the service itself.

    Raises:
        InputError: a line of the environment file loses a variable.
        InstallerError: the release can't be fetched or built, or does not work. The service was not changed.
        Unavailable: no version was given, and the current release was installed from a checkout.
    """
    if len([value for value in asdict(target).values() if value is not None]) > 1:
        raise UsageError("VERSION, --from and --litellm cannot be combined", "Use one of them.")
    current = _require_current(layout)
    scratch_folder = tempfile.TemporaryDirectory(prefix="litellmctl-")
    with changing(layout, "upgrade", say, wait=wait) as executor, scratch_folder as scratch:
        read_environment_file(layout)  # the install would refuse an unusable one, but only after the build
        if target.litellm == NEWEST:
            litellm = read_release(layout, current).litellm or pinned_version(current_lock(), "litellm")
            newest = fetch_newest_litellm(litellm, Path(scratch), say)
            if newest.source is None:
                title = f"nothing to do: no LiteLLM after {litellm} can be installed"
                return Report(title, notes=newest.skipped, data={"changed": False})
            source = newest.source
        else:
            source = _source(target, read_release(layout, current).checkout, Path(scratch), say)
        source = _with_additions(layout, source, target.file, say)
        is_current = source.identifier == current
        if is_current and not find_damage(layout, current):
            return Report(f"nothing to do: release {current} is in use", data={"changed": False})
        say(f"release {source.identifier}")
        identifier = build_release(layout, source, say)
        is_restarted = is_current and executor.systemctl.unit_state(contract.SERVICE).is_active
        if is_restarted:
            # The install would not know that the files are new.
            restart_without_pause(layout, executor.systemctl, say)
    if is_restarted:
        proof = verify_service(layout, say=say)
        title = f"release {identifier} was damaged and is built again, and the service is restarted; {proof.title}"
        return replace(proof, title=title, data={"changed": True, "verify": dict(proof.data)})
    return _hand_over(layout, identifier, as_json=as_json, say=say)


def _require_current(layout: Layout) -> str:
    current = current_release(layout)
    if current is None:
        raise NotInstalled
    return current


def _source(target: UpgradeTarget, checkout: str, scratch: Path, say: Say) -> Source:
    if target.file is not None:
        return open_source(target.file)
    if target.litellm is not None:
        return fetch_litellm(target.litellm, scratch, say)
    if not checkout:
        return fetch_package(target.version, scratch, say, hint=_OTHER_SOURCES)
    fix = f"To upgrade it, run: cd {shlex.quote(checkout)} && git pull && sudo ./scripts/quickstart.sh"
    if target.version is None:
        # Not from the index: there the name may belong to another project.
        raise Unavailable(f"the current release was installed from the checkout {checkout}", fix)
    return fetch_package(target.version, scratch, say, hint=fix)


def _with_additions(layout: Layout, source: Source, file: Path | None, say: Say) -> Source:
    """The source with the additions of the release in use. Raises InputError if it is a bundle without them."""
    kept = kept_additions(layout, current_release(layout))
    if file is not None and file.suffix != ".whl":
        require_additions(file, source.lock, kept.names)
        return source
    return extend(source, kept.names, kept, say=say) if kept.names else source


def rollback(
    layout: Layout,
    identifier: str | None = None,
    *,
    restores: bool = False,
    as_json: bool = False,
    say: Say = lambda _line: None,
) -> Report:
    """Switch back to a release, by its own `install`: the previous one, or the one that `identifier` begins.

    With `restores`, also restore the dump of the database from before the migrations that this release does not know.

    Raises:
        UsageError: there is no such release.
        InputError: it has a LiteLLM that is refused, or a line of the environment file loses a variable.
        Unavailable: its Python was removed, it does not know what the environment uses, it is damaged and cannot be
            built again, or it does not work with the migrations of the database.
    """
    require_root("litellmctl rollback")
    chosen = choose_rollback(layout, identifier)
    refuse_bad_litellm(
        installed_litellm(layout, chosen.identifier), "Name another release: 'litellmctl releases list' shows them."
    )
    if (python := missing_python(layout, chosen.identifier)) is not None:
        raise Unavailable(
            f"release {chosen.identifier} needs {python}, which was removed", "'litellmctl upgrade' builds a new one."
        )
    read_environment_file(layout)
    if find_damage(layout, chosen.identifier):
        with changing(layout, "rollback", say):
            build_release(layout, release_source(layout, chosen.identifier), say)
    _require_features(layout, chosen.identifier)
    with changing(layout, "rollback", say) as executor:
        settle_rollback(layout, chosen.identifier, executor, restores=restores, say=say)
    return _hand_over(layout, chosen.identifier, as_json=as_json, say=say)


def _hand_over(layout: Layout, identifier: str, *, as_json: bool, say: Say) -> Report:
    """Become the litellmctl of the release: only it knows its units and files."""
    _require_features(layout, identifier)
    say(f"release {identifier} takes over")
    if leaves_timer(layout, identifier):
        say(
            f"release {identifier} does not know {contract.VERIFY_TIMER} and does not change it. If its check fails:"
            f" sudo systemctl disable --now {contract.VERIFY_TIMER}"
        )
    if refuses_old_keys(layout, identifier):
        say(f"release {identifier} does not know 'litellmctl rotate-key': it refuses the old master key from now on")
    program = layout.real(layout.release(identifier)) / "bin" / "litellmctl"
    replace_process((str(program), "install", "--installed", *(("--json",) if as_json else ())))
    raise AssertionError("exec doesn't return")  # pragma: no cover


def _require_features(layout: Layout, identifier: str) -> None:
    """Check that the release knows what the environment uses.

    Another one would generate a new master key, take a reference for the key itself, serve plain HTTP, or take the
    port of the metrics for one of the gateway.
    """
    variables = read_environment_file(layout)
    features = (
        (
            encrypted_secrets,
            layout.real(layout.secrets).exists(),
            "encrypted secrets",
            "Write them back into the environment file first: sudo litellmctl install --installed"
            " --no-encrypt-secrets",
        ),
        (
            secret_references,
            any(map(secret_references.is_reference, variables.values())),
            "secrets in AWS",
            "Write the secrets themselves into .env first, then: sudo litellmctl install",
        ),
        (
            metrics,
            METRICS.name in variables,
            "METRICS, and would serve the gateway on that port too",
            "Remove METRICS from .env first, then: sudo litellmctl install",
        ),
        (
            tls,
            TLS_CERT_FILE.name in variables,
            f"{TLS_CERT_FILE.name} and would serve plain HTTP",
            f"Remove {TLS_CERT_FILE.name} and TLS_KEY_FILE from .env first, then: sudo litellmctl install",
        ),
        (
            database,
            database.database_mode(*installed_settings(layout)),
            "a database, and would refuse all virtual keys",
            "Remove the database from .env first, then: sudo litellmctl install",
        ),
    )
    for module, is_used, what, fix in features:
        if is_used and not _has(layout, identifier, module):
            raise Unavailable(f"release {identifier} does not know {what}", fix)


def _has(layout: Layout, identifier: str, module: ModuleType) -> bool:
    path = f"lib/python*/site-packages/{module.__name__.replace('.', '/')}.py"
    return any(layout.real(layout.release(identifier)).glob(path))


def refuses_old_keys(layout: Layout, identifier: str) -> bool:
    """Whether the overlap of a rotation has not ended and the release does not know of it."""
    keys = retired_keys.read_retired_keys(read_environment_file(layout))
    return any(key.until > time.time() for key in keys) and not _has(layout, identifier, retired_keys)


def leaves_timer(layout: Layout, identifier: str) -> bool:
    """Whether the verify timer is installed and the release does not know it. Other releases write their own."""
    template = f"lib/python*/site-packages/litellm_systemd/units/{contract.VERIFY_TIMER}.j2"
    knows = any(layout.real(layout.release(identifier)).glob(template))
    return layout.real(layout.verify_timer).exists() and not knows


def build(
    layout: Layout,
    request: Request,
    *,
    bundle: Path | None = None,
    wanted: tuple[str, ...] = (),
    engine: Path | None = None,
    wait: bool = False,
    say: Say = lambda _line: None,
) -> Report:
    """Build a release and write nothing else: no unit, no configuration, no key.

    An image that has the release needs no package index later: the `install` of the release itself finds it built.

    Raises:
        PermissionDenied: the user is not root.
        InstallerError: as `choose_release` and `build_release`.
    """
    with changing(layout, "releases build", say, wait=wait):
        choice = choose_release(layout, _chosen(request), bundle=bundle, wanted=wanted, engine=engine, say=say)
        is_new = choice.source is not None and bool(
            choice.identifier not in observe_releases(layout) or find_damage(layout, choice.identifier)
        )
        if choice.source is not None:
            build_release(layout, choice.source, say)
    release = layout.release(choice.identifier)
    return Report(
        f"built release {choice.identifier}" if is_new else f"nothing to do: release {choice.identifier} is built",
        notes=(*choice.notes, f"To install it: sudo {release}/bin/litellmctl install"),
        data={"changed": is_new, "release": choice.identifier, "litellmctl": f"{release}/bin/litellmctl"},
    )


def list_all(layout: Layout) -> Report:
    """Each release: its versions, when and by which tool it was made, and whether it is in use."""
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
    return Report(f"{render_count(len(found), 'release')} in {layout.releases}", facts=facts, data={"releases": rows})


def _describe(layout: Layout, release: Release, current: str | None, used: frozenset[str]) -> str:
    gone = missing_python(layout, release.identifier)
    parts = (
        f"LiteLLM {release.litellm or 'unknown'}",
        f"Python {release.python_version or 'unknown'}",
        f"made {release.made or 'at an unknown time'}" + (f" by {release.made_by}" if release.made_by else ""),
        f"{release.size >> 20} MiB" if release.size else "",
        f"with {' '.join(release.additions)}" if release.additions else "",
        "current" if release.identifier == current else "",
        "in use" if release.identifier in used else "",
        f"its Python {gone} was removed" if gone else "",
    )
    return ", ".join(filter(None, parts))


def read_sbom(layout: Layout, name: str | None) -> str:
    """Return the bill of materials (CycloneDX, JSON) of a release, by default the current one, or of a bundle.

    Raises:
        UsageError: there is no such release.
        InputError: the bundle is damaged.
        MissingError: an earlier version of this package made it, without a bill of materials.
    """
    if name is not None and Path(name).is_file():
        manifest, _ = read_manifest(Path(name))
        text = json.dumps(manifest.sbom, indent=1) if manifest.sbom else ""
    else:
        name = find_release(list_releases(layout), name).identifier if name else _require_current(layout)
        path = layout.real(layout.release(name)) / SBOM
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    if not text:
        raise MissingError(
            f"{name} has no bill of materials: an earlier litellm-systemd made it",
            "A new release has one: sudo litellmctl upgrade. So has a new bundle: litellmctl bundle",
        )
    return text.rstrip()


def verify(layout: Layout, name: str | None) -> Report:
    """Compare the files of a release, by default the current one, with the digests that its build recorded.

    Raises:
        UsageError: there is no such release.
        MissingError: an earlier version of this package made it, without digests.
        PermissionDenied: this user cannot read it.
    """
    name = find_release(list_releases(layout), name).identifier if name else _require_current(layout)
    began = time.monotonic()
    found = verify_release(layout, name)
    kinds = (
        ("missing", found.missing, Outcome.FAILED),
        ("changed", found.changed, Outcome.FAILED),
        ("not readable", found.unreadable, Outcome.FAILED),
        ("added", found.added, Outcome.WARNING),
    )
    files = render_count(found.number, "file")
    state = "is damaged" if found.is_damaged else "is undamaged"
    return Report(
        f"release {name} {state}: {files} compared in {time.monotonic() - began:.1f} s",
        tuple(check for kind, paths, outcome in kinds for check in _file_checks(kind, paths, outcome)),
        notes=(_repair_note(layout, name),) if found.is_damaged else (),
        data={
            "release": name,
            "missing": list(found.missing),
            "changed": list(found.changed),
            "unreadable": list(found.unreadable),
            "added": list(found.added),
            "files": found.number,
        },
        code=ExitCode.DAMAGED if found.is_damaged else ExitCode.OK,
    )


def _file_checks(kind: str, paths: tuple[str, ...], outcome: Outcome) -> Iterator[Check]:
    yield from (Check(kind, outcome, path) for path in paths[:_SHOWN])
    if more := max(0, len(paths) - _SHOWN):
        yield Check(kind, outcome, f"and {render_count(more, 'more file')}: --json lists all of them")


def _repair_note(layout: Layout, name: str) -> str:
    if name == current_release(layout):
        return "To build it again: sudo litellmctl doctor --fix"
    return f"To build it again and switch to it: sudo litellmctl rollback {name}"


def prune(layout: Layout, keep: int, *, wait: bool = False, say: Say = lambda _line: None) -> Report:
    """Remove releases: all but the current one, those that a process runs from, and the newest `keep` others.

    Raises:
        PermissionDenied: the user is not root.
    """
    with changing(layout, "releases prune", say, wait=wait):
        remove_leftovers(layout)
        held = {current_release(layout), running_release(layout), *releases_in_use(layout)}
        others = [release.identifier for release in list_releases(layout) if release.identifier not in held]
        removable = others[keep:]
        try:
            for identifier in removable:
                say(f"removing release {identifier}")
                _remove(layout, identifier)
        except Interrupted as error:
            error.hint = "The next run removes the rest."
            raise
    number = render_count(len(removable), "release")
    title = f"removed {number}" if removable else "nothing to do: no release can be removed"
    return Report(
        title,
        notes=tuple(f"removed {name}" for name in removable),
        data={"changed": bool(removable), "removed": removable},
    )


def _remove(layout: Layout, identifier: str) -> None:
    """Rename it first: after an interruption the rest is no release, and the next run or build removes it."""
    folder = layout.real(layout.release(identifier))
    hidden = folder.with_name(f".staging-{identifier}")
    try:
        shutil.rmtree(hidden, ignore_errors=True)
        folder.rename(hidden)
        shutil.rmtree(hidden)
    except OSError as error:
        raise InstallerError(f"{error.filename}: {error.strerror}", "Fix that and run it again.") from error


def bundle(
    out: Path | None,
    target: Target,
    request: Request,
    *,
    wanted: tuple[str, ...] = (),
    wheels: Path | None = None,
    engine: Path | None = None,
    say: Say = lambda _line: None,
) -> Report:
    """Write one file with everything that a release needs, for `install --bundle` on a host without a network.

    It has the additions of the release that this process runs from, those in `wanted`, and if the request names a
    configuration, those that it needs. `engine` is Prisma's query engine, if the user gave it.

    Raises:
        InputError: litellm-systemd does not run on that Python.
        CannotCreate: the file can't be written.
        CommandError: a package can't be downloaded.
    """
    if target.python not in ("3.10", "3.11", "3.12", "3.13", "3.14"):
        raise InputError(f"litellm-systemd does not run on Python {target.python}", "It runs on 3.10 to 3.14.")
    gateway = _chosen(request)
    source = bundle_source(target, gateway, wanted, say, engine)
    path = out or Path(f"litellm-systemd-{source.version}-cp{target.python.replace('.', '')}-{target.machine}.tar")
    try:
        require_output(path, is_strict=True)
    except OSError as error:
        raise CannotCreate(f"{path}: {error.strerror}", remedy_of(error)) from error
    manifest = write_bundle(source, path, target, wheels=wheels, say=say)
    size, additions = path.stat().st_size, additions_of(source.lock)
    added = f", {', '.join(additions)}" if additions else ""
    return Report(
        f"{path}: litellm-systemd {manifest.version} with LiteLLM {manifest.litellm}{added} for"
        f" Python {manifest.python} on {manifest.machine}, {size >> 20} MiB",
        notes=(
            f"On a new host, in a checkout: sudo ./scripts/quickstart.sh --bundle {path.name}",
            f"Where litellmctl is installed: sudo litellmctl upgrade --from {path.name}",
        ),
        data={
            "file": str(path),
            "size": size,
            "python": manifest.python,
            "machine": manifest.machine,
            "additions": list(additions),
        },
    )


def _chosen(request: Request) -> GatewayConfig | None:
    """The configuration that the command line names."""
    if request.config is None:
        return None
    selection = resolve(request, read_only=True)
    return read_gateway(request.layout, selection.config, selection.settings.region)
