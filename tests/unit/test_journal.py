"""The write-ahead journal."""

from __future__ import annotations

from pathlib import Path

import pytest

from litellm_systemd.errors import InputError
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import Action, FileState, HostState, UnitState, Verb
from litellm_systemd.install.undo_log import UndoLog, read_undo_log

HOST = HostState(
    files={"/etc/litellm/litellm.env": FileState("/etc/litellm/litellm.env", b"KEY=secret")},
    units={"litellm.service": UnitState("litellm.service", "loaded", "active", "enabled")},
    user_exists=True,
)
STEPS = (Action(Verb.WRITE, "/etc/litellm/litellm.env", "changed"), Action(Verb.RESTART, "litellm.service"))


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(root=tmp_path)


def begin(layout: Layout, steps: tuple[Action, ...] = STEPS) -> UndoLog:
    journal = UndoLog(layout, "install", HOST)
    for step in steps:
        journal.record(step)
    return journal


def test_what_was_begun_can_be_read(layout: Layout) -> None:
    """The journal of a change that was cut short tells all that going back needs."""
    begin(layout)
    found = read_undo_log(layout)
    assert found is not None
    assert (found.verb, found.taken, found.manifest) == ("install", STEPS, None)
    assert found.host.files.keys() == HOST.files.keys()
    assert found.host.unit("litellm.service") == HOST.unit("litellm.service")
    assert found.host.user_exists


def test_no_secret_is_in_it(layout: Layout) -> None:
    """No content of a file gets into the journal, which nobody but root can read."""
    begin(layout)
    path = layout.real(layout.journal)
    assert b"secret" not in path.read_bytes()
    assert path.stat().st_mode & 0o077 == 0


def test_committed(layout: Layout) -> None:
    """A change whose steps were all taken is known as one, with the manifest that it was to leave."""
    begin(layout).commit("the manifest\n")
    found = read_undo_log(layout)
    assert found is not None
    assert found.manifest == "the manifest\n"


def test_closed(layout: Layout) -> None:
    """After the end of a change there is no journal."""
    begin(layout).close()
    assert read_undo_log(layout) is None


def test_a_torn_line_was_not_taken(layout: Layout) -> None:
    """A record that was being written when the power went doesn't count, wherever it was cut."""
    begin(layout)
    path = layout.real(layout.journal)
    whole = path.read_bytes()
    ends = [number for number, byte in enumerate(whole, 1) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        found = read_undo_log(layout)
        assert found is not None
        recorded = sum(length >= end for end in ends)
        assert len(found.taken) == max(0, recorded - 1)


@pytest.mark.parametrize("text", ["{}\n", "nonsense\n", '{"format": 99}\n', "[]\n"])
def test_not_a_journal(layout: Layout, text: str) -> None:
    """A journal that can't be read is an error that names the file, and not a guess."""
    path = layout.real(layout.journal)
    path.parent.mkdir(parents=True)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=str(path)):
        read_undo_log(layout)
