"""The undo log of a change."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from litellm_systemd.doctor.check_files import UNFINISHED, detect_files_unfinished
from litellm_systemd.doctor.engine import Finding
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import InputError, Interrupted, Unavailable
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import Action, DesiredState, FileState, HostState, Plan, Running, UnitState, Verb
from litellm_systemd.install import apply
from litellm_systemd.install.apply import apply_install, changing
from litellm_systemd.install.undo_log import UndoLog, read_undo_log

HOST = HostState(
    files={"/etc/litellm/litellm.env": FileState("/etc/litellm/litellm.env", b"KEY=secret")},
    units={"litellm.service": UnitState("litellm.service", "loaded", "active", "enabled", invocation="4f0e")},
    user_exists=True,
)
STEPS = (Action(Verb.WRITE, "/etc/litellm/litellm.env", "changed"), Action(Verb.RESTART, "litellm.service"))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(root=tmp_path)


def begin(layout: Layout, steps: tuple[Action, ...] = STEPS) -> UndoLog:
    log = UndoLog(layout, "install", HOST)
    for step in steps:
        log.record(step)
    return log


def test_interrupted_change(layout: Layout) -> None:
    """The undo log of an interrupted change has all data for a rollback."""
    begin(layout)
    found = read_undo_log(layout)
    assert found is not None
    assert (found.verb, found.taken, found.manifest) == ("install", STEPS, None)
    assert found.host.files.keys() == HOST.files.keys()
    assert found.host.unit("litellm.service") == HOST.unit("litellm.service")
    assert found.host.user_exists


def test_no_secrets(layout: Layout) -> None:
    """The undo log has no content of files, and only root can read it."""
    begin(layout)
    path = layout.real(layout.undo_log)
    assert b"secret" not in path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0


def test_committed(layout: Layout) -> None:
    """A complete change is marked as complete, with its manifest."""
    begin(layout).commit("the manifest\n")
    found = read_undo_log(layout)
    assert found is not None
    assert found.manifest == "the manifest\n"


def test_closed(layout: Layout) -> None:
    """After the end of a change there is no undo log."""
    begin(layout).close()
    assert read_undo_log(layout) is None


def test_incomplete_record(layout: Layout) -> None:
    """A record that is cut at any byte, as by a power failure, is ignored."""
    begin(layout)
    path = layout.real(layout.undo_log)
    whole = path.read_bytes()
    ends = [number for number, byte in enumerate(whole, 1) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        found = read_undo_log(layout)
        assert found is not None
        recorded = sum(length >= end for end in ends)
        assert len(found.taken) == max(0, recorded - 1)


@pytest.mark.parametrize("text", ["{}\n", "nonsense\n", '{"format": 99}\n', "[]\n"])
def test_invalid_undo_log(layout: Layout, text: str) -> None:
    """An invalid undo log is an error with the path of the file."""
    path = layout.real(layout.undo_log)
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=str(path)):
        read_undo_log(layout)


@pytest.mark.parametrize(
    ("verb", "again"),
    [
        ("rotate-key", "; then again: sudo litellmctl rotate-key"),
        ("doctor --fix", ""),
    ],
)
def test_doctor_names_the_interrupted_command(layout: Layout, verb: str, again: str) -> None:
    """The finding about an interrupted change names the command that was interrupted, and what finishes it."""
    UndoLog(layout, verb, HOST)
    snapshot = Snapshot(layout)
    snapshot.is_root = True
    (found,) = detect_files_unfinished.detect(snapshot)
    assert isinstance(found, Finding)
    assert found.evidence.endswith(f"records an unfinished {verb}")
    assert found.remedy == f"{UNFINISHED.remedy}{again}"


def test_doctor_says_how_an_uninstall_is_kept_or_completed(layout: Layout) -> None:
    """An interrupted uninstall can be undone as long as nothing is removed. Then it is completed by an uninstall."""
    UndoLog(layout, "uninstall", HOST, purge=True)
    snapshot = Snapshot(layout)
    snapshot.is_root = True
    (found,) = detect_files_unfinished.detect(snapshot)
    assert isinstance(found, Finding)
    assert found.remedy == "sudo litellmctl uninstall --purge    # completes it"
    file = layout.real("/etc/litellm/litellm.env")
    file.parent.mkdir(parents=True)
    file.touch()
    snapshot = Snapshot(layout)
    snapshot.is_root = True
    (found,) = detect_files_unfinished.detect(snapshot)
    assert isinstance(found, Finding)
    assert found.remedy.startswith("sudo litellmctl doctor --fix    # undoes it, ")
    assert found.remedy.endswith(": sudo litellmctl uninstall --purge")


def test_no_verb_but_uninstall_removes_its_own_release(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """If an interrupted uninstall has removed files, another verb of the installed release names the command."""
    monkeypatch.setattr(apply, "require_root", lambda _what: None)
    monkeypatch.setattr(apply, "__file__", str(layout.real(f"{layout.prefix}/releases/a/apply.py")))
    UndoLog(layout, "uninstall", HOST)
    with (
        pytest.raises(Unavailable, match="after it had removed files") as refused,
        apply.changing(layout, "start", print),
    ):
        pass
    assert refused.value.hint.startswith("To complete it: sudo litellmctl uninstall. ")
    assert layout.real(layout.undo_log).exists()


def test_the_undo_log_has_the_verb(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a verb changes the host, the undo log has its name, for what is reported if it is killed."""
    monkeypatch.setattr(apply, "require_root", lambda _what: None)
    seen = []

    def prove() -> None:
        found = read_undo_log(layout)
        seen.append(found.verb if found else "")

    desired = DesiredState("", files=(), enabled=False, running=Running.UNTOUCHED)
    with changing(layout, "rotate-key", lambda _line: None) as executor:
        apply_install(executor, Plan((Action(Verb.SET_ACCESS, "/x"),)), desired, HostState(), prove)
    assert seen == ["rotate-key"]
    assert read_undo_log(layout) is None


def test_interruption_after_the_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that arrives after the change was recorded does not report that nothing was changed."""
    monkeypatch.setattr(apply, "require_root", lambda _what: None)
    interrupted = Interrupted(signal.SIGINT)
    with pytest.raises(Interrupted), changing(Layout(root=tmp_path), "install", lambda _line: None):
        raise interrupted
    assert interrupted.hint == ""
