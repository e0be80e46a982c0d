"""The lifecycle of a box: its overlays, boot, power off, save, close; and whether this machine can run boxes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Literal, TypeVar

from litellm_systemd.box.image import Bind, Image, quote, volumes
from litellm_systemd.box.namespaces import STORE, Namespaces, remove_cgroup
from litellm_systemd.box.processes import (
    CLEAN_ENVIRONMENT,
    BoxError,
    Guest,
    children,
    end,
    executable,
    pid_inside,
    wait_until,
)
from litellm_systemd.errors import InstallerError, MissingError, PermissionDenied, Unavailable


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


Network = Literal["private", "host"]
Self = TypeVar("Self", bound="Box")


@dataclass
class Box(Guest):
    """A systemd container. The `with` statement boots it on entry and closes it on exit.

    `network="host"` shares the network of the host. With a path inside `namespaces`, the box joins that network
    namespace (ip-netns(8)), which the caller configures. `binds` are files of the host itself, all others are copies.
    `options` are passed to systemd-nspawn(1). `environment` is added to the environment of each command that runs as
    root. A box can be powered off and booted again. It keeps its changes until it is closed or saved.
    """

    namespaces: Namespaces
    image: Image = field(default_factory=Image)
    network: Network | Path = "private"
    binds: tuple[Bind, ...] = ()
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = self.namespaces.new_name("box")
        self._tree = Overlay(self.namespaces, self.image, STORE / self.name)
        self._console: IO[str] = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed by close)
        self._nspawn: subprocess.Popen[str] | None = None
        self._leader = 0
        try:
            self._tree.mount(shares_network=self.network == "host")
        except BaseException:
            self.close()
            raise

    def __enter__(self: Self) -> Self:
        try:
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    # --- lifecycle ---

    @property
    def leader(self) -> int:
        """The pid, on the host, of PID 1 in the box. Raises BoxError if the box is powered off."""
        if not self._leader:
            raise BoxError(f"{self.name} is powered off")
        return self._leader

    @property
    def running(self) -> bool:
        return self._nspawn is not None and self._nspawn.poll() is None

    def boot(self, *, deadline: float = 240, degraded: bool = False) -> None:
        """Power on, and return when the boot is complete.

        `deadline` is in seconds. Raises BoxError if it passes, or if a unit has failed and `degraded` is false.
        """
        if self.running:
            raise BoxError(f"{self.name} is already powered on")
        end = time.monotonic() + deadline
        self._start_nspawn()
        try:
            self._leader = wait_until(self._find_leader, deadline, "systemd-nspawn starts an init")
            state = wait_until(lambda: self._system_state(end), deadline, "systemd finishes booting")
            if state != "running" and not (degraded and state == "degraded"):
                raise BoxError(f"the box is {state}:\n{self.run(('systemctl', '--failed'), check=False).stdout}")
        except BaseException as error:
            console = self.console()[-4000:]
            self.kill()
            if isinstance(error, BoxError):
                raise BoxError(f"{error}\n--- console of {self.name} ---\n{console}") from None
            raise

    def poweroff(self, *, deadline: float = 120) -> None:
        """Shut down cleanly, so that every service is stopped. Raises BoxError after `deadline` seconds."""
        os.kill(self.leader, signal.SIGRTMIN + 4)  # systemd(1): start poweroff.target
        try:
            self._process.wait(timeout=deadline)
        except subprocess.TimeoutExpired:
            console = self.console()[-4000:]
            self.kill()
            raise BoxError(f"{self.name} did not power off within {deadline:g} s\n{console}") from None
        self._reset_power_state()

    def kill(self) -> None:
        """Kill every process at once, as in a power failure. The files stay as they are. No error if powered off."""
        if self._nspawn is not None and self._nspawn.poll() is None:
            if self._leader:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._leader, signal.SIGKILL)
            else:
                end(self._nspawn)
            self._nspawn.wait(timeout=60)
        self._reset_power_state()

    def reboot(self) -> None:
        """Shut down cleanly and boot again. Changes are kept."""
        self.poweroff()
        self.boot()

    def save(self) -> Image:
        """Power off if necessary, close this box, and return an image with its changes for other boxes."""
        if self.running:
            self.poweroff()
        self._tree.unmount()
        layer = self._tree.save()
        self.close()
        return replace(self.image, layers=(layer, *self.image.layers))

    def close(self) -> None:
        """Kill the box and discard its changes. A second call has no effect."""
        self.kill()
        self._tree.unmount()
        self._tree.remove()
        self._console.close()

    def console(self) -> str:
        """The console output of PID 1 and systemd-nspawn since the last boot."""
        if self._console.closed:
            return ""
        self._console.seek(0)
        return self._console.read()

    # --- implementation ---

    @property
    def _process(self) -> subprocess.Popen[str]:
        if self._nspawn is None:
            raise BoxError(f"{self.name} is powered off")
        return self._nspawn

    def _start_nspawn(self) -> None:
        groups = [folder / self.name for folder in self.namespaces.cgroups]
        for group in groups:
            group.mkdir(exist_ok=True)
        # Boxes that share a control group would stop each other's services. 0 means the writing process.
        join_groups = "".join(f'echo 0 >"{group}/cgroup.procs" && ' for group in groups)
        machine_id = self._tree.read("/etc/machine-id").strip()
        argv = (
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--settings=no", "--link-journal=no",
            "--resolv-conf=off", "--timezone=off", "--console=pipe", f"--directory={self._tree.root}",
            "--machine=box", f"--uuid={machine_id}",
            *_network_option(self.network),
            *(bind.option() for bind in (*self._tree.copies(), *self.binds)),
            *self.options,
            # Do not mount the file systems and swap of the host (kernel-command-line(7)).
            "--boot", "fstab=no", "luks=no", "systemd.firstboot=off",
        )  # fmt: skip
        self._console.seek(0)
        self._console.truncate()
        self._nspawn = subprocess.Popen(
            self.namespaces.argv("sh", "-c", f'{join_groups} exec "$@"', "nspawn", *argv),
            stdin=subprocess.DEVNULL, stdout=self._console, stderr=subprocess.STDOUT,
            text=True, start_new_session=True, cwd="/", env=dict(CLEAN_ENVIRONMENT),
        )  # fmt: skip

    def _find_leader(self) -> int:
        """The init of the box: the child of systemd-nspawn that is PID 1 of a namespace and runs another program.

        systemd-nspawn is the child of nsenter. A search by command line could match an unrelated container on the
        host. Returns 0 if there is no such child yet.
        """
        if self._process.poll() is not None:
            raise BoxError(f"systemd-nspawn exited with code {self._process.returncode}")
        for nspawn in children(self._process.pid):
            for child in children(nspawn):
                if pid_inside(child) == 1 and executable(child) not in ("", executable(nspawn)):
                    return child
        return 0

    def _system_state(self, end: float) -> str:
        """The state of the system, such as `running`, once the boot is complete; before that an empty string."""
        if not self.running:
            raise BoxError("the box powered itself off while booting")
        timeout = max(1.0, end - time.monotonic())
        done = self.run(("systemctl", "is-system-running", "--wait"), check=False, timeout=timeout)
        state = done.stdout.strip()
        return "" if state in ("", "offline", "unknown", "initializing", "starting") else state

    def _reset_power_state(self) -> None:
        self._nspawn = None
        self._leader = 0
        for folder in self.namespaces.cgroups:
            remove_cgroup(folder / self.name)


def _network_option(network: Network | Path) -> tuple[str, ...]:
    """The argument for systemd-nspawn(1)."""
    if isinstance(network, Path):
        return (f"--network-namespace-path={network}",)
    return ("--private-network",) if network == "private" else ()


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
