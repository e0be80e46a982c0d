"""Reload, restart and recycling under load without a failed request or a cut stream."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from box import Box, Image, Namespaces
from load import STREAMS, Load, loaded
from service import chat, ctl, now, processes, said, set_up, state, wait_for_workers, workers


@pytest.fixture(scope="module")
def serving(namespaces: Namespaces, idle_image: Image) -> Iterator[Box]:
    """A box whose service has two workers, for tests that restart it: each leaves one that serves."""
    with Box(namespaces, idle_image) as opened:
        set_up(opened, "NUM_WORKERS=2\n")
        yield opened


def assert_no_loss(load: Load) -> None:
    """Check that every chat got 200 and every stream is complete."""
    assert load.failed == []
    assert load.answered > 100
    assert (load.whole, len(load.streamed)) == (STREAMS, STREAMS), load.streamed


def test_reload_and_litellmctl_restart(serving: Box) -> None:
    """Under `systemctl reload` and `litellmctl restart` no chat of 16 clients fails, and no open stream is cut.

    Then the service runs as a new process, and the standby is removed.
    """
    first, main = workers(serving), state(serving)["MainPID"]
    with loaded(serving, streams=STREAMS, pause=0) as load:
        serving.systemctl("reload", "litellm")
        assert (len(workers(serving) - first), state(serving)["MainPID"]) == (2, main)
        assert load.failed == []
        ctl(serving, "restart")
        assert state(serving)["MainPID"] != main
        assert chat(serving) == 200
    assert_no_loss(load)
    assert_no_standby(serving)


def await_standby_end(box: Box) -> None:
    box.wait_until(
        lambda: box.show("litellm-standby.service", "ActiveState")["ActiveState"] == "inactive",
        60,
        "the standby has stopped",
    )


def assert_no_standby(box: Box) -> None:
    after = state(box)
    assert (after["ActiveState"], after["NRestarts"]) == ("active", "0")
    await_standby_end(box)
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
        idle_box.wait_until(lambda: load.answered > 100, 120, "enough chats")
    assert_no_loss(load)
    assert state(idle_box)["NRestarts"] == "0"


def test_install_with_changed_environment(serving: Box) -> None:
    """An install that restarts the service with a new environment loses no request.

    If a drop-in keeps the new process from starting, the old process continues unchanged.
    """
    assert_drop_in_applies(serving)
    with loaded(serving) as load:
        serving.write("/root/.env", "NUM_WORKERS=2\nMINE=1\n", 0o600)
        ctl(serving, "install", "--env-file", "/root/.env", "--no-verify")
    environ = serving.run(("cat", f"/proc/{state(serving)['MainPID']}/environ")).stdout.split("\0")
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


def test_restart_with_little_memory(serving: Box) -> None:
    """With too little memory for two instances `litellmctl restart` warns, uses no standby and loses nothing.

    A box has no memory limit. The test replaces /proc/meminfo with a file that shows 100 MiB of free memory: the
    shortage is simulated, the restart is not.
    """
    await_standby_end(serving)
    main, start = state(serving)["MainPID"], now(serving)
    serving.write(
        "/root/meminfo", "MemTotal:        1024000 kB\nMemFree:          102400 kB\nMemAvailable:     102400 kB\n"
    )
    serving.run(("mount", "--bind", "/root/meminfo", "/proc/meminfo"))
    with loaded(serving) as load:
        done = serving.run(("litellmctl", "restart"), timeout=240)
        wait_for_workers(serving)
    assert "100 MiB of memory are free and a second instance needs" in done.stdout + done.stderr
    assert "a plain restart, during which connections wait" in done.stdout + done.stderr
    assert serving.journal("litellm-standby.service", f"--since={start}") == ""
    assert state(serving)["MainPID"] != main
    assert load.failed == []
