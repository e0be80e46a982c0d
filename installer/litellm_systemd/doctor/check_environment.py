"""What the environment names: files that have to be there."""

from __future__ import annotations

from collections.abc import Iterator

from litellm_systemd import contract
from litellm_systemd.doctor.cause import Cause, Finding, looks_for
from litellm_systemd.doctor.check_files import is_readable
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.network import FILE_VARIABLES
from litellm_systemd.host.state import FileKind

FILE = Cause(
    "environment-file",
    "A variable names a file that the service can't read: with that of a CA no call gets out, with one of"
    " credentials none is signed.",
    "ls -ld {path}    # put it there, for the group litellm to read: chgrp litellm {path}; chmod 640 {path}",
    needs=("files-not-installed", "files-user-gone"),
)


@looks_for(FILE)
def named_files(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the files and folders that variables name are there, and readable for the service's user."""
    for name in FILE_VARIABLES:
        path = snapshot.environment.get(name, "")
        if not path.startswith("/"):
            continue
        found = snapshot.file(path)
        if found is None:
            yield FILE.found(f"{name}={path}: there is no such file", path=path)
        elif found.kind is not FileKind.LINK and not is_readable(found, contract.SERVICE_USER):
            yield FILE.found(f"{name}={path}: mode {found.mode:04o}, owner {found.owner}:{found.group}", path=path)
