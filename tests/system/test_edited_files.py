"""Files that the user edited: an install keeps them and shows the difference."""

from __future__ import annotations

import json

from box import Box
from service import chat, ctl, key
from test_install import write_env


def test_edited_unit_stays(idle_box: Box) -> None:
    """An edited unit is kept and its difference is shown; --take-ours replaces it."""
    path = "/etc/systemd/system/litellm.service"
    shipped = idle_box.read(path)
    edited = shipped.replace("LimitNOFILE=65536", "LimitNOFILE=99999")
    idle_box.write(path, edited)
    idle_box.systemctl("daemon-reload")
    write_env(idle_box, "DRAIN_TIMEOUT=60\n")
    argv = ("install", "--env-file", "/root/.env", "--no-verify")
    assert "-LimitNOFILE=99999" in (said := ctl(idle_box, *argv, "--no-start"))
    assert "--take-ours" in said
    assert idle_box.read(path) == edited
    # The difference is shown once, as by dpkg; later installs only mention it.
    assert "--take-ours" not in ctl(idle_box, *argv, "--no-start")
    ctl(idle_box, *argv, "--take-ours")
    assert "TimeoutStopSec=90" in idle_box.read(path)
    assert "LimitNOFILE=99999" in idle_box.run(("grep", "-r", "LimitNOFILE", "/etc/litellm/edited")).stdout
    assert chat(idle_box) == 200


def test_edited_environment_stays(idle_box: Box) -> None:
    """An edited environment file stays unchanged: install shows what .env would change, applies none of it, and shows
    no key.
    """
    path = "/etc/litellm/litellm.env"
    edited = idle_box.read(path) + 'HAND_MADE="1"\n'
    idle_box.write(path, edited, 0o600)
    write_env(idle_box, "PORT=4001\n")
    said = ctl(idle_box, "install", "--env-file", "/root/.env", "--no-start")
    assert '+PORT="4001"' in said
    assert key(idle_box) not in said
    assert idle_box.read(path) == edited
    assert "4001" not in idle_box.read("/etc/systemd/system/litellm.socket")


def test_diff_shows_drift(idle_box: Box) -> None:
    """`diff` finds an edit, a mode, a missing link, and a masked or disabled unit; it exits with 2, and with 0
    without a difference.
    """
    ctl(idle_box, "enable")
    assert "nothing differs from what was installed" in ctl(idle_box, "diff")
    idle_box.run(("chmod", "644", "/etc/litellm/litellm.env"))
    idle_box.run(("rm", "/usr/local/bin/litellmctl"))
    idle_box.run(("sh", "-c", "echo '# mine' >> /etc/litellm/configs/demo.yml"))
    idle_box.systemctl("disable", "litellm")
    done = idle_box.run(("/opt/litellm-systemd/current/bin/litellmctl", "diff", "--json"), check=False)
    report = json.loads(done.stdout)
    found = {each["what"]: each["how"] for each in report["data"]["differences"]}
    assert done.returncode == 2
    assert found == {
        "/etc/litellm/litellm.env": "mode 0644, was 0600",
        "/usr/local/bin/litellmctl": "is gone",
        "/etc/litellm/configs/demo.yml": "edited",
        "litellm.service": "not enabled: it won't start at boot",
        "litellm.socket": "not enabled: it won't start at boot",
    }
    assert "+# mine" in "\n".join(report["diffs"])


def test_dry_run_as_a_user(shared_box: Box) -> None:
    """`install --dry-run` of a user who may not read the installed keys fails and says to use sudo."""
    argv = ("litellmctl", "install", "--dry-run")
    done = shared_box.run(argv, user="nobody:nogroup", check=False, cwd="/")
    assert (done.returncode, "sudo" in done.stderr) == (77, True)


def test_dry_run_touches_nothing(shared_box: Box) -> None:
    """`install --dry-run` shows each file's difference and the effect on the service, and writes nothing."""
    write_env(shared_box, "NUM_WORKERS=1\nLITELLM_MASTER_KEY=sk-canary-0123456789\n")
    reference = "/root/reference"
    shared_box.write(reference, "")
    done = shared_box.run(
        ("litellmctl", "install", "--dry-run", "--env-file", "/root/.env"), check=False, cwd="/root"
    )
    assert done.returncode == 2
    assert '+NUM_WORKERS="1"' in done.stdout
    assert "the service is restarted; nothing was changed" in done.stdout
    assert "canary" not in done.stdout + done.stderr
    newer = ("find", "/etc", "/opt", "/usr/local", "/var/lib/litellm-systemd", "/run/systemd/system")
    # If coverage is measured, Python compiles its package at the first use.
    found = shared_box.run((*newer, "-newer", reference, "-not", "-path", "*/coverage*")).stdout.split()
    assert [path for path in found if not path.endswith("/site-packages")] == []
