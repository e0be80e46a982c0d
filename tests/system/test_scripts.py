"""The scripts of the README, called as users call them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from box import Box, BoxError
from tests.bundle import own_bundle

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
#: The programs of this checkout's venv with uv, so that with its cache no network is needed.
SEARCH = f"{sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def test_quickstart(box: Box, install_environment: dict[str, str]) -> None:
    """A checkout alone gives a verified service; the second run changes and restarts nothing, and `upgrade` gives the
    commands for that checkout.

    Under a umask that would lock the service's user out of its own release.
    """
    argv = (str(SCRIPTS / "quickstart.sh"),)
    environment = {**install_environment, "PATH": SEARCH}
    first = box.run(("sh", "-c", 'umask 077 && exec "$0"', *argv), env=environment, timeout=600)
    assert "checks passed" in first.stdout
    assert "base URL   http://127.0.0.1:4000 " in first.stdout
    assert "sudo litellmctl client curl --show-key" in first.stdout
    before = box.show("litellm.service", "ActiveState", "InvocationID")
    assert before["ActiveState"] == "active"

    second = box.run(argv, env=environment, timeout=600)
    assert "checks passed" in second.stdout
    assert "installing litellmctl" not in second.stderr
    assert box.show("litellm.service", "ActiveState", "InvocationID") == before

    upgrade = box.run(("/usr/local/bin/litellmctl", "upgrade"), env=environment, check=False)
    commands = f"cd {SCRIPTS.parent} && git pull && sudo ./scripts/quickstart.sh"
    assert (upgrade.returncode, commands in upgrade.stderr) == (69, True), upgrade.stderr


def test_quickstart_from_a_bundle(box: Box) -> None:
    """Without a network, a cache and uv, a bundle gives a verified service; a second run changes nothing."""
    # PATH has no uv, and HOME has neither a cache nor pip's settings.
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/srv"}
    argv = (str(SCRIPTS / "quickstart.sh"), "--bundle", str(own_bundle()))
    # What an earlier run with uv leaves: a venv without pip.
    bootstrap = "/opt/litellm-systemd/bootstrap"
    box.run(("/usr/bin/python3", "-m", "venv", "--without-pip", bootstrap))
    box.write(f"{bootstrap}/made-from", "an earlier checkout")
    first = box.run(argv, env=environment, timeout=1200)
    assert "checks passed" in first.stdout
    assert " by pip, " in " ".join(box.run(("/usr/local/bin/litellmctl", "releases", "list")).stdout.split())
    # The versions are those of the lock, otherwise it would not become a release (litellm_systemd.releases.build).
    site = "/opt/litellm-systemd/current/lib/python3*/site-packages"
    assert "proxy_server." in box.run(("sh", "-c", f"ls {site}/litellm/proxy/__pycache__")).stdout
    before = box.show("litellm.service", "ActiveState", "InvocationID")
    second = box.run(argv, env=environment, timeout=600)
    assert "installing litellmctl" not in second.stderr
    assert box.show("litellm.service", "ActiveState", "InvocationID") == before


def test_quickstart_from_an_invalid_bundle(box: Box) -> None:
    """An invalid or missing bundle is one line that says so, and nothing is installed."""
    box.write("/srv/other.tar", "no bundle")
    script = str(SCRIPTS / "quickstart.sh")
    done = box.run((script, "--bundle", "/srv/other.tar", "-c", "demo.yml"), check=False)
    assert (done.returncode != 0, "/srv/other.tar" in done.stderr) == (True, True), done.stderr
    missing = box.run((script, "--bundle", "/srv/none.tar"), check=False)
    assert (missing.returncode, "/srv/none.tar: there is no such file" in missing.stderr) == (66, True), (
        missing.stderr
    )
    assert not box.exists("/opt/litellm-systemd")


def test_manage_litellm(idle_box: Box) -> None:
    """The workshop's verbs work: start, status, logs, restart, stop."""
    manage = str(SCRIPTS / "manage-litellm.sh")

    def state() -> dict[str, str]:
        return idle_box.show("litellm.service", "ActiveState", "InvocationID")

    assert state()["ActiveState"] == "inactive"
    idle_box.run((manage, "start"), timeout=240)
    started = state()
    assert started["ActiveState"] == "active"
    assert "active" in idle_box.run((manage, "status")).stdout
    assert idle_box.run((manage, "logs", "-n", "5")).stdout
    idle_box.run((manage, "-c", "demo.yml", "restart"), timeout=240)
    restarted = state()
    assert restarted["ActiveState"] == "active"
    assert restarted["InvocationID"] != started["InvocationID"]
    idle_box.run((manage, "stop"))
    assert state()["ActiveState"] == "inactive"


@pytest.mark.parametrize("arguments", [(), ("-c",), ("frobnicate",)])
def test_manage_litellm_misused(arguments: tuple[str, ...]) -> None:
    """An invalid call prints the usage and exits with the code of sysexits.h."""
    argv = (str(SCRIPTS / "manage-litellm.sh"), *arguments)
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "Usage: manage-litellm.sh" in done.stderr


def test_setup_env(box: Box) -> None:
    """setup_env.sh creates a .env from a profile in ~/.aws/credentials, and refuses a missing profile."""
    keys = (
        "aws_access_key_id = AKIAIOSFODNN7EXAMPLE\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n"
    )
    box.write("/root/.aws/credentials", f"[cline]\n{keys}", 0o600)
    script = str(SCRIPTS / "setup_env.sh")
    box.run(("mkdir", "/srv/project"))
    box.run((script,), cwd="/srv/project")
    assert "AKIAIOSFODNN7EXAMPLE" in box.read("/srv/project/.env")
    box.run((script, "--force", "--offline"), cwd="/srv/project")
    with pytest.raises(BoxError, match="no-such-profile"):
        box.run((script, "no-such-profile"), cwd="/srv/project")
