"""The check that this machine can run boxes, with a remedy if it cannot."""

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
_HINT = (
    "Boxes need namespaces, overlayfs and control groups. Start the container with --privileged, or use a virtual"
    " machine. 'litellmctl rehearse --foreground' works without them."
)
#: Required programs, and their packages in Debian and Ubuntu, and in Amazon Linux and Fedora.
_TOOLS = {
    "systemd-nspawn": ("systemd-container", "systemd-container"),
    "dbus-daemon": ("dbus", "dbus-daemon"),
    **dict.fromkeys(("unshare", "nsenter", "setpriv", "mount", "umount"), ("util-linux", "util-linux")),
    "chroot": ("coreutils", "coreutils"),
    "find": ("findutils", "findutils"),
    "sh": ("dash", "bash"),
}


def require_boxes() -> None:
    """Check that this machine can run boxes, by creating namespaces and an overlay and removing them again.

    Raises:
        PermissionDenied: this process does not run as root.
        MissingError: a program is not installed.
        Unavailable: this is not Linux, or the kernel denies namespaces, mounts or control groups.
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
        raise Unavailable(f"no systemd container can be made here: {error}", _HINT) from None


def why_not() -> str | None:
    """Why this machine cannot run boxes, or None if it can."""
    try:
        require_boxes()
    except InstallerError as error:
        return error.message
    return None


def _require_namespaces() -> None:
    """Check in milliseconds, before programs are installed for boxes, for what most containers deny."""
    if (unshare := shutil.which("unshare", path=_PATH)) is not None:
        argv = (unshare, "--mount", "--pid", "--fork", "--", "true")
        done = subprocess.run(argv, capture_output=True, text=True, env=dict(CLEAN_ENVIRONMENT), check=False)
        if done.returncode != 0:
            raise Unavailable(f"no systemd container can be made here: {done.stderr.strip()}", _HINT)


def _require_tools() -> None:
    missing = [tool for tool in _TOOLS if shutil.which(tool, path=_PATH) is None]
    if missing:
        debian, fedora = (" ".join(sorted({_TOOLS[tool][which] for tool in missing})) for which in (0, 1))
        raise MissingError(
            f"not installed: {', '.join(missing)}", f"Run: apt-get install {debian}, or: dnf install {fedora}"
        )
