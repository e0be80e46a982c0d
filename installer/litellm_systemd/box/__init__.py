"""Temporary systemd containers ("boxes"), for rehearsals and tests.

A box has a copy-on-write view of this machine's root folder, or of another tree such as one of debootstrap. It runs a
real systemd as PID 1 and has a network of its own with only a loopback interface.

    with Namespaces() as namespaces, Box(namespaces) as box:
        box.systemctl("start", "litellm.service")
        print(box.journal("litellm.service"))

A box is an overlayfs mount over `/` with its changes in a tmpfs, and systemd-nspawn(1) on top. It boots in about half
a second. An `Image` is a root folder with the changes of earlier boxes as read-only layers; a new box from it takes a
few hundredths of a second.

It needs root, util-linux and systemd-container. It uses only the standard library, because scripts/quickstart.sh runs
it before the installation. `python3 -m litellm_systemd.box exec -- CMD ARGS...` runs a command in a box (see
`--help`).
"""

from litellm_systemd.box.image import Bind, Image, is_hidden, outermost
from litellm_systemd.box.machine import Box, Network, require_boxes, why_not
from litellm_systemd.box.namespaces import Namespaces
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
