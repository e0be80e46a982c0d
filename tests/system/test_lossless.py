"""Reload and restart under load: nobody is refused, and nobody gets half an answer."""

from __future__ import annotations

import pytest
from box import Box
from load import loaded
from test_service import MODEL, chat, ctl, key, state


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(("systemctl", "reload", "litellm"), id="systemctl reload"),
        pytest.param(("systemctl", "restart", "litellm"), id="systemctl restart"),
        pytest.param(("litellmctl", "restart"), id="litellmctl restart"),
    ],
)
def test_no_request_fails(installed_box: Box, argv: tuple[str, ...]) -> None:
    """While clients chat without a pause, twice in a row, not one request fails, on kept or fresh connections."""
    secret = key(installed_box)
    with loaded(installed_box, secret, MODEL) as load:
        for _ in range(2):
            installed_box.run(argv, timeout=120)
            assert chat(installed_box, bearer=secret) == 200
    assert load.failed == []
    assert load.answered > 0


def test_standby_leaves_no_trace(installed_box: Box) -> None:
    """After `litellmctl restart` the service runs under its own name, as a new process, and nothing else is left."""
    before = state(installed_box)["MainPID"]
    ctl(installed_box, "restart")
    after = state(installed_box)
    assert (after["ActiveState"], after["NRestarts"]) == ("active", "0")
    assert after["MainPID"] != before
    installed_box.wait_until(
        lambda: installed_box.show("litellm-standby.service", "ActiveState")["ActiveState"] == "inactive",
        60,
        "the standby has gone",
    )
    main = installed_box.run(("pgrep", "-f", "litellm_systemd.runtime --config")).stdout.split()
    workers = installed_box.run(("pgrep", "-P", after["MainPID"])).stdout.split()
    assert set(main) == {after["MainPID"], *workers}
    assert installed_box.systemctl("is-system-running") == "running"


def test_changed_environment_loses_no_request(installed_box: Box) -> None:
    """An install that has to restart the service for a new environment loses no request either."""
    secret = key(installed_box)
    installed_box.write("/root/.env", "MINE=1\n", 0o600)
    with loaded(installed_box, secret, MODEL) as load:
        ctl(installed_box, "install", "--env-file", "/root/.env")
    environ = installed_box.run(("cat", f"/proc/{state(installed_box)['MainPID']}/environ")).stdout.split("\0")
    assert "MINE=1" in environ
    assert load.failed == []
    assert load.answered > 0


def test_standby_honours_drop_ins(installed_box: Box) -> None:
    """When a drop-in of the administrator's keeps the new process from starting, the old one serves on untouched."""
    before = state(installed_box)["MainPID"]
    text = "[Service]\nExecStartPre=/bin/false\n"
    installed_box.write("/etc/systemd/system/litellm.service.d/refuse.conf", text)
    installed_box.systemctl("daemon-reload")
    done = installed_box.run(("litellmctl", "restart"), check=False, timeout=120)
    assert (done.returncode, "was not touched and serves on" in done.stderr) == (69, True), done.stderr
    assert (state(installed_box)["MainPID"], chat(installed_box)) == (before, 200)
