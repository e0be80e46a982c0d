"""Hostile input: every reader accepts it or refuses it with one clear error, in bounded time and memory."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values
from hypothesis import example, given, settings
from hypothesis import strategies as st

from litellm_systemd.env.dotenv import check_assignment, parse_dotenv, render_assignments
from litellm_systemd.env.environment_file import parse_environment_file
from litellm_systemd.errors import InstallerError
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import find_any_layout, find_layout, read_manifest, render_manifest
from litellm_systemd.host.state import Action, HostState, Record, UnitState, Verb
from litellm_systemd.install.undo_log import UndoLog, read_undo_log
from litellm_systemd.logs.events import group_events, read_events
from litellm_systemd.releases.archive import LOCK, Manifest, unpack, write_archive
from litellm_systemd.releases.checked_archive import file_entry
from litellm_systemd.releases.inventory import Release, read_release
from litellm_systemd.releases.requirements_lock import parse_lock
from litellm_systemd.releases.source import wheel_source
from litellm_systemd.runtime.master.control import ControlClient, ControlSocket, query
from litellm_systemd.runtime.master.event_loop import EventLoop

SHORT = settings(max_examples=60, derandomize=True, database=None)
ODD: st.SearchStrategy[Any] = st.sampled_from(
    ["", "\0", "../../x", "/", "é\ud800", "[" * 5000, -1, 1 << 80, 1e400, float("nan"), None, [], {}]
)
JSON = st.recursive(
    ODD | st.text(max_size=5) | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def refused(read: Callable[[], object]) -> str:
    """The message with which input is refused; empty if it is accepted. Any other error fails the test."""
    try:
        read()
    except InstallerError as error:
        return error.message or "without a message"
    return ""


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes with parts removed, replaced and inserted."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 40) | st.integers(0, len(content)))
        content[start : start + length] = draw(st.binary(max_size=40))
    return bytes(content)


def changed(document: Any) -> st.SearchStrategy[Any]:
    """A JSON document in which one value, at any depth, is another one."""
    options = [JSON]
    if isinstance(document, dict):
        for key, value in document.items():
            options.append(changed(value).map(partial(_with, document, key)))
    elif isinstance(document, list):
        for at, value in enumerate(document):
            options.append(changed(value).map(partial(_with, document, at)))
    return st.one_of(options)


def _with(document: Any, key: Any, value: Any) -> Any:
    return {**document, key: value} if isinstance(document, dict) else [*document[:key], value, *document[key + 1 :]]


def dump(document: Any) -> bytes:
    return json.dumps(document).encode()


@pytest.fixture(scope="module")
def scratch() -> Iterator[Path]:
    """A folder in which every file is one that a test wrote; nothing may appear next to it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "inside"
        folder.mkdir()
        yield folder
        assert [path.name for path in Path(name).iterdir()] == ["inside"]


# --- environment ---

DOTENV = st.text(
    st.sampled_from("AB=\"'\\#$ {}\n\r\t:-é\0\x0c\x85\u2028;`") | st.characters(codec="utf-8"), max_size=50
)


@SHORT
@given(DOTENV)
@example("A=1\n\x0c\x85=\n")
@example("A=${A}${A}\nB=${A:-${B}}\n")
def test_dotenv(text: str) -> None:
    """Any `.env` is read as python-dotenv does, and reaches the service unchanged, or is refused with its name."""
    if message := refused(lambda: parse_dotenv(text, "x.env")):
        assert message.startswith("x.env:")
        return
    values = parse_dotenv(text, "x.env").values
    assert values == {
        name: value for name, value in dotenv_values(stream=io.StringIO(text)).items() if value is not None
    }
    accepted = {
        name: value for name, value in values.items() if not refused(partial(check_assignment, name, value, "x.env"))
    }
    assert parse_environment_file(render_assignments(accepted)) == accepted


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("A=" + "x" * 2000 + "\n" + "A=${A}${A}\n" * 40, "x.env:10: the value is too long"),
        ("A=" + "${" * 20_000, "x.env:1: the value is too long"),
        ("B=1\nA=x" + " " * 600 + "#", "x.env:2: more than 500 blanks"),
    ],
    ids=["doubled", "references", "blanks"],
)
def test_dotenv_that_takes_memory_or_time(text: str, where: str) -> None:
    """Values that double the one before, and lines that take python-dotenv quadratic time, are refused by line."""
    assert refused(lambda: parse_dotenv(text, "x.env")).startswith(where)


def test_references_are_replaced() -> None:
    """References to earlier variables, defaults and unknown names are replaced as python-dotenv does it."""
    text = "A=a\nB=${A}-${NO_SUCH:-d}-${NO_SUCH}\nA=${A}${B}\nC='${A}'\nD\nE=${D:-x}\n"
    assert parse_dotenv(text, "x.env").values == {"A": "aa-d-", "B": "a-d-", "C": "aa-d-", "E": ""}


# --- the state of litellmctl ---

RECORDS = {"/etc/litellm/litellm.env": Record("0" * 64), "/x": Record("1" * 64, mode=0o600)}


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


MANIFEST = json.loads(render_manifest(Layout(), RECORDS, "0.1.0-a"))


@SHORT
@given(changed(MANIFEST).map(dump) | damaged(dump(MANIFEST)))
@example(dump({**MANIFEST, "files": {"/../../etc/x": MANIFEST["files"]["/x"]}}))
@example(dump({**MANIFEST, "files": {"/x": {**MANIFEST["files"]["/x"], "mode": "77777777"}}}))
def test_manifest(scratch: Path, content: bytes) -> None:
    """Any manifest is read, with plain absolute paths and valid modes, or refused with its path.

    `status` and `logs` work with all of them.
    """
    layout = Layout(root=scratch)
    write(layout.real(layout.manifest), content)

    def read() -> None:
        for path, record in read_manifest(layout).items():
            assert path.startswith("/")
            assert ".." not in path.split("/")
            assert 0 <= record.mode <= 0o7777
        find_layout(layout.root, None)

    assert str(layout.manifest) in (refused(read) or layout.manifest)
    assert find_any_layout(layout.root).root == layout.root


def undo_log_of(layout: Layout) -> bytes:
    log = UndoLog(layout, "install", HostState({}, {}, {"litellm.service": UnitState("litellm.service")}))
    log.record(Action(Verb.WRITE, "/x", "because"))
    log.commit("{}")
    content = layout.real(layout.undo_log).read_bytes()
    log.close()
    return content


@pytest.fixture(scope="module")
def undo_log(scratch: Path) -> list[Any]:
    return [json.loads(line) for line in undo_log_of(Layout(root=scratch)).splitlines()]


@SHORT
@given(st.data())
def test_undo_log(scratch: Path, undo_log: list[Any], data: st.DataObject) -> None:
    """Any undo log is read, with steps that have a text as their target, or refused with its path."""
    layout = Layout(root=scratch)
    lines = data.draw(changed(undo_log))
    content = b"\n".join(map(dump, lines if isinstance(lines, list) else [lines])) + b"\n"
    write(layout.real(layout.undo_log), data.draw(st.just(content) | damaged(content)))

    def read() -> None:
        found = read_undo_log(layout)
        assert found is None or all(isinstance(step.target, str) for step in found.taken)

    assert "undo log" in (refused(read) or "undo log")


@pytest.mark.parametrize("host", [{"units": []}, {"units": {"x": []}}, {"paths": 1}, {"units": {"x": {"load": "x"}}}])
def test_undo_log_of_another_host(scratch: Path, undo_log: list[Any], host: dict[str, Any]) -> None:
    """An undo log whose state of the host has other types is refused with its path."""
    layout = Layout(root=scratch)
    head = {**undo_log[0], "host": {**undo_log[0]["host"], **host}}
    write(layout.real(layout.undo_log), dump(head) + b"\n")
    assert "is not an undo log" in refused(lambda: read_undo_log(layout))


MARK = json.loads(Release("x").as_mark())


@SHORT
@given(changed(MARK).map(dump) | damaged(dump(MARK)))
def test_release_mark(scratch: Path, content: bytes) -> None:
    """Any release.json gives a release; fields that can't be read are empty."""
    layout = Layout(root=scratch)
    write(layout.real(layout.release("x")) / "release.json", content)
    assert read_release(layout, "x").identifier == "x"


# --- bundles, wheels and locks ---

OURS = "litellm_systemd-0.1.0-py3-none-any.whl"


def small_wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("litellm_systemd/a.py", "x = 1\n" * 100)
        wheel.writestr(f"litellm_systemd/{LOCK}", f"a==1 --hash=sha256:{'0' * 64}\n")
        wheel.writestr("litellm_systemd-1.dist-info/METADATA", "")
    return buffer.getvalue()


def small_bundle(change: Callable[[dict[str, Any]], Any] = lambda manifest: manifest) -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = {LOCK: b"a==1\n", OURS: small_wheel(), "wheels/a-1-py3-none-any.whl": b"a" * 700}
        for file, data in content.items():
            write(folder / file, data)
        files = {file: file_entry(folder / file) for file in sorted(content)}
        manifest = Manifest("0.1.0", "1.106.2", "3.11", "x86_64", "c" * 64, "2026-11-24T00:00:00Z", files)
        write_archive(folder / "bundle.tar", manifest, folder)
        with tarfile.open(folder / "bundle.tar") as source, tarfile.open(folder / "new.tar", "w") as target:
            for member in source:
                opened = source.extractfile(member)
                text = b"" if opened is None else opened.read()
                if member.name == "manifest.json":
                    text = dump(change(json.loads(text)))
                    member.size = len(text)
                target.addfile(member, io.BytesIO(text))
        return (folder / "new.tar").read_bytes()


BUNDLE = small_bundle()
BUNDLE_MANIFEST = json.loads(BUNDLE[512 : BUNDLE.index(b"\0", 512)])


@SHORT
@given(changed(BUNDLE_MANIFEST).map(lambda new: small_bundle(lambda _old: new)) | damaged(BUNDLE))
def test_bundle(scratch: Path, content: bytes) -> None:
    """Any bundle is unpacked into its folder, or refused with its path before a file is written."""
    (scratch / "b.tar").write_bytes(content)
    with tempfile.TemporaryDirectory(dir=scratch) as out:
        message = refused(lambda: unpack(scratch / "b.tar", Path(out)))
        written = {str(path.relative_to(out)) for path in Path(out).rglob("*") if path.is_file()}
    assert "b.tar" in (message or "b.tar")
    assert written == (set() if message else set(BUNDLE_MANIFEST["files"]))


@SHORT
@given(damaged(small_wheel()))
def test_wheel(scratch: Path, content: bytes) -> None:
    """Any wheel of this package is read, or refused with its path."""
    (scratch / "x.whl").write_bytes(content)
    assert "x.whl" in (refused(lambda: wheel_source(scratch / "x.whl")) or "x.whl")


@SHORT
@given(damaged(f"a==1 ; python_version < '3.11' \\\n    --hash=sha256:{'0' * 64}\n".encode() * 2))
def test_lock(content: bytes) -> None:
    """Any lock is read, or refused with its name."""
    assert "x.lock" in (refused(lambda: parse_lock(content.decode(errors="replace"), "x.lock")) or "x.lock")


# --- the service ---


@pytest.fixture(scope="module")
def control(scratch: Path) -> Iterator[Path]:
    """The path of a control socket that answers, as the main process does, in its event loop."""
    events, stop = EventLoop(), threading.Event()

    def answer(command: str, client: ControlClient, _pair: object) -> None:
        client.answer({"ok": True, "command": command[:100]})

    served = ControlSocket(scratch / "control.sock", events, answer)

    def serve() -> None:
        while not stop.is_set():
            events.wait(0.05)

    thread = threading.Thread(target=serve)
    thread.start()
    yield scratch / "control.sock"
    stop.set()
    thread.join()
    served.close()
    events.close()


@SHORT
@given(st.binary(max_size=200) | changed({"command": "x", "certificate": "y", "key": "z"}).map(dump), st.booleans())
@example(b"[" * 4000, True)
@example(b"9" * 4000, True)
@example(b"x" * 100_000, False)
def test_control_socket(control: Path, content: bytes, whole: bool) -> None:
    """Whatever a client sends to the control socket, the next one is answered."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(control))
        with contextlib.suppress(OSError):
            client.sendall(content + b"\n" if whole else content)
    assert query(control, "status", 10)["ok"] is True


@SHORT
@given(st.binary(max_size=200) | JSON.map(dump))
@example(b"[" * 100_000 + b"\n")
@example(b"")
def test_answer_of_the_control_socket(scratch: Path, content: bytes) -> None:
    """Any answer of the main process is a JSON object or one clear error."""
    path = scratch / "answer.sock"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.recv(4096)
                connection.sendall(content)

        thread = threading.Thread(target=serve)
        thread.start()
        with contextlib.suppress(OSError):  # it closed the connection without an answer
            refused(lambda: query(path, "status", 10).items())
        thread.join()


ENTRY = {"MESSAGE": '{"message": "x", "stacktrace": "y"}', "_PID": "7", "PRIORITY": "3", "__REALTIME_TIMESTAMP": "1"}


@SHORT
@given(st.lists(changed(ENTRY).filter(lambda entry: isinstance(entry, dict)), max_size=3), JSON)
def test_journal_entries(entries: list[dict[str, Any]], message: Any) -> None:
    """Whatever a process wrote into the journal, its entries are read and grouped."""
    # journald itself writes the time (systemd.journal-fields(7)).
    written = [{**entry, "__REALTIME_TIMESTAMP": "1"} for entry in entries]
    written.append({**ENTRY, "MESSAGE": json.dumps({"message": message})})
    assert group_events(read_events(written))


# --- all of them: memory and time ---


def test_nothing_exhausts_memory_or_time(tmp_path: Path) -> None:
    """Bombs of every kind, for every reader, end within 5 seconds and 256 MiB: accepted, or with one clear error."""
    argv = (sys.executable, "-m", "tests.unit.hostile_input", str(tmp_path))
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    outcomes = dict(line.split("\t", 1) for line in done.stdout.splitlines())
    assert done.returncode == 0, (list(outcomes)[-1:], done.stderr[-500:])
    assert len(outcomes) > 80
    assert {name: text for name, text in outcomes.items() if not text.startswith(("accepted", "refused"))} == {}
    harmless = (".env", "environment", "log", "configuration", "release.json")
    assert [name for name, text in outcomes.items() if text == "accepted" and not name.startswith(harmless)] == []
