"""A change on a real systemd is complete or undone, however it is interrupted."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from box import Box
from load import LONG_PAUSE, loaded
from service import UNMEASURED, chat, ctl, key, state, with_model
from test_install import snapshot, write_env

KILLER = Path(__file__).with_name("kill_at_each_step.py")
PYTHON = "/opt/litellm-systemd/current/bin/python"
#: A kill at every step takes minutes; this interval covers each kind of step.
STRIDE = int(os.environ.get("KILL_STRIDE", "7"))


def kill_at_steps(
    box: Box,
    *commands: list[str],
    stride: int,
    first: int = 1,
    alternate: bool = False,
    primes: bool = True,
    ignored: tuple[str, ...] = (),
    signals: tuple[int, ...] = (signal.SIGKILL,),
) -> list[dict[str, Any]]:
    """Kill litellmctl at steps of these two command lines: of both at each step, or of one in turn.

    `ignored` are the beginnings of paths that are not compared. The `signals` are sent in turn.
    """
    task = {
        "commands": commands,
        "warm": ["diff"],
        "trees": ["/etc", "/var/lib/litellm-systemd", "/usr/local/bin", "/opt/litellm-systemd/current"],
        "ignored": ["/etc/machine-id", *ignored],
        "release": "/opt/litellm-systemd/current",
        "primes": primes,
        "stride": stride,
        "first": first,
        "alternate": alternate,
        "signals": signals,
    }
    box.write("/root/kill_at_each_step.py", KILLER.read_text(encoding="utf-8"))
    argv = (*UNMEASURED, PYTHON, "/root/kill_at_each_step.py", json.dumps(task))
    done = box.run(argv, timeout=1200 if STRIDE > 1 else 14400, cwd="/root")
    results: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    return results


def test_killed_switch_converges_under_load(installed_box: Box) -> None:
    """A switch of the configuration that is killed at any step reaches the same final state. One that gets a SIGTERM
    or SIGINT is undone. No request fails.
    """
    other = with_model(installed_box.read("/etc/litellm/configs/demo.yml"), "another-model")
    installed_box.write("/root/mine.yml", other)
    main = state(installed_box)["MainPID"]
    with loaded(installed_box, clients=4, pause=LONG_PAUSE) as load:
        results = kill_at_steps(
            installed_box,
            ["config", "use", "./mine.yml"],
            ["config", "use", "demo"],
            stride=STRIDE,
            alternate=STRIDE > 1,
            ignored=("/var/lib/litellm-systemd/failed",),
            signals=(signal.SIGKILL, signal.SIGTERM, signal.SIGINT),
        )
    assert [result["wrong"] for result in results] == [[], []]
    assert sum(result["kills"] for result in results) * STRIDE > 20
    assert load.failed == []
    assert (state(installed_box)["MainPID"], state(installed_box)["NRestarts"]) == (main, "0")


def test_killed_install_converges_under_load(installed_box: Box) -> None:
    """An install that restarts the service and is killed at any step reaches the same final state, and no request
    fails.
    """
    for number in (1, 2):
        write_env(installed_box, f"MINE={number}\nNUM_WORKERS=1\n", f"/root/{number}.env")
    commands = [["install", "--no-verify", "--env-file", f"/root/{number}.env"] for number in (1, 2)]
    # Each kill costs four starts of the service. So: one kill of the first command while it writes files, one of the
    # second command during the restart.
    step: dict[str, Any] = {"stride": STRIDE * 8, "first": STRIDE * 4} if STRIDE > 1 else {"stride": 1}
    with loaded(installed_box, clients=4, pause=LONG_PAUSE) as load:
        results = kill_at_steps(installed_box, *commands, **step, alternate=STRIDE > 1, primes=STRIDE == 1)
    assert all(result["kills"] for result in results)
    assert [result["wrong"] for result in results] == [[], []]
    assert load.failed == []
    assert chat(installed_box) == 200


_REFUSE = "/etc/systemd/system/litellm.service.d/refuse.conf"


def refuse_start(box: Box) -> None:
    """Make the service refuse to start if REFUSE is in its environment."""
    box.write(_REFUSE, "[Service]\nExecStartPre=/bin/sh -c 'test -z \"$REFUSE\"'\n")
    box.systemctl("daemon-reload")


def mend_start(box: Box) -> None:
    box.run(("rm", _REFUSE))
    box.systemctl("daemon-reload")


def attempts(box: Box) -> set[str]:
    return set(box.run(("sh", "-c", "ls /var/lib/litellm-systemd/failed 2>/dev/null"), check=False).stdout.split())


def test_failed_attempt_is_kept(shared_box: Box) -> None:
    """After a failure everything is as before, the service continues, and error, plan, journal and files are kept."""
    refuse_start(shared_box)
    before, earlier, main = snapshot(shared_box), attempts(shared_box), state(shared_box)["MainPID"]
    write_env(shared_box, "REFUSE=1\n")
    done = shared_box.run(
        ("litellmctl", "install", "--env-file", "/root/.env"), check=False, timeout=300, cwd="/root"
    )
    assert done.returncode == 69
    assert "All changes were undone, and the service runs as before." in done.stderr
    assert snapshot(shared_box) == before
    [attempt] = attempts(shared_box) - earlier
    assert f"/var/lib/litellm-systemd/failed/{attempt}" in done.stderr
    kept = shared_box.run(("ls", f"/var/lib/litellm-systemd/failed/{attempt}")).stdout.split()
    assert kept == ["error.txt", "etc-litellm-litellm.env", "journal.txt"]
    assert (chat(shared_box), state(shared_box)["MainPID"]) == (200, main)
    assert not shared_box.exists("/var/lib/litellm-systemd/journal")
    mend_start(shared_box)


ACCEPT_ALL = """\
from litellm.proxy._types import UserAPIKeyAuth

async def accept(request, api_key):
    return UserAPIKeyAuth(api_key=api_key)
"""


def test_failed_verification_is_rolled_back(shared_box: Box) -> None:
    """A configuration that becomes ready but accepts any key fails the quick verification and is rolled back."""
    demo = shared_box.read("/etc/litellm/configs/demo.yml")
    shared_box.write("/etc/litellm/accept_all.py", ACCEPT_ALL, 0o640, "root:litellm")
    open_config = demo.replace("general_settings:", "general_settings:\n  custom_auth: accept_all.accept")
    assert open_config != demo
    shared_box.write("/etc/litellm/configs/open.yml", open_config, 0o640, "root:litellm")
    done = shared_box.run(("litellmctl", "config", "use", "open"), check=False, timeout=300)
    assert done.returncode == 69, done.stderr
    assert "refuses a" in done.stderr
    assert shared_box.run(("readlink", "/etc/litellm/config.yaml")).stdout == "configs/demo.yml\n"
    assert chat(shared_box, bearer="sk-anything") >= 400
    assert chat(shared_box) == 200


HOOK = "from litellm.integrations.custom_logger import CustomLogger\nimport tools\nhandler = CustomLogger()\n"


def test_python_files_are_part_of_a_change(shared_box: Box) -> None:
    """`config use FILE` installs its Python files, not writable for the service, and rolls them back too."""
    box, folder = shared_box, "/etc/litellm/configs"
    text = box.read(f"{folder}/demo.yml").replace("litellm_settings:", "litellm_settings:\n  callbacks: hook.handler")
    box.write("/root/hooked/hooked.yml", text)
    box.write("/root/hooked/hook.py", "handler = \n")
    done = box.run(("litellmctl", "config", "use", "/root/hooked/hooked.yml"), check=False)
    assert (done.returncode, "/root/hooked/hook.py:1:11: this isn't Python" in done.stderr) == (78, True), done.stderr
    box.write("/root/hooked/hook.py", HOOK)
    box.write("/root/hooked/tools.py", "")
    ctl(box, "config", "use", "/root/hooked/hooked.yml")
    found = box.run(("stat", "-c", "%n %a %U:%G", "hook.py", "tools.py"), cwd=folder).stdout.splitlines()
    assert found == ["hook.py 640 root:litellm", "tools.py 640 root:litellm"]
    box.write("/root/hooked/tools.py", "import no_such_package\n")
    done = box.run(("litellmctl", "config", "use", "/root/hooked/hooked.yml"), check=False, timeout=300)
    assert done.returncode != 0
    assert "Could not import handler from hook: ModuleNotFoundError: No module named 'no_such_package'" in done.stderr
    assert f"({folder}/tools.py:1)" in done.stderr
    assert box.read(f"{folder}/tools.py") == ""
    assert chat(box) == 200
    box.write(f"{folder}/tools.py", "edited = 1\n", 0o640, "root:litellm")
    done = box.run(("litellmctl", "config", "use", "/root/hooked/hooked.yml"))
    assert f"{folder}/tools.py was edited here and is kept" in " ".join(done.stdout.split())
    box.run(("cp", "/root/hooked/tools.py", f"{folder}/tools.py"))  # later tests expect no edited files
    ctl(box, "config", "use", "demo")
    assert "nothing differs from what was installed" in ctl(box, "diff")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interrupted_install_is_undone(shared_box: Box, number: int, code: int) -> None:
    """A signal during an install undoes all changes; the service continues as the same process, and the exit code is
    that of the signal.
    """
    before, secret, main = snapshot(shared_box), key(shared_box), state(shared_box)["MainPID"]
    write_env(shared_box, "MINE=1\n")
    script = "import os, sys, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    script += "os.execv('/usr/local/bin/litellmctl', ['litellmctl', 'install', '--env-file', '/root/.env'])"
    run = shared_box.popen(("python3", "-c", script))
    standby = "litellm-standby.service"
    shared_box.wait_until(
        lambda: shared_box.show(standby, "ActiveState")["ActiveState"] == "activating", 240, "the standby starts"
    )
    holder = json.loads(shared_box.read("/run/litellm-systemd/lock"))
    second = shared_box.run(("litellmctl", "config", "use", "demo"), check=False)
    shared_box.run(("kill", f"-{number}", str(holder["pid"])))
    assert run.wait(timeout=300) == code
    assert (second.returncode, f"(pid {holder['pid']})" in second.stderr) == (75, True), second.stderr
    assert snapshot(shared_box) == before
    assert (chat(shared_box, bearer=secret), state(shared_box)["MainPID"]) == (200, main)
    assert "nothing differs from what was installed" in ctl(shared_box, "diff")


STANDBY = "litellm-standby.service"


def interrupt(box: Box, verb: str, number: int, unit: str, *states: str) -> tuple[int, str]:
    """Run a verb, send its litellmctl a signal as soon as a unit is in that state; its exit code and its messages."""
    run = box.popen(("env", "--default-signal", "litellmctl", *verb.split()))
    box.wait_until(lambda: box.show(unit, "ActiveState")["ActiveState"] in states, 120, f"{unit} is {states[0]}")
    box.run(("pkill", f"-{number}", "-f", f"litellmctl {verb}$"))
    _, messages = run.communicate(timeout=240)
    return run.returncode, messages


def await_end(box: Box) -> None:
    """Wait until the service serves and no standby runs."""

    def ended() -> bool:
        states = [box.show(unit, "ActiveState")["ActiveState"] for unit in ("litellm.service", STANDBY)]
        return states == ["active", "inactive"]

    box.wait_until(ended, 240, "the service serves alone")
    assert chat(box) == 200


def test_interrupted_restart(shared_box: Box) -> None:
    """After SIGINT, SIGTERM or SIGKILL during a restart the service serves. litellmctl, systemd or `doctor --fix`
    stops the standby.
    """
    box, before = shared_box, state(shared_box)["MainPID"]
    # Before the restart: it is cancelled.
    code, messages = interrupt(box, "restart", signal.SIGINT, STANDBY, "activating")
    assert (code, messages.splitlines()[-2:]) == (
        130,
        ["litellmctl: interrupted by SIGINT", "  litellm.service is active."],
    )
    await_end(box)
    assert state(box)["MainPID"] == before
    # Killed: systemd completes the start of the standby, and no process is left that would stop it.
    interrupt(box, "restart", signal.SIGKILL, STANDBY, "activating")
    box.wait_until(lambda: box.show(STANDBY, "ActiveState")["ActiveState"] == "active", 120, "the standby serves")
    assert "litellm-standby.service still runs" in ctl(box, "status")
    assert "unit-standby" in box.run(("litellmctl", "doctor"), check=False).stdout
    assert "unit-standby fixed: litellm-standby.service runs" in " ".join(
        ctl(box, "doctor", "--fix", check=False).split()
    )
    await_end(box)
    assert state(box)["MainPID"] == before
    # During the restart: systemd completes it, and the unit of the service stops the standby.
    code, messages = interrupt(box, "restart", signal.SIGTERM, "litellm.service", "activating")
    assert code == 143
    assert "litellm.service is activating, and systemd completes the restart." in messages
    await_end(box)
    assert state(box)["MainPID"] != before


_HOLD, _HELD = "/etc/systemd/system/litellm.service.d/hold.conf", "/run/held"


def test_interrupted_reload_stop_and_start(shared_box: Box) -> None:
    """A signal during `reload`, `stop`, `start` or `doctor --fix` does not cancel it: litellmctl says that systemd
    completes it. The next run continues from there.
    """
    box = shared_box
    hold = f"/bin/sh -c 'while test -e {_HELD}; do sleep 0.1; done'"
    box.write(_HOLD, f"[Service]\nExecReload={hold}\nExecStop={hold}\n")
    box.systemctl("daemon-reload")
    moments = (
        ("reload", signal.SIGINT, 130, "reloading"),
        ("stop", signal.SIGTERM, 143, "deactivating"),
        ("start", signal.SIGTERM, 143, "activating"),
    )
    for verb, number, code, moment in moments:
        box.write(_HELD, "")
        found, messages = interrupt(box, verb, number, "litellm.service", moment)
        box.run(("rm", _HELD))
        assert (found, f"systemd completes the {verb}." in messages) == (code, True), messages
        box.wait_until(lambda: "ing" not in state(box)["ActiveState"], 120, f"the {verb} is complete")
        assert state(box)["ActiveState"] == ("inactive" if verb == "stop" else "active")
    box.run(("rm", _HOLD))
    box.systemctl("daemon-reload")
    assert chat(box) == 200

    box.run(("chmod", "0700", "/etc/litellm/configs"))
    box.run(("systemctl", "restart", "litellm"), check=False)
    code, messages = interrupt(box, "doctor --fix", signal.SIGINT, "litellm.service", "activating")
    assert code == 130, messages
    await_end(box)
    assert json.loads(ctl(box, "doctor", "--fix", "--json", check=False))["data"]["fixed"] == []
