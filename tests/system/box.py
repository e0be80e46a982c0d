"""Throwaway systemd containers ("boxes") for tests: boot one, drive it, pull its plug, fork it.

A box sees a copy-on-write view of this machine's root folder (or of another tree, such as debootstrap makes),
runs a real systemd as PID 1 on it and has a network of its own with nothing in it but loopback.

    with Yard() as yard, Box(yard) as box:
        box.systemctl("start", "litellm.service")
        assert box.http("GET", "http://127.0.0.1:4000/health/readiness").status == 200

How it is kept fast. A box is one overlayfs mount over `/` with its changes in a tmpfs, and systemd-nspawn(1) on
top: about half a second to boot, a few hundredths to fork. An `Image` is a root folder and the changes that
earlier boxes left behind as read-only layers.

Needs root, util-linux, systemd-container; Python >= 3.10, the standard library only.
On its own: `python3 tests/system/box.py exec -- CMD ARGS...` runs a command in a box (see `--help`).
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, TypeVar

from yard import (
    CLEAN_ENVIRONMENT,
    STORE,
    BoxError,
    Yard,
    children,
    end,
    mounts,
    pid_inside,
    program,
    remove_cgroup,
    wait_until,
)

__all__ = ["Answer", "Bind", "Box", "BoxError", "Image", "Network", "Yard", "end", "wait_until", "why_not"]

T = TypeVar("T")
Network = Literal["private", "host"]

_TOOLS = ("systemd-nspawn", "unshare", "nsenter", "setpriv", "mount", "umount", "chroot", "find", "sh")
_DISK_FILESYSTEMS = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "virtiofs", "9p", "bcachefs"})
#: First parts of paths below which no file system is copied: a box has its own, or no use for them.
_NOT_COPIED = (("boot",), ("efi",), ("run",), ("tmp",))
_CLONE_NEWNET = 0x40000000  # <sched.h>

# Run once in a tree before its first boot: what a machine of its own would not share with the host. The links
# in /etc/systemd/system enable the host's services, which a test must not depend on; some distributions keep
# their choice of message bus there, so that stays. A fresh .updated spares the work of "first boot after an
# update" (systemd-update-done.service(8)). The rest is an installation of ours on the host, and old journals.
_PREPARE = """
set -eu
machine_id=$1
umask 022
mkdir -p /etc/systemd/system /etc/systemd/system-generators /var/log
find /etc/systemd/system ! -type d ! -name 'dbus*' -delete
ln -sf /dev/null /etc/systemd/system-generators/systemd-sysv-generator
rm -rf /etc/litellm /opt/litellm-systemd /var/lib/litellm /var/lib/litellm-systemd /var/cache/litellm \\
    /usr/local/bin/litellmctl /etc/sysusers.d/litellm*.conf /etc/tmpfiles.d/litellm*.conf
for file in /etc/passwd /etc/group /etc/shadow /etc/gshadow; do
    if grep -qs '^litellm:' "$file"; then sed -i '/^litellm:/d' "$file"; fi
done
rm -rf /var/log/journal
mkdir -m 2755 /var/log/journal
rm -f /etc/machine-id /etc/hostname /etc/hosts /etc/resolv.conf
echo "$machine_id" >/etc/machine-id
echo box >/etc/hostname
touch /etc/.updated /var/.updated
"""


@dataclass(frozen=True, slots=True)
class Image:
    """What a box starts from: a root folder, and the layers that earlier boxes left on it, the newest first.

    Layers are paths in the store of the yard that made them: an image with layers dies with its yard.
    `copies` are folders of the host that a box has a copy of, where it would not see them otherwise: below /tmp and
    /run, which are a box's own.
    """

    root: Path = Path("/")
    layers: tuple[Path, ...] = ()
    copies: tuple[Path, ...] = ()


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


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to an HTTP request, its body read to the end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as UTF-8."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def why_not() -> str | None:
    """The reason why boxes can't be had on this machine, or None if they can: a yard is opened to find out."""
    if sys.platform != "linux":
        return "systemd containers need Linux"
    if os.geteuid() != 0:
        return "systemd containers need root"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (packages systemd-container and util-linux)"
    try:
        with Yard() as yard, contextlib.closing(Box(yard)):
            return None
    except (BoxError, OSError) as error:
        return f"no systemd container can be made here: {error}"


@dataclass
class Box:
    """A systemd container, from its first boot to the end of the `with` statement.

    `network="host"` shares the host's network in place of an empty one. `binds` are shown as they are, everything
    else is a copy. `options` are handed to systemd-nspawn(1) as they are, and `environment` to every command that is
    run as root.
    Entering boots; a box can be powered off and booted again, and keeps its changes until it is closed or saved.
    """

    yard: Yard
    image: Image = field(default_factory=Image)
    network: Network = "private"
    binds: tuple[Bind, ...] = ()
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.name = self.yard.new_name("box")
        self._folder = STORE / self.name
        self._tree = self._folder / "tree"
        self._volumes = _volumes(self.image.root)
        self._mounted: list[Path] = []
        self._console: IO[str] = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 (closed by close)
        self._nspawn: subprocess.Popen[str] | None = None
        self._leader = 0
        try:
            self._mount()
            if not self.image.layers:
                self._prepare()
            self._configure_network()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Box:
        try:
            self.boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- life and death ---

    @property
    def leader(self) -> int:
        """The process of the host that is PID 1 in the box. Raises BoxError while it is powered off."""
        if not self._leader:
            raise BoxError(f"{self.name} is powered off")
        return self._leader

    @property
    def running(self) -> bool:
        """Whether the box is powered on."""
        return self._nspawn is not None and self._nspawn.poll() is None

    def boot(self, *, deadline: float = 240, degraded: bool = False) -> None:
        """Power on, and return when systemd has finished its first transaction.

        `deadline` is in seconds. A unit that failed raises BoxError unless `degraded` allows for it.
        """
        if self.running:
            raise BoxError(f"{self.name} is powered on already")
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
        """Shut down in good order: every service is stopped. `deadline` in seconds, then BoxError."""
        os.kill(self.leader, signal.SIGRTMIN + 4)  # systemd(1): start poweroff.target
        assert self._nspawn is not None
        try:
            self._nspawn.wait(timeout=deadline)
        except subprocess.TimeoutExpired:
            console = self.console()[-4000:]
            self.kill()
            raise BoxError(f"{self.name} didn't power off in {deadline:g} s\n{console}") from None
        self._after_power()

    def kill(self) -> None:
        """Pull the plug: every process is gone at once, the disk stays as it was. Harmless when off."""
        if self._nspawn is not None and self._nspawn.poll() is None:
            if self._leader:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._leader, signal.SIGKILL)
            else:
                end(self._nspawn)
            self._nspawn.wait(timeout=60)
        self._after_power()

    def reboot(self, *, deadline: float = 240, degraded: bool = False) -> None:
        """Shut down in good order and boot again, with the changes kept."""
        self.poweroff()
        self.boot(deadline=deadline, degraded=degraded)

    def save(self) -> Image:
        """Power off if need be, and make the changes an image for further boxes. This box is closed then."""
        if self.running:
            self.poweroff()
        self._unmount()
        layer = STORE / self.yard.new_name("layer")
        self.yard.call("mkdir", str(layer))
        for volume in (*self._volumes, *self.image.copies):
            self.yard.call("mv", str(self._part(volume) / "upper"), str(layer / _quote(volume)))
        self.close()
        return replace(self.image, layers=(layer, *self.image.layers))

    def close(self) -> None:
        """End the box and forget its changes. Harmless when repeated."""
        self.kill()
        self._unmount()
        self.yard.call("rm", "-rf", "--one-file-system", str(self._folder))
        self._console.close()

    def console(self) -> str:
        """What PID 1 and systemd-nspawn wrote to the console since the last boot."""
        if self._console.closed:
            return ""
        self._console.seek(0)
        return self._console.read()

    # --- commands ---

    def argv(self, argv: Sequence[str], *, user: str | None = None, cwd: str = "/") -> tuple[str, ...]:
        """The command that the host must run, so that `argv` runs in the box, with the variables it is given.

        setpriv sees to it that the command dies with nsenter, which waits for it outside. `user` and `cwd` are
        looked up in the box.
        """
        name, _, group = (user or "").partition(":")
        become = ("setpriv", f"--reuid={name}", f"--regid={group or name}", "--init-groups", "--") if name else ()
        return (
            "nsenter", "--target", str(self.leader), "--all", "--",
            "setpriv", "--pdeathsig", "KILL", "--", "env", "-C", cwd, *become, *argv,
        )  # fmt: skip

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        input: str | None = None,
        timeout: float = 120,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: str = "/",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the box to its end, its output captured.

        `env` comes on top of `CLEAN_ENVIRONMENT`; `user` is `name` or `name:group`; `timeout` is in seconds.
        Raises BoxError when the time is up (the command is killed then), and, unless `check` is false, when the
        exit code isn't 0.
        """
        process = self.popen(argv, stdin=subprocess.PIPE, env=env, user=user, cwd=cwd)
        try:
            stdout, stderr = process.communicate(input or "", timeout=timeout)
        except BaseException as error:
            end(process)
            stdout, stderr = _drain(process)
            if isinstance(error, subprocess.TimeoutExpired):
                reason = f"still running after {timeout:g} s"
                raise BoxError(_describe(argv, reason, stdout, stderr)) from None
            raise
        if check and process.returncode != 0:
            raise BoxError(_describe(argv, f"exit code {process.returncode}", stdout, stderr))
        return subprocess.CompletedProcess(list(argv), process.returncode, stdout, stderr)

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = subprocess.PIPE,
        stderr: int | IO[Any] | None = subprocess.PIPE,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        cwd: str = "/",
    ) -> subprocess.Popen[str]:
        """Start a command in the box. Its pid is that of nsenter: end it with `end(process)`."""
        return subprocess.Popen(
            self.argv(argv, user=user, cwd=cwd),
            env={**CLEAN_ENVIRONMENT, **({} if user else self.environment), **(env or {})},
            stdin=stdin, stdout=stdout, stderr=stderr, text=True, errors="replace",
        )  # fmt: skip

    def systemctl(self, *args: str, check: bool = True, timeout: float = 240) -> str:
        """`systemctl ARGS`: its output without the last newline."""
        return self.run(("systemctl", "--no-pager", *args), check=check, timeout=timeout).stdout.rstrip("\n")

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Properties of a unit (all of them when none is named), as `systemctl show` writes them."""
        wanted = (f"--property={','.join(properties)}",) if properties else ()
        lines = self.systemctl("show", *wanted, "--", unit).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def journal(self, unit: str | None = None, *args: str) -> str:
        """Messages of the journal, one a line and nothing else, of one unit or of all (`-o` in `args` overrides)."""
        wanted = () if unit is None else ("--unit", unit)
        argv = ("journalctl", "--no-pager", "--quiet", "--output=cat", *wanted, *args)
        self.run(("journalctl", "--sync"), check=False)
        return self.run(argv, check=False).stdout

    def wait_until(self, predicate: Callable[[], T], deadline: float, what: str) -> T:
        """`wait_until`; when the time is up, BoxError carries the end of the journal too."""
        try:
            return wait_until(predicate, deadline, what)
        except BoxError as error:
            tail = self.journal(None, "--lines=50", "--output=short") if self.running else self.console()
            raise BoxError(f"{error}\n--- journal of {self.name} ---\n{tail}") from None

    # --- files ---

    def write(self, path: str | Path, content: str, mode: int = 0o644, owner: str = "root:root") -> None:
        """Write a file in the box, and the folders that lead to it."""
        script = 'mkdir -p "${1%/*}" && umask 077 && cat >"$1" && chown "$3" "$1" && chmod "$2" "$1"'
        self.run(("sh", "-c", script, "write", str(path), f"{mode:o}", owner), input=content)

    def read(self, path: str | Path) -> str:
        """The content of a file in the box."""
        return self.run(("cat", str(path))).stdout

    def exists(self, path: str | Path) -> bool:
        """Whether there is anything at a path in the box, dangling links included."""
        return self.run(("sh", "-c", '[ -e "$1" ] || [ -L "$1" ]', "exists", str(path)), check=False).returncode == 0

    # --- network ---

    def connect(self, host: str, port: int, *, timeout: float = 10) -> socket.socket:
        """A TCP connection out of the box's own network, for this process to use.

        A socket belongs to the network it was made in, and setns(2) moves a single thread: so one thread goes in,
        connects, and leaves the socket behind.
        """
        outcome: list[socket.socket | OSError] = []

        def enter_and_connect() -> None:
            try:
                with Path(f"/proc/{self.leader}/ns/net").open() as namespace:
                    _setns(namespace.fileno())
                outcome.append(socket.create_connection((host, port), timeout))
            except OSError as error:
                outcome.append(error)

        thread = threading.Thread(target=enter_and_connect, name=f"connect-{self.name}")
        thread.start()
        thread.join()
        if isinstance(outcome[0], OSError):
            raise outcome[0]
        return outcome[0]

    def http_connection(self, host: str, port: int, *, timeout: float = 10) -> http.client.HTTPConnection:
        """An open HTTP/1.1 connection to a server in the box, for streams and for several requests in a row."""
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        connection.sock = self.connect(host, port, timeout=timeout)
        return connection

    def http(
        self,
        method: str,
        url: str,
        *,
        body: str | bytes | Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> Answer:
        """One HTTP request to a server in the box. A mapping as `body` is sent as JSON.

        Raises OSError (ConnectionRefusedError and the like) or http.client.HTTPException as they come.
        """
        parts = urllib.parse.urlsplit(url)
        sent = dict(headers or {})
        if isinstance(body, Mapping):
            body = json.dumps(body)
            sent.setdefault("Content-Type", "application/json")
        connection = self.http_connection(parts.hostname or "127.0.0.1", parts.port or 80, timeout=timeout)
        with contextlib.closing(connection):
            target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
            connection.request(method, target, body, sent)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())

    # --- inside ---

    def _part(self, volume: Path) -> Path:
        return self._folder / _quote(volume)

    def _mount(self) -> None:
        self.yard.call("mkdir", "-p", str(self._tree))
        for volume in self._volumes:
            below = volume.relative_to("/")
            self._mount_overlay(volume, self.image.root / below, self._tree / below)
        for copy in self.image.copies:
            self._mount_overlay(copy, copy, self._part(copy) / "tree")

    def _mount_overlay(self, volume: Path, original: Path, target: Path) -> None:
        part = self._part(volume)
        self.yard.call("mkdir", "-p", f"{part}/upper", f"{part}/work", str(target))
        # The upper folder becomes the root of what is merged: the mode and the owner have to be set.
        for command in ("chmod", "chown"):
            self.yard.call(command, f"--reference={original}", f"{part}/upper")
        lower = ":".join(str(path) for path in (*(layer / _quote(volume) for layer in self.image.layers), original))
        options = f"lowerdir={lower},upperdir={part}/upper,workdir={part}/work"
        self.yard.call("mount", "-t", "overlay", "-o", options, "overlay", str(target))
        self._mounted.append(target)

    def _copies(self) -> Iterator[Bind]:
        return (Bind(self._part(copy) / "tree", copy, writable=True) for copy in self.image.copies)

    def _unmount(self) -> None:
        while self._mounted:
            self.yard.call("umount", "--lazy", str(self._mounted.pop()))

    def _prepare(self) -> None:
        self.yard.call("chroot", str(self._tree), "sh", "-s", uuid.uuid4().hex, stdin=_PREPARE)

    def _configure_network(self) -> None:
        hosts, resolver = "127.0.0.1 localhost\n::1 localhost ip6-localhost\n", ""
        if self.network == "host":
            hosts = Path("/etc/hosts").read_text(encoding="utf-8")
            with contextlib.suppress(FileNotFoundError):
                resolver = Path("/etc/resolv.conf").read_text(encoding="utf-8")
        for name, content in (("hosts", f"{hosts}127.0.1.1 box\n"), ("resolv.conf", resolver)):
            script = f"rm -f /etc/{name} && cat >/etc/{name}"
            self.yard.call("chroot", str(self._tree), "sh", "-c", f"umask 022 && {script}", stdin=content)

    def _start_nspawn(self) -> None:
        groups = [folder / self.name for folder in self.yard.cgroups]
        for group in groups:
            group.mkdir(exist_ok=True)
        # Boxes with one control group between them would end each other's services. A 0 stands for the writer.
        enter = "".join(f'echo 0 >"{group}/cgroup.procs" && ' for group in groups)
        machine_id = self.yard.call("cat", f"{self._tree}/etc/machine-id").strip()
        argv = (
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--settings=no", "--link-journal=no",
            "--resolv-conf=off", "--timezone=off", "--console=pipe", f"--directory={self._tree}", "--machine=box",
            f"--uuid={machine_id}",
            *(("--private-network",) if self.network == "private" else ()),
            *(bind.option() for bind in (*self._copies(), *self.binds)),
            *self.options,
            # The host's file systems and swap are not the box's business (kernel-command-line(7)).
            "--boot", "fstab=no", "luks=no", "systemd.firstboot=off",
        )  # fmt: skip
        self._console.seek(0)
        self._console.truncate()
        self._nspawn = subprocess.Popen(
            self.yard.argv("sh", "-c", f'{enter} exec "$@"', "nspawn", *argv),
            stdin=subprocess.DEVNULL, stdout=self._console, stderr=subprocess.STDOUT,
            text=True, start_new_session=True, cwd="/", env=dict(CLEAN_ENVIRONMENT),
        )  # fmt: skip

    def _find_leader(self) -> int:
        """The init of the box: the first child of systemd-nspawn's that is PID 1 of a namespace and runs init.

        systemd-nspawn is the child of our nsenter. Nothing is searched for by name: a pattern over the command
        lines of the host would match somebody else's container as well.
        """
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise BoxError(f"systemd-nspawn ended with exit code {self._nspawn.returncode}")
        for nspawn in children(self._nspawn.pid):
            for child in children(nspawn):
                if pid_inside(child) == 1 and program(child) not in ("", program(nspawn)):
                    return child
        return 0

    def _system_state(self, end: float) -> str:
        """`running` and the like once booting is over, an empty string before."""
        if not self.running:
            raise BoxError("the box powered itself off while booting")
        left = max(1.0, end - time.monotonic())
        done = self.run(("systemctl", "is-system-running", "--wait"), check=False, timeout=left)
        state = done.stdout.strip()
        return "" if state in ("", "offline", "unknown", "initializing", "starting") else state

    def _after_power(self) -> None:
        self._nspawn = None
        self._leader = 0
        for folder in self.yard.cgroups:
            remove_cgroup(folder / self.name)


def _drain(process: subprocess.Popen[str]) -> tuple[str, str]:
    """What a killed process had written. A daemon that it left behind may keep the pipes open: don't wait for it."""
    try:
        return process.communicate(timeout=5)
    except (subprocess.TimeoutExpired, ValueError):
        return "", ""


def _describe(argv: Sequence[str], reason: str, stdout: str, stderr: str) -> str:
    parts = [f"in the box: {' '.join(argv)}: {reason}"]
    parts += [f"--- {name} ---\n{text[-8000:]}" for name, text in (("stdout", stdout), ("stderr", stderr)) if text]
    return "\n".join(parts)


def _setns(descriptor: int) -> None:
    """setns(2) to a network namespace, for the calling thread alone. os.setns came with Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _volumes(root: Path) -> tuple[Path, ...]:
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


def _quote(volume: Path) -> str:
    return urllib.parse.quote(str(volume), safe="")


# --- on its own ---


def _execute(arguments: argparse.Namespace) -> int:
    """Boot a box, run the command in it on this terminal, and return its exit code."""
    binds = tuple(
        Bind(Path(path).absolute(), writable=writable)
        for paths, writable in ((arguments.bind, False), (arguments.bind_rw, True))
        for path in paths
    )
    copies = tuple(Path(path).absolute() for path in arguments.copy)
    image = Image(Path(arguments.root).absolute(), copies=copies)
    with Yard() as yard, Box(yard, image, network=arguments.network, binds=binds) as box:
        cwd = str(Path.cwd())
        folder = cwd if box.run(("test", "-d", cwd), check=False).returncode == 0 else "/"
        # With the caller's own variables: proxies, mirrors and caches that a command needs to reach the network.
        code = subprocess.run(box.argv(arguments.command, cwd=folder), check=False).returncode
        if arguments.keep:
            sys.stderr.write(f"The box stays until Ctrl-C. To enter it: nsenter --target {box.leader} --all\n")
            signal.pause()
    return code if code >= 0 else 128 - code


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: the command's own, 69 if there can be no box, 130 on Ctrl-C."""
    parser = argparse.ArgumentParser(description="Run a command in a throwaway systemd container.")
    parser.add_argument("--network", choices=("private", "host"), default="private", help="default: loopback only")
    parser.add_argument("--root", default="/", help="the tree that the box is a copy of (default: this machine)")
    for option, what in (
        ("--bind", "show PATH as it is, read-only"),
        ("--bind-rw", "show PATH as it is: what the box writes there is written on the host"),
        ("--copy", "show a copy of PATH, which the box wouldn't see else (in /tmp, or not below --root)"),
    ):
        parser.add_argument(option, action="append", default=[], metavar="PATH", help=what)
    parser.add_argument("--keep", action="store_true", help="leave the box running when the command has ended")
    commands = parser.add_subparsers(required=True, metavar="exec")
    run = commands.add_parser("exec", help="boot a box, run CMD in it, power off, pass on its exit code")
    run.add_argument("command", nargs="+", metavar="CMD")
    arguments = parser.parse_args(argv)
    reason = why_not()
    if reason is not None:
        sys.stderr.write(f"box.py: {reason}\n")
        return 69
    try:
        return _execute(arguments)
    except BoxError as error:
        sys.stderr.write(f"box.py: {error}\n")
        return 70
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
