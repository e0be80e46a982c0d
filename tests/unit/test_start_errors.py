"""The error of a start that failed, from its journal."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest

from litellm_systemd.doctor.check_network import stop_command, unit_of
from litellm_systemd.doctor.check_unit import failed_start_times, unit_complaints
from litellm_systemd.doctor.start_errors import exception_of, find_blamed, find_crash, find_start_error, read_error
from litellm_systemd.host.effective import UnitLine
from litellm_systemd.host.systemctl import Event

ETC = "/etc/litellm"
LOST = """\
Traceback (most recent call last):
  File "<frozen runpy>", line 198, in _run_module_as_main
  File "/opt/litellm-systemd/current/lib/python3.11/site-packages/litellm_systemd/runtime/worker/worker.py", line 34
    import uvicorn
ModuleNotFoundError: No module named 'uvicorn'"""
CALLBACK = (
    "LiteLLM rejects /etc/litellm/configs/demo.yml: litellm_settings.callbacks[0]: broken (/etc/litellm/cb.py:2)"
)


def journal(*texts: str, priority: int = 6, pid: str = "42") -> tuple[Mapping[str, object], ...]:
    """Entries as journald stores them: one for each line."""
    lines = [line for text in texts for line in text.split("\n")]
    return tuple({"MESSAGE": line, "PRIORITY": str(priority), "_PID": pid} for line in lines)


SYSTEMD = journal(
    "litellm.service: Main process exited, code=exited, status=1/FAILURE",
    "litellm.service: Failed with result 'exit-code'.",
    "Failed to start litellm.service - LiteLLM Proxy.",
    priority=3,
    pid="1",
)


@pytest.mark.parametrize(
    ("text", "means", "quote"),
    [
        (LOST, "package or module is missing", "ModuleNotFoundError: No module named 'uvicorn'"),
        ("ModuleNotFoundError: No module named 'asyncio'", "standard library", "ModuleNotFoundError"),
        ("FileNotFoundError: [Errno 2] No usable temporary directory found in ['/tmp']", "limit of their size", ""),
        ("OSError: [Errno 24] Too many open files", "limit of open files", "OSError: [Errno 24] Too many open files"),
        (
            "ImportError: /x/_y.so: failed to map segment from shared object",
            "noexec",
            "ImportError: /x/_y.so: failed",
        ),
        ("ssl.SSLError: [X509: NO_CERTIFICATE_OR_CRL_FOUND] no certificate", "A CA file", "ssl.SSLError"),
        ("OSError: [Errno 30] Read-only file system: '/var/lib/litellm/x'", "read-only", "OSError: [Errno 30]"),
        ("OSError: [Errno 28] No space left on device", "has no space left", "OSError: [Errno 28]"),
        ("RuntimeError: can't start new thread", "limit of processes", "RuntimeError"),
        ("/etc/litellm/config.yaml can't be read. The service runs as litellm.", "read the configuration", "/etc"),
        ("TLS_KEY_FILE=/etc/letsencrypt/a.key: Permission denied. x", "its unit passes no copy", "TLS_KEY_FILE"),
        ("EOFError: marshal data too short", "release or of its Python is missing or damaged", "EOFError"),
        ("litellm.service: Failed at step EXEC spawning /x: Permission denied", "cannot execute the Python", ""),
        ("Failed to set up mount namespacing: /srv/x: No such file or directory", "cannot create the sandbox", ""),
        ("worker 1 (pid 7) was killed by SIGSEGV before it was ready", "crashed in a C library", "worker 1"),
    ],
)
def test_the_cause_is_read_from_the_journal(text: str, means: str, quote: str) -> None:
    """The last error before the exit is the cause, also at another priority, and its exception is quoted."""
    found = find_start_error((*journal("starting", text), *SYSTEMD), ETC)
    assert found is not None
    assert found.known is not None
    assert means in found.known.means
    assert str(found).startswith(quote)


def test_systemd_names_the_cause() -> None:
    """A line of systemd is the cause if it reports what failed, and not if it reports the end."""
    timed_out = journal("litellm.service: start operation timed out. Terminating.", priority=4, pid="1")
    found = find_start_error((*timed_out, *SYSTEMD), ETC)
    assert found is not None
    assert found.known is not None
    assert "start timeout" in found.known.means
    assert find_start_error(SYSTEMD, ETC) is None


def test_an_unknown_error_is_quoted() -> None:
    """The last error is quoted even if its meaning is unknown; one that names its cause comes before a later one."""
    found = find_start_error((*journal("Error: odd"), *SYSTEMD), ETC)
    assert found is not None
    assert (str(found), found.is_explained) == ("Error: odd", False)
    earlier = journal("OSError: [Errno 24] Too many open files", "giving up", priority=3)
    assert "Too many open files" in str(find_start_error((*earlier, *SYSTEMD), ETC))


def test_a_library_that_is_not_preloaded_is_no_error() -> None:
    """What the dynamic linker ignores, such as the library of an agent that was removed, is not the cause."""
    ignored = "ERROR: ld.so: object '/opt/agent.so' from /etc/ld.so.preload cannot be preloaded"
    ignored += " (cannot open shared object file): ignored."
    found = find_start_error((*journal(ignored, "Error: odd"), *SYSTEMD), ETC)
    assert str(found) == "Error: odd"
    assert find_start_error((*journal(ignored), *SYSTEMD), ETC) is None


def test_code_of_the_user_is_named() -> None:
    """For an exception in the user's own file, file and line are named: from a traceback, and from a message."""
    trace = f"Traceback (most recent call last):\n  File \"{ETC}/cb.py\", line 7, in <module>\n    x()\nKeyError: 'a'"
    found = find_start_error((*journal(trace), *SYSTEMD), ETC)
    assert found is not None
    assert (found.quote, found.file) == ("KeyError: 'a'", "/etc/litellm/cb.py:7")
    found = find_start_error((*journal(CALLBACK, priority=3), *SYSTEMD), ETC)
    assert found is not None
    assert (found.quote.endswith("broken"), found.file) == (True, "/etc/litellm/cb.py:2")


def test_crash() -> None:
    """For a crash of a C library, the frame in it and the one in the user's file are named."""
    dump = (
        "Fatal Python error: Segmentation fault",
        "Current thread 0x00007f00 (most recent call first):",
        '  File "<frozen importlib._bootstrap>", line 241 in _call\n  File "/usr/lib/ctypes.py", line 5 in at',
        f'  File "{ETC}/cb.py", line 3 in <module>',
    )
    assert find_crash(journal(*dump), ETC) == "/usr/lib/ctypes.py:5, called by /etc/litellm/cb.py:3"
    assert find_crash(journal(LOST), ETC) == ""


def test_exception_of() -> None:
    """The exception follows the last frame; its message may have more lines."""
    assert exception_of(f"x\n{LOST}\nmore") == "ModuleNotFoundError: No module named 'uvicorn'"
    assert exception_of("one\ntwo") == "one"


def test_a_drop_in_is_blamed() -> None:
    """A line of a drop-in that sets what the error is about is named, first the one with the path of the message."""
    found = find_start_error(
        journal("Failed to set up mount namespacing: /root/srv/x: No such file", priority=3), ETC
    )
    assert found is not None
    settings = (("ReadOnlyPaths", "/etc"), ("BindPaths", "/srv/x"), ("Nice", "/srv/x"))
    lines = [UnitLine("a", number, "[Service]", *each) for number, each in enumerate(settings, 2)]
    assert [find_blamed(found.known, each, found.quote) for each in (lines, lines[:1], lines[2:])] == [
        lines[1],
        lines[0],
        None,
    ]


@pytest.mark.parametrize(
    ("values", "quote", "blamed"),
    [
        (("/etc", "/etc/litellm/x"), "'/etc/litellm/x'", 1),
        (("/etc /srv", "/var:/etc/litellm"), "/etc/litellm/x can't be read. The service", 1),
        (("/etc/lite", "/etc/litellm/x.y", "/etc/litellm/x"), "'/etc/litellm/x.'", 2),
        (("/lib", "-/var/lib/litellm/"), "'/var/lib/litellm/x'", 1),
        (("/lib", "/var/log", "/var"), "'/var/lib/litellm'", 2),
        (("/srv/y", "/srv/x:rbind"), "/run/systemd/unit-root/srv/x: No such file", 1),
        (("yes", "/"), "yes /etc", 0),
    ],
)
def test_the_line_with_the_path_is_blamed(values: tuple[str, ...], quote: str, blamed: int) -> None:
    """Of several lines the one with the most of a path in the message is named; a part of a name is no path."""
    known = read_error("PermissionError", ETC).known
    lines = [UnitLine("a", number, "[Service]", "BindPaths", value) for number, value in enumerate(values)]
    assert find_blamed(known, lines, quote) == lines[blamed]


@pytest.mark.parametrize(
    "text",
    [
        "RuntimeError: can't start new thread",
        "ImportError: /x/_y.so: failed to map segment from shared object",
        "MemoryError",
    ],
)
def test_a_limit_of_the_memory_is_blamed(text: str) -> None:
    """With too little address space a thread, a library or an allocation fails: the line with the limit is named."""
    found = find_start_error(journal(text, priority=3), ETC)
    assert found is not None
    line = UnitLine("a", 2, "[Service]", "LimitAS", "600M")
    assert find_blamed(found.known, [line], found.quote) == line


@pytest.mark.parametrize(
    ("text", "means", "file"),
    [
        ("not ready after START_TIMEOUT=9 s; still running: time.sleep (/etc/litellm/cb.py:3)", "timeout", "cb.py:3"),
        ("not ready after START_TIMEOUT=9 s; still running: socket.py:8 connect", "timeout", ""),
        ("starting 2 workers; still running: time.sleep (/etc/litellm/cb.py:3)", "", "cb.py:3"),
        ("starting 2 workers; cannot start a worker: no new process: Resource temporarily unavailable", "limit", ""),
        ("starting 2 workers", "", ""),
    ],
)
def test_start_that_waits(text: str, means: str, file: str) -> None:
    """A start that hangs is explained by the line of the user's code, else by the limit that it has reached."""
    found = read_error(text, ETC)
    assert found.file.endswith(file)
    assert means in (found.known.means if found.known else "")
    assert found.is_explained == bool(means or file)


def test_times_of_a_failed_start() -> None:
    """The journal of the last failed start ends where the next start begins."""
    starting, failed = "7d4958e842da4a758f6c1cdc7b36dcc5", "d9b373ed55a64feb8242e02dbe79a49c"
    clock = itertools.count(1)

    def event(kind: str) -> Event:
        return Event(next(clock), "", {"MESSAGE_ID": kind})

    loop = tuple(event(kind) for kind in (starting, failed, starting, failed, starting))
    assert failed_start_times(loop) == (3, 5)
    assert failed_start_times(loop[:4]) == (3, float("inf"))
    recovered = (*loop[:2], loop[2], loop[4])
    assert failed_start_times(recovered) == (1, 3)


def test_lines_that_systemd_ignores() -> None:
    """Of the output of systemd-analyze, the lines about the unit and its drop-ins count, each once."""
    ours = "/etc/systemd/system/litellm.service.d/mine.conf:1: Assignment outside of section. Ignoring."
    other = "/lib/systemd/system/other.service:3: Unknown key 'X' in section [Service], ignoring."
    assert unit_complaints(
        f"{other}\n{ours}\n{ours}\nlitellm.service: Command x is not there\n", "litellm.service"
    ) == (ours,)


def test_unit_of_a_process(tmp_path: Path) -> None:
    """The unit of a process is read from its control group, of either version."""
    path = tmp_path / "cgroup"
    for text, unit in (
        ("0::/system.slice/litellm.service\n", "litellm.service"),
        ("4:pids:/x\n1:name=systemd:/system.slice/litellm-standby.service\n0::/\n", "litellm-standby.service"),
        ("0::/user.slice/user-0.slice/session-1.scope\n", "session-1.scope"),
        ("0::/u.slice/user@7.service/app.slice/litellm.service\n", "user@7.service/litellm.service"),
        ("0::/u.slice/user@7.service/tmux-spawn-1.scope\n", "user@7.service/tmux-spawn-1.scope"),
        ("0::/\n", ""),
    ):
        path.write_text(text)
        assert unit_of(path) == unit
    assert unit_of(tmp_path / "none") == ""


def test_remedy_for_a_port_that_is_taken() -> None:
    """What is to be stopped is the service of a user, or one container of Docker, and not all that they run."""
    user = "sudo -u '#7' env XDG_RUNTIME_DIR=/run/user/7 systemctl --user disable --now 'litellm.service'"
    for units, command in (
        ((), "Stop that program (sudo ss -ltnp 'sport = :4000')"),
        (("other.service",), "sudo systemctl stop other.service"),
        (("docker.service",), "sudo docker stop $(sudo docker ps --quiet --filter publish=4000)"),
        (("user@7.service/litellm.service",), user),
    ):
        assert stop_command(units, "4000") == command
