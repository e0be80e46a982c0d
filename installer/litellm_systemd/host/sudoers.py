"""Whether sudo finds litellmctl: sudoers(5), secure_path."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from litellm_systemd.host.layout import Layout

_DEFAULTS = re.compile(r"^\s*Defaults\s+(.*)", re.MULTILINE)
_SECURE_PATH = re.compile(r'(!?)\bsecure_path\b(?:\s*=\s*(?:"([^"]*)"|([^\s,]+)))?')


def sudo_misses_command(layout: Layout) -> bool:
    """Whether sudo does not search the folder of litellmctl, and a link to it in another folder can be created.

    Amazon Linux and RHEL set a `secure_path` without /usr/local/bin. For a user who can't read the files: False.
    """
    secure_path = _read_secure_path(layout)
    if secure_path is None or str(PurePosixPath(layout.command).parent) in secure_path.split(":"):
        return False
    # /usr is read-only on an image-based system.
    return os.access(layout.real(layout.sudo_command).parent, os.W_OK)


def _read_secure_path(layout: Layout) -> str | None:
    """The `secure_path` for all users; None without one. Of several, the last one is valid."""
    folder = layout.real("/etc/sudoers.d")
    try:
        # As sudo does: no names with a dot or with a tilde at the end.
        more = sorted(path for path in folder.iterdir() if "." not in path.name and not path.name.endswith("~"))
    except OSError:
        more = []
    found = None
    for path in (layout.real("/etc/sudoers"), *more):
        text = _read(path).replace("\\\n", " ")
        for defaults in _DEFAULTS.findall(text):
            for negated, quoted, plain in _SECURE_PATH.findall(defaults):
                found = None if negated else quoted or plain or None
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
