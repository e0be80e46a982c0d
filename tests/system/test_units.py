"""The units, loaded by the oldest to the newest supported systemd."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from box import Box, Image, Namespaces

from litellm_systemd.aws.credentials import METADATA_ADDRESSES
from litellm_systemd.env.settings import build_settings, parse_dotenv
from litellm_systemd.host.encrypted_secrets import OLDEST_SYSTEMD
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import folder
from litellm_systemd.install.render import (
    render_service,
    render_socket,
    render_sysusers,
    render_tmpfiles,
    render_verify_service,
    render_verify_timer,
)
from litellm_systemd.resources import read_template

LIFECYCLE = "/etc/systemd/system/litellm-lifecycle@.service"
DBUS = "/run/dbus/system_bus_socket"
SETTINGS = [
    "",
    "HOST=::1\nPORT=8080\nDRAIN_TIMEOUT=30",
    "HOST=10.1.2.3\nSTART_TIMEOUT=60",
    "DRAIN_TIMEOUT=0\nSTART_TIMEOUT=2.5",
    "TLS_CERT_FILE='/srv/100% own/tls.crt'\nTLS_KEY_FILE=/root/tls.key",
]


def write_units(box: Box, env: str = "") -> None:
    """Install the units for the box's own systemd, with a program that they can start."""
    layout = Layout()
    version = int(box.systemctl("--version").split()[1])
    asked = build_settings(parse_dotenv(env, ".env"), installed={}, new_key=lambda: "sk-made")
    # With the directives that --encrypt-secrets adds, where systemd knows them.
    encrypted = version >= OLDEST_SYSTEMD
    text = render_service(layout, asked, version, "1.0", METADATA_ADDRESSES, encrypted=encrypted)
    box.write(layout.service, text)
    box.write(layout.socket, render_socket(layout, asked))
    box.write(layout.verify_service, render_verify_service(layout, asked, "1.0", encrypted=encrypted))
    box.write(layout.verify_timer, render_verify_timer("15min"))
    box.write(LIFECYCLE, read_template("litellm-lifecycle@.service"))
    for program in (f"{layout.current}/bin/python", layout.command):
        box.write(program, "#!/bin/sh\n", 0o755)
    box.write(layout.sysusers, render_sysusers())
    box.write(layout.tmpfiles, render_tmpfiles((folder("/etc/litellm", 0o750, group="litellm"),)))


@pytest.fixture(scope="module", params=["host", "bullseye", "trixie"])
def any_box(
    request: pytest.FixtureRequest,
    namespaces: Namespaces,
    host_image: Image,
    debian_image: Callable[[str], Image],
    measured: dict[str, Any],
) -> Iterator[Box]:
    """A box with systemd 247, this machine's, or 257, shared by all tests, which write their own units."""
    with Box(
        namespaces, host_image if request.param == "host" else debian_image(request.param), **measured
    ) as opened:
        yield opened


@pytest.mark.parametrize("env", SETTINGS)
def test_verify_prints_nothing(any_box: Box, env: str) -> None:
    """`systemd-analyze verify` prints nothing about the units, with any supported systemd."""
    write_units(any_box, env)
    units = (Layout.service, Layout.socket, Layout.verify_service, Layout.verify_timer, LIFECYCLE)
    done = any_box.run(("systemd-analyze", "verify", *units), check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_loading_logs_no_warning(any_box: Box) -> None:
    """When systemd loads the units, it writes no warning to the journal."""
    write_units(any_box)
    any_box.systemctl("daemon-reload")
    loaded = any_box.show("litellm.service", "LoadState", "LoadError", "MemoryMax")
    assert loaded["LoadState"] == "loaded"
    assert loaded["MemoryMax"].isdigit()  # boxes do not enforce it
    journal = any_box.run(
        ("journalctl", "--boot", "--priority", "warning", "--grep", "litellm", "--quiet"), check=False
    )
    assert journal.stdout == ""


def test_user_and_folders_are_created(any_box: Box) -> None:
    """sysusers.d and tmpfiles.d create the static user and its folders, with any supported systemd."""
    write_units(any_box)
    any_box.run(("systemd-sysusers",))
    any_box.run(("systemd-tmpfiles", "--create", Layout.tmpfiles))
    assert any_box.run(("stat", "-c", "%a %U:%G", "/etc/litellm")).stdout == "750 root:litellm\n"
    assert (
        any_box.run(("getent", "passwd", "litellm")).stdout.rstrip().endswith(":/var/lib/litellm:/usr/sbin/nologin")
    )


def test_exposure(box: Box) -> None:
    """`systemd-analyze security` rates the service 1.1 or less, and the check and the drain at termination, which run
    as root without capabilities, 2.0 or less.
    """
    write_units(box)
    box.systemctl("daemon-reload")
    limits = (("litellm.service", 1.1), ("litellm-verify.service", 2.0), ("litellm-lifecycle@a:b.service", 2.0))
    for unit, limit in limits:
        text = box.run(("systemd-analyze", "security", unit, "--no-pager"), check=False).stdout
        found = re.search(rf"Overall exposure level for {unit}: ([0-9.]+)", text)
        assert found is not None
        assert float(found[1]) <= limit


def test_sandbox_is_in_force(shared_box: Box) -> None:
    """Inside the service's sandbox the system is read-only, homes and D-Bus are hidden, no device can be created."""
    pid = shared_box.show("litellm.service", "MainPID")["MainPID"]

    def inside(script: str) -> Any:
        # Commands run in the mount namespace of the process and as its user.
        argv = (
            "nsenter",
            "--target",
            pid,
            "--mount",
            "setpriv",
            "--reuid=litellm",
            "--regid=litellm",
            "--clear-groups",
        )
        return shared_box.run((*argv, "sh", "-c", script), check=False).returncode

    assert inside("touch /var/lib/litellm/x && rm /var/lib/litellm/x") == 0
    assert inside("touch /etc/litellm/x") != 0
    assert inside("touch /var/lib/x") != 0
    assert inside("ls /root/* /home/*") != 0
    assert shared_box.run(("test", "-S", DBUS), check=False).returncode == 0
    assert inside(f"test -e {DBUS}") != 0
    assert inside("cat /etc/litellm/litellm.env") != 0
    assert inside("test -e /dev/mem || test -e /dev/sda || test -e /dev/vda") != 0


#: What a compromised service can do: it owns the folder of its control socket.
IMPOSTOR = """
import json, os, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind("/run/litellm/control.sock")
listener.listen()
with open("/run/litellm/impostor", "w") as file:
    file.write(str(os.getpid()))
while True:
    connection, _ = listener.accept()
    try:
        connection.recv(4096)
        while sys.argv[1] == "endless":
            connection.sendall(b"x" * 65536)
        connection.sendall(json.dumps({"status": 1, "workers": [{"pid": "../../etc"}]}).encode() + b"\\n")
    except OSError:
        pass
    connection.close()
"""
#: Runs a command and prints its largest resident set (KiB) after its output.
MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
print(done.stdout, done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.parametrize(
    ("answer", "said"),
    [("endless", "longer than 1024 KiB"), ("wrong", "has an unusable value of status")],
)
def test_root_survives_a_compromised_service(shared_box: Box, answer: str, said: str) -> None:
    """A service that answers root without an end, or with wrong types, is a finding and takes no memory of root."""
    shared_box.write("/run/impostor.py", IMPOSTOR)
    shared_box.run(("mv", "/run/litellm/control.sock", "/run/litellm/aside"))
    user = ("setpriv", "--reuid=litellm", "--regid=litellm", "--clear-groups")
    impostor = shared_box.popen((*user, "python3", "/run/impostor.py", answer))
    try:
        shared_box.wait_until(lambda: shared_box.exists("/run/litellm/impostor"), 60, "the impostor listens")
        for verb in ("status", "doctor"):
            printed = shared_box.run(("python3", "-c", MEASURED, "litellmctl", verb), check=False).stdout
            code, memory = printed.split()[-2:]
            assert (code, said in printed) == ("1", True), printed
            assert int(memory) < 256 * 1024
    finally:
        shared_box.run(("kill", shared_box.read("/run/litellm/impostor")))
        impostor.wait()
        shared_box.run(("rm", "/run/litellm/impostor"))
        shared_box.run(("mv", "/run/litellm/aside", "/run/litellm/control.sock"))
    assert "main process" not in shared_box.run(("litellmctl", "status")).stdout


def test_root_survives_an_endless_journal(shared_box: Box) -> None:
    """Of a journal that the service fills, root reads the newest part, and says so."""
    # The standby is a unit of the service too, and writes what it wants.
    lines = "head -c 24000000 /dev/zero | tr '\\0' x | fold -w 40000; echo; echo the newest of all lines"
    run = ("systemd-run", "--wait", "--quiet", "--unit=litellm-standby", "-p", "SyslogLevel=warning")
    shared_box.run((*run, "-p", "LogRateLimitIntervalSec=0", "sh", "-c", lines))
    shared_box.run(("journalctl", "--sync"))
    printed = shared_box.run(("python3", "-c", MEASURED, "litellmctl", "logs", "--errors")).stdout
    assert "the newest of all lines" in printed
    assert "only its newest part was read" in printed
    assert int(printed.split()[-1]) < 256 * 1024
