"""Access control lists of files (acl(5)): what the mode of a file does not show."""

from __future__ import annotations

import os
import pwd
import struct
from pathlib import Path

#: The kinds of entries (<linux/posix_acl_xattr.h>).
_OWNER, _USER, _OWNING_GROUP, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_ALL = 0o7


def is_allowed(path: Path, user: str, need: int) -> bool | None:
    """Whether the list of a file allows a user these permissions (4 reads, 1 enters); None if it has no list."""
    try:
        acl = os.getxattr(path, "system.posix_acl_access")
        account, status = pwd.getpwnam(user), path.stat()
    except (OSError, KeyError):
        return None
    return judge_acl(acl, need, (account.pw_uid, account.pw_gid), (status.st_uid, status.st_gid))


def judge_acl(acl: bytes, need: int, who: tuple[int, int], owner: tuple[int, int]) -> bool:
    """Whether a list allows these permissions. `who` and `owner` are the ids of a user and a group."""
    entries = tuple(struct.iter_unpack("<HHI", acl[4:]))
    mask = next((allowed for kind, allowed, _ in entries if kind == _MASK), _ALL)
    if who[0] == owner[0]:
        return any(kind == _OWNER and allowed & need for kind, allowed, _ in entries)
    users = [allowed for kind, allowed, name in entries if (kind, name) == (_USER, who[0])]
    groups = [allowed for kind, allowed, name in entries if (kind, name) == (_GROUP, who[1])]
    if who[1] == owner[1]:
        groups += [allowed for kind, allowed, _ in entries if kind == _OWNING_GROUP]
    if users or groups:
        return any(allowed & mask & need for allowed in users or groups)
    return any(kind == _OTHER and allowed & need for kind, allowed, _ in entries)
