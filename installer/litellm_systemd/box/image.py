"""What a box starts from, and what it sees of the host."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from litellm_systemd.box.namespaces import mounts

_DISK_FILESYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "virtiofs", "9p", "bcachefs"})
#: First parts of paths below which no file system is copied: a box has its own, or no use for them.
_NOT_COPIED = (("boot",), ("efi",), ("run",), ("tmp",))

# Run once in a tree before its first boot: what a machine of its own would not share with the host. A fresh
# .updated spares the work of "first boot after an update" (systemd-update-done.service(8)).
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

# The links in /etc/systemd/system enable the host's services, which a test must not depend on; some distributions
# keep their choice of message bus there, so that stays. The rest is an installation of ours on the host.
_WITHOUT_SERVICE = """
find /etc/systemd/system ! -type d ! -name 'dbus*' -delete
rm -rf /etc/litellm /var/lib/litellm /var/lib/litellm-systemd /var/cache/litellm \\
    /opt/litellm-systemd/releases /opt/litellm-systemd/bootstrap /opt/litellm-systemd/current \\
    /usr/local/bin/litellmctl /etc/sysusers.d/litellm*.conf /etc/tmpfiles.d/litellm*.conf
if [ -d /opt/litellm-systemd ]; then rmdir --ignore-fail-on-non-empty /opt/litellm-systemd; fi
for file in /etc/passwd /etc/group /etc/shadow /etc/gshadow; do
    if grep -qs '^litellm:' "$file"; then sed -i '/^litellm:/d' "$file"; fi
done
"""

# In a clone the service, its drop-ins and its being enabled stay. The host's other units are there, and masked if
# they are, but nothing starts them: a database or a backup must not run twice on one set of data.
_WITH_SERVICE = """
find /etc/systemd/system -type l ! -name 'dbus*' ! -path '*/litellm*' ! -lname /dev/null -delete
"""


@dataclass(frozen=True, slots=True)
class Image:
    """What a box starts from: a root folder, and the layers that earlier boxes left on it, the newest first.

    Layers are paths in the store of the namespaces that made them: an image with layers dies with its namespaces.
    `copies` are folders of the host that a box has a copy of, where it would not see them otherwise: below /tmp and
    /run, which are a box's own.
    `keeps_service`: a LiteLLM that is installed in the root folder is part of it; else it is left out.
    """

    root: Path = Path("/")
    layers: tuple[Path, ...] = ()
    copies: tuple[Path, ...] = ()
    keeps_service: bool = False

    @property
    def preparation(self) -> str:
        """The shell script to run once in a new tree, with a machine id as its argument."""
        return _IDENTITY + (_WITH_SERVICE if self.keeps_service else _WITHOUT_SERVICE)


@dataclass(frozen=True, slots=True)
class Bind:
    """A folder or file of the host that a box sees as it is, at `target` (the same path unless given)."""

    source: Path
    target: Path | None = None
    writable: bool = False

    def option(self) -> str:
        """The argument that systemd-nspawn(1) takes for it."""
        name = "--bind" if self.writable else "--bind-ro"
        paths = (str(self.source), str(self.target or self.source))
        return f"{name}=" + ":".join(path.replace("\\", "\\\\").replace(":", "\\:") for path in paths)


def volumes(root: Path) -> tuple[Path, ...]:
    """The folders of a tree that are a file system of their own, and are copied on write one by one.

    overlayfs doesn't look through a mount point: a /usr or /home on a disk of its own would be empty in the box.
    Names that mount(8) or overlayfs would have to have escaped are left out.
    """
    if root != Path("/"):
        return (Path("/"),)
    points = {Path("/")}
    for mount in mounts():
        plain = not set(mount.point) & set("\\:,")
        if plain and mount.kind in _DISK_FILESYSTEMS and Path(mount.point).is_dir():
            points.add(Path(mount.point))
    return tuple(sorted(point for point in points if point.parts[1:2] not in _NOT_COPIED))


def quote(volume: Path) -> str:
    return urllib.parse.quote(str(volume), safe="")


def is_hidden(path: Path) -> bool:
    """Whether a box of this machine wouldn't see a path of the host, unless it is copied or bound."""
    points = {Path(mount.point) for mount in mounts()}
    point = next(parent for parent in (path, *path.parents) if parent in points or parent == Path("/"))
    return path.parts[1:2] in _NOT_COPIED or point not in volumes(Path("/"))


def outermost(paths: Iterable[Path]) -> tuple[Path, ...]:
    """The paths without those that another one holds, sorted."""
    found = set(paths)
    return tuple(sorted(path for path in found if not found & set(path.parents)))
