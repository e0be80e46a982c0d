"""Bad ground: a clear error or it works, and nothing half done; and afterwards nothing left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
from box import Box
from service import chat, ctl, state
from test_install import REPOSITORY, fresh_ctl, snapshot, write_env

BAD_GROUND: dict[str, tuple[str, int, str]] = {
    "masked": ("rm /etc/systemd/system/litellm.service && systemctl mask litellm.service", 69, "systemctl unmask"),
    "read-only /etc": ("mount --bind /etc /etc && mount -o remount,ro,bind /etc", 1, "Read-only file system"),
    "no CAP_CHOWN": ("", 1, "Operation not permitted"),
    "full disk": ("mount -t tmpfs -o size=64k tmpfs /var/lib/litellm-systemd", 1, "No space left on device"),
}


@pytest.mark.parametrize("ground", BAD_GROUND)
def test_bad_ground(installed_box: Box, ground: str) -> None:
    """On bad ground an install is one clear error, nothing is half done, and the service runs on."""
    spoil, code, said = BAD_GROUND[ground]
    if ground == "full disk":
        spoil += (
            " && cp -a /root/own/. /var/lib/litellm-systemd/; head -c 1M /dev/zero > /var/lib/litellm-systemd/fill"
        )
        installed_box.run(("cp", "-a", "/var/lib/litellm-systemd", "/root/own"))
    if spoil:
        installed_box.run(("sh", "-c", f"{spoil} || true"))
    before, main = snapshot(installed_box), state(installed_box)["MainPID"]
    write_env(installed_box, "MINE=1\nLITELLM_MASTER_KEY=sk-0123456789abcdef\n")
    argv: tuple[str, ...] = ("/usr/local/bin/litellmctl", "install", "--env-file", "/root/.env", "-c", "demo.yml")
    if ground == "no CAP_CHOWN":
        # A file of another owner has to be written for it to matter.
        installed_box.run(("rm", "/etc/litellm/configs/prompt_caching.yml"))
        before = snapshot(installed_box)
        argv = ("setpriv", "--bounding-set=-chown", "--inh-caps=-chown", *argv)
    done = installed_box.run(argv, check=False, timeout=300, cwd="/root")
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert snapshot(installed_box) == before
    assert state(installed_box)["MainPID"] == main
    assert chat(installed_box) == 200


def test_somebody_elses_service(box: Box, install_environment: dict[str, str], fresh: Callable[..., Any]) -> None:
    """A litellm.service that isn't ours is not overwritten; --take-ours puts it aside, and its port is ours."""
    unit = (
        "[Service]\nExecStart=python3 -m http.server --bind 127.0.0.1 4000\n[Install]\nWantedBy=multi-user.target\n"
    )
    box.write("/etc/systemd/system/litellm.service", unit)
    box.systemctl("enable", "--now", "litellm")
    done = fresh(box, "install", "-c", "demo.yml", check=False)
    assert (done.returncode, "--take-ours" in done.stderr) == (73, True), done.stderr
    assert box.read("/etc/systemd/system/litellm.service") == unit
    assert box.systemctl("is-active", "litellm") == "active"
    fresh(box, "install", "-c", "demo.yml", "--take-ours")
    assert chat(box) == 200
    assert "http.server" in box.run(("sh", "-c", "cat /etc/litellm/edited/*litellm.service*")).stdout


@pytest.fixture
def fresh(install_environment: dict[str, str]) -> Callable[..., Any]:
    def run(box: Box, *arguments: str, **options: Any) -> Any:
        return fresh_ctl(box, install_environment, *arguments, **options)

    return run


@pytest.mark.parametrize("umask", ["077", "000"])
def test_any_umask(box: Box, install_environment: dict[str, str], umask: str) -> None:
    """With any umask, and on a systemd that is degraded, an install works, and no secret is open to others."""
    box.write("/etc/systemd/system/broken.service", "[Service]\nExecStart=/bin/false\n")
    box.run(("systemctl", "start", "--wait", "broken"), check=False)
    assert box.run(("systemctl", "is-system-running"), check=False).stdout == "degraded\n"
    script = f"umask {umask}; exec {sys.prefix}/bin/litellmctl install -c demo.yml"
    box.run(("sh", "-c", script), env=install_environment, cwd="/root", timeout=600)
    assert chat(box) == 200
    listing = box.run(("stat", "-c", "%a", "/etc/litellm/litellm.env", "/etc/litellm", "/opt/litellm-systemd")).stdout
    assert listing.split() == ["600", "750", "755"]


def tree(box: Box) -> set[str]:
    """Every path of the box with kind, mode and owner, but for logs, caches and what always moves."""
    pruned = [
        "/proc",
        "/sys",
        "/dev",
        "/run",
        "/tmp",
        "/root",
        "/var/log",
        "/var/cache",
        "/var/tmp",
        str(REPOSITORY),
        "/var/lib/systemd",
    ]
    # systemctl takes such a folder away with the last link in it, whoever made it.
    pruned.append("/etc/systemd/system/multi-user.target.wants")
    prune = " -o ".join(f"-path {path}" for path in pruned)
    find = f"find / -xdev \\( {prune} \\) -prune -o -printf '%p %y %m %u:%g %l\\n'"
    return set(box.run(("sh", "-c", find), timeout=300).stdout.splitlines())


def test_purge_leaves_the_tree_as_it_was(box: Box, fresh: Callable[..., Any]) -> None:
    """After install, use and purge the file system differs from before in nothing but logs and caches."""
    before = tree(box)
    users = box.read("/etc/passwd"), box.read("/etc/group")
    fresh(box, "install", "-c", "demo.yml")
    assert chat(box) == 200
    demo = box.read("/etc/litellm/configs/demo.yml")
    box.write("/root/mine.yml", demo)
    ctl(box, "config", "use", "./mine.yml", cwd="/root")
    ctl(box, "restart")
    ctl(box, "uninstall", "--purge", "--yes")
    assert tree(box) ^ before == set()
    assert (box.read("/etc/passwd"), box.read("/etc/group")) == users
    assert "nothing is installed" in fresh(box, "uninstall", "--purge", "--yes").stdout
