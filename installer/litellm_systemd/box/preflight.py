"""Whether this machine can have boxes, and what to do if not."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys

from litellm_systemd.box.machine import Box
from litellm_systemd.box.namespaces import Namespaces
from litellm_systemd.box.processes import CLEAN_ENVIRONMENT, BoxError
from litellm_systemd.errors import InstallerError, MissingError, PermissionDenied, Unavailable

_PATH = f"{os.defpath}:/usr/sbin:/sbin"
_ADVICE = (
    "It takes namespaces, overlayfs and control groups. A container gets them with --privileged; else use a virtual"
    " machine. 'litellmctl rehearse --foreground' does what goes without."
)
#: Programs, and the package that has them: of Debian and Ubuntu, of Amazon Linux and Fedora.
_TOOLS = {
    "systemd-nspawn": ("systemd-container", "systemd-container"),
    "dbus-daemon": ("dbus", "dbus-daemon"),
    **dict.fromkeys(("unshare", "nsenter", "setpriv", "mount", "umount"), ("util-linux", "util-linux")),
    "chroot": ("coreutils", "coreutils"),
    "find": ("findutils", "findutils"),
    "sh": ("dash", "bash"),
}


def require_boxes() -> None:
    """See to it that this machine can have boxes: namespaces and an overlay are made, and thrown away, to find out.

    Raises:
        PermissionDenied: this isn't root.
        MissingError: a program isn't installed.
        Unavailable: it isn't Linux, or the kernel refuses namespaces, mounts or control groups.
    """
    if sys.platform != "linux":
        raise Unavailable("systemd containers need Linux")
    if os.geteuid() != 0:
        raise PermissionDenied("systemd containers need root", f"Run: sudo {' '.join(sys.argv)}")
    _require_namespaces()
    _require_tools()
    try:
        with Namespaces() as namespaces, contextlib.closing(Box(namespaces)):
            return
    except (BoxError, OSError) as error:
        raise Unavailable(f"no systemd container can be made here: {error}", _ADVICE) from None


def why_not() -> str | None:
    """The reason why boxes can't be had on this machine, or None if they can."""
    try:
        require_boxes()
    except InstallerError as error:
        return error.message
    return None


def _require_namespaces() -> None:
    """Find out in milliseconds, and before anything is installed for it, what most containers refuse."""
    if (unshare := shutil.which("unshare", path=_PATH)) is not None:
        argv = (unshare, "--mount", "--pid", "--fork", "--", "true")
        done = subprocess.run(argv, capture_output=True, text=True, env=dict(CLEAN_ENVIRONMENT), check=False)
        if done.returncode != 0:
            raise Unavailable(f"no systemd container can be made here: {done.stderr.strip()}", _ADVICE)


def _require_tools() -> None:
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=_PATH) is None]
    if missing:
        debian, fedora = (" ".join(sorted({_TOOLS[tool][which] for tool in missing})) for which in (0, 1))
        raise MissingError(
            f"not installed: {', '.join(missing)}", f"Run: apt-get install {debian}, or: dnf install {fedora}"
        )
