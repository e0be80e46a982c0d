"""Read and write the files that a user names. Root uses none that another user could have written or replaced.

For root, a path is opened folder by folder (openat(2)), and what was opened is what is checked: nothing can be
replaced between the check and the use. Root and the user who called sudo(8) are trusted. Other users, such as the one
of the service, are not: they must be able to write neither the file nor a folder on the way to it.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import IO

from litellm_systemd.errors import CannotCreate, PermissionDenied

#: Bytes: room for ten thousand models, or for the certificates of all public authorities.
MAX_SIZE = 4 * 1024 * 1024
#: As many links as the kernel follows (path_resolution(7)).
_MAX_LINKS = 40
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A pipe would block until it has a writer.
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHECK = "Check its content, then run"
#: Root owns what is here. The links lead to what this process has open already.
_STREAMS = (Path("/dev"), Path("/dev/fd"))


def find_home(environ: Mapping[str, str]) -> Path:
    """HOME, or the folder of the user database where HOME is unset or relative; / for a user that is not in it."""
    home = Path(environ.get("HOME", ""))
    if home.is_absolute():
        return home
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:
        return Path("/")


def read_regular(path: Path, limit: int = MAX_SIZE) -> bytes:
    """The content of a regular file of at most `limit` bytes. It never blocks.

    Raises:
        OSError: it can't be opened or read.
        ValueError: it is something else than a file, or larger.
    """
    return _read(os.open(path, _READ), limit)


def read_in_folder(name: str, folder: int) -> tuple[bytes, os.stat_result]:
    """The content and the status of a regular file in an open folder; it follows no link.

    Raises:
        OSError, ValueError: as `read_regular`.
    """
    _require_regular(os.stat(name, dir_fd=folder, follow_symlinks=False))
    handle = os.open(name, _READ | os.O_NOFOLLOW, dir_fd=folder)
    status = os.fstat(handle)
    return _read(handle, MAX_SIZE), status


def read_trusted(path: Path, limit: int = MAX_SIZE) -> bytes:
    """As `read_regular`; for root only if no other user could have written or replaced the file.

    Raises:
        PermissionDenied: another user could have; the message says how, and what to do.
        OSError: it can't be opened or read.
        ValueError: it is something else than a file, or larger.
    """
    return read_regular(path, limit) if os.geteuid() != 0 else _read(_open_trusted(path), limit)


def require_trusted(path: Path) -> None:
    """Check a file that another library reads: as `read_trusted`, with the same errors, except for its size."""
    if os.geteuid() == 0:
        os.close(_open_trusted(path))


def _read(handle: int, limit: int) -> bytes:
    try:
        _require_regular(os.fstat(handle))
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    finally:
        os.close(handle)
    if len(content) > limit:
        raise ValueError(f"is larger than {limit // 1024**2} MiB")
    return content


def _require_regular(found: os.stat_result) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")
    if not stat.S_ISREG(found.st_mode):
        raise ValueError("is not a regular file")


def _open_trusted(path: Path) -> int:
    folder, name = _open_folder(path, follow=True, is_strict=True)
    try:
        # Before it is opened, since that has effects on some devices.
        _require_regular(os.stat(name, dir_fd=folder, follow_symlinks=False))
        handle = os.open(name, _READ | os.O_NOFOLLOW, dir_fd=folder)
    finally:
        os.close(folder)
    try:
        _require_trust(handle, path)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _open_folder(path: Path, *, follow: bool, is_strict: bool) -> tuple[int, str]:
    """Open the folder of a file; returns it with the name of the file there.

    Args:
        path: the file.
        follow: whether the file itself may be a link.
        is_strict: refuse a folder that another user can write. Otherwise only links in one are refused.

    Raises:
        PermissionDenied: see `is_strict`.
        OSError: there is no such folder.
    """
    folder, links = os.open("/", _FOLDER), 0
    parts = list(reversed(path.absolute().parts[1:]))
    try:
        while parts:
            name = parts.pop()
            found = os.stat(name, dir_fd=folder, follow_symlinks=False) if parts or follow else None
            if found is not None and stat.S_ISLNK(found.st_mode):
                _require_trusted_link(folder, found, path)
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
                target = PurePath(os.readlink(name, dir_fd=folder))
                if target.is_absolute():
                    os.close(folder)
                    folder = os.open("/", _FOLDER)
                parts += reversed(target.parts[1:] if target.is_absolute() else target.parts)
                continue
            if not parts:
                return folder, name
            below = os.open(name, _FOLDER, dir_fd=folder)
            os.close(folder)
            folder = below
            if is_strict:
                _require_trust(folder, path)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    except BaseException:
        os.close(folder)
        raise


def _require_trusted_link(folder: int, link: os.stat_result, path: Path) -> None:
    """Raise PermissionDenied for a link that another user could have placed."""
    users, _ = _trusted_ids()
    if link.st_uid not in users:
        raise _refused(path, f"a link on the way to it belongs to {_user_name(link.st_uid)}", "Name the file itself.")
    _require_trust(folder, path)


def _require_trust(handle: int, path: Path) -> None:
    """Raise PermissionDenied if another user can write an open file, or replace what is in an open folder."""
    found, (users, groups) = os.fstat(handle), _trusted_ids()
    is_folder = stat.S_ISDIR(found.st_mode)
    where = _path_of(handle, path)
    what = f"the folder {where}" if is_folder else "it"
    if found.st_uid not in users:
        fix = "Copy it to a folder that only you and root can write to."
        if not is_folder:
            fix = f"{_CHECK}: sudo chown root {where}"
        raise _refused(path, f"{what} belongs to {_user_name(found.st_uid)}", fix)
    if is_folder and found.st_mode & stat.S_ISVTX:
        return  # as in /tmp, no user replaces a file of another one, and the owner of each file is checked
    if found.st_mode & stat.S_IWOTH:
        raise _refused(
            path, f"every user can write to {what}", f"Check its content, then run: sudo chmod o-w {where}"
        )
    if found.st_mode & stat.S_IWGRP and (found.st_gid not in groups or _has_acl(handle)):
        what = f"the group {_group_name(found.st_gid)} can write to {what}"
        raise _refused(path, what, f"{_CHECK}: sudo chmod g-w {where}")


def _refused(path: Path, reason: str, fix: str) -> PermissionDenied:
    return PermissionDenied(f"{path} is not safe for root to use: {reason}", fix)


def _trusted_ids() -> tuple[set[int], set[int]]:
    """The users that root trusts, and the groups that may write their files: root, and who called sudo(8)."""
    users, groups = {0}, {0}
    with suppress(KeyError):
        invoker = pwd.getpwnam(os.environ["SUDO_USER"])
        users.add(invoker.pw_uid)
        group = grp.getgrgid(invoker.pw_gid)
        if group.gr_name == invoker.pw_name and set(group.gr_mem) <= {invoker.pw_name}:
            groups.add(invoker.pw_gid)  # a group of its own; others, such as `users`, have more members
    return users, groups


def _has_acl(handle: int) -> bool:
    # With an ACL, the mode of the group is the mask of all its entries (acl(5)).
    with suppress(OSError):
        return "system.posix_acl_access" in os.listxattr(f"/proc/self/fd/{handle}")
    return False


def _path_of(handle: int, path: Path) -> str:
    try:
        return str(Path(f"/proc/self/fd/{handle}").readlink())
    except OSError:
        return str(path)


def _user_name(number: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(number).pw_name
    return f"the user {number}"


def _group_name(number: int) -> str:
    with suppress(KeyError):
        return grp.getgrgid(number).gr_name
    return str(number)


def require_output(path: Path, *, is_strict: bool = False) -> None:
    """Check that `write_output` can write a file, without leaving one.

    `is_strict`: refuse a folder that another user can write, for a writer that has files of its own next to it.

    Raises:
        CannotCreate: something else than a file of a trusted user is there.
        PermissionDenied: another user could have placed a link on the way to it, or see `is_strict`.
        OSError: the folder does not exist or can't be written.
    """
    if not is_strict and _is_stream(path):
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
    folder, name = _open_output(path, is_strict=is_strict)
    try:
        temporary = _temporary(name)
        os.close(os.open(temporary, _CREATE, 0o600, dir_fd=folder))
        os.unlink(temporary, dir_fd=folder)
    finally:
        os.close(folder)


def write_output(
    path: Path, content: bytes, mode: int, *, replace: bool = True, owner: tuple[int, int] | None = None
) -> None:
    """Write a file. It replaces one by a rename, so that no reader finds half of it; a pipe or a device stays one.

    Args:
        path: the file.
        content: all of its content.
        mode: its mode, regardless of the umask.
        replace: whether there may be such a file.
        owner: its user and group; those of this process if None.

    Raises:
        FileExistsError: there is a file, and `replace` is not set.
        CannotCreate, PermissionDenied, OSError: as `require_output`.
    """
    if replace and _is_stream(path):
        path.write_bytes(content)
        return
    folder, name = _open_output(path, is_new=not replace)
    new = _temporary(name) if replace else name
    try:
        handle = os.open(new, _CREATE, 0o600, dir_fd=folder)
        try:
            with os.fdopen(handle, "wb") as stream:
                if owner is not None and os.geteuid() == 0:
                    os.fchown(stream.fileno(), *owner)
                os.fchmod(stream.fileno(), mode)
                stream.write(content)
                stream.flush()
                # Without this, a power failure after the rename could leave an empty file.
                os.fsync(stream.fileno())
            if replace:
                os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(new, dir_fd=folder)
            raise
    finally:
        os.close(folder)


@contextmanager
def create_output(path: Path, mode: int) -> Iterator[IO[bytes]]:
    """Give a file to write to, which gets its name when the block ends, complete and on the disk.

    Args:
        path: the file, which must not exist.
        mode: its mode, regardless of the umask.

    Raises:
        CannotCreate: there is such a file, also one that appeared meanwhile.
        PermissionDenied, OSError: as `require_output`.
    """
    folder, name = _open_output(path, is_new=True)
    new = _temporary(name)
    try:
        if _exists(name, folder):
            raise CannotCreate(f"{path} exists", "Name another file, or remove that one.")
        with os.fdopen(os.open(new, _CREATE, 0o600, dir_fd=folder), "wb") as stream:
            try:
                os.fchmod(stream.fileno(), mode)
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
                # Unlike a rename, it replaces nothing.
                os.link(new, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                raise CannotCreate(f"{path} exists", "Name another file, or remove that one.") from None
            finally:
                os.unlink(new, dir_fd=folder)
    finally:
        os.close(folder)


def _exists(name: str, folder: int) -> bool:
    with suppress(FileNotFoundError):
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        return True
    return False


def _is_stream(path: Path) -> bool:
    """Whether a file must not take the place of what is there, such as a pipe, or /dev/stdout.

    Root follows no link to another file, and a pipe of another user could be one to any program.
    """
    if os.geteuid() != 0:
        return path.is_symlink() or (path.exists() and not path.is_file())
    if path.absolute().parent in _STREAMS:
        return True
    try:
        found = path.lstat()
    except OSError:
        return False
    if not (stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode)):
        return False
    os.close(_open_folder(path, follow=False, is_strict=True)[0])
    if found.st_uid not in _trusted_ids()[0]:
        raise _refused(path, f"it belongs to {_user_name(found.st_uid)}", "Name another file.")
    return True


def _temporary(name: str) -> str:
    return f".{name[:200]}.{os.urandom(8).hex()}"


def _open_output(path: Path, *, is_strict: bool = False, is_new: bool = False) -> tuple[int, str]:
    is_root = os.geteuid() == 0
    if is_root:
        folder, name = _open_folder(path, follow=False, is_strict=is_strict)
    else:
        folder, name = os.open(path.absolute().parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), path.name
    try:
        if not is_new:  # otherwise O_EXCL refuses whatever is there
            _require_replaceable(folder, name, path, is_root=is_root)
    except BaseException:
        os.close(folder)
        raise
    return folder, name


def _require_replaceable(folder: int, name: str, path: Path, *, is_root: bool) -> None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    kind = (
        "a link" if stat.S_ISLNK(found.st_mode) else "a folder" if stat.S_ISDIR(found.st_mode) else "no regular file"
    )
    if not stat.S_ISREG(found.st_mode):
        raise CannotCreate(f"{path} is {kind}", "Name another file.")
    if is_root and found.st_uid not in _trusted_ids()[0]:
        raise CannotCreate(f"{path} belongs to {_user_name(found.st_uid)}", "Name another file.")
    own, user = os.fstat(folder), os.geteuid()
    # As in /tmp, where a user can't replace a file of another user (rename(2)).
    if own.st_mode & stat.S_ISVTX and user not in (0, own.st_uid, found.st_uid):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
