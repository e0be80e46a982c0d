"""Read and write files: a reader never sees a partial file, nor a secret with the wrong mode."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import grp
import os
import pwd
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from litellm_systemd.errors import InstallerError, remedy_of
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import FileKind, FileState

#: Suffixes of the file that is being written, and of the one that it replaces.
_NEW, _BEFORE = ".litellmctl-new", ".litellmctl-before"

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>


@contextlib.contextmanager
def plain_umask() -> Iterator[None]:
    """Set umask 022: the service's user must be able to read a release, regardless of the caller's umask."""
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


def make_folder(path: Path) -> None:
    """Create a folder and its parents with mode 0755, regardless of the umask. An existing folder is kept."""
    with plain_umask():
        path.mkdir(parents=True, exist_ok=True)


def free_space(path: Path) -> int:
    """The bytes that are free where `path` is, or would be created."""
    return shutil.disk_usage(next(each for each in (path, *path.parents) if each.exists())).free


def read_numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers and without comments; none if it cannot be read."""
    with contextlib.suppress(OSError):
        text = path.read_text(encoding="utf-8", errors="replace")
        yield from ((number, line.partition("#")[0].strip()) for number, line in enumerate(text.splitlines(), 1))


def observe_file(layout: Layout, path: str) -> FileState | None:
    """The state of a path without following links; None if it does not exist.

    A file that this user cannot read has empty content.
    """
    real = layout.real(path)
    try:
        status = real.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        return None
    kind = _kind(status.st_mode)
    if kind is FileKind.LINK:
        return FileState(path, str(real.readlink()).encode(), mode=0o777, kind=kind)
    return FileState(
        path,
        _content(real) if kind is FileKind.FILE else b"",
        mode=stat.S_IMODE(status.st_mode),
        owner=_user_name(layout, status.st_uid),
        group=_group_name(layout, status.st_gid),
        kind=kind,
    )


def _kind(mode: int) -> FileKind:
    if stat.S_ISLNK(mode):
        return FileKind.LINK
    if stat.S_ISDIR(mode):
        return FileKind.FOLDER
    return FileKind.FILE if stat.S_ISREG(mode) else FileKind.OTHER


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except PermissionError:
        return b""


def write_file(layout: Layout, state: FileState) -> None:
    """Write a file or link by one rename. Mode and owner are set before the content is written.

    Missing parent folders are created with mode 0755.

    Raises:
        InstallerError: a folder is at the path, the owner does not exist, or the write failed.
    """
    real = layout.real(state.path)
    if real.is_dir() and not real.is_symlink():
        raise InstallerError(f"{real} is a folder, but must be a {state.kind.value}", "Move the folder away.")
    try:
        make_folder(real.parent)
        if state.kind is FileKind.LINK:
            _place_link(real, state)
        else:
            _place_file(layout, real, state)
        _sync_folder(real.parent)
    except OSError as error:
        raise InstallerError(f"{real}: {error.strerror}", remedy_of(error)) from error


def _place_link(real: Path, state: FileState) -> None:
    temporary = _beside(real, _NEW)
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(state.content.decode())
    temporary.replace(real)


def _place_file(layout: Layout, real: Path, state: FileState) -> None:
    temporary = _beside(real, _NEW)
    temporary.unlink(missing_ok=True)  # left by a killed run
    # O_EXCL follows no link created since. 0600: no other user can read it before mode and owner are set.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            _give(layout, stream.fileno(), state)
            stream.write(state.content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(real)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _beside(real: Path, suffix: str) -> Path:
    """A hidden name in the same folder, which systemd does not read as a unit."""
    return real.with_name(f".{real.name}{suffix}")


def keep_before(layout: Layout, path: str) -> None:
    """Give the file at `path` a second name, from which `restore_before` restores it. A missing file is skipped.

    The second name is a hard link: it takes no space, so that a restore works on a full disk, and it keeps times and
    labels.
    """
    real = layout.real(path)
    before = _beside(real, _BEFORE)
    before.unlink(missing_ok=True)
    if real.is_symlink() or real.exists():
        os.link(real, before, follow_symlinks=False)
        _sync_folder(real.parent)


def restore_before(layout: Layout, path: str) -> None:
    """Restore what `keep_before` kept. If there is none, the file was not replaced yet."""
    real = layout.real(path)
    _beside(real, _NEW).unlink(missing_ok=True)
    before = _beside(real, _BEFORE)
    if before.is_symlink() or before.exists():
        before.replace(real)
        # rename(2) leaves both names if they are links to the same file.
        before.unlink(missing_ok=True)
        _sync_folder(real.parent)


def forget_before(layout: Layout, path: str) -> None:
    """Delete what `keep_before` kept and what an interrupted write left."""
    real = layout.real(path)
    for suffix in (_BEFORE, _NEW):
        _beside(real, suffix).unlink(missing_ok=True)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file with mode 0600 and flush it to the disk.

    Raises:
        InstallerError: the write failed. A part of the line may have been written.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "ab") as stream:
            stream.write(f"{line}\n".encode())
            stream.flush()
            os.fsync(stream.fileno())
        _sync_folder(path.parent)
    except OSError as error:
        raise InstallerError(f"{path}: {error.strerror}", remedy_of(error)) from error


def _give(layout: Layout, handle: int, state: FileState) -> None:
    user, group = _user_id(layout, state.owner), _group_id(layout, state.group)
    now = os.fstat(handle)
    if (now.st_uid, now.st_gid) != (user, group):
        os.fchown(handle, user, group)
    os.fchmod(handle, state.mode)


def set_access(layout: Layout, state: FileState) -> None:
    """Set the mode and owner of a file or folder, not its content. Links are not followed."""
    handle = os.open(layout.real(state.path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _give(layout, handle, state)
    finally:
        os.close(handle)


def remove_path(layout: Layout, path: str) -> None:
    """Remove a file, a link (not its target) or a folder with its content. A missing path is skipped."""
    real = layout.real(path)
    if real.is_dir() and not real.is_symlink():
        shutil.rmtree(real)
    else:
        real.unlink(missing_ok=True)
    _sync_folder(real.parent)


def remove_empty(layout: Layout, path: str) -> None:
    """Remove a folder if it is empty. A missing folder is skipped."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        try:
            layout.real(path).rmdir()
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step: renameat2(2). False if the file system cannot.

    overlayfs cannot for a folder of a lower layer, and an image may be on any file system.
    """
    libc = ctypes.CDLL(None)
    done = libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return bool(done == 0)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable: fsync(2) of the folder."""
    if not folder.is_dir():
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def user_exists(layout: Layout, name: str) -> bool:
    """Whether the user database below the root has this user."""
    return name in read_names(layout, "passwd") if not layout.is_host else _known(name)


def group_exists(layout: Layout, name: str) -> bool:
    """Whether the group database below the root has this group."""
    if not layout.is_host:
        return name in read_names(layout, "group")
    with contextlib.suppress(KeyError):
        grp.getgrnam(name)
        return True
    return False


def _known(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def read_names(layout: Layout, database: str) -> dict[str, int]:
    """Names and ids in the file /etc/passwd or /etc/group below the root."""
    path = layout.real(f"/etc/{database}")
    if not path.is_file():
        return {"root": 0}
    rows = (line.split(":") for line in path.read_text(encoding="utf-8").splitlines())
    return {"root": 0} | {row[0]: int(row[2]) for row in rows if len(row) > 2}


def _user_id(layout: Layout, name: str) -> int:
    if name.isdecimal():  # one without an entry: see _user_name
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid if layout.is_host else read_names(layout, "passwd")[name]
    except KeyError:
        raise InstallerError(f"there is no user {name}", "systemd-sysusers creates it.") from None


def _group_id(layout: Layout, name: str) -> int:
    if name.isdecimal():  # one without an entry: see _group_name
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid if layout.is_host else read_names(layout, "group")[name]
    except KeyError:
        raise InstallerError(f"there is no group {name}", "systemd-sysusers creates it.") from None


def _user_name(layout: Layout, number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name if layout.is_host else _by_number(layout, "passwd", number)
    except KeyError:
        return "root" if number == 0 else str(number)  # as systemd, also if no user can be looked up


def _group_name(layout: Layout, number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name if layout.is_host else _by_number(layout, "group", number)
    except KeyError:
        return "root" if number == 0 else str(number)


def _by_number(layout: Layout, database: str, number: int) -> str:
    return {value: name for name, value in read_names(layout, database).items()}[number]
