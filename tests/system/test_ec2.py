"""The user data of configs/cloudformation/ec2.yaml, run in a box as cloud-init runs it."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import tarfile
from pathlib import Path

import box_images
from box import Bind, Box
from tests.bundle import own_bundle
from tests.cloudformation import read_stack, user_data

from conftest import MakeBox

FAKES = {
    # Each call is a line with its arguments quoted for a shell.
    "cfn-signal": "#!/bin/bash\n(printf '%q ' \"$@\"; echo) >>/srv/signals\n",
    "aws": '#!/bin/bash\necho "$*" >>/srv/aws\ncp /srv/archive/source.tar.gz "${@: -1}"\n',
    # It waits, so that the signal does not hide the reason.
    "sleep": "#!/bin/bash\n",
}
DEMO = "/etc/litellm/configs/demo.yml"
ROUTING = "/etc/litellm/configs/shared/routing.yml"
LOG = "/var/log/litellm-user-data.log"


def make_archive(folder: Path) -> str:
    """The archive that docs/ec2.md describes: the tracked files below one folder, and a bundle. Returns its
    SHA-256.
    """
    root = box_images.REPOSITORY
    listed = subprocess.run(("git", "ls-files", "-z"), cwd=root, capture_output=True, text=True, check=True).stdout
    path = folder / "source.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for name in filter(None, listed.split("\0")):
            if (root / name).is_file():
                archive.add(root / name, f"litellm-systemd/{name}")
        archive.add(own_bundle(), "litellm-systemd/litellm-systemd-0.1.0.tar")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def boot_once(box: Box, digest: str) -> tuple[int, str, list[list[str]]]:
    """Run the user data. Returns its exit code, its console output, and the arguments of each signal."""
    values = {"SourceUrl": "s3://bucket/source.tar.gz", "SourceSha256": digest, "Configuration": "demo.yml"}
    box.write("/srv/user-data", user_data(read_stack(values, "eu-central-1")), 0o700)
    box.run(("rm", "-f", "/srv/signals"))
    # cloud-init sets no HOME.
    argv = ("env", "-i", "PATH=/srv/fakes:/usr/sbin:/usr/bin:/sbin:/bin", "/srv/user-data")
    done = box.run(argv, timeout=1200, check=False)
    sent = [shlex.split(line) for line in box.read("/srv/signals").splitlines()]
    return done.returncode, done.stdout + done.stderr, sent


def signals(code: int, reason: str) -> list[list[str]]:
    """The two signals that end user data: with the reason for people, and the one that counts at an update."""
    head = ["--exit-code", str(code)]
    region = ["--region", "eu-central-1"]
    return [
        [*head, "--reason", reason, *region, "<Handle>"],
        [*head, *region, "--stack", "gateway", "--resource", "Instance"],
    ]


def test_user_data(make_box: MakeBox, tmp_path: Path) -> None:
    """The script signals success after verify has passed; for a wrong archive or a failing model it signals failure
    with the reason.
    """
    digest = make_archive(tmp_path)
    box = make_box(binds=(Bind(tmp_path, Path("/srv/archive")),))
    for name, text in FAKES.items():
        box.write(f"/srv/fakes/{name}", text, 0o755)

    code, console, sent = boot_once(box, "0" * 64)
    reason = sent[0][3]
    assert reason.startswith("checking s3://bucket/source.tar.gz failed: ")
    assert (code, sent, console) == (1, signals(1, reason), f"litellm-systemd: {reason}\n")
    assert not box.exists("/usr/local/src/litellm-systemd")

    code, console, sent = boot_once(box, digest)
    assert (code, sent) == (0, signals(0, "litellmctl verify passed")), box.read(LOG)
    assert " checks passed" in box.read(LOG)
    assert box.show("litellm.service", "ActiveState") == {"ActiveState": "active"}
    # A user who may read the console of an instance need not have access to the gateway.
    assert console == "litellm-systemd: litellmctl verify passed\n"
    modes = box.run(("stat", "--format=%a", LOG, "/usr/local/src/litellm-systemd/.env")).stdout
    assert modes == "600\n600\n"
    assert "eu-central-1" in box.read("/etc/litellm/litellm.env")

    # An install keeps an edit, so the same user data now gets a service whose models fail.
    failing = "model: openai/x\n      api_key: none\n      mock_response: litellm.RateLimitError"
    edited = re.sub("model: litellm-systemd-demo/.*", failing, box.read(DEMO))
    box.write(DEMO, edited, 0o640, "root:litellm")
    box.run(("sed", "-i", "s/num_retries: 2/num_retries: 0/", ROUTING))
    box.run(("systemctl", "reload", "litellm.service"), timeout=240)
    code, console, sent = boot_once(box, digest)
    reason = sent[0][3]
    assert reason.startswith("verifying failed: FAILED chat claude-sonnet-5-5 (/chat/completions)")
    assert "HTTP 429" in reason
    assert (code, sent, console) == (1, signals(1, reason), f"litellm-systemd: {reason}\n")
