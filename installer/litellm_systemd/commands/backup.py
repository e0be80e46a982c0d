"""backup: one file with all that an install cannot make again, the content of the database included."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from litellm_systemd.commands.backup_file import (
    AWS,
    DROP_INS,
    DUMP,
    ENGINE,
    ETC,
    RELEASE_LOCK,
    UNITS,
    WHEELS,
    BackupManifest,
    may_contain,
)
from litellm_systemd.contract import QUERY_ENGINE
from litellm_systemd.database.prisma_engine import DIGESTS
from litellm_systemd.database.steps import database_environment, installed_settings
from litellm_systemd.env.aws import FILE_VARIABLES
from litellm_systemd.env.environment_file import set_assignment
from litellm_systemd.env.variables import SALT_KEY, TLS_CERT_FILE, TLS_KEY_FILE
from litellm_systemd.errors import NotInstalled, Unavailable
from litellm_systemd.host.encrypted_secrets import read_secrets
from litellm_systemd.host.install_lock import hold_lock
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import active_config, observe_host, read_installed, require_root
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.install.apply import Say
from litellm_systemd.install.render import find_interval, render_salt
from litellm_systemd.install.undo_log import read_undo_log
from litellm_systemd.releases.checked_archive import file_entry, write_tar
from litellm_systemd.releases.inventory import current_release, read_release, read_release_lock
from litellm_systemd.releases.source import installed_version
from litellm_systemd.report.progress import Step
from litellm_systemd.report.report import Report
from litellm_systemd.user_files import create_output, read_in_folder, read_regular

#: What a backup does not have: the environment in its installed form, and what earlier runs kept aside.
_LEFT_OUT = ("litellm.env", "litellm.secrets", "salt.env", "edited")


@dataclass(slots=True)
class _Content:
    """The files that are collected, in a folder of root's alone: read once, so that the digests fit."""

    folder: Path
    modes: dict[str, int] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, name: str, content: bytes) -> None:
        """Add a file that is no copy of one on the host."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def add_tree(self, layout: Layout, name: str) -> None:
        """Add all files of a folder, except links and special files.

        Each is opened in its open folder: the service's user, who owns the folder of AWS, may replace a file by a
        link at any moment, and what root can read beyond it must not get into the backup.
        """
        top = layout.real(f"/{name}")
        if top.is_symlink():
            self.skipped.append(repr(f"/{name}"))
        for path, folders, files, handle in os.fwalk(top):  # follows no link
            below = f"{name}{path.removeprefix(str(top))}"
            if below == ETC:
                folders[:] = [each for each in folders if each not in _LEFT_OUT]
                files = [each for each in files if each not in _LEFT_OUT]
            folders.sort()
            links = [each for each in folders if _is_link(each, handle)]
            for each in sorted((*files, *links)):
                self._add_file(layout, f"{below}/{each}", each, handle)

    def _add_file(self, layout: Layout, name: str, base: str, folder: int) -> None:
        try:
            content, status = read_in_folder(base, folder)
            is_own = may_contain(name)
        except ValueError:
            is_own = False
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOENT, errno.EISDIR):  # a link, or replaced meanwhile
                raise
            is_own = False
        if not is_own:
            if f"/{name}" != layout.config_link:
                self.skipped.append(repr(f"/{name}"))
            return
        self.add(name, content)
        self.modes[name] = stat.S_IMODE(status.st_mode) & 0o755
        if status.st_gid != 0 and status.st_mode & 0o040:
            self.shared.append(name)

    def names(self) -> list[str]:
        """The names of all files, sorted."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


def backup(
    layout: Layout, out: Path, *, with_database: bool = True, wait: bool = False, say: Say = lambda _line: None
) -> Report:
    """Write a backup, which appears when it is complete. The service runs on, and the dump is consistent in itself.

    `out`: the file to write; it must not exist.

    Raises:
        NotInstalled: there is nothing to back up.
        Unavailable: an install was interrupted, or the secrets cannot be decrypted.
        InstallerError: a file cannot be read or written, or the database not dumped.
    """
    require_root("litellmctl backup")
    with hold_lock(layout, "backup", wait=wait, say=say):
        if read_undo_log(layout) is not None:
            raise Unavailable("an earlier change was interrupted", "Complete or undo it: sudo litellmctl install")
        values = read_installed(layout)
        config, release = active_config(layout), current_release(layout)
        if not values or config is None or release is None:
            raise NotInstalled
        database = database_environment(*installed_settings(layout)) if with_database else None
        with create_output(out, 0o600) as stream, _scratch(layout) as folder:
            content = _Content(folder)
            say(Step("reading the installation"))
            _collect(layout, content, values, release)
            server = 0 if database is None else _dump(layout, database, folder / DUMP, say)
            manifest = _manifest(layout, content, config, release, server)
            say(Step(f"writing {out}"))
            names = sorted(manifest.files)
            write_tar(stream, manifest.as_json().encode(), ((name, folder / name) for name in names), mode=0o600)
        size = out.stat().st_size
    return Report(
        f"{out} has the backup, {size / 2**20:.1f} MiB",
        notes=tuple(_notes(layout, values, content, has_dump=server > 0)),
        data={"file": str(out), "bytes": size, "database": server > 0, "files": len(manifest.files)},
    )


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def _scratch(layout: Layout) -> Iterator[Path]:
    """A folder for root alone. What a killed run left is removed first."""
    parent = layout.real(layout.own_state)
    parent.mkdir(parents=True, exist_ok=True)
    for left in parent.glob("backup-*"):
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix="backup-", dir=parent) as name:
        yield Path(name)


def _collect(layout: Layout, content: _Content, values: Mapping[str, str], release: str) -> None:
    for name in (ETC, *(f"{DROP_INS}/{unit}.d" for unit in UNITS), AWS):
        if layout.real(f"/{name}").is_dir():
            content.add_tree(layout, name)
    # With the user's comments, and with what is encrypted in the clear.
    text = read_regular(layout.real(layout.environment_file)).decode(errors="surrogateescape")
    for variable in read_secrets(layout).keys() - {SALT_KEY.name}:
        text = set_assignment(text, variable, values[variable])  # that of the file, if it has one too
    content.add(f"{ETC}/litellm.env", text.encode(errors="surrogateescape"))
    if salt := values.get(SALT_KEY.name):
        content.add(f"{ETC}/salt.env", render_salt({SALT_KEY.name: salt}).encode())
    content.add(RELEASE_LOCK, read_release_lock(layout, release).encode())
    folder = layout.real(layout.release(release))
    copies = {path: f"{WHEELS}/{path.name}" for path in (folder / "wheels").glob("*.whl")}
    copies |= {folder / f"{QUERY_ENGINE}{suffix}": f"{ENGINE}{suffix}" for suffix in ("", DIGESTS)}
    for path, name in copies.items():
        if path.exists():
            target = content.folder / name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, target)


def _dump(layout: Layout, environment: Mapping[str, str], path: Path, say: Say) -> int:
    """Dump the database. Returns the version of its server."""
    from litellm_systemd.database.backup import dump_all

    say(Step("dumping the database"))
    return dump_all(layout, environment, path)


def _manifest(layout: Layout, content: _Content, config: str, release: str, server: int) -> BackupManifest:
    mark = read_release(layout, release)
    host = observe_host(layout, Systemctl(layout))
    return BackupManifest(
        version=installed_version(),
        litellm=mark.litellm,
        python=".".join(mark.python_version.split(".")[:2]),
        machine=os.uname().machine,
        made=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        host=socket.gethostname(),
        prefix=layout.prefix,
        config=config,
        encrypted=layout.secrets in host.manifest,
        verify_every=find_interval(layout, host),
        server=server,
        additions=mark.additions,
        files={name: file_entry(content.folder / name) for name in content.names()},
        modes=content.modes,
        shared=tuple(content.shared),
    )


def _notes(layout: Layout, values: Mapping[str, str], content: _Content, *, has_dump: bool) -> Iterator[str]:
    yield (
        "It has all keys in the clear: with it, the gateway can be used, and what the database stores can be read."
        " Keep it encrypted, and not only on this host."
    )
    if has_dump:
        yield "It has the database as of the start of the dump. What was written later is not in it."
    names = (*FILE_VARIABLES, TLS_CERT_FILE.name, TLS_KEY_FILE.name)
    outside = [f"{name}={values[name]}" for name in names if not values.get(name, layout.etc).startswith(layout.etc)]
    if outside:
        yield f"Not in it, and needed on another host: {', '.join(outside)}."
    if content.skipped:
        shown = ", ".join(content.skipped)
        yield f"Not in it, since they are links, larger than 4 MiB, or no files of litellm: {shown}."
    yield "To restore it on a host with the same version: sudo litellmctl restore FILE"
