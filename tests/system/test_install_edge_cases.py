"""Installs on hosts with a problem or a foreign service, and uninstall: no half-done change, nothing left over."""

from __future__ import annotations

import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from box import Box, Image
from host_binds import releases_bind
from service import chat, ctl, key, refused, state
from test_install import REPOSITORY, snapshot, write_env
from test_transaction import interrupt, refuse_start
from tests.files import Files

from conftest import MakeBox
from litellm_systemd.box.image import quote, volumes
from litellm_systemd.box.namespaces import STORE

OWN_STATE = "/var/lib/litellm-systemd"
UNIT = "/etc/systemd/system/litellm.service"
RESCUE = "/run/systemd/system/rescue.service.d/box.conf"


@dataclass(frozen=True)
class BadHost:
    """A script that breaks the host, one that repairs it, and exit code and message of an install on it."""

    damage: str
    repair: str
    code: int
    message: str
    prefix: tuple[str, ...] = ()


BAD_HOSTS = {
    "masked": BadHost(
        f"mv {UNIT} /root && systemctl mask litellm.service",
        f"systemctl unmask litellm.service && mv /root/litellm.service {UNIT} && systemctl daemon-reload"
        " && systemctl --quiet enable litellm.service",
        69,
        "systemctl unmask",
    ),
    "read-only /etc": BadHost(
        "mount --bind /etc /etc && mount -o remount,ro,bind /etc", "umount --lazy /etc", 1, "Read-only file system"
    ),
    # Only writing a file with another owner needs the capability.
    "no CAP_CHOWN": BadHost(
        "mv /etc/litellm/configs/prompt_caching.yml /root",
        "mv /root/prompt_caching.yml /etc/litellm/configs",
        1,
        "Operation not permitted",
        ("setpriv", "--bounding-set=-chown", "--inh-caps=-chown"),
    ),
    "full disk": BadHost(
        f"rm -rf {OWN_STATE}/failed && cp -a {OWN_STATE} /root/own && mount -t tmpfs -o size=64k tmpfs {OWN_STATE}"
        f" && cp -a /root/own/. {OWN_STATE}/ && {{ head -c 1M /dev/zero >{OWN_STATE}/fill || true; }}",
        f"umount {OWN_STATE} && rm -r /root/own",
        1,
        "No space left on device",
    ),
    "immutable file": BadHost(
        "chattr +i /etc/litellm/litellm.env", "chattr -i /etc/litellm/litellm.env", 1, "chattr -i"
    ),
    # In rescue mode only a shell runs, and in this test the service. (A box has no console for the shell.)
    "rescue mode": BadHost(
        f"mkdir -p {RESCUE.rpartition('/')[0]} && printf '[Service]\\nExecStart=\\nExecStart=sleep 600\\n' >{RESCUE}"
        " && printf '[Unit]\\nIgnoreOnIsolate=yes\\n' >/run/keep.conf"
        " && for unit in litellm.service litellm.socket; do mkdir -p /run/systemd/system/$unit.d"
        " && cp /run/keep.conf /run/systemd/system/$unit.d; done"
        " && systemctl daemon-reload && systemctl isolate rescue.target",
        "rm -r /run/systemd/system/*.d/keep.conf && systemctl daemon-reload && systemctl default",
        69,
        "systemctl default",
    ),
}


@pytest.mark.parametrize("name", BAD_HOSTS)
def test_install_on_a_bad_host(shared_box: Box, name: str) -> None:
    """On a host with a problem, an install is one clear error, changes nothing, and the service keeps running."""
    bad = BAD_HOSTS[name]
    if name == "immutable file" and shared_box.run(("sh", "-c", CAN_CHATTR), check=False).returncode != 0:
        pytest.skip("the file system of the boxes does not support immutable files (Linux 6.0 has them in tmpfs)")
    write_env(shared_box, "MINE=1\nLITELLM_MASTER_KEY=sk-0123456789abcdef\n")
    argv = (*bad.prefix, "litellmctl", "install", "--env-file", "/root/.env", "-c", "demo.yml")
    with broken(shared_box, bad):
        before, main = snapshot(shared_box), state(shared_box)["MainPID"]
        done = shared_box.run(argv, check=False, timeout=300, cwd="/root")
        assert (done.returncode, bad.message in done.stderr) == (bad.code, True), done.stderr
        assert snapshot(shared_box) == before
        assert state(shared_box)["MainPID"] == main
        assert chat(shared_box) == 200
    assert "nothing differs from what was installed" in ctl(shared_box, "diff")


CAN_CHATTR = "touch /etc/probe && chattr +i /etc/probe && chattr -i /etc/probe; code=$?; rm /etc/probe; exit $code"


@contextmanager
def broken(box: Box, bad: BadHost) -> Iterator[None]:
    box.run(("sh", "-c", bad.damage))
    try:
        yield
    finally:
        box.run(("sh", "-c", bad.repair))


@pytest.fixture
def fresh(install_environment: dict[str, str]) -> Callable[..., Any]:
    """litellmctl as on a host where nothing is installed yet, with a given umask."""

    def run(box: Box, *arguments: str, umask: str = "022", **options: Any) -> Any:
        script = f'umask {umask} && exec "$@"'
        argv = ("sh", "-c", script, "sh", f"{sys.prefix}/bin/litellmctl", *arguments)
        return box.run(argv, env=install_environment, cwd="/root", timeout=600, **options)

    return run


def test_shutting_down(box: Box, fresh: Callable[..., Any]) -> None:
    """On a system that is shutting down, an install reports that and changes nothing."""
    unit = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\nExecStop=sleep 600\nTimeoutStopSec=600\n"
    box.write("/etc/systemd/system/slow.service", unit)
    box.systemctl("start", "slow")
    box.run(("systemctl", "poweroff", "--no-block"))
    box.wait_until(
        lambda: box.run(("systemctl", "is-system-running"), check=False).stdout == "stopping\n", 30, "it shuts down"
    )
    done = fresh(box, "install", "-c", "demo.yml", check=False)
    assert (done.returncode, "is shutting down" in done.stderr) == (69, True), done.stderr
    assert not box.exists("/etc/litellm")
    assert not box.exists("/opt/litellm-systemd")


FOREIGN_UNIT = (
    "[Service]\nExecStart=python3 -m http.server --bind 127.0.0.1 4000\n[Install]\nWantedBy=multi-user.target\n"
)


def test_foreign_service(make_box: MakeBox, installed_image: Image, fresh: Callable[..., Any]) -> None:
    """A foreign litellm.service stays, unless --take-ours is given and our service becomes ready in its place.

    systemd is degraded, and the umask would lock the service's user out of its own files. (test_quickstart builds a
    release with that umask.)
    """
    box = make_box(binds=(releases_bind(installed_image),))
    box.write("/etc/systemd/system/broken.service", "[Service]\nExecStart=/bin/false\n")
    box.run(("systemctl", "start", "--wait", "broken"), check=False)
    assert box.run(("systemctl", "is-system-running"), check=False).stdout == "degraded\n"
    box.write(UNIT, FOREIGN_UNIT)
    box.systemctl("enable", "--now", "litellm")
    take = ("install", "-c", "demo.yml", "--take-ours")

    done = fresh(box, *take[:-1], check=False)
    assert (done.returncode, "--take-ours" in done.stderr) == (73, True), done.stderr
    assert_foreign_service(box)

    refuse_start(box)
    write_env(box, "REFUSE=1\n")
    done = fresh(box, *take, "--env-file", "/root/.env", umask="077", check=False)
    assert done.returncode == 69, done.stderr
    assert_foreign_service(box)
    for path in ("/etc/litellm/litellm.env", "/etc/systemd/system/litellm.socket", "/usr/local/bin/litellmctl"):
        assert not box.exists(path)

    box.run(("rm", "/root/.env"))
    fresh(box, *take, umask="077")
    assert chat(box) == 200
    assert "http.server" in box.run(("sh", "-c", "cat /etc/litellm/edited/*litellm.service*")).stdout
    assert_modes(box)


def assert_foreign_service(box: Box) -> None:
    assert box.read(UNIT) == FOREIGN_UNIT
    assert box.systemctl("is-active", "litellm") == "active"


def assert_modes(box: Box) -> None:
    """Secrets are closed to others, the service's user can read its release, and only root can write to it."""
    listing = box.run(("stat", "-c", "%a", "/etc/litellm/litellm.env", "/etc/litellm", "/opt/litellm-systemd")).stdout
    assert listing.split() == ["600", "750", "755"]
    writable = "find /opt/litellm-systemd /etc/litellm /usr/local/bin/litellmctl -perm /022 -not -type l"
    assert box.run(("sh", "-c", writable)).stdout == ""


#: Logs, caches and volatile paths; systemctl removes the last one with the last link in it.
UNCOMPARED = (
    *("/proc", "/sys", "/dev", "/run", "/tmp", "/root", "/var/log", "/var/cache", "/var/tmp", "/var/lib/systemd"),
    *(str(REPOSITORY), "/etc/systemd/system/multi-user.target.wants"),
)


def changes(box: Box) -> Files:
    """Every path that differs between the box and this machine, with kind, mode, owner and target; `c` if removed.

    It reads only the layer of the box's changes on top of this machine's files.
    """
    found = Files()
    for volume in volumes(Path("/")):
        upper = STORE / box.name / quote(volume) / "upper"
        listing = box.namespaces.call("find", str(upper), "-mindepth", "1", "-printf", r"%P\t%y %m %U:%G %l\n")
        for name, looks in (line.split("\t") for line in listing.splitlines()):
            path = volume / name
            if not any(path.is_relative_to(each) for each in UNCOMPARED) and looks != looks_here(path):
                found[str(path)] = looks
    return found


def looks_here(path: Path) -> str:
    """Kind, mode, owner and target of a path of this machine, as find(1) prints them; empty if there is none."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return ""
    kind = {stat.S_IFDIR: "d", stat.S_IFREG: "f", stat.S_IFLNK: "l"}.get(stat.S_IFMT(status.st_mode), "?")
    target = path.readlink() if kind == "l" else ""
    return f"{kind} {stat.S_IMODE(status.st_mode):o} {status.st_uid}:{status.st_gid} {target}"


def check_units(box: Box) -> str:
    """The timer and the service that it starts, as systemd lists them."""
    return box.systemctl("list-units", "--all", "--plain", "--no-legend", "litellm-verify*")


def test_uninstall_and_purge(box: Box, fresh: Callable[..., Any]) -> None:
    """An uninstall keeps keys and configurations for the next install; a purge leaves the host as it was before.

    The umask of the first install would let every user write, and the verify timer is installed. A signal interrupts
    the purge, and the next one completes it.
    """
    before = changes(box)
    users = box.read("/etc/passwd"), box.read("/etc/group")
    fresh(box, "install", "-c", "demo.yml", "--verify-every", "15min", umask="000")
    assert check_units(box)
    assert chat(box) == 200
    assert_modes(box)
    box.run(("cp", "-al", "/opt/litellm-systemd", "/root/kept"))
    secret = key(box)

    later = "sudo rm -rf /etc/litellm /var/lib/litellm /var/lib/litellm-systemd && sudo userdel litellm"
    said = " ".join(ctl(box, "uninstall", "--yes").split())
    assert later in said
    assert (
        "Kept: /etc/litellm with the keys and configurations, /var/lib/litellm, /var/lib/litellm-systemd with "
        in said
    )
    assert refused(box)
    assert box.run(("systemctl", "cat", "litellm"), check=False).returncode != 0
    assert not box.exists("/opt/litellm-systemd")
    assert check_units(box) == ""
    assert box.exists("/etc/litellm/configs/demo.yml")

    # Reuses the release instead of building it again; the folder then belongs to the test, not to the install.
    box.run(("mv", "/root/kept", "/opt/litellm-systemd"))
    fresh(box, "install", "-c", "demo.yml", "--verify-every", "15min", umask="000")
    assert (key(box), chat(box)) == (secret, 200)

    box.write("/root/mine.yml", box.read("/etc/litellm/configs/demo.yml"))
    ctl(box, "config", "use", "./mine.yml", cwd="/root")
    ctl(box, "restart")
    # A check that failed, which systemd remembers.
    box.run(
        (
            "sed",
            "-i",
            "s/^LITELLM_MASTER_KEY=.*/LITELLM_MASTER_KEY=sk-another-0123456789/",
            "/etc/litellm/litellm.env",
        )
    )
    assert box.run(("systemctl", "start", "litellm-verify.service"), check=False).returncode != 0
    # It has only stopped the service: another verb undoes it, and an uninstall completes it.
    for verb in ("start", "uninstall --purge --yes"):
        code, messages = interrupt(
            box, "uninstall --purge --yes", signal.SIGTERM, "litellm.service", "deactivating", "inactive"
        )
        assert (code, "The next uninstall completes it." in messages) == (143, True), messages
        ctl(box, *verb.split())
        if verb == "start":
            assert (state(box)["ActiveState"], chat(box)) == ("active", 200)
            assert box.systemctl("is-enabled", "litellm") == "enabled"
    box.run(("rmdir", "/opt/litellm-systemd"))
    assert changes(box) == before
    assert (box.read("/etc/passwd"), box.read("/etc/group")) == users
    argv = ("pgrep", "-f", "litellm_systemd")
    box.wait_until(lambda: box.run(argv, check=False).stdout == "", 30, "no process of ours is left")
    assert box.systemctl("--failed", "--no-legend") == ""
    assert check_units(box) == ""
    assert refused(box)
    assert "nothing is installed" in fresh(box, "uninstall", "--purge", "--yes").stdout
