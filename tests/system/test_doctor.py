"""doctor on a real systemd: it finds the cause on each broken host, and nothing on healthy ones.

Each broken host is made in the same box and repaired again, by `--fix` if the documentation promises that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from box import Box, Image, Namespaces
from broken_hosts import BROKEN, DROP_INS, FAIL, NO_DROP_IN, PACKAGES, START, drop_in
from doctor_helpers import INSTALLED, OURS, assert_reported, doctor, ids, sh
from service import BASE, MODEL, chat, ctl, key, set_env, signal_process, state, write_config
from tests.balancers import balancer_environment, find_balancer
from tests.bundle import WHEELS

from litellm_systemd.doctor.registry import CHECKS

#: The exit codes without a finding: on a busy machine a check may not finish in time.
HEALTHY = (0, 77)


@pytest.fixture(scope="module")
def host(namespaces: Namespaces, installed_image: Image) -> Iterator[Box]:
    """One box for all broken hosts: each is repaired before the next."""
    with Box(namespaces, installed_image) as opened:
        yield opened


@pytest.mark.parametrize("name", BROKEN)
def test_broken(host: Box, name: str) -> None:
    """On a broken host the cause is reported first and alone, with evidence and remedy, and --fix fixes it."""
    broken = BROKEN[name]
    sh(host, broken.damage)
    first = assert_reported(doctor(host), broken)
    if broken.repair:
        # The next report shows whether that was enough: its causes are alone too.
        sh(host, broken.repair)
    else:
        assert first["fixable"]
        fixed = doctor(host, "--fix")
        assert (ids(fixed), fixed["exit_code"] in HEALTHY) == ([], True)
        assert {finding["id"] for finding in fixed["data"]["fixed"]} == {broken.cause, *broken.also}


def signal_main(box: Box, name: str) -> None:
    signal_process(box, name, state(box)["MainPID"])


def trigger_watchdog(box: Box) -> None:
    """Send what sd_notify(3) has for tests of a watchdog, in the name of the main process: as if it had timed out."""
    pid = state(box)["MainPID"]
    box.run(("systemd-notify", f"--pid={pid}", "WATCHDOG=trigger"), env={"NOTIFY_SOCKET": "/run/systemd/notify"})


def wait_for_restart(box: Box, number: str) -> None:
    box.wait_until(lambda: state(box)["NRestarts"] == number, 120, "systemd restarts the service")
    box.wait_until(lambda: state(box)["ActiveState"] == "active", 120, "the service is ready again")


def test_killed_and_hung_main_process(host: Box) -> None:
    """A kill and a watchdog timeout are reported after systemd restarted the service, a hung process at once."""
    # Longer than doctor takes on any machine. The test ends it.
    sh(host, drop_in("WatchdogSec=600"))
    signal_main(host, "KILL")
    wait_for_restart(host, "1")
    (killed,) = doctor(host)["data"]["findings"]
    assert (killed["id"], killed["outcome"]) == ("unit-killed", "warning")
    assert "SIGKILL; systemd restarted it once, and it is running" in killed["seen"]
    signal_main(host, "STOP")
    hung = doctor(host)["data"]["findings"][0]
    assert (hung["id"], hung["outcome"]) == ("service-silent", "failed")
    assert "T (stopped)" in hung["seen"]
    trigger_watchdog(host)
    wait_for_restart(host, "2")
    (timed_out,) = doctor(host)["data"]["findings"]
    assert (timed_out["id"], timed_out["outcome"]) == ("unit-watchdog", "warning")
    sh(host, NO_DROP_IN)


def test_cause_and_consequences(host: Box) -> None:
    """If a bad configuration made the service exit, it is the only cause; once it is fixed, the exit is."""
    sh(host, f"{BROKEN['configuration typo'].damage}; ! systemctl restart litellm")
    report = doctor(host)
    assert ids(report) == ["configuration-unusable"]
    assert {each["id"]: each["of"] for each in report["data"]["consequences"]} == {
        "unit-exit": "configuration-unusable"
    }
    sh(host, BROKEN["configuration typo"].repair)
    (exited,) = doctor(host)["data"]["findings"]
    assert exited["id"] == "unit-exit"
    assert re.search(r"exit code 78 \(the configuration .* did you mean model_list", exited["seen"])
    ctl(host, "start")
    assert chat(host) == 200


def test_drop_ins_that_prevent_the_start(host: Box) -> None:
    """A condition, a missing dependency or mount, and a short timeout are reported with the line, and alone.

    `status` names the cause of a loop of restarts too, also if journald was too late to see whose child logged it.
    """
    host.systemctl("stop", "litellm")
    host.write("/run/systemd/system/none.mount", "[Mount]\nWhat=/none.image\nWhere=/none\nType=ext4\nOptions=loop\n")
    for lines, cause in (
        (("[Unit]", "ConditionPathExists=/none"), "unit-condition"),
        (("[Unit]", "Requires=none.service"), "unit-dependency"),
        (("[Unit]", "RequiresMountsFor=/none"), "unit-dependency"),
        (("Restart=no", "TimeoutStartSec=1"), "unit-drop-in"),
    ):
        sh(host, f"{drop_in(*lines)}; systemctl reset-failed litellm; systemctl start litellm || true")
        (found,) = doctor(host)["data"]["findings"]
        assert (found["id"], found["outcome"]) == (cause, "failed")
        assert found["seen"].startswith(f"{DROP_INS}/mine.conf:3: {lines[1]}")
    journald = host.show("systemd-journald", "MainPID")["MainPID"]
    late = f"kill -STOP {journald}; {FAIL}; kill -CONT {journald}; journalctl --sync"
    sh(host, f"{drop_in('LoadCredential=mine:/etc/none')}; {late}")
    status = host.run((OURS, "status"), check=False).stdout
    assert f"{DROP_INS}/mine.conf:2: LoadCredential=mine:/etc/none: A file or secret that the unit names" in status
    sh(host, f"rm /run/systemd/system/none.mount; {NO_DROP_IN}; systemctl stop litellm; {START}")
    assert ids(doctor(host)) == []


def test_damaged_release(host: Box, install_environment: dict[str, str]) -> None:
    """A cut file of the release keeps the service from starting: it is the cause, and the exit its consequence. --fix
    builds the release again and starts the service. Offline it changes nothing and says what is needed.
    """
    sh(host, f"truncate -s 300 {PACKAGES}/uvicorn/__pycache__/server.*.pyc")
    sh(host, "! systemctl restart litellm")
    verified = host.run((OURS, "releases", "verify", "--json"), check=False)
    assert verified.returncode == 65
    (changed,) = json.loads(verified.stdout)["data"]["changed"]
    assert "uvicorn/__pycache__/server." in changed
    report = doctor(host)
    assert ids(report) == ["release-damaged"]
    assert changed in report["data"]["findings"][0]["seen"]
    consequences = {each["id"] for each in report["data"]["consequences"]}
    assert consequences <= {"unit-exit", "unit-start-error", "unit-start-limit"}
    offline = doctor(host, "--fix", environment={"UV_OFFLINE": "1", "UV_CACHE_DIR": "/var/tmp/empty"})
    assert "can't be built again" in offline["notes"][0]
    assert "litellmctl bundle" in offline["notes"][0]
    assert ids(offline) == ["release-damaged"]
    fixed = doctor(host, "--fix", environment={**install_environment, "PIP_FIND_LINKS": str(WHEELS)})
    assert (ids(fixed), fixed["exit_code"] in HEALTHY) == ([], True)
    assert state(host)["ActiveState"] == "active"
    assert host.run((OURS, "releases", "verify")).returncode == 0


NGINX = """\
error_log /var/log/nginx/error.log;
pid /run/nginx.pid;
events {}
http {
    access_log off;
    server {
        listen 127.0.0.1:8080;
        location / { proxy_pass http://127.0.0.1:4000; }
    }
}
"""


def test_nginx_in_front(host: Box) -> None:
    """A body that nginx refused is reported with the proxy_pass without a limit, until the limit is written. Streams
    need no directive: each has the header that turns nginx's buffers off.
    """
    sh(host, "mkdir -p /etc/nginx /var/log/nginx /var/lib/nginx")
    host.write("/etc/nginx/nginx.conf", NGINX)
    variables = [f"--setenv={name}={value}" for name, value in balancer_environment().items()]
    command = (find_balancer("nginx"), "-c", "/etc/nginx/nginx.conf", "-g", "daemon off;")
    host.run(("systemd-run", "--quiet", "--unit=nginx", *variables, *command))
    headers = f"-H 'Authorization: Bearer {key(host)}' -H 'Content-Type: application/json'"
    send = f"curl -s --retry 9 --retry-connrefused -o /dev/null -w '%{{http_code}}' {headers}"
    url = "http://127.0.0.1:8080/v1/chat/completions"
    sent = host.run(("bash", "-c", f"head -c 2M /dev/zero | {send} --data-binary @- {url}")).stdout
    (found,) = doctor(host)["data"]["findings"]
    assert (sent, found["id"], found["outcome"]) == ("413", "proxy-nginx", "warning")
    assert found["seen"].startswith("/etc/nginx/nginx.conf:8: proxy_pass http://127.0.0.1:4000: without client_max")
    correction = "client_max_body_size 32m;"
    assert f"# write: {correction}" in json.dumps(found)
    host.write("/etc/nginx/nginx.conf", NGINX.replace("        listen", f"        {correction}\n        listen"))
    assert ids(doctor(host)) == []
    body = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "hi"}]})
    answer = host.run(("bash", "-c", f"{send} -D - -d '{body}' {BASE}/v1/chat/completions")).stdout
    assert "x-accel-buffering: no" in answer.lower()
    sh(host, "systemctl stop nginx; rm /etc/nginx/nginx.conf")


def test_healthy_hosts(host: Box) -> None:
    """Nothing is found on healthy hosts: after every verb, and with the user's own settings and files.

    The only warning is that of plain HTTP for other machines.
    """
    own = host.read("/etc/litellm/configs/demo.yml") + "# of my own\n"

    def assert_healthy(after: str, code: int = 0, **options: Any) -> dict[str, Any]:
        report = doctor(host, program=INSTALLED, **options)
        assert (ids(report), report["exit_code"] in (code, 77)) == ([], True), after
        return report

    ctl(host, "install", "--installed", "--take-ours", "--no-verify")
    assert assert_healthy("a second install")["title"] == f"no problems found: {len(CHECKS)} checks"
    host.systemctl("reload", "litellm")
    assert_healthy("a reload")
    unprivileged = assert_healthy("a run without root", 77, user="nobody:nogroup")
    assert {each["because"] for each in unprivileged["data"]["checks"] if "root" in each["because"]}
    assert len([each for each in unprivileged["data"]["checks"] if each["outcome"] == "ok"]) > 20
    write_config(host, own)
    host.systemctl("reload", "litellm")
    assert "Edited by hand" in assert_healthy("an edit")["data"]["remarks"][0]
    host.write("/root/mine.yml", own)
    ctl(host, "config", "use", "/root/mine.yml")
    assert_healthy("a configuration of the user's own")
    settings = ("Environment=MINE=1", "EnvironmentFile=-/etc/none.env", "TimeoutStartSec=300", "UnsetEnvironment=X")
    sh(host, drop_in("Nice=5", *settings))
    assert_healthy("a harmless drop-in")
    ctl(host, "restart")
    assert_healthy("a restart")
    set_env(host, "HOST=0.0.0.0\nPORT=4001\nNUM_WORKERS=1\n")
    assert ids(doctor(host, program=INSTALLED)) == ["tls-off"]
    set_env(host, "HOST=::1\nNUM_WORKERS=1\n")
    assert_healthy("IPv6")
    ctl(host, "stop")
    assert "is stopped" in " ".join(assert_healthy("a stop")["data"]["remarks"])
    ctl(host, "disable")
    assert_healthy("a service that was stopped and disabled")


def test_bare_hosts(box: Box) -> None:
    """A missing installation, half an installation, and a missing systemd are reported first."""
    report = doctor(box)
    assert (ids(report), report["exit_code"]) == (["files-not-installed"], 1)
    box.write("/etc/systemd/system/litellm.service", "[Service]\nExecStart=/bin/sleep 1\n")
    assert ids(doctor(box))[:2] == ["files-manifest", "files-release-gone"]
    without = f"umount -R /run/systemd; mount -t tmpfs tmpfs /run; exec {OURS} doctor --json"
    done = box.run(("unshare", "--mount", "sh", "-c", without), check=False)
    assert done.returncode == 1
    assert ids(json.loads(done.stdout))[0] == "host-systemd-absent"
