"""Throwaway systemd containers ("boxes"): boot one, drive it, pull its plug, fork it. For rehearsals and for tests.

A box sees a copy-on-write view of this machine's root folder (or of another tree, such as debootstrap makes),
runs a real systemd as PID 1 on it and has a network of its own with nothing in it but loopback.

    with Namespaces() as namespaces, Box(namespaces) as box:
        box.systemctl("start", "litellm.service")
        print(box.journal("litellm.service"))

How it is kept fast. A box is one overlayfs mount over `/` with its changes in a tmpfs, and systemd-nspawn(1) on
top: about half a second to boot, a few hundredths to fork. An `Image` is a root folder and the changes that
earlier boxes left behind as read-only layers.

Needs root, util-linux, systemd-container; the standard library only, since scripts/quickstart.sh runs it before
anything is installed: `python3 -m litellm_systemd.box exec -- CMD ARGS...` runs a command in a box (see `--help`).
"""

from litellm_systemd.box.image import Bind, Image, is_hidden, outermost
from litellm_systemd.box.machine import Box, Network
from litellm_systemd.box.namespaces import Namespaces
from litellm_systemd.box.preflight import require_boxes, why_not
from litellm_systemd.box.processes import BoxError, end, wait_until

__all__ = [
    "Bind",
    "Box",
    "BoxError",
    "Image",
    "Namespaces",
    "Network",
    "end",
    "is_hidden",
    "outermost",
    "require_boxes",
    "wait_until",
    "why_not",
]
