"""Images with a release in them, for machines and containers: what builds them, and what runs from them, in a box."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from box import Bind, Box
from cfnlint.decode.cfn_yaml import load
from test_ec2 import make_archive, write_fakes
from tests.bundle import own_bundle
from tests.cloudformation import Stack

from conftest import MakeBox

FOLDER = "/usr/local/src/litellm-systemd"
#: cloud-init and Image Builder set no HOME.
BARE = ("env", "-i", "PATH=/srv/fakes:/usr/sbin:/usr/bin:/sbin:/bin")
KEY = "sk-of-the-container-0123456789abcdef"
CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RELEASES = "/opt/litellm-systemd/releases"


def component(digest: str) -> dict[str, list[tuple[str, str]]]:
    """The phases of the Image Builder component: the names of their steps, and their commands."""
    values = {"SourceUrl": "s3://bucket/source.tar.gz", "SourceSha256": digest, "Options": ""}
    stack = Stack(load(str(CONFIGS / "image-builder/image.yaml")), values)
    document = yaml.safe_load(stack.resource("Component")["Data"])
    return {
        phase["name"]: [(step["name"], "\n".join(step["inputs"]["commands"])) for step in phase["steps"]]
        for phase in document["phases"]
    }


@pytest.fixture
def baked(make_box: MakeBox, tmp_path: Path) -> Box:
    """A box after the steps of the Image Builder component, switched off and on again."""
    phases = component(make_archive(tmp_path, own_bundle()))
    box = make_box(binds=(Bind(tmp_path, Path("/srv/archive")),))
    write_fakes(box, dnf="#!/bin/bash\n", curl='#!/bin/bash\necho root >"${@: -2:1}"\n')
    box.run(("mkdir", "-p", "/etc/pki/tls/certs"))
    for name, commands in (*phases["build"], *phases["validate"]):
        box.write(f"/srv/{name}", f"#!/bin/bash\n{commands}\n", 0o700)
        box.run((*BARE, f"/srv/{name}"), timeout=900)
    box.reboot()
    return box


def test_image(baked: Box) -> None:
    """An image has the release, no key and no service. An instance of it builds nothing before it serves; a
    container with the same release serves as PID 1, reaps what others leave, and drains at SIGTERM.
    """
    box = baked
    assert not box.exists("/opt/litellm-systemd/bootstrap")
    assert len(box.run(("ls", RELEASES)).stdout.split()) == 1
    serve_in_container(box)

    box.write(f"{FOLDER}/.env", f"CONFIG_FILE=demo.yml\nLITELLM_MASTER_KEY={KEY}\n", 0o600)
    done = box.run((*BARE, f"{FOLDER}/scripts/quickstart.sh", "--no-verify"), timeout=600)
    assert "installing litellmctl" not in done.stderr
    assert "building the release" not in done.stderr
    assert box.show("litellm.service", "ActiveState") == {"ActiveState": "active"}


def serve_in_container(box: Box) -> None:
    """Run the entry point of the Containerfile by its user, with its variables. Only its volumes are writable."""
    text = re.sub(r"\\\n\s*", "", (CONFIGS / "container/Containerfile").read_text(encoding="utf-8"))
    lines = dict(line.split(" ", 1) for line in text.splitlines() if re.match("(USER|ENV|VOLUME|ENTRYPOINT) ", line))
    link = re.search(r"&& (ln -s .*)", text)
    assert link is not None
    user, _, group = lines["USER"].partition(":")
    own = {
        "CONFIG_FILE": "demo.yml",
        "LITELLM_MASTER_KEY": KEY,
        "PORT": "4100",
        "NUM_WORKERS": "1",
        # The second SIGTERM ends it.
        "DEREGISTRATION_DELAY": "60",
    }
    variables = [f"{name}={value}" for name, value in own.items()]
    volumes = [
        f"mkdir -p {volume} && mount -t tmpfs -o uid={user},gid={group},mode=0700 tmpfs {volume}"
        for volume in json.loads(lines["VOLUME"])
    ]
    script = "\n".join(
        (
            "set -e",
            *volumes,
            "mount -o remount,bind,ro /",
            f"exec setpriv --reuid={user} --regid={group} --clear-groups --no-new-privs --bounding-set=-all --"
            f" env -i {lines['ENV']} {' '.join(variables)} {' '.join(json.loads(lines['ENTRYPOINT']))}",
        )
    )
    box.run(("sh", "-c", link[1]))
    box.write("/srv/container", script)
    unshared = ("unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "sh", "/srv/container")
    box.run(("systemd-run", "--quiet", "--unit=container", "--property=RemainAfterExit=yes", "--", *unshared))
    outside = box.show("container.service", "MainPID")["MainPID"]

    def status(path: str = "/health/readiness") -> str:
        argv = ("/usr/bin/curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:4100{path}")
        return box.run(argv, check=False).stdout

    box.wait_until(lambda: status() == "200", 180, "the container serves")
    pid = box.run(("cat", f"/proc/{outside}/task/{outside}/children")).stdout.split()[0]
    inside = re.search(r"^NSpid:\s+(.*)$", box.read(f"/proc/{pid}/status"), re.MULTILINE)
    assert inside is not None
    assert inside[1].split()[-1] == "1"
    # A process whose parent exits belongs to PID 1.
    box.run(("nsenter", f"--target={pid}", "--pid", "sh", "-c", "sleep 0.2 & exit 0"))
    children = ("ps", "--ppid", pid, "-o", "comm=")
    box.wait_until(lambda: "sleep" not in box.run(children).stdout, 30, "it is reaped")
    box.run(("kill", "-TERM", pid))
    # For the delay, readiness asks the load balancer to send nothing, and what arrives is served.
    box.wait_until(lambda: status() == "503", 30, "readiness answers 503")
    assert status("/health/liveliness") == "200"
    box.run(("kill", "-TERM", pid))
    box.wait_until(lambda: status() == "000", 30, "the port is closed")
    box.wait_until(lambda: box.show("container.service", "SubState")["SubState"] == "exited", 60, "it exits")
    journal = box.journal("container")
    assert "serving on 0.0.0.0:4100" in journal, journal
    assert box.show("container.service", "ExecMainStatus") == {"ExecMainStatus": "0"}, journal
    box.run(("rm", "/opt/litellm-systemd/current"))
