"""doctor on a real systemd: broken hosts, each told by its cause, and sound ones, of which nothing is told.

Each broken host is made in the same box and mended again, by `--fix` where the documentation promises that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from box import Box, Image, Namespaces
from broken_hosts import BROKEN, NO_DROP_IN, drop_in
from doctor_helpers import INSTALLED, OURS, assert_told, doctor, ids, sh
from service import chat, ctl, set_env, signal_process, state, write_config

from litellm_systemd.doctor.registry import PROBES


@pytest.fixture(scope="module")
def host(namespaces: Namespaces, installed_image: Image) -> Iterator[Box]:
    """One box for all broken hosts: each is mended before the next."""
    with Box(namespaces, installed_image) as opened:
        yield opened


@pytest.mark.parametrize("name", BROKEN)
def test_broken(host: Box, name: str) -> None:
    """On a broken host the cause is told first and alone, with what was seen and a remedy, and --fix mends it."""
    broken = BROKEN[name]
    sh(host, broken.spoil)
    first = assert_told(doctor(host), broken)
    if broken.mend:
        sh(host, broken.mend)
        assert ids(doctor(host)) == []
    else:
        assert first["fixable"]
        mended = doctor(host, "--fix")
        assert (ids(mended), mended["exit_code"]) == ([], 0)
        assert {finding["id"] for finding in mended["data"]["fixed"]} == {broken.cause, *broken.also}


def signal_main(box: Box, name: str) -> None:
    signal_process(box, name, state(box)["MainPID"])


def wait_for_restart(box: Box, number: str) -> None:
    box.wait_until(lambda: state(box)["NRestarts"] == number, 120, "systemd restarts the service")
    box.wait_until(lambda: state(box)["ActiveState"] == "active", 120, "the service is ready again")


def test_killed_and_hung(host: Box) -> None:
    """A kill and a bite of the watchdog are told after systemd has mended them, a main process that hangs at once."""
    # Long enough for doctor to come, on a busy machine, between the stop and the bite.
    sh(host, drop_in("WatchdogSec=24"))
    signal_main(host, "KILL")
    wait_for_restart(host, "1")
    (killed,) = doctor(host)["data"]["findings"]
    assert (killed["id"], killed["outcome"]) == ("unit-killed", "warning")
    assert "SIGKILL; restarted by systemd 1 times, and it runs" in killed["seen"]
    signal_main(host, "STOP")
    hung = doctor(host)["data"]["findings"][0]
    assert (hung["id"], hung["outcome"]) == ("service-silent", "failed")
    assert "T (stopped)" in hung["seen"]
    wait_for_restart(host, "2")
    (bitten,) = doctor(host)["data"]["findings"]
    assert (bitten["id"], bitten["outcome"]) == ("unit-watchdog", "warning")
    sh(host, NO_DROP_IN)


def test_cause_and_consequences(host: Box) -> None:
    """When a bad configuration has ended the service, that is the one cause; mended, its exit code is."""
    sh(host, f"{BROKEN['configuration typo'].spoil}; ! systemctl restart litellm")
    report = doctor(host)
    assert ids(report) == ["configuration-unusable"]
    assert {each["id"]: each["of"] for each in report["data"]["consequences"]} == {
        "unit-exit": "configuration-unusable"
    }
    sh(host, BROKEN["configuration typo"].mend)
    (ended,) = doctor(host)["data"]["findings"]
    assert ended["id"] == "unit-exit"
    assert re.search(r"exit code 78 \(the configuration .* did you mean model_list", ended["seen"])
    ctl(host, "start")
    assert chat(host) == 200


def test_sound(host: Box) -> None:
    """Of sound hosts of different kinds nothing is told: after every verb, with the user's own settings and files."""
    own = host.read("/etc/litellm/configs/demo.yml") + "# of my own\n"

    def is_sound(after: str, **options: Any) -> dict[str, Any]:
        report = doctor(host, program=INSTALLED, **options)
        assert (ids(report), report["exit_code"]) == ([], 0), after
        return report

    ctl(host, "install", "--installed", "--take-ours", "--no-verify")
    assert is_sound("a second install")["title"] == f"nothing is wrong: {len(PROBES)} checks"
    host.systemctl("reload", "litellm")
    is_sound("a reload")
    unseen = is_sound("a look without root", user="nobody:nogroup")
    assert {each["because"] for each in unseen["data"]["checks"] if "root" in each["because"]}
    assert len([each for each in unseen["data"]["checks"] if each["outcome"] == "ok"]) > 20
    write_config(host, own)
    host.systemctl("reload", "litellm")
    assert "Edited by hand" in is_sound("an edit")["data"]["remarks"][0]
    host.write("/root/mine.yml", own)
    ctl(host, "config", "use", "/root/mine.yml")
    is_sound("a configuration of the user's own")
    sh(host, drop_in("Nice=5", "Environment=MINE=1"))
    is_sound("a harmless drop-in")
    ctl(host, "restart")
    is_sound("a restart")
    set_env(host, "HOST=0.0.0.0\nPORT=4001\nNUM_WORKERS=1\n")
    is_sound("another address and port")
    set_env(host, "HOST=::1\nNUM_WORKERS=1\n")
    is_sound("IPv6")
    ctl(host, "stop")
    assert "is stopped" in " ".join(is_sound("a stop")["data"]["remarks"])
    ctl(host, "disable")
    is_sound("a service that was taken out of use")


def test_bare_hosts(box: Box) -> None:
    """Where nothing is installed, where half of it is, and where there is no systemd, that is what is told first."""
    report = doctor(box)
    assert (ids(report), report["exit_code"]) == (["files-not-installed"], 1)
    box.write("/etc/systemd/system/litellm.service", "[Service]\nExecStart=/bin/sleep 1\n")
    assert ids(doctor(box))[:2] == ["files-manifest", "files-release-gone"]
    without = f"umount -R /run/systemd; mount -t tmpfs tmpfs /run; exec {OURS} doctor --json"
    done = box.run(("unshare", "--mount", "sh", "-c", without), check=False)
    assert done.returncode == 1
    assert ids(json.loads(done.stdout))[0] == "host-systemd-absent"
