"""What is said of a job of systemd that failed."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from litellm_systemd.errors import CommandError, Unavailable
from litellm_systemd.host import systemctl
from litellm_systemd.host.layout import Layout


def test_lines_of_the_unit_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command that shows more lines names the unit that failed: a standby does not log as litellm.service."""

    def run(argv: tuple[str, ...], *, check: bool = True, **_options: Any) -> subprocess.CompletedProcess[str]:
        if check:
            raise CommandError(argv, 1, "Job failed.")
        return subprocess.CompletedProcess(argv, 0, stdout="no such module\n", stderr="")

    monkeypatch.setattr(systemctl, "run", run)
    with pytest.raises(Unavailable) as caught:
        systemctl.Systemctl(Layout()).start("litellm-standby.service")
    assert caught.value.message == "systemctl start litellm-standby.service failed: no such module"
    assert caught.value.hint == (
        "More lines: journalctl -u litellm.service -u litellm.socket -u litellm-standby.service -n 50"
    )


def test_canceled_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """If another command stops the unit that is being started, the error says so and does not search the journal."""

    def run(argv: tuple[str, ...], *, check: bool = True, **_options: Any) -> subprocess.CompletedProcess[str]:
        if check:
            raise CommandError(argv, 1, "Job for litellm.service canceled.\n")
        return subprocess.CompletedProcess(argv, 0, stdout="no such module\n", stderr="")

    monkeypatch.setattr(systemctl, "run", run)
    with pytest.raises(Unavailable, match=r"systemctl restart litellm.service was canceled: another command"):
        systemctl.Systemctl(Layout()).restart("litellm.service")
