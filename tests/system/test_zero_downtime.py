"""Reload, restart and recycling under load without a failed request or a cut stream."""

from __future__ import annotations

from box import Box
from load import STREAMS, Load, loaded
from service import chat, ctl, processes, said, set_up, state, wait_for_workers, workers


def assert_no_loss(load: Load) -> None:
    """Check that every chat got 200 and every stream is complete."""
    assert load.failed == []
    assert load.answered > 100
    assert (load.whole, len(load.streamed)) == (STREAMS, STREAMS), load.streamed


def test_reload_and_litellmctl_restart(idle_box: Box) -> None:
    """Under `systemctl reload` and `litellmctl restart` no chat of 16 clients fails, and no open stream is cut.

    Then the service runs as a new process, and the standby is removed.
    """
    set_up(idle_box, "NUM_WORKERS=2\n")
    first, main = workers(idle_box), state(idle_box)["MainPID"]
    with loaded(idle_box, streams=STREAMS, pause=0) as load:
        idle_box.systemctl("reload", "litellm")
        assert (len(workers(idle_box) - first), state(idle_box)["MainPID"]) == (2, main)
        assert load.failed == []
        ctl(idle_box, "restart")
        assert state(idle_box)["MainPID"] != main
        assert chat(idle_box) == 200
    assert_no_loss(load)
    assert_no_standby(idle_box)


def assert_no_standby(box: Box) -> None:
    after = state(box)
    assert (after["ActiveState"], after["NRestarts"]) == ("active", "0")
    box.wait_until(
        lambda: box.show("litellm-standby.service", "ActiveState")["ActiveState"] == "inactive",
        60,
        "the standby has stopped",
    )
    assert processes(box) == {after["MainPID"], *workers(box)}
    assert not box.exists("/run/systemd/system/litellm-standby.service")
    assert box.systemctl("is-system-running") == "running"


def test_recycling_and_systemctl_restart(idle_box: Box) -> None:
    """During recycling and `systemctl restart` no chat of 16 clients fails and no stream is cut."""
    set_up(idle_box, "NUM_WORKERS=2\nMAX_REQUESTS_BEFORE_RESTART=30\n")
    main = state(idle_box)["MainPID"]
    with loaded(idle_box, streams=STREAMS) as load:
        idle_box.wait_until(lambda: sum("recycled after" in line for line in said(idle_box)) >= 2, 240, "recycled")
        assert (state(idle_box)["MainPID"], load.failed) == (main, [])
        idle_box.systemctl("restart", "litellm")
        assert state(idle_box)["MainPID"] != main
        assert chat(idle_box) == 200
    assert_no_loss(load)
    assert state(idle_box)["NRestarts"] == "0"


def test_install_with_changed_environment(idle_box: Box) -> None:
    """An install that restarts the service with a new environment loses no request.

    If a drop-in keeps the new process from starting, the old process continues unchanged.
    """
    set_up(idle_box, "NUM_WORKERS=2\n")
    assert_drop_in_applies(idle_box)
    with loaded(idle_box) as load:
        idle_box.write("/root/.env", "NUM_WORKERS=2\nMINE=1\n", 0o600)
        ctl(idle_box, "install", "--env-file", "/root/.env", "--no-verify")
    environ = idle_box.run(("cat", f"/proc/{state(idle_box)['MainPID']}/environ")).stdout.split("\0")
    assert "MINE=1" in environ
    assert (load.failed, load.answered > 100) == ([], True)


def assert_drop_in_applies(box: Box) -> None:
    before, drop_in = state(box)["MainPID"], "/etc/systemd/system/litellm.service.d/refuse.conf"
    box.write(drop_in, "[Service]\nExecStartPre=/bin/false\n")
    box.systemctl("daemon-reload")
    done = box.run(("litellmctl", "restart"), check=False, timeout=120)
    assert (done.returncode, "was not changed and continues to serve" in done.stderr) == (69, True), done.stderr
    assert (state(box)["MainPID"], chat(box)) == (before, 200)
    box.run(("rm", drop_in))
    box.systemctl("daemon-reload")


def test_restart_with_little_memory(idle_box: Box) -> None:
    """With too little memory for two instances `litellmctl restart` warns, uses no standby and loses nothing.

    A box has no memory limit. The test replaces /proc/meminfo with a file that shows 100 MiB of free memory: the
    shortage is simulated, the restart is not.
    """
    set_up(idle_box, "NUM_WORKERS=2\n")
    main = state(idle_box)["MainPID"]
    idle_box.write(
        "/root/meminfo", "MemTotal:        1024000 kB\nMemFree:          102400 kB\nMemAvailable:     102400 kB\n"
    )
    idle_box.run(("mount", "--bind", "/root/meminfo", "/proc/meminfo"))
    with loaded(idle_box) as load:
        done = idle_box.run(("litellmctl", "restart"), timeout=240)
        wait_for_workers(idle_box)
    assert "100 MiB of memory are free and a second instance needs" in done.stdout + done.stderr
    assert "a plain restart, during which connections wait" in done.stdout + done.stderr
    assert idle_box.journal("litellm-standby.service", "--boot") == ""
    assert state(idle_box)["MainPID"] != main
    assert load.failed == []
