"""The files in which all processes count, whatever happens to the processes and to the files."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from prometheus_client.mmap_dict import MmapedDict, mmap_key

from litellm_systemd.runtime.metrics import exposition, store
from litellm_systemd.runtime.metrics.store import Store, compact, read

#: Counts in a folder as a worker does.
_COUNT = """
import os, sys
from pathlib import Path
from litellm_systemd.runtime.metrics import counting
counting.start(os.environ, Path(sys.argv[1]), print)
from prometheus_client import Counter
many = Counter("many", "Many.", ["label"], registry=None)
for number in range(6000):
    many.labels(f"a label of a certain length, number {number}").inc()
print("counted")
"""
#: A main process that exits before its worker does.
_ORPHAN = """
import os, sys
from pathlib import Path
from litellm_systemd.runtime.metrics.store import Store
Store(Path(sys.argv[1]))
pid = os.fork()
if pid:
    print(pid, flush=True)
    os._exit(0)
sys.stdin.read()
"""


def write(folder: Path, name: str, *values: tuple[str, str, float]) -> Path:
    """A file of prometheus_client with values by metric and status."""
    path = folder / name
    kept: Any = MmapedDict(str(path))  # type: ignore[no-untyped-call]
    for metric, status, value in values:
        kept.write_value(mmap_key(metric, f"{metric}_total", ["status"], [status], "Help."), value, 0.0)
    kept.close()
    return path


def total(root: Path, metric: str = "m") -> float:
    """The sum of a counter over all files."""
    return sum(value for (_, key), value in store.add_up(read(root).values).items() if key.metric == metric)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Store]:
    """The folder of a main process that runs."""
    kept = Store(tmp_path)
    yield kept
    os.close(kept._lock)


def end(main: Store) -> None:
    """The main process and all its workers exit."""
    os.close(main._lock)
    main._lock = os.open(os.devnull, os.O_RDONLY)


def test_counts_of_gone_workers_stay(own: Store) -> None:
    """When workers exit, what they counted stays, in a number of files that does not grow, and their gauges go."""
    for pid in range(100, 130):
        write(own.folder, f"counter_{pid}.db", ("m", "200", 1.0), ("m", "500", 2.0))
        write(own.folder, f"gauge_livesum_{pid}.db", ("g", "x", 1.0))
        own.forget(pid)
        assert total(own.root) == (pid - 99) * 3
        if pid % 10 == 0:
            compact(own.root)
    assert not [each for each in read(own.root).values if each.kind == "gauge"]
    compact(own.root)
    assert list((own.root / store.GONE).iterdir()) == []
    assert [each.name for each in own.folder.iterdir()] == ["lock"]
    assert total(own.root) == 90


def test_pid_that_is_used_again(own: Store) -> None:
    """A worker that gets the pid of an earlier one counts in addition to it."""
    for count in (1, 2):
        write(own.folder, "counter_7.db", ("m", "200", 5.0))
        own.forget(7)
        assert total(own.root) == 5 * count


def test_gone_main_process(own: Store) -> None:
    """The counters of a main process that was killed stay, its gauges go, and its folder is removed."""
    other = Store(own.root)
    write(other.folder, "counter_1.db", ("m", "200", 4.0))
    write(other.folder, "gauge_livesum_1.db", ("g", "x", 1.0))
    other.write_state(store.State((("litellm_systemd_ready", {}, 1.0),)))
    assert len(read(own.root).states) == 2
    end(other)
    for _ in range(2):
        assert (total(own.root), len(read(own.root).states)) == (4, 1)
        assert not [each for each in read(own.root).values if each.kind == "gauge"]
        compact(own.root)
    assert not other.folder.exists()


def test_main_process_is_in_use_while_a_worker_runs(own: Store) -> None:
    """A folder stays in use until the last worker of a killed main process has exited."""
    argv = (sys.executable, "-c", _ORPHAN, str(own.root))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.wait(30)
        assert len(read(own.root).states) == 2
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while len(read(own.root).states) == 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_counters_never_go_back(own: Store) -> None:
    """While workers exit and files are added up, each read has every count exactly once."""
    done = threading.Event()
    seen: list[float] = []

    def look() -> None:
        while not done.is_set():
            seen.append(total(own.root))

    reader = threading.Thread(target=look)
    write(own.folder, "counter_1.db", ("m", "200", 1.0))
    reader.start()
    for pid in range(2, 152):
        write(own.folder, f"counter_{pid}.db", ("m", "200", 1.0))
        own.forget(pid - 1)
        if pid % 3 == 0:
            compact(own.root)
    done.set()
    reader.join()
    assert seen == sorted(seen)
    assert len(seen) > 10
    assert total(own.root) == 151


def test_sums_of_fractions_never_go_back(own: Store) -> None:
    """A cost or latency does not decrease by a rounding error when files move: Prometheus would add it once more."""
    random = Random(1)
    seen = []
    for pid in range(1, 400):
        write(own.folder, f"counter_{pid}.db", ("m", "200", random.random() / 3 ** (pid % 40)))
        if pid > 6:
            seen.append(total(own.root))
            own.forget(random.choice([int(each.stem[8:]) for each in own.folder.glob("*.db")]))
        seen.append(total(own.root))
        if pid % 5 == 0:
            compact(own.root)
            seen.append(total(own.root))
    assert seen == sorted(seen)
    assert len((own.root / store.TOTALS).read_bytes()) < 1000


def test_compaction_that_was_killed(own: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compaction that is killed after it has written the sums counts no file twice."""
    write(own.folder, "counter_1.db", ("m", "200", 3.0))
    own.forget(1)

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            compact(own.root)
    assert len(list((own.root / store.GONE).iterdir())) == 1
    for _ in range(2):
        assert total(own.root) == 3
        compact(own.root)
    assert list((own.root / store.GONE).iterdir()) == []


def test_one_compaction_at_a_time(own: Store) -> None:
    """While another process adds the files up, this one leaves them alone."""
    write(own.folder, "counter_1.db", ("m", "200", 3.0))
    own.forget(1)
    with (own.root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        compact(own.root)
        assert len(list((own.root / store.GONE).iterdir())) == 1


def test_no_room_for_the_sums(own: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the file system is full, the files stay as they are, and nothing is lost."""
    write(own.folder, "counter_1.db", ("m", "200", 3.0))
    own.forget(1)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "_replace", full)
    with pytest.raises(OSError, match="No space"):
        compact(own.root)
    assert total(own.root) == 3


@pytest.mark.parametrize("name", ["gone/*.db", "totals.json"])
def test_no_descriptor_for_a_file(own: Store, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A compaction that cannot open a file at the moment loses nothing."""
    write(own.folder, "counter_1.db", ("m", "200", 3.0))
    own.forget(1)
    compact(own.root)
    write(own.folder, "counter_2.db", ("m", "200", 4.0))
    own.forget(2)
    read_bytes = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.match(name):
            raise OSError(errno.EMFILE, "Too many open files")
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        with pytest.raises(OSError, match="Too many"):
            compact(own.root)
    compact(own.root)
    assert total(own.root) == 7


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda _: b"",
        lambda _: b"\xff" * 5000,
        lambda data: data[:8] + struct.pack("i", -5) + data[12:],
        lambda data: struct.pack("i", 2**31 - 1) + data[4:],
        lambda data: data.replace(b'["m"', b'{"m"', 1),
        lambda data: data[:12] + b"7".ljust(struct.unpack_from("i", data, 8)[0]) + data[-1000:],
        lambda data: data[:8] + struct.pack("i", 60_000) + b"[" * 60_000 + bytes(32),
    ],
    ids=["cut off", "empty", "no file", "negative length", "too long", "bad key", "no key", "deep key"],
)
def test_torn_file(own: Store, damage: Any) -> None:
    """A damaged file costs its own counts alone, in scrapes and in the sums."""
    path = write(own.folder, "counter_1.db", *(("m", str(status), 1.0) for status in range(600)))
    path.write_bytes(damage(path.read_bytes()))
    write(own.folder, "counter_2.db", ("other", "200", 7.0))
    assert total(own.root, "other") == 7
    before = total(own.root)
    own.forget(1)
    own.forget(2)
    compact(own.root)
    assert (total(own.root, "other"), total(own.root)) == (7, before)


@pytest.mark.parametrize(
    "text", ["1", "{}", "[1, 2]", "[[[1]], {}]", '[[["a", 1, 2]], {}]', "[" * 60_000, "null", "[[], []]"]
)
def test_damaged_state(own: Store, text: str) -> None:
    """A damaged file of gauges costs its own gauges alone, until it is replaced."""
    write(own.folder, "counter_1.db", ("m", "200", 3.0))
    for name in (store.STATE, store.MEMORY):
        (own.folder / name).write_text(text, encoding="utf-8")
    (own.root / store.TOTALS).write_text(text, encoding="utf-8")
    assert total(own.root) == 3
    exposition.measure(own.folder)
    own.write_state(store.State((("litellm_systemd_ready", {}, 1.0),)))
    assert "litellm_systemd_ready" in exposition.render(own.root, "")[0].decode()


def test_folder_of_another_user(own: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that the service cannot read is left out."""
    write(own.folder, "counter_1.db", ("m", "200", 3.0))
    (own.root / "other").mkdir()
    opened = os.open

    def refuse(path: Path, *arguments: Any) -> int:
        if path == own.root / "other/lock":
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(os, "open", refuse)
    assert total(own.root) == 3
    compact(own.root)


def test_main_process_survives_a_folder_that_it_cannot_read(own: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The exit of a worker does not end the main process if another user owns the folder by now."""

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "glob", refuse)
    own.forget(1)


def test_metric_of_another_release(own: Store) -> None:
    """A metric that had another type or help in an earlier release does not disturb the others."""
    write(own.folder, "histogram_1.db", ("m", "200", 9.0))
    own.forget(1)
    compact(own.root)
    write(own.folder, "counter_2.db", ("m", "200", 3.0), ("other", "200", 1.0))
    assert (total(own.root), total(own.root, "other")) == (3, 1)


def test_full_file_system_ends_no_process(tmp_path: Path) -> None:
    """A process counts on in memory when the file system has no room for its file, now or later."""
    folder = tmp_path / "full"
    folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", folder), check=True)
    try:
        argv = (sys.executable, "-c", _COUNT, str(folder))
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "counted"), done
        assert "No space left on device" in done.stdout
        assert len(store.read_file(next(folder.glob("counter_*.db")), print)) > 100
    finally:
        subprocess.run(("umount", folder), check=True)
