"""restore: install the service with its configuration, its keys and its database from a backup."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from litellm_systemd import contract
from litellm_systemd.command import run, uninterruptible
from litellm_systemd.commands.additions import backed_up_release
from litellm_systemd.commands.backup_file import (
    AWS,
    DROP_INS,
    DUMP,
    ENGINE,
    ETC,
    RELEASE_LOCK,
    WHEELS,
    BackupManifest,
    open_backup,
)
from litellm_systemd.commands.install import InstallOptions, apply_options, report_install, with_queries
from litellm_systemd.commands.resolve import Request, build_config_link
from litellm_systemd.env.database import find_url, is_own_url
from litellm_systemd.env.environment_file import parse_environment_file
from litellm_systemd.errors import CannotCreate, InputError, InstallerError, Unavailable, remedy_of
from litellm_systemd.gateway.config import read_config
from litellm_systemd.host.files import free_space, remove_path, user_exists, write_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import FileState
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.install.apply import Say, changing
from litellm_systemd.install.render import OFF, render_sysusers
from litellm_systemd.releases.source import installed_version
from litellm_systemd.report.progress import Step
from litellm_systemd.report.report import Report

#: Where a backup is unpacked, for root alone.
_SCRATCH = "restore"
#: In /etc/litellm until the restore is complete: a later one removes what a killed one left.
_MARK = ".restoring"


@dataclass(frozen=True, slots=True)
class RestoreOptions:
    """The options of `restore`.

    `database`: whether to load the dump; otherwise the database is used as it is. `bundle`, `encrypt`, `start`,
    `verify`, `spend`, `offline`, `wait`: as in `InstallOptions`; `encrypt` None means as on the host of the backup.
    """

    database: bool = True
    bundle: Path | None = None
    encrypt: bool | None = None
    start: bool = True
    verify: bool = True
    spend: bool = True
    offline: bool = False
    wait: bool = False


def restore(layout: Layout, path: Path, options: RestoreOptions, say: Say = lambda _line: None) -> Report:
    """Install from a backup. All of it is checked before anything changes, and a failure undoes every change.

    `layout`: the paths of the host; the prefix is that of the backup.

    Raises:
        InputError: the file is no backup, damaged, or of another version.
        CannotCreate: something is installed, or the database has tables of LiteLLM.
        InstallerError: nothing was changed, or every change was undone.
    """
    with open_backup(path) as (manifest, _):
        _require_fit(path, manifest)
    layout = replace(layout, prefix=manifest.prefix)
    with changing(layout, "restore", say, wait=options.wait) as executor:
        _remove_left_over(layout)
        _require_free(layout)
        with _unpacked(layout, path, say) as content:
            loads = options.database and _loads(layout, manifest, content)
            request = Request(layout, installed_only=True)
            release = None
            if options.bundle is None:
                lock = (content / RELEASE_LOCK).read_text(encoding="utf-8")
                wheels, engine = tuple(sorted((content / WHEELS).glob("*.whl"))), content / ENGINE
                release = backed_up_release(layout, lock, wheels, engine if engine.exists() else None)
            install = with_queries(
                InstallOptions(
                    request,
                    offline=options.offline,
                    start=options.start,
                    verify=options.verify,
                    spend=options.spend,
                    bundle=options.bundle,
                    wanted=manifest.additions if options.bundle else (),
                    release=release,
                    verify_every=manifest.verify_every if manifest.verify_every != OFF else None,
                    encrypt=manifest.encrypted if options.encrypt is None else options.encrypt,
                    postgres=True if _is_own(manifest, content) else None,
                    dump=content / DUMP if loads else None,
                )
            )
            with _placed(layout, manifest, content, say):
                prepared, proofs = apply_options(install, executor, say)
    report = report_install(install, prepared, proofs, say)
    return replace(
        report,
        title=f"restored the backup of {manifest.host} of {manifest.made}: {report.title}",
        notes=(*_notes(options, manifest, is_loaded=loads), *report.notes),
    )


def _require_fit(path: Path, manifest: BackupManifest) -> None:
    own, machine = installed_version(), os.uname().machine
    if manifest.machine != machine:
        raise InputError(
            f"{path} is a backup of a host with {manifest.machine}, and this machine is {machine}",
            "Its release cannot run here. Restore it on such a machine.",
        )
    if manifest.version != own:
        raise InputError(
            f"{path} is a backup of litellm-systemd {manifest.version}, and this is {own}",
            f"Restore it with litellm-systemd {manifest.version}, then upgrade: sudo litellmctl upgrade",
        )


def _require_free(layout: Layout) -> None:
    """Check that nothing is installed: what is there is never mixed with a backup."""
    for path in (layout.etc, layout.manifest, layout.current):
        real = layout.real(path)
        if os.path.lexists(real) and not (real.is_dir() and not any(real.iterdir())):
            raise CannotCreate(
                f"{path} exists: a service is installed here, or was",
                "To replace it, save it and remove it first: sudo litellmctl backup OTHER-FILE && sudo litellmctl"
                " uninstall --purge",
            )


@contextlib.contextmanager
def _unpacked(layout: Layout, path: Path, say: Say) -> Iterator[Path]:
    """The content of the backup in a folder, all of it compared with its digests. It is removed at the end."""
    folder = layout.real(f"{layout.own_state}/{_SCRATCH}")
    with open_backup(path) as (manifest, archive):
        needed = sum(size for _, size in manifest.files.values())
        free = free_space(folder)
        if free < needed:
            raise Unavailable(
                f"the backup has {needed >> 20} MiB, and {layout.own_state} has room for {free >> 20} MiB",
                "Make room there, and run it again.",
            )
        say(Step("checking and unpacking the backup"))
        made = not layout.real(layout.own_state).exists()
        try:
            folder.mkdir(parents=True, mode=0o700)
            archive.unpack(folder, mode=0o600)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if made:
                with contextlib.suppress(OSError):
                    layout.real(layout.own_state).rmdir()


def _remove_left_over(layout: Layout) -> None:
    remove_path(layout, f"{layout.own_state}/{_SCRATCH}")
    remove_path(layout, _staging(layout))
    if layout.real(f"{layout.etc}/{_MARK}").exists():
        remove_path(layout, layout.etc)


def _staging(layout: Layout) -> str:
    return f"{layout.etc}.restore"


def _loads(layout: Layout, manifest: BackupManifest, content: Path) -> bool:
    """Whether the dump is to be loaded; the database must have no tables of LiteLLM yet.

    Raises:
        CannotCreate: it has some.
        InstallerError: it cannot be reached.
    """
    if not manifest.server:
        return False
    # Late, because most installations have no database.
    from litellm_systemd.database.backup import count_tables
    from litellm_systemd.database.postgres import observe_postgres
    from litellm_systemd.database.steps import database_environment

    environment = database_environment(_variables(content), _general_settings(manifest, content))
    if environment is None:
        raise InputError("the backup has a database, and no URL of it", "Restore it without: --keep-database")
    if _is_own(manifest, content) and not observe_postgres(Systemctl(layout)).has_database:
        return True
    if count := count_tables(environment):
        raise CannotCreate(
            f"the database has {count} tables of LiteLLM already",
            "To use it as it is: --keep-database. To load the backup into it, drop it or its tables first.",
        )
    return True


def _is_own(manifest: BackupManifest, content: Path) -> bool:
    """Whether the database is that of `install --with-postgres`."""
    found = find_url(_variables(content), _general_settings(manifest, content))
    return found is not None and is_own_url(found[0])


def _variables(content: Path) -> dict[str, str]:
    files = (content / ETC / name for name in ("litellm.env", "salt.env"))
    texts = (file.read_text(encoding="utf-8", errors="replace") for file in files if file.exists())
    return {name: value for text in texts for name, value in parse_environment_file(text).items()}


def _general_settings(manifest: BackupManifest, content: Path) -> Mapping[str, object]:
    return read_config(content / ETC / "configs" / manifest.config).section("general_settings")


@contextlib.contextmanager
def _placed(layout: Layout, manifest: BackupManifest, content: Path, say: Say) -> Iterator[None]:
    """Place the files of the backup for the block, which makes an installation of them. They are removed if it fails.

    The service's user is created first: some files belong to it.
    """
    created = not user_exists(layout, contract.SERVICE_USER)
    names = [f"/{name}" for name in sorted(manifest.files) if name.startswith((DROP_INS, AWS))]
    names = [name for name in names if not os.path.lexists(layout.real(name))]
    # What did not exist before, those of systemd and of the service too.
    made = {_first_missing(layout, path) for path in (layout.etc, layout.state, layout.cache, *names)} - {""}
    try:
        say(Step("placing the files of the backup"))
        if created:
            run(("systemd-sysusers", "-"), text=render_sysusers())
        _place_etc(layout, manifest, content)
        for name in names:
            write_file(layout, _state(manifest, content, name.lstrip("/")))
        yield
    except BaseException as error:
        with uninterruptible():
            for path in (*made, _staging(layout)):
                remove_path(layout, path)
            if created and user_exists(layout, contract.SERVICE_USER):
                run(("userdel", contract.SERVICE_USER), check=False)
        if isinstance(error, OSError):
            raise InstallerError(f"{error.filename}: {error.strerror}", remedy_of(error)) from error
        raise
    remove_path(layout, f"{layout.etc}/{_MARK}")


def _first_missing(layout: Layout, path: str) -> str:
    """The path, or the first folder on the way to it that does not exist; empty if the path exists."""
    missing = [
        str(each)
        for each in (PurePosixPath(path), *PurePosixPath(path).parents)
        if not layout.real(str(each)).exists()
    ]
    return missing[-1] if missing else ""


def _place_etc(layout: Layout, manifest: BackupManifest, content: Path) -> None:
    """Place /etc/litellm by one rename."""
    staging = _staging(layout)
    real = layout.real(staging)
    real.mkdir(mode=0o700)
    for name in sorted(manifest.files):
        if name.startswith(f"{ETC}/"):
            state = _state(manifest, content, name)
            write_file(layout, replace(state, path=state.path.replace(layout.etc, staging, 1)))
    active = build_config_link(layout, manifest.config)
    write_file(layout, replace(active, path=active.path.replace(layout.etc, staging, 1)))
    write_file(layout, FileState(f"{staging}/{_MARK}", mode=0o600))
    for folder in (real, *(path for path in real.rglob("*") if path.is_dir())):
        shutil.chown(folder, "root", contract.SERVICE_USER)
        folder.chmod(0o750)
    with contextlib.suppress(FileNotFoundError):
        layout.real(layout.etc).rmdir()  # an empty one
    real.rename(layout.real(layout.etc))


def _state(manifest: BackupManifest, content: Path, name: str) -> FileState:
    user = contract.SERVICE_USER
    owner, group = ("root", user if name in manifest.shared else "root")
    if name.startswith(AWS):
        owner = group = user
    return FileState(f"/{name}", (content / name).read_bytes(), manifest.modes.get(name, 0o600), owner, group)


def _notes(options: RestoreOptions, manifest: BackupManifest, *, is_loaded: bool) -> Iterator[str]:
    if is_loaded:
        yield f"The database is that of {manifest.made}: what was written later on {manifest.host} is not in it."
    elif manifest.server and not options.database:
        yield "The database was not changed."
    yield f"If the service of {manifest.host} still runs, stop it before clients use this one."
