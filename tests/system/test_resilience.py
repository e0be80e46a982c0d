"""What dies or hangs on a real systemd is found and replaced, and a worker that wears out gives way in time."""

from __future__ import annotations

from box import Box
from load import loaded
from test_service import MODEL, chat, ctl, key, state


def workers(box: Box) -> set[str]:
    return set(box.run(("pgrep", "-P", state(box)["MainPID"]), check=False).stdout.split())


def set_env(box: Box, text: str) -> None:
    """Install that .env; the service restarts with it."""
    box.write("/root/.env", text, 0o600)
    ctl(box, "install", "--env-file", "/root/.env", "--no-verify")


def test_hung_worker_is_replaced(installed_box: Box) -> None:
    """A worker whose event loop stops is found and replaced; the main process and the other worker go on."""
    set_env(installed_box, "WATCHDOG_TIMEOUT=5\n")
    main, before = state(installed_box)["MainPID"], workers(installed_box)
    hung = min(before)
    installed_box.run(("kill", "-STOP", hung))
    installed_box.wait_until(lambda: hung not in workers(installed_box), 60, "the hung worker is gone")
    installed_box.wait_until(lambda: len(workers(installed_box)) == len(before), 60, "there is another one")
    assert (state(installed_box)["MainPID"], chat(installed_box)) == (main, 200)
    said = installed_box.journal("litellm", "--boot", "--priority", "warning")
    assert f"pid {hung}" in said


def test_hung_main_process_is_restarted(installed_box: Box) -> None:
    """When the main process stops, systemd's watchdog finds it, and the service comes back by itself."""
    set_env(installed_box, "WATCHDOG_TIMEOUT=5\n")
    main = state(installed_box)["MainPID"]
    installed_box.run(("kill", "-STOP", main))
    installed_box.wait_until(lambda: state(installed_box)["MainPID"] not in (main, "0"), 90, "there is a new process")
    installed_box.wait_until(lambda: state(installed_box)["ActiveState"] == "active", 90, "the service is ready")
    assert chat(installed_box) == 200
    assert "watchdog" in installed_box.run(("journalctl", "--boot", "--unit", "litellm")).stdout


def test_worn_workers_give_way(installed_box: Box) -> None:
    """Under load, workers are recycled after MAX_REQUESTS_BEFORE_RESTART, and not one request fails."""
    set_env(installed_box, "MAX_REQUESTS_BEFORE_RESTART=30\n")
    before, secret = workers(installed_box), key(installed_box)
    with loaded(installed_box, secret, MODEL) as load:
        installed_box.wait_until(lambda: not before & workers(installed_box), 120, "each worker was replaced")
    assert load.failed == []
    assert load.answered > 60
    assert state(installed_box)["NRestarts"] == "0"
    assert "recycled after" in installed_box.journal("litellm", "--boot")
