"""The copy-on-write files of a box: overlays in the tmpfs of the namespaces (mount(8), section "overlay")."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from litellm_systemd.box.image import Bind, Image, quote, volumes
from litellm_systemd.box.namespaces import STORE, Namespaces


class Overlay:
    """The files of one box and its changes. Paths are those inside the namespaces."""

    def __init__(self, namespaces: Namespaces, image: Image, folder: Path) -> None:
        self.root = folder / "tree"
        self._namespaces, self._image, self._folder = namespaces, image, folder
        self._volumes = volumes(image.root)
        self._mounted: list[Path] = []

    def mount(self, *, shares_network: bool) -> None:
        """Mount the overlays, and prepare the tree if no box has booted from it yet."""
        self._namespaces.call("mkdir", "-p", str(self.root))
        for volume in self._volumes:
            below = volume.relative_to("/")
            self._mount_overlay(volume, self._image.root / below, self.root / below)
        for copy in self._image.copies:
            self._mount_overlay(copy, copy, self._part(copy) / "tree")
        if not self._image.layers:
            self._call("sh", "-s", uuid.uuid4().hex, stdin=self._image.preparation)
        self._configure_network(shared=shares_network)

    def unmount(self) -> None:
        """Unmount the overlays. A second call has no effect."""
        while self._mounted:
            self._namespaces.call("umount", "--lazy", str(self._mounted.pop()))

    def save(self) -> Path:
        """Turn the changes into a layer. Call it after `unmount`."""
        layer = STORE / self._namespaces.new_name("layer")
        self._namespaces.call("mkdir", str(layer))
        for volume in (*self._volumes, *self._image.copies):
            self._namespaces.call("mv", str(self._part(volume) / "upper"), str(layer / quote(volume)))
        return layer

    def remove(self) -> None:
        """Delete the changes. Call it after `unmount`."""
        self._namespaces.call("rm", "-rf", "--one-file-system", str(self._folder))

    def copies(self) -> Iterator[Bind]:
        """The binds for systemd-nspawn of the copied folders."""
        return (Bind(self._part(copy) / "tree", copy, writable=True) for copy in self._image.copies)

    def read(self, path: str) -> str:
        """The content of a file of the tree."""
        return self._namespaces.call("cat", f"{self.root}/{path.lstrip('/')}")

    def _call(self, *argv: str, stdin: str) -> None:
        self._namespaces.call("chroot", str(self.root), *argv, stdin=stdin)

    def _part(self, volume: Path) -> Path:
        return self._folder / quote(volume)

    def _mount_overlay(self, volume: Path, original: Path, target: Path) -> None:
        part = self._part(volume)
        self._namespaces.call("mkdir", "-p", f"{part}/upper", f"{part}/work", str(target))
        # The upper folder becomes the root of the merged folder, so it needs the mode and the owner of the original.
        for command in ("chmod", "chown"):
            self._namespaces.call(command, f"--reference={original}", f"{part}/upper")
        lower = ":".join(str(path) for path in (*(layer / quote(volume) for layer in self._image.layers), original))
        options = f"lowerdir={lower},upperdir={part}/upper,workdir={part}/work"
        self._namespaces.call("mount", "-t", "overlay", "-o", options, "overlay", str(target))
        self._mounted.append(target)

    def _configure_network(self, *, shared: bool) -> None:
        hosts, resolver = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n", ""
        if shared:
            hosts = Path("/etc/hosts").read_text(encoding="utf-8")
            with contextlib.suppress(FileNotFoundError):
                resolver = Path("/etc/resolv.conf").read_text(encoding="utf-8")
        for name, content in (("hosts", f"{hosts}127.0.1.1 box\n"), ("resolv.conf", resolver)):
            script = f"rm -f /etc/{name} && cat >/etc/{name}"
            self._call("sh", "-c", f"umask 022 && {script}", stdin=content)
