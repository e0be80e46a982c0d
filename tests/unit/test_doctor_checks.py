"""What single checks make of what they see: the parts that need no host."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from datetime import datetime, timedelta, timezone
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from litellm_systemd.doctor.cause import Finding
from litellm_systemd.doctor.check_clock import read_offset
from litellm_systemd.doctor.check_configuration import differing, read_environ
from litellm_systemd.doctor.check_credentials import ended
from litellm_systemd.doctor.check_disk import judge_room
from litellm_systemd.doctor.check_exit import End, has_given_up, read_end
from litellm_systemd.doctor.check_files import is_open, is_readable
from litellm_systemd.doctor.check_host import denials
from litellm_systemd.doctor.check_port import listen_addresses
from litellm_systemd.doctor.check_unit import find_line
from litellm_systemd.doctor.repair import restore, restore_access
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import render_manifest
from litellm_systemd.host.state import FileKind, FileState, Record, Verb, folder, record_of
from litellm_systemd.host.systemctl import Event
from litellm_systemd.report.report import Outcome

EXITED = "98e322203f7a4ed290d09fe03c09fe15"
FAILED = "d9b373ed55a64feb8242e02dbe79a49c"


def event(when: float, message: str, kind: str = "", **fields: str) -> Event:
    return Event(when, f"litellm.service: {message}", {"MESSAGE_ID": kind, **fields})


KILLED = (
    event(100, "Main process exited, code=killed, status=9/KILL", EXITED, EXIT_STATUS="9"),
    event(101, "Control process exited, code=exited, status=1/FAILURE", EXITED, EXIT_STATUS="1"),
    event(102, "Failed with result 'signal'.", FAILED, UNIT_RESULT="signal"),
)


def test_the_last_end_is_read_from_the_journal() -> None:
    """How a service ended that was restarted since is read from systemd's own fields, the main process's alone."""
    later = (
        event(200, "Main process exited, code=exited, status=78/CONFIG", EXITED, EXIT_STATUS="78"),
        event(201, "Failed with result 'exit-code'.", FAILED, UNIT_RESULT="exit-code"),
    )
    assert read_end(KILLED, 0) == End("signal", 9)
    assert read_end((*KILLED, *later), 0) == End("exit-code", 78)
    assert read_end(KILLED, 150) is None


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (End("exit-code", 78), "exit code 78 (the configuration or the environment can't work)"),
        (End("exit-code", 217), "exit code 217 (USER: there is no such user)"),
        (End("exit-code", 5), "exit code 5"),
        (End("signal", 9), "Result=signal, SIGKILL"),
        (End("watchdog", 6), "Result=watchdog, SIGABRT"),
        (End("timeout"), "Result=timeout (it wasn't ready, or didn't stop, in time)"),
    ],
    ids=str,
)
def test_an_end_in_words(end: End, words: str) -> None:
    """An exit code is told as sysexits.h and systemd.exec(5) mean it, a signal by its name."""
    assert str(end) == words


def test_start_limit_is_seen_under_any_result() -> None:
    """systemd has given up if it says so, though the unit's Result is that of the last end before."""
    given_up = event(103, "Start request repeated too quickly.")
    assert has_given_up("start-limit-hit", ())
    assert has_given_up("signal", (*KILLED, given_up, KILLED[-1]))
    assert not has_given_up("signal", (given_up, *KILLED * 3))


def test_listen_addresses() -> None:
    """The addresses of a socket unit are read as systemd prints them; a UNIX socket is none."""
    assert listen_addresses("127.0.0.1:4000 (Stream)") == ("127.0.0.1:4000",)
    assert listen_addresses("[::1]:4000 (Stream) /run/x.sock (Stream)") == ("[::1]:4000",)
    assert listen_addresses("") == ()


@pytest.mark.parametrize("minutes", [-11, 0, 11])
def test_the_clock_of_an_endpoint(minutes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """How far the clock is off is read from the date of an answer, a refusal included."""
    monkeypatch.setattr("litellm_systemd.doctor.check_clock._TIMEOUT", 60.0)  # a thread of this process answers

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(403)
            self.send_header("Date", formatdate(time.time() + minutes * 60, usegmt=True))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        offset = read_offset(f"http://127.0.0.1:{server.server_port}", {})
        server.shutdown()
    assert offset is not None
    assert round(offset / 60) == minutes


def test_no_answer_says_nothing_of_the_clock() -> None:
    """An endpoint that can't be reached is a matter of the network, not of the clock."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert read_offset(f"http://127.0.0.1:{closed.getsockname()[1]}", {}) is None


@pytest.mark.parametrize(
    ("left", "share", "outcome"),
    [(0, 0.0, Outcome.FAILED), (50, 0.01, Outcome.WARNING), (50, 0.9, None), (500, 0.01, None), (0, None, None)],
)
def test_room(left: int, share: float | None, outcome: Outcome | None) -> None:
    """Little room is one thing, a small file system another; one that doesn't count its files isn't full of them."""
    assert judge_room(left, share, 10, 100) is outcome


def test_denials() -> None:
    """Denials of SELinux and AppArmor are told if they are about us, not those of others."""
    selinux = 'audit: type=1400 avc:  denied  { execute } for comm="(python)" path="/opt/litellm-systemd/x"'
    apparmor = 'audit: type=1400 apparmor="DENIED" operation="open" profile="litellm" name="/etc/x"'
    others = 'audit: apparmor="DENIED" operation="open" profile="snap.cups" name="/etc/x"'
    assert denials((selinux, apparmor, others, "litellm started")) == (selinux, apparmor)


@pytest.mark.parametrize(
    ("mode", "owner", "group", "kind", "readable"),
    [
        (0o640, "root", "litellm", FileKind.FILE, True),
        (0o640, "root", "root", FileKind.FILE, False),
        (0o600, "root", "litellm", FileKind.FILE, False),
        (0o044, "litellm", "root", FileKind.FILE, False),
        (0o644, "root", "root", FileKind.FILE, True),
        (0o750, "root", "litellm", FileKind.FOLDER, True),
        (0o744, "root", "root", FileKind.FOLDER, False),
    ],
)
def test_is_readable(mode: int, owner: str, group: str, kind: FileKind, readable: bool) -> None:
    """Whether the service's user may read a file or pass a folder is told as the kernel decides it."""
    assert is_readable(FileState("/x", b"", mode, owner, group, kind)) is readable


def test_is_open() -> None:
    """A file with keys is open if anyone but root can read, write or own it."""
    assert not is_open(FileState("/x", mode=0o600))
    assert not is_open(FileState("/x", mode=0o400))
    assert is_open(FileState("/x", mode=0o640))
    assert is_open(FileState("/x", mode=0o600, owner="me"))


def test_find_line(tmp_path: Path) -> None:
    """The line of a drop-in that decides a setting is the last one that sets it, in systemd's order of files."""
    unit, first, second = tmp_path / "u.service", tmp_path / "a.conf", tmp_path / "b.conf"
    unit.write_text("[Service]\nUser=litellm\n", encoding="utf-8")
    first.write_text("[Service]\n# User=x\nUser = root\nUserX=1\n", encoding="utf-8")
    second.write_text("[Service]\nNice=1\n", encoding="utf-8")
    sources = (unit, first, tmp_path / "gone.conf", second)
    assert find_line(sources, "User") == f"{first}:3"
    assert find_line(sources, "Group") == str(unit)


def test_differing_variables(tmp_path: Path) -> None:
    """Variables that a process hasn't as the file has them are told by name; systemd's own don't count."""
    environ = tmp_path / "environ"
    environ.write_bytes(b"A=1\0B=two=2\nlines\0INVOCATION_ID=x\0")
    running = read_environ(environ)
    assert differing({"A": "1", "B": "two=2\nlines"}, running) == ""
    assert differing({"A": "2", "C": "secret", "B": "two=2\nlines"}, running) == "A, C"


# --- bringing files back ---


def make_scene(root: Path, records: dict[str, Record]) -> Snapshot:
    snapshot = Snapshot(Layout(root=root))
    snapshot.is_root = True
    path = snapshot.layout.real(snapshot.layout.manifest)
    path.parent.mkdir(parents=True)
    path.write_text(render_manifest(snapshot.layout, records, None), encoding="utf-8")
    return snapshot


def test_a_file_comes_back_from_its_copy(tmp_path: Path) -> None:
    """A file that is gone is written again as it was; a unit is told to systemd; without a copy nothing is done."""
    lost = FileState("/etc/systemd/system/litellm.service", b"[Unit]\n")
    snapshot = make_scene(tmp_path, {lost.path: record_of(lost)})
    assert restore(snapshot, lost.path, record_of(lost)) == ()
    copy = snapshot.layout.real(f"{snapshot.layout.pristine}/{lost.digest}")
    copy.parent.mkdir()
    copy.write_bytes(lost.content)
    steps = restore(snapshot, lost.path, record_of(lost))
    assert [step.verb for step in steps] == [Verb.WRITE, Verb.DAEMON_RELOAD]
    assert steps[0].after == lost
    # A copy that was tampered with is none.
    copy.write_bytes(b"[Service]\nUser=root\n")
    assert restore(snapshot, lost.path, record_of(lost)) == ()


def test_a_link_comes_back_by_its_digest(tmp_path: Path) -> None:
    """A link that is gone leads again where it led, though only the digest of that is known."""
    digest = hashlib.sha256(b"configs/mine.yml").hexdigest()
    record = Record(digest, FileKind.LINK, 0o777)
    config = "/etc/litellm/configs/mine.yml"
    snapshot = make_scene(tmp_path, {"/etc/litellm/config.yaml": record, config: Record("0" * 64)})
    (step,) = restore(snapshot, "/etc/litellm/config.yaml", record)
    assert step.after is not None
    assert (step.after.kind, step.after.content) == (FileKind.LINK, b"configs/mine.yml")
    assert restore(snapshot, "/etc/litellm/config.yaml", Record("0" * 64, FileKind.LINK, 0o777)) == ()


def test_folders_and_modes(tmp_path: Path) -> None:
    """A folder below /etc comes back by systemd-tmpfiles; a mode is set without a touch of the content."""
    snapshot = make_scene(tmp_path, {})
    made = folder("/etc/litellm/configs", 0o750, group="litellm")
    assert [step.verb for step in restore(snapshot, made.path, record_of(made))] == [Verb.CREATE_FOLDERS]
    (step,) = restore_access(FileState("/x", b"content", 0o666), 0o600, "root", "root")
    assert (step.verb, step.after) == (Verb.SET_ACCESS, FileState("/x", b"", 0o600))


@pytest.mark.parametrize(
    ("minutes", "outcome"), [(-1, Outcome.FAILED), (30, Outcome.WARNING), (90, None)], ids=["over", "soon", "later"]
)
def test_temporary_credentials(tmp_path: Path, minutes: int, outcome: Outcome | None) -> None:
    """Temporary AWS credentials that have ended are a failure, those that end within the hour a warning."""
    layout = Layout(root=tmp_path)
    end = datetime.now(timezone.utc) + timedelta(minutes=minutes)
    path = layout.real(layout.environment_file)
    path.parent.mkdir(parents=True)
    path.write_text(f'AWS_SESSION_TOKEN="token"\nAWS_CREDENTIAL_EXPIRATION="{end.isoformat()}"\n', encoding="utf-8")
    found = [each.outcome for each in ended.look(Snapshot(layout)) if isinstance(each, Finding)]
    assert found == ([outcome] if outcome else [])
