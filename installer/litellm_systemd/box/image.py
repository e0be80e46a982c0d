"""Images that boxes start from, and the files of the host that a box sees."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from litellm_systemd.box.namespaces import mounts

_DISK_FILESYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "virtiofs", "9p", "bcachefs"})
#: Top folders whose file systems are not copied: a box has its own, or does not need them.
_NOT_COPIED = (("boot",), ("efi",), ("run",), ("tmp",))

# Runs once in a tree before its first boot, and replaces what must differ from the host. A new .updated file skips
# the work of the first boot after an update (systemd-update-done.service(8)).
_IDENTITY = """
set -eu
umask 022
mkdir -p /etc/systemd/system /etc/systemd/system-generators /var/log
ln -sf /dev/null /etc/systemd/system-generators/systemd-sysv-generator
rm -rf /var/log/journal
mkdir -m 2755 /var/log/journal
rm -f /etc/machine-id /etc/hostname /etc/hosts /etc/resolv.conf
echo "$1" >/etc/machine-id
echo box >/etc/hostname
touch /etc/.updated /var/.updated
"""

# The links in /etc/systemd/system enable services of the host, on which a test must not depend. Some distributions
# select the message bus there, so that link stays. The other lines remove an installation of this project.
_WITHOUT_SERVICE = """
find /etc/systemd/system ! -type d ! -name 'dbus*' -delete
rm -rf /etc/litellm /var/lib/litellm /var/lib/litellm-systemd /var/cache/litellm \\
    /opt/litellm-systemd/releases /opt/litellm-systemd/bootstrap /opt/litellm-systemd/current \\
    /usr/local/bin/litellmctl /etc/sysusers.d/litellm*.conf /etc/tmpfiles.d/litellm*.conf
find /usr/bin -maxdepth 1 -lname /usr/local/bin/litellmctl -delete
if [ -d /opt/litellm-systemd ]; then rmdir --ignore-fail-on-non-empty /opt/litellm-systemd; fi
for file in /etc/passwd /etc/group /etc/shadow /etc/gshadow; do
    if grep -qs '^litellm:' "$file"; then sed -i '/^litellm:/d' "$file"; fi
done
"""

# A clone keeps the service, its drop-ins and whether it is enabled. Other units of the host exist and stay masked if
# they are, but are not started: a database or a backup must not run twice on the same data.
_WITH_SERVICE = """
find /etc/systemd/system -type l ! -name 'dbus*' ! -path '*/litellm*' ! -lname /dev/null -delete
"""


@dataclass(frozen=True, slots=True)
class Image:
    """A root folder, and the layers with changes of earlier boxes, the newest first.

    Layers are paths in the store of their namespaces, so an image with layers is valid only while these are open.
    `copies` are folders of the host that a box gets a copy of. They are needed below /tmp and /run, which a box has
    for itself. `keeps_service` is whether an installed LiteLLM service in the root folder is part of the image.
    """

    root: Path = Path("/")
    layers: tuple[Path, ...] = ()
    copies: tuple[Path, ...] = ()
    keeps_service: bool = False

    @property
    def preparation(self) -> str:
        """The shell script to run once in a new tree. Its argument is a machine id."""
        return _IDENTITY + (_WITH_SERVICE if self.keeps_service else _WITHOUT_SERVICE)


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder or file of the host that a box sees at `target` (default: the same path)."""

    source: Path
    target: Path | None = None
    writable: bool = False

    def option(self) -> str:
        """The argument for systemd-nspawn(1)."""
        name = "--bind" if self.writable else "--bind-ro"
        paths = (str(self.source), str(self.target or self.source))
        return f"{name}=" + ":".join(path.replace("\\", "\\\\").replace(":", "\\:") for path in paths)


def volumes(root: Path) -> tuple[Path, ...]:
    """The folders of a tree that are separate file systems, each of which needs an overlay.

    overlayfs does not include submounts: without its own overlay a /usr or /home on a separate disk would be empty in
    the box. Paths with characters that mount(8) or overlayfs treat specially are omitted.
    """
    if root != Path("/"):
        return (Path("/"),)
    points = {Path("/")}
    for mount in mounts():
        is_plain = not set(mount.point) & set("\\:,")
        if is_plain and mount.kind in _DISK_FILESYSTEMS and Path(mount.point).is_dir():
            points.add(Path(mount.point))
    return tuple(sorted(point for point in points if point.parts[1:2] not in _NOT_COPIED))


def quote(volume: Path) -> str:
    """A path as the name of one file."""
    return urllib.parse.quote(str(volume), safe="")


def is_hidden(path: Path) -> bool:
    """Whether a box sees a path of the host only if it is copied or bound."""
    points = {Path(mount.point) for mount in mounts()}
    point = next(parent for parent in (path, *path.parents) if parent in points or parent == Path("/"))
    return path.parts[1:2] in _NOT_COPIED or point not in volumes(Path("/"))


def outermost(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The sorted paths without those below another one."""
    found = set(paths)
    return tuple(sorted(path for path in found if not found & set(path.parents)))
