"""sdnotify, the one dependency that its index offers only as source.

Building it while a release is made would run a build that no hash pins. So its wheel is packed from the copy that
this process runs with, and the digest of its code stands here, where the lock has those of all others.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from litellm_systemd.errors import InstallerError, MissingError
from litellm_systemd.releases.wheels import pack_wheel

NAME, VERSION = "sdnotify", "0.3.2"
_MODULE = f"{NAME}/__init__.py"
_DIGEST = "9d966498789f704ff2fac75fa3b44f7fa127da9ef8a81c89447edb5ffd62fecc"
_REMEDY = f"pip install --force-reinstall {NAME}=={VERSION}, where litellmctl runs from."


def pack_sourced(folder: Path) -> Path:
    """Write its wheel into a folder; the path.

    Raises:
        MissingError: it isn't installed here.
        InstallerError: it isn't the code that is known.
    """
    try:
        found = distribution(NAME)
    except PackageNotFoundError:
        raise MissingError(f"{NAME} isn't installed beside litellmctl", _REMEDY) from None
    module = Path(str(found.locate_file(_MODULE)))
    if found.version != VERSION or hashlib.sha256(module.read_bytes()).hexdigest() != _DIGEST:
        raise InstallerError(f"{module} isn't {NAME} {VERSION} as it is known", _REMEDY)
    wheel = folder / f"{NAME}-{VERSION}-py3-none-any.whl"
    wheel.write_bytes(pack_wheel(found, NAME))
    return wheel
