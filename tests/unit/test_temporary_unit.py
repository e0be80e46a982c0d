"""The unit of a standby or a throwaway instance, derived from litellm.service."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.errors import Unavailable
from litellm_systemd.host import systemctl
from litellm_systemd.host.layout import Layout
from litellm_systemd.instances import temporary_unit
from litellm_systemd.instances.temporary_unit import (
    remove_temporary_unit,
    restart_without_pause,
    write_temporary_unit,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of root take root")

UNIT = "[Unit]\nRequires=litellm.socket\nAfter=network.target\n[Service]\nUser=litellm\n"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """A host with the service and drop-ins of an administrator, one of them both in /etc and in /run."""
    layout = Layout(root=tmp_path)
    texts = {
        layout.service: UNIT,
        "/etc/systemd/system/litellm.service.d/b.conf": "etc b",
        "/run/systemd/system/litellm.service.d/b.conf": "run b",
        "/run/systemd/system/litellm.service.d/a.conf": "run a",
        "/etc/systemd/system.control/litellm.service.d/50-MemoryMax.conf": "systemctl set-property",
        "/etc/systemd/system/service.d/0.conf": "it applies to the instance anyway",
    }
    for path, text in texts.items():
        real = layout.real(path)
        real.parent.mkdir(parents=True, exist_ok=True)
        real.write_text(text, encoding="utf-8")
    return layout


def drop_ins(layout: Layout) -> dict[str, str]:
    folder = layout.real("/run/systemd/system/litellm-x.service.d")
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}


def test_it_is_the_service_with_its_drop_ins(layout: Layout) -> None:
    """The instance has the unit and the drop-ins of the service, in systemd's order, and its own settings last."""
    write_temporary_unit(layout, "litellm-x", "An instance", "Sockets=litellm.socket\n")
    assert layout.real("/run/systemd/system/litellm-x.service").read_text(encoding="utf-8") == UNIT
    found = drop_ins(layout)
    assert list(found.values())[:3] == ["systemctl set-property", "run a", "etc b"]
    own = list(found.values())[-1]
    assert "RuntimeDirectory=\nRuntimeDirectory=litellm-x\n" in own
    assert own.endswith("Sockets=litellm.socket\n")


def test_independent_of_the_socket(layout: Layout) -> None:
    """An instance that does not serve on the socket does not require it, and so never opens the port."""
    write_temporary_unit(layout, "litellm-x", "An instance", "", on_socket=False)
    text = layout.real("/run/systemd/system/litellm-x.service").read_text(encoding="utf-8")
    assert text == UNIT.replace("Requires=litellm.socket\n", "")


def test_no_other_socket(layout: Layout) -> None:
    """An instance has the sockets of its own settings, and not the metrics socket of the service."""
    layout.real(layout.service).write_text(f"{UNIT}Sockets=litellm-metrics.socket\n", encoding="utf-8")
    write_temporary_unit(layout, "litellm-x", "An instance", "", on_socket=False)
    assert "metrics" not in layout.real("/run/systemd/system/litellm-x.service").read_text(encoding="utf-8")


def test_removed_drop_ins_are_removed(layout: Layout) -> None:
    """A drop-in that the service no longer has is removed from the instance, and a removal leaves no file."""
    write_temporary_unit(layout, "litellm-x", "An instance", "")
    layout.real("/run/systemd/system/litellm.service.d/a.conf").unlink()
    write_temporary_unit(layout, "litellm-x", "An instance", "")
    assert "run a" not in drop_ins(layout).values()
    remove_temporary_unit(layout, "litellm-x")
    assert [path.name for path in layout.real("/run/systemd/system").iterdir()] == ["litellm.service.d"]


@pytest.mark.parametrize(
    ("is_behind", "delay", "meanwhile"),
    [
        ("false", 30.0, "connections wait"),
        ("true", 30.0, "the instance leaves its load balancer"),
        # The process that runs is older than BEHIND_LOAD_BALANCER, and announces nothing.
        ("true", 0.0, "connections wait"),
    ],
)
def test_restart_with_little_memory(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, is_behind: str, delay: float, meanwhile: str
) -> None:
    """Without memory for a standby, a restart says what it means for clients."""
    monkeypatch.setattr(temporary_unit, "ask_service", lambda: {"deregistration_delay": delay})
    environment = layout.real(layout.environment_file)
    environment.parent.mkdir(parents=True)
    environment.write_text(f"BEHIND_LOAD_BALANCER={is_behind}\n", encoding="utf-8")
    calls: list[tuple[str, ...]] = []

    def run(argv: tuple[str, ...], **_options: Any) -> subprocess.CompletedProcess[str]:
        calls.append(argv[2:])
        # The service runs, and its standby does not.
        active = "active" if "litellm.service" in argv else "inactive"
        return subprocess.CompletedProcess(argv, 0, stdout=f"ActiveState={active}\nMainPID=0\n", stderr="")

    monkeypatch.setattr(systemctl, "run", run)
    monkeypatch.setattr(temporary_unit, "_LEAST_MEMORY", 2**40)
    said: list[str] = []
    restart_without_pause(layout, systemctl.Systemctl(Layout()), said.append)
    assert [line.partition(": ")[2] for line in said] == [f"a plain restart, during which {meanwhile}"]
    assert calls[-1] == ("restart", "litellm.service")


def test_restart_of_a_service_that_does_not_serve(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that systemd starts again and again gets no standby, which its next start would stop."""
    changes: list[tuple[str, ...]] = []

    def run(argv: tuple[str, ...], **_options: Any) -> subprocess.CompletedProcess[str]:
        if argv[2] != "show":
            changes.append(argv[2:])
        active = "activating" if "litellm.service" in argv else "inactive"
        return subprocess.CompletedProcess(argv, 0, stdout=f"ActiveState={active}\nMainPID=0\n", stderr="")

    monkeypatch.setattr(systemctl, "run", run)
    restart_without_pause(layout, systemctl.Systemctl(Layout()))
    assert changes[-1] == ("restart", "litellm.service")
    assert not layout.real("/run/systemd/system/litellm-standby.service").exists()


@pytest.mark.parametrize(
    ("moment", "last"), [("daemon-reload", ["daemon-reload"]), ("start", ["start", "litellm-standby.service"])]
)
def test_stop_during_a_restart(layout: Layout, monkeypatch: pytest.MonkeyPatch, moment: str, last: list[str]) -> None:
    """A service that another command stops during a restart, such as a lifecycle hook, stays stopped."""
    monkeypatch.setattr(temporary_unit, "_LEAST_MEMORY", 0)
    states, changes = {"litellm.service": "active"}, []

    def run(argv: tuple[str, ...], **_options: Any) -> subprocess.CompletedProcess[str]:
        verb, *arguments = argv[2:]
        if verb != "show":
            changes.append([verb, *arguments])
        if verb == moment:
            states["litellm.service"] = "inactive"
        found = f"ActiveState={states.get(arguments[0], 'inactive') if arguments else ''}\nMainPID=0\nJob=0\n"
        return subprocess.CompletedProcess(argv, 0, stdout=found, stderr="")

    monkeypatch.setattr(systemctl, "run", run)
    with pytest.raises(Unavailable, match="another command has stopped"):
        restart_without_pause(layout, systemctl.Systemctl(Layout()))
    assert changes[-1] == last
