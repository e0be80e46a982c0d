"""Single checks of doctor that need no running host."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta, timezone
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import certifi
import pytest

from litellm_systemd.commands.doctor import has_failed
from litellm_systemd.doctor.check_aws import detect_aws_key, detect_aws_model_refused
from litellm_systemd.doctor.check_configuration import (
    changed_variables,
    detect_configuration_doubtful,
    detect_configuration_unusable,
    detect_environment_credentials,
    detect_environment_doubtful,
    detect_environment_file,
    detect_environment_key_short,
    detect_environment_overridden,
    detect_environment_syntax,
    detect_environment_unloadable,
    detect_environment_unusable,
    merge_items,
)
from litellm_systemd.doctor.check_drop_ins import failed_command
from litellm_systemd.doctor.check_files import (
    detect_files_config_gone,
    detect_files_gone,
    detect_files_kind,
    detect_files_manifest,
    detect_files_unreadable,
    is_open,
    is_readable,
    restore,
    restore_permissions,
)
from litellm_systemd.doctor.check_host import (
    FreeSpace,
    assess_free_space,
    detect_host_disk_full,
    detect_host_inodes,
    detect_host_python_gone,
    find_denials,
    find_unmounted,
    read_offset,
)
from litellm_systemd.doctor.check_network import (
    ConnectionResult,
    ConnectivityResults,
    detect_network_dns,
    detect_network_region,
    fixed_address,
    judge_access,
    judge_resolver,
    judge_sources,
    query_server,
)
from litellm_systemd.doctor.check_release import (
    assess_age,
    detect_release_advisory,
    detect_release_cleaned,
    detect_release_compromised,
)
from litellm_systemd.doctor.check_service import changed_ca_file, entries_since, is_short_of_workers
from litellm_systemd.doctor.check_unit import (
    ServiceExit,
    detect_unit_masked,
    detect_unit_overridden,
    detect_unit_root,
    detect_unit_sandbox,
    explain,
    find_line,
    hit_start_limit,
    read_exit,
)
from litellm_systemd.doctor.disk_usage import Consumer, cleaner_of, find_consumers
from litellm_systemd.doctor.engine import CheckRun, Diagnosis, DoctorCheck, Finding, run_checks
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.doctor.start_errors import read_error
from litellm_systemd.env.settings import parse_dotenv
from litellm_systemd.errors import Unavailable
from litellm_systemd.gateway.config_types import LintFinding, Place, Severity
from litellm_systemd.host.acl import judge_acl
from litellm_systemd.host.effective import listen_addresses, observe_environment, read_environ
from litellm_systemd.host.journald import judge_silence
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import render_manifest
from litellm_systemd.host.state import FileKind, FileState, Record, Verb, folder, link, record_of
from litellm_systemd.host.systemctl import Event, Systemctl
from litellm_systemd.releases.inventory import Release
from litellm_systemd.report.report import Outcome
from tests.fakes import USER, run_cloud

EXITED = "98e322203f7a4ed290d09fe03c09fe15"
FAILED = "d9b373ed55a64feb8242e02dbe79a49c"
STARTING = "7d4958e842da4a758f6c1cdc7b36dcc5"


def event(when: float, message: str, kind: str = "", **fields: str) -> Event:
    return Event(when, f"litellm.service: {message}", {"MESSAGE_ID": kind, **fields})


KILLED = (
    event(100, "Main process exited, code=killed, status=9/KILL", EXITED, EXIT_STATUS="9"),
    event(101, "Control process exited, code=exited, status=1/FAILURE", EXITED, EXIT_STATUS="1"),
    event(102, "Failed with result 'signal'.", FAILED, UNIT_RESULT="signal"),
)


def test_the_last_exit_is_read_from_the_journal() -> None:
    """How a restarted service exited is read from systemd's own fields, and only those of the main process."""
    later = (
        event(200, "Main process exited, code=exited, status=78/CONFIG", EXITED, EXIT_STATUS="78"),
        event(201, "Failed with result 'exit-code'.", FAILED, UNIT_RESULT="exit-code"),
    )
    assert read_exit(KILLED, 0) == ServiceExit("signal", 9)
    assert read_exit((*KILLED, *later), 0) == ServiceExit("exit-code", 78)
    assert read_exit(KILLED, 150) is None
    command = (
        event(300, "Starting", STARTING),
        event(301, "Control process exited, code=exited, status=1/FAILURE", EXITED, EXIT_STATUS="1"),
        event(302, "Failed with result 'exit-code'.", FAILED, UNIT_RESULT="exit-code"),
    )
    said = "another command of the unit failed, such as ExecStartPre="
    assert str(read_exit((*KILLED, *later, *command), 0)) == said


def test_a_repaired_start_ends_the_failure() -> None:
    """A failure counts after a restart by systemd, and not after a start by a user, until the service fails again."""
    restart = event(105, "Scheduled restart job, restart counter is at 1.", "5eb03494b6584870a536b337290809b3")
    started = event(110, "Starting", STARTING)
    assert read_exit((*KILLED, restart, started), 0) == ServiceExit("signal", 9)
    assert read_exit((*KILLED, started), 0) is None
    assert read_exit((*KILLED, restart, started, started), 0) is None
    assert read_exit((*KILLED, restart, started, *KILLED, started), 0) is None
    assert read_exit((*KILLED, started, *KILLED, restart, started), 0) == ServiceExit("signal", 9)


def test_failed_command_of_the_last_start() -> None:
    """A command before the service that failed is named, but not one of an earlier start."""
    assert failed_command((event(99, "Starting", STARTING), *KILLED)) == KILLED[1].message
    later = (event(200, "Starting", STARTING), event(201, "Failed with result 'exit-code'.", FAILED, UNIT_RESULT="x"))
    assert failed_command((event(99, "Starting", STARTING), *KILLED, *later)) == ""


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (ServiceExit("exit-code", 78), "exit code 78 (the configuration or the environment has an error)"),
        (ServiceExit("exit-code", 217), "exit code 217 (USER: the user does not exist)"),
        (ServiceExit("exit-code", 5), "exit code 5"),
        (ServiceExit("signal", 9), "Result=signal, SIGKILL"),
        (ServiceExit("watchdog", 6), "Result=watchdog, SIGABRT"),
        (ServiceExit("timeout"), "Result=timeout (it did not become ready, or did not stop, in time)"),
    ],
    ids=str,
)
def test_an_exit_is_described(found: ServiceExit, text: str) -> None:
    """An exit code is described as in sysexits.h and systemd.exec(5), a signal by its name."""
    assert str(found) == text


def test_start_limit_is_detected_under_any_result() -> None:
    """The start limit is detected by systemd's message even if the unit's Result is that of the previous failure."""
    limit_hit = event(103, "Start request repeated too quickly.")
    assert hit_start_limit("start-limit-hit", ())
    assert hit_start_limit("signal", (*KILLED, limit_hit, KILLED[-1]))
    assert not hit_start_limit("signal", (limit_hit, *KILLED * 3))


def test_listen_addresses() -> None:
    """The TCP addresses of a socket unit are read as systemd prints them; UNIX sockets are left out."""
    assert listen_addresses("127.0.0.1:4000 (Stream)") == ("127.0.0.1:4000",)
    assert listen_addresses("[::1]:4000 (Stream) /run/x.sock (Stream)") == ("[::1]:4000",)
    assert listen_addresses("") == ()


@pytest.mark.parametrize(
    ("status", "is_short"),
    [
        ("serving on 127.0.0.1:4000 with 2 models, 1 worker", False),
        ("serving on 127.0.0.1:4000 with 2 models, 2 workers", False),
        ("serving on 127.0.0.1:4000 with 2 models, 0 of 1 worker", True),
        ("serving on 127.0.0.1:4000 with 2 models, 1 of 2 workers", True),
        ("serving on 127.0.0.1:4000 with 2 models, 2 workers; cannot start a worker: no memory", True),
        ("serving on 127.0.0.1:4000 with 2 models, 2 workers; a worker can't start: no memory", True),
    ],
)
def test_missing_workers_are_read_from_the_status_line(status: str, is_short: bool) -> None:
    """A worker that does not serve is reported from the status line, also if it is the only one."""
    assert is_short_of_workers(status) is is_short


@pytest.mark.parametrize("minutes", [-11, 0, 11])
def test_clock_offset_of_an_endpoint(minutes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The offset of the clock is read from the Date header of any response, even of a refusal."""
    monkeypatch.setattr("litellm_systemd.doctor.check_host._TIMEOUT", 60.0)  # a thread of this process answers

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


def test_no_clock_offset_without_a_response() -> None:
    """An endpoint that cannot be reached is no evidence about the clock."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert read_offset(f"http://127.0.0.1:{closed.getsockname()[1]}", {}) is None


@pytest.mark.parametrize(
    ("left", "share", "outcome"),
    [(0, 0.0, Outcome.FAILED), (50, 0.01, Outcome.WARNING), (50, 0.9, None), (500, 0.01, None), (0, None, None)],
)
def test_free_space(left: int, share: float | None, outcome: Outcome | None) -> None:
    """A nearly full file system is reported, a small one is not, nor one without an inode limit for its inodes."""
    assert assess_free_space(left, share, 10, 100) is outcome


def test_denials() -> None:
    """Denials of SELinux and AppArmor are reported for the service, not for other programs."""
    selinux = 'audit: type=1400 avc:  denied  { execute } for comm="(python)" path="/opt/litellm-systemd/x"'
    apparmor = 'audit: type=1400 apparmor="DENIED" operation="open" profile="litellm" name="/etc/x"'
    others = 'audit: apparmor="DENIED" operation="open" profile="snap.cups" name="/etc/x"'
    assert find_denials((selinux, apparmor, others, "litellm started")) == (selinux, apparmor)


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
    """Whether the service's user may read a file or traverse a folder is decided as the kernel does."""
    assert is_readable(FileState("/x", b"", mode, owner, group, kind)) is readable


@pytest.mark.parametrize(
    ("entries", "group", "allowed"),
    [
        (((0x02, 0, 7), (0x04, 4, 0), (0x10, 4, 0), (0x20, 0, 0)), 7, False),  # setfacl -m u:litellm:---
        (((0x02, 4, 7), (0x04, 0, 0), (0x10, 4, 0), (0x20, 0, 0)), 0, True),  # setfacl -m u:litellm:r
        (((0x02, 4, 7), (0x04, 4, 0), (0x10, 0, 0), (0x20, 4, 0)), 7, False),  # chmod g-r
        (((0x02, 4, 8), (0x04, 4, 0), (0x10, 4, 0), (0x20, 0, 0)), 7, True),  # setfacl -m u:other:r
        (((0x04, 4, 0), (0x08, 4, 7), (0x10, 4, 0), (0x20, 0, 0)), 0, True),  # setfacl -m g:litellm:r
        (((0x02, 4, 8), (0x04, 4, 0), (0x10, 4, 0), (0x20, 0, 0)), 0, False),
    ],
)
def test_access_control_list(entries: tuple[tuple[int, int, int], ...], group: int, allowed: bool) -> None:
    """An entry for the user counts before those for groups, within the mask; the mode does not show that (acl(5))."""
    acl = b"\2\0\0\0" + b"".join(struct.pack("<HHI", *each) for each in ((0x01, 6, 0), *entries))
    assert judge_acl(acl, 0o4, (7, 7), (0, group)) == allowed


def test_is_open() -> None:
    """A file with keys is open if any user but root can read, write or own it."""
    assert not is_open(FileState("/x", mode=0o600))
    assert not is_open(FileState("/x", mode=0o400))
    assert is_open(FileState("/x", mode=0o640))
    assert is_open(FileState("/x", mode=0o600, owner="me"))


def test_find_line(tmp_path: Path) -> None:
    """The line that decides a setting is the last one that assigns it, in systemd's order of files."""
    unit, first, second = tmp_path / "u.service", tmp_path / "a.conf", tmp_path / "b.conf"
    unit.write_text("[Service]\nUser=litellm\n", encoding="utf-8")
    first.write_text("[Service]\n# User=x\nUser = root\nUserX=1\n", encoding="utf-8")
    second.write_text("[Service]\nNice=1\n", encoding="utf-8")
    properties = {"FragmentPath": str(unit), "DropInPaths": f"{first} {tmp_path / 'gone.conf'} {second}"}
    assert find_line(Layout(), properties, "User") == f"{first}:3"
    assert find_line(Layout(), properties, "Group") == str(unit)


@pytest.mark.parametrize(
    ("text", "said", "remedy"),
    [
        (
            "nameserver 192.0.2.1\n# nameserver 192.0.2.2\nnameserver ::1\n",
            "name servers: 192.0.2.1, ::1",
            "resolvectl",
        ),
        ("search example.com\n", "/etc/resolv.conf has no server", "echo nameserver ADDRESS"),
        (None, "/etc/resolv.conf is missing", "echo nameserver ADDRESS"),
        ("-> /run/systemd/resolve/stub.conf", "which does not exist", "sudo systemctl enable --now systemd-resolved"),
        ("-> ../none", "is a link to ../none, which does not exist", "sudo rm /etc/resolv.conf"),
    ],
)
def test_resolver(tmp_path: Path, text: str | None, said: str, remedy: str) -> None:
    """If no name is resolved, the name servers are named, or what is wrong with their file."""
    path = tmp_path / "resolv.conf"
    if text is not None and text.startswith("-> "):
        path.symlink_to(text.removeprefix("-> "))
    elif text is not None:
        path.write_text(text, encoding="utf-8")
    found, fix = judge_resolver(path)
    assert found.endswith(said)
    assert fix.startswith(remedy)


def test_names_without_a_name_server(tmp_path: Path) -> None:
    """If nsswitch.conf asks no name server, its line is the cause. An address in /etc/hosts has its line named."""
    switch = tmp_path / "nsswitch.conf"
    assert judge_sources(tmp_path) is None
    switch.write_text("passwd: files\nhosts:  files mdns4 # dns\n", encoding="utf-8")
    found = judge_sources(tmp_path)
    assert found is not None
    assert found[0] == "/etc/nsswitch.conf:2 asks no name server: hosts: files mdns4"
    for sources in ("files dns", "mymachines resolve [!UNAVAIL=return] files"):
        switch.write_text(f"hosts: {sources}\n", encoding="utf-8")
        assert judge_sources(tmp_path) is None
    assert fixed_address(tmp_path, "example.com") == ""
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n\n10.0.0.9 a Example.com  # old\n", encoding="utf-8")
    assert fixed_address(tmp_path, "example.com") == "/etc/hosts:3 sets its address to 10.0.0.9"
    assert fixed_address(tmp_path, "old") == ""


def test_resolver_that_only_root_can_read(tmp_path: Path) -> None:
    """A file of the resolver that the service cannot read is named with the command that repairs it."""
    etc, run = tmp_path / "etc", tmp_path / "run"
    for each in (etc, run):
        each.mkdir()
    (etc / "hosts").write_text("127.0.0.1 localhost\n", encoding="utf-8")
    (etc / "resolv.conf").write_text("nameserver 192.0.2.1\n", encoding="utf-8")
    assert judge_access(etc) is None
    (etc / "hosts").chmod(0o600)
    assert judge_access(etc) == ("/etc/hosts is not readable for all", "sudo chmod a+rX /etc/hosts")
    (etc / "resolv.conf").rename(run / "resolv.conf")
    (etc / "resolv.conf").symlink_to("../run/resolv.conf")
    run.chmod(0o700)
    found = judge_access(etc)
    assert found is not None
    assert found[0].startswith("/etc/resolv.conf is not readable for all; ")


def test_answers_of_name_servers() -> None:
    """A name server that has the address, one that has no such name, and a silent one are distinguished."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
        assert query_server("127.0.0.1", "bedrock.example", port) == "no answer"
        assert b"\7bedrock\7example\0" in server.recv(512)
        for code, meaning in ((0, "found"), (3, "no such name"), (9, "response code 9")):
            with ThreadPoolExecutor(1) as pool:
                answer = pool.submit(query_server, "127.0.0.1", "bedrock.example", port)
                query, client = server.recvfrom(512)
                server.sendto(query[:2] + bytes((0x81, 0x80 + code)) + query[4:], client)
                assert answer.result() == meaning
    assert query_server("127.0.0.1", "bedrock.example", port) == "Connection refused"


def test_messages_of_the_previous_process() -> None:
    """Messages that were logged before the last start began are not reported, also those of the same second."""
    entries = [{"__MONOTONIC_TIMESTAMP": str(at)} for at in (1_500_000, 1_900_000)]
    assert entries_since(entries, 1_800_000) == (entries[1],)
    assert entries_since(entries, 0) == tuple(entries)


class Host(Snapshot):
    """A host with systemd, whose service is active since some seconds, with these variables and files."""

    dotenv: Any = None
    environment: Any = None
    is_active: Any = True
    service: Any = None
    socket: Any = None

    def __init__(self, root: Path, env: str = "", *, started: float = 60, **service: str) -> None:
        super().__init__(Layout(root=root))
        self.dotenv = parse_dotenv(env, ".env")
        self.environment = self.dotenv.values
        began = (time.clock_gettime(time.CLOCK_MONOTONIC) - started) * 1e6
        self.service = {
            "LoadState": "loaded",
            "ActiveState": "active",
            "InactiveExitTimestampMonotonic": str(int(began)),
            **service,
        }
        self.socket = {}


def test_changed_ca_file(tmp_path: Path) -> None:
    """A CA file that was changed after the service has read it is named if certificates are not trusted."""
    (tmp_path / "ca.pem").write_text("", encoding="utf-8")
    env = "SSL_CERT_FILE=/ca.pem\n"
    assert changed_ca_file(Host(tmp_path, env)) == "/ca.pem (SSL_CERT_FILE) was changed after the service read it"
    assert changed_ca_file(Host(tmp_path, env, started=-60)) == ""
    assert changed_ca_file(Host(tmp_path, "SSL_CERT_FILE=/none.pem\n")) == ""
    assert changed_ca_file(Host(tmp_path)) == ""


def test_all_lines_of_another_command_are_to_be_removed(tmp_path: Path) -> None:
    """The remedy for another command names each of its lines: an empty ExecStart= alone is an error."""
    path = "/etc/systemd/system/litellm.service.d/override.conf"
    file = tmp_path / path.lstrip("/")
    file.parent.mkdir(parents=True)
    file.write_text(
        "[Service]\nExecStart=\nNice=1\nExecStart=/bin/typo -m litellm_systemd.runtime\n", encoding="utf-8"
    )
    host = Host(tmp_path, ExecStart="{ path=/bin/typo ; argv[]=/bin/typo -m x }", DropInPaths=path)
    (found,) = (each for each in detect_unit_overridden.detect(host) if isinstance(each, Finding))
    assert found.evidence == f"{path}:4: ExecStart=/bin/typo -m litellm_systemd.runtime"
    assert found.remedy.startswith(f"Remove the lines {path}:2 and {path}:4, then: ")


@pytest.mark.parametrize(
    ("lines", "cause", "evidence"),
    [
        (
            "User=litellm\nEnvironmentFile=/etc/litellm/litellm.env\nExecStart=/usr/local/bin/litellm",
            "unit-overridden",
            ": Type=simple, ExecStart=/usr/local/bin/litellm",
        ),
        (
            "EnvironmentFile=/etc/litellm/litellm.env\nExecStart=/usr/local/bin/litellm",
            "unit-root",
            ": User=(unset: root)",
        ),
        (
            "ExecStart=/usr/local/bin/litellm",
            "environment-unloadable",
            " was edited, or replaced by another tool: it has no EnvironmentFile=/etc/litellm/litellm.env, and no"
            " User=: the service would run as root",
        ),
    ],
)
def test_replaced_unit(tmp_path: Path, lines: str, cause: str, evidence: str) -> None:
    """A unit file that was replaced is one finding, whose remedy restores it, whatever the new one lacks."""
    path = "/etc/systemd/system/litellm.service"
    file = tmp_path / path.lstrip("/")
    file.parent.mkdir(parents=True)
    file.write_text(f"[Service]\n{lines}\n", encoding="utf-8")
    command = "{ path=/usr/local/bin/litellm ; argv[]=/usr/local/bin/litellm }"
    user = "litellm" if "User=" in lines else ""
    env = "LITELLM_MASTER_KEY=sk-0123456789abcdefghij\n" if "EnvironmentFile=" in lines else ""
    host = Host(tmp_path, env, Type="simple", ExecStart=command, FragmentPath=path, ProtectSystem="no", User=user)
    (tmp_path / "etc/litellm").mkdir()
    (tmp_path / "etc/litellm/litellm.env").write_text(env, encoding="utf-8")
    checks = (
        *(detect_environment_unloadable, detect_environment_unusable),
        *(detect_unit_root, detect_unit_sandbox, detect_unit_overridden),
    )
    (found,) = run_checks(host, checks).causes
    assert (found.cause.id, found.evidence) == (cause, path + evidence)
    assert found.remedy.startswith("sudo litellmctl install --installed --take-ours ")


def test_drop_in_with_another_user(tmp_path: Path) -> None:
    """The lines of another user and of its group are both to be removed: either keeps the service from its files."""
    path = "/etc/systemd/system/litellm.service.d/user.conf"
    file = tmp_path / path.lstrip("/")
    file.parent.mkdir(parents=True)
    file.write_text("[Service]\nUser=admin\nGroup=admin\n", encoding="utf-8")
    host = Host(tmp_path, User="admin", DropInPaths=path)
    (found,) = (each for each in detect_unit_root.detect(host) if isinstance(each, Finding))
    assert found.evidence == f"{path}:2: User=admin"
    assert found.remedy.startswith(f"Remove the lines {path}:2 and {path}:3, then: ")


def test_socket_that_starts_other_services(tmp_path: Path) -> None:
    """A drop-in by which the socket unit gives its connections to another service is named."""
    path = "/etc/systemd/system/litellm.socket.d/mine.conf"
    file = tmp_path / path.lstrip("/")
    file.parent.mkdir(parents=True)
    file.write_text("[Socket]\nAccept=yes\n", encoding="utf-8")
    host = Host(tmp_path)
    host.socket = {"Triggers": "", "DropInPaths": path}
    (found,) = (each for each in detect_unit_overridden.detect(host) if isinstance(each, Finding))
    assert found.evidence == f"{path}:2: Accept=yes"
    host.socket = {"Triggers": "litellm.service", "DropInPaths": path}
    assert list(detect_unit_overridden.detect(host)) == []


def test_unit_that_is_masked(tmp_path: Path) -> None:
    """An empty unit file, which masks a unit, is named; for a generator no `systemctl unmask` is advised."""
    host = Host(tmp_path, LoadState="masked")
    (found,) = (each for each in detect_unit_masked.detect(host) if isinstance(each, Finding))
    assert found.remedy.startswith("sudo systemctl unmask litellm.service")
    unit = tmp_path / "etc/systemd/system/litellm.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    (found,) = (each for each in detect_unit_masked.detect(host) if isinstance(each, Finding))
    assert found.evidence.startswith("/etc/systemd/system/litellm.service is empty, as after a power failure: ")
    unit.unlink()
    link = tmp_path / "run/systemd/generator.early/litellm.service"
    link.parent.mkdir(parents=True)
    link.symlink_to("/dev/null")
    (found,) = (each for each in detect_unit_masked.detect(host) if isinstance(each, Finding))
    assert found.evidence.startswith("a generator masks it with /run/systemd/generator.early/litellm.service: ")
    assert "unmask" not in found.remedy
    assert "/proc/cmdline" in found.remedy


def test_changed_variables(tmp_path: Path) -> None:
    """Variables that differ between the file and the process are reported by name; systemd's own are ignored."""
    environ = tmp_path / "environ"
    environ.write_bytes(b"A=1\0B=two=2\nlines\0INVOCATION_ID=x\0")
    running = read_environ(environ)
    assert changed_variables({"A": "1", "B": "two=2\nlines"}, running) == ()
    assert changed_variables({"A": "2", "C": "secret", "B": "two=2\nlines"}, running) == ("A", "C")


def test_configuration_that_the_sandbox_hides(tmp_path: Path) -> None:
    """A configuration that a link leads to in a home folder is named: the sandbox hides it from the service."""
    layout = Layout(root=tmp_path)
    configs = layout.real(layout.configs)
    configs.mkdir(parents=True)
    layout.real("/root").mkdir()
    layout.real("/root/live.yml").touch()
    layout.real(layout.config_link).symlink_to("configs/mine.yml")
    (configs / "mine.yml").symlink_to(layout.real("/root/live.yml"))
    (found,) = (each for each in detect_files_unreadable.detect(Host(tmp_path)) if isinstance(each, Finding))
    assert found.evidence.startswith(f"{layout.config_link} leads to /root/live.yml, which the sandbox")
    assert found.remedy.startswith("sudo litellmctl config use /root/live.yml ")


def test_releases_that_the_sandbox_hides(tmp_path: Path) -> None:
    """Releases that were moved below /home, with a link to them, are named, with the commands that move them back."""
    host = Host(tmp_path)
    host.layout.real("/home/admin/litellm-systemd").mkdir(parents=True)
    host.layout.real("/opt").mkdir()
    host.layout.real("/opt/litellm-systemd").symlink_to(host.layout.real("/home/admin/litellm-systemd"))
    (found,) = (each for each in detect_files_unreadable.detect(host) if isinstance(each, Finding))
    assert found.evidence.startswith("/opt/litellm-systemd leads to /home/admin/litellm-systemd, which the sandbox")
    moved = "sudo rm /opt/litellm-systemd && sudo mv /home/admin/litellm-systemd /opt/litellm-systemd && "
    assert found.remedy.startswith(f"{moved}sudo litellmctl start ")


@pytest.mark.parametrize(
    ("target", "trouble"),
    [
        ("config.yaml", "/etc/litellm/config.yaml, which leads back to itself"),
        ("configs", "/etc/litellm/configs, which is a folder"),
        ("configs/none.yml", "/etc/litellm/configs/none.yml, which does not exist"),
        ("configs/mine.yml", ""),
    ],
)
def test_link_to_no_configuration(tmp_path: Path, target: str, trouble: str) -> None:
    """A link to the active configuration that leads to itself, to a folder or to nothing is to be set again."""
    layout = Layout(root=tmp_path)
    layout.real(layout.configs).mkdir(parents=True)
    (layout.real(layout.configs) / "mine.yml").touch()
    layout.real(layout.config_link).symlink_to(target)
    found = [each for each in detect_files_config_gone.detect(Host(tmp_path)) if isinstance(each, Finding)]
    assert [each.evidence for each in found] == [f"{layout.config_link} points to {trouble}"] * bool(trouble)
    assert all(each.remedy.startswith("sudo litellmctl config use NAME") for each in found)


@pytest.mark.parametrize(
    ("text", "check"),
    [
        ("model_list: [", detect_configuration_unusable),
        ("model_list: [{model_name: a, litellm_params: {model: openai/a}}]\nx: 1\n", detect_configuration_doubtful),
    ],
)
def test_the_remedy_opens_the_file_that_the_link_leads_to(tmp_path: Path, text: str, check: DoctorCheck) -> None:
    """An error in the configuration is reported with its file, not with the link: sudoedit edits through no link."""
    layout = Layout(root=tmp_path)
    layout.real(layout.configs).mkdir(parents=True)
    file = layout.real(layout.configs) / "mine.yml"
    file.write_text(text, encoding="utf-8")
    layout.real(layout.config_link).symlink_to("configs/mine.yml")
    assert Host(tmp_path).config_path == "/etc/litellm/configs/mine.yml"
    found = [each for each in check.detect(Host(tmp_path)) if isinstance(each, Finding)]
    assert found
    assert all(each.evidence.startswith(f"{file}:") for each in found)
    assert all(each.remedy.startswith(f"sudoedit {file} ") for each in found)


@pytest.mark.parametrize("check", [detect_host_disk_full, detect_host_inodes])
def test_the_search_for_what_fills_a_disk_covers_all_of_its_file_system(tmp_path: Path, check: DoctorCheck) -> None:
    """The remedy for a full file system searches from its mount point, not in the folder of the service."""
    snapshot = Host(tmp_path)
    snapshot.cached("free space", lambda: (FreeSpace("/proc/self/task", 0, 0.0, 0, 0.0),))
    (found,) = (each for each in check.detect(snapshot) if isinstance(each, Finding))
    assert "/proc/self/task has 0 " in found.evidence
    assert " --max-depth=2 /proc | sort " in found.remedy


@pytest.mark.parametrize(
    ("flags", "begin"),
    [
        (os.ST_NOEXEC | os.ST_NOSUID, "The file system of /opt/litellm-systemd is mounted with noexec: "),
        (os.ST_NOSUID, "A library of the release cannot be loaded: "),
    ],
)
def test_a_mount_with_noexec_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: int, begin: str
) -> None:
    """A library that cannot be mapped is explained by the mount option if the file system of the release has it."""
    monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_flag=flags))
    error = read_error("ImportError: /x/parser.so: failed to map segment from shared object", "/etc/litellm")
    assert explain(Host(tmp_path), error)[0].startswith(begin)


FSTAB = """\
# /srv is for others
LABEL=root / ext4 defaults 0 1
LABEL=opt  /opt ext4 defaults,nofail 0 2
LABEL=var  /var/lib xfs noauto 0 2
LABEL=etc  /etc/litellm ext4 defaults 0 2
LABEL=srv  /srv ext4 defaults 0 2
none       swap
"""


def test_file_system_that_is_not_mounted() -> None:
    """A file system of fstab with a folder of the service is named if it isn't mounted; others and noauto are not."""
    mounts = "36 25 0:30 / /etc/litellm rw - ext4 /dev/x rw\n"
    folders = {"/etc/litellm": "/etc/litellm", "/mine": "/opt/litellm-systemd", "/var/lib/x": "/var/lib/x"}
    assert list(find_unmounted(FSTAB, mounts, folders)) == [(3, "/opt", "/mine")]
    assert list(find_unmounted(FSTAB, f"{mounts}37 25 0:31 / /opt rw - ext4 /dev/y rw\n", folders)) == []


def test_python_that_others_cannot_execute(tmp_path: Path) -> None:
    """A Python that only root can execute is named with its mode, and so is a folder above it."""
    layout = Layout(root=tmp_path)
    python = tmp_path / "usr/local/python/bin/python3"
    python.parent.mkdir(parents=True)
    python.touch(mode=0o755)
    link = layout.real(f"{layout.release('1')}/bin/python")
    link.parent.mkdir(parents=True)
    link.symlink_to(python)
    layout.real(layout.current).symlink_to("releases/1")
    for path, mode in ((python, 0o744), (python.parent.parent, 0o700)):
        path.chmod(mode)
        (found,) = (each for each in detect_host_python_gone.detect(Host(tmp_path)) if isinstance(each, Finding))
        assert found.evidence == f"{path} has mode {mode:04o}: the user litellm cannot execute {python}"
        assert found.remedy == f"sudo chmod a+x {path} && sudo litellmctl start"
        path.chmod(0o755)


# --- restoring files ---


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("hooks.py", "litellm_settings: {callbacks: [hooks.handler]}"),
        ("models.yml", "include: [models.yml]"),
        ("shared/models.yml", "include: [./shared/models.yml]"),
    ],
)
def test_a_missing_part_is_a_missing_file(tmp_path: Path, name: str, line: str) -> None:
    """An installed callback or included file that was deleted is a failure of its own, which --fix repairs, and no
    typo in the configuration.
    """
    layout = Layout(root=tmp_path)
    layout.real(layout.configs).mkdir(parents=True)
    text = f"model_list: [{{model_name: a, litellm_params: {{model: openai/a}}}}]\n{line}\n"
    layout.real(layout.config("own.yml")).write_text(text, encoding="utf-8")
    layout.real(layout.config_link).symlink_to("configs/own.yml")
    mark = layout.real(layout.releases) / "0.1.0-abc/release.json"
    mark.parent.mkdir(parents=True)
    mark.touch()
    snapshot = make_snapshot(tmp_path, {layout.config(name): record_of(FileState(layout.config(name), b""))})
    (gone,) = detect_files_gone.detect(snapshot)
    assert isinstance(gone, Finding)
    assert (gone.evidence, gone.outcome) == (f"/etc/litellm/configs/{name} is missing", Outcome.FAILED)


def test_missing_files_are_one_finding(tmp_path: Path) -> None:
    """Files that one command has removed are one finding, which names them."""
    files = {name: record_of(FileState(name, b"")) for name in ("/etc/tmpfiles.d/a.conf", "/usr/local/bin/b")}
    (gone,) = detect_files_gone.detect(make_snapshot(tmp_path, files))
    assert isinstance(gone, Finding)
    assert gone.evidence == "/etc/tmpfiles.d/a.conf is missing; the same kind of change at /usr/local/bin/b"


def test_damaged_manifest_hides_nothing_else(tmp_path: Path) -> None:
    """With a damaged manifest, the checks of the configuration, the network and AWS are made all the same."""
    snapshot = make_snapshot(tmp_path, {"/etc/x": record_of(FileState("/etc/x", b""))})
    snapshot.layout.real(snapshot.layout.manifest).write_text("", encoding="utf-8")
    run = {each.cause.id: each for each in run_checks(snapshot, (detect_files_manifest, detect_files_gone)).runs}
    assert run["files-manifest"].failed
    assert (run["files-gone"].findings, run["files-gone"].skip_reason) == ((), "")


def make_snapshot(root: Path, records: dict[str, Record]) -> Snapshot:
    snapshot = Snapshot(Layout(root=root))
    snapshot.is_root = True
    path = snapshot.layout.real(snapshot.layout.manifest)
    path.parent.mkdir(parents=True)
    path.write_text(render_manifest(snapshot.layout, records, None), encoding="utf-8")
    return snapshot


def test_copy_in_place_of_the_configuration_link(tmp_path: Path) -> None:
    """The remedy for a file in place of the configuration link selects the configuration to which it led."""
    path = "/etc/litellm/config.yaml"
    snapshot = make_snapshot(tmp_path, {path: record_of(link(path, "configs/mine.yml"))})
    for name in ("other.yml", "mine.yml"):
        file = snapshot.layout.real(f"{snapshot.layout.configs}/{name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    snapshot.layout.real(path).touch()
    (found,) = (each for each in detect_files_kind.detect(snapshot) if isinstance(each, Finding))
    assert found.remedy.startswith("sudo litellmctl config use mine.yml ")


def test_remedy_for_a_replaced_file(tmp_path: Path) -> None:
    """A link to a file becomes a copy of that file; what else is in its place is moved away, and restored."""
    path = "/etc/litellm/configs/mine.yml"
    snapshot = make_snapshot(tmp_path, {path: record_of(FileState(path, b""))})
    own, other = snapshot.layout.real(path), tmp_path / "mine.yml"
    own.parent.mkdir(parents=True)
    own.symlink_to(other)
    for target, command in (
        (other, f"sudo rm {path} && sudo cp -a {other} {path}"),
        (own, f"sudo mv {path} {path}.bad"),
    ):
        if target == own:
            own.unlink()
            own.mkdir()
        else:
            other.touch()
        snapshot = Snapshot(snapshot.layout)
        snapshot.is_root = True
        (found,) = (each for each in detect_files_kind.detect(snapshot) if isinstance(each, Finding))
        assert found.remedy == f"{command} && sudo litellmctl doctor --fix"


def test_remedy_for_a_folder_on_another_disk(tmp_path: Path) -> None:
    """A link in place of a folder, as to a larger disk, becomes a bind mount of the folder to which it leads."""
    path = "/opt/litellm-systemd"
    snapshot = make_snapshot(tmp_path, {path: record_of(folder(path, 0o755))})
    (tmp_path / "disk").mkdir()
    snapshot.layout.real(path).parent.mkdir()
    snapshot.layout.real(path).symlink_to(tmp_path / "disk")
    (found,) = (each for each in detect_files_kind.detect(snapshot) if isinstance(each, Finding))
    assert found.evidence == f"{path} is a link, and was a folder"
    bind = f"echo '{tmp_path}/disk {path} none bind' | sudo tee -a /etc/fstab && sudo mount {path} "
    assert found.remedy.startswith(f"sudo rm {path} && sudo mkdir {path} && {bind}")


def test_a_missing_file_is_restored_from_its_copy(tmp_path: Path) -> None:
    """A missing file is restored from its copy, a unit also reloads systemd; without a copy nothing is done."""
    lost = FileState("/etc/systemd/system/litellm.service", b"[Unit]\n")
    snapshot = make_snapshot(tmp_path, {lost.path: record_of(lost)})
    assert restore(snapshot, lost.path, record_of(lost)) == ()
    copy = snapshot.layout.real(f"{snapshot.layout.pristine}/{lost.digest}")
    copy.parent.mkdir()
    copy.write_bytes(lost.content)
    steps = restore(snapshot, lost.path, record_of(lost))
    assert [step.verb for step in steps] == [Verb.WRITE, Verb.DAEMON_RELOAD]
    assert steps[0].after == lost
    # A copy that was altered is not used.
    copy.write_bytes(b"[Service]\nUser=root\n")
    assert restore(snapshot, lost.path, record_of(lost)) == ()


@pytest.mark.parametrize("is_recorded", [True, False])
def test_the_remedy_for_an_unreadable_configuration_starts_the_service(tmp_path: Path, is_recorded: bool) -> None:
    """A configuration that was copied with mode 0600: one command makes it readable and starts the service."""
    path = "/etc/litellm/configs/mine.yml"
    snapshot = make_snapshot(tmp_path, {path: Record("0" * 64, mode=0o640)} if is_recorded else {})
    file = snapshot.layout.real(path)
    file.parent.mkdir(parents=True)
    file.write_text("model_list: []\n", encoding="utf-8")
    file.chmod(0o600)
    snapshot.layout.real(snapshot.layout.config_link).symlink_to("configs/mine.yml")
    found = [each for each in detect_files_unreadable.detect(snapshot) if isinstance(each, Finding)]
    by_hand = f"sudo chgrp litellm {path} && sudo chmod g+r {path} && sudo litellmctl start"
    remedy = "sudo litellmctl doctor --fix" if is_recorded else by_hand
    assert [each.remedy for each in found if path in each.evidence] == [remedy]


def test_a_missing_link_is_restored_by_its_digest(tmp_path: Path) -> None:
    """A missing link is restored with its target, although only the digest of the target is recorded."""
    digest = hashlib.sha256(b"configs/mine.yml").hexdigest()
    record = Record(digest, FileKind.LINK, 0o777)
    config = "/etc/litellm/configs/mine.yml"
    snapshot = make_snapshot(tmp_path, {"/etc/litellm/config.yaml": record, config: Record("0" * 64)})
    (step,) = restore(snapshot, "/etc/litellm/config.yaml", record)
    assert step.after is not None
    assert (step.after.kind, step.after.content) == (FileKind.LINK, b"configs/mine.yml")
    assert restore(snapshot, "/etc/litellm/config.yaml", Record("0" * 64, FileKind.LINK, 0o777)) == ()


def test_restored_folders_and_permissions(tmp_path: Path) -> None:
    """A folder below /etc is restored by systemd-tmpfiles; permissions are restored without touching the content."""
    snapshot = make_snapshot(tmp_path, {})
    made = folder("/etc/litellm/configs", 0o750, group="litellm")
    assert [step.verb for step in restore(snapshot, made.path, record_of(made))] == [Verb.CREATE_FOLDERS]
    (step,) = restore_permissions(FileState("/x", b"content", 0o666), 0o600, "root", "root")
    assert (step.verb, step.after) == (Verb.SET_ACCESS, FileState("/x", b"", 0o600))


@pytest.mark.parametrize(
    ("minutes", "outcome"), [(-1, Outcome.FAILED), (30, Outcome.WARNING), (90, None)], ids=["over", "soon", "later"]
)
def test_temporary_credentials(tmp_path: Path, minutes: int, outcome: Outcome | None) -> None:
    """Temporary AWS credentials that have expired are a failure, those that expire within the hour a warning."""
    layout = Layout(root=tmp_path)
    end = datetime.now(timezone.utc) + timedelta(minutes=minutes)
    path = layout.real(layout.environment_file)
    path.parent.mkdir(parents=True)
    path.write_text(f'AWS_SESSION_TOKEN="token"\nAWS_CREDENTIAL_EXPIRATION="{end.isoformat()}"\n', encoding="utf-8")
    findings = detect_environment_credentials.detect(Snapshot(layout))
    assert [each.outcome for each in findings if isinstance(each, Finding)] == ([outcome] if outcome else [])


# --- the release ---


def installed(root: Path, litellm: str) -> Snapshot:
    """A host whose release has the files of that LiteLLM."""
    layout = Layout(root=root)
    folder = layout.real(layout.release("0.1.0-aaa"))
    (folder / f"lib/python3.11/site-packages/litellm-{litellm}.dist-info").mkdir(parents=True)
    (folder / "lib/python3.11/site-packages/litellm_enterprise-1.82.7.dist-info").mkdir()
    mark = Release("0.1.0-aaa", litellm="1.106.2", made="2026-10-30T00:00:00Z")
    (folder / "release.json").write_text(mark.as_mark(), encoding="utf-8")
    layout.real(layout.current).symlink_to("releases/0.1.0-aaa")
    return Snapshot(layout)


def evidence(check: DoctorCheck, snapshot: Snapshot) -> list[str]:
    return [each.evidence for each in check.detect(snapshot) if isinstance(each, Finding)]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("e /opt/litellm-systemd - - - 30d", True),
        ("d /opt 0755 root root 10d", True),
        ("R! /opt/litellm-systemd/releases/*/lib/python3.11/site-packages/*/__pycache__", True),
        ("d /var/lib/litellm 0700 litellm litellm 1w -", True),
        ("q /var/lib/* - - - 4w  # old state", True),
        ("d /var/lib 0755 - - -", False),
        ("d /var/lib/litellm 0700 litellm litellm -", False),
        ("q /var/tmp 1777 root root 30d", False),
        ("D /run/other 0755 root root 1d", False),
        ("R /opt/other", False),
        ("# e /opt - - - 30d", False),
        ("x /opt/litellm-systemd\ne /opt - - - 30d", False),
        ("", False),
    ],
)
def test_files_that_are_cleaned_up(tmp_path: Path, line: str, found: bool) -> None:
    """A line of tmpfiles.d by which systemd deletes files of the service is a warning with its file and line."""
    snapshot = installed(tmp_path, "1.106.2")
    for parent, text in (("usr/lib", "e /opt - - - 1d"), ("etc", f"\n{line}\n")):
        path = tmp_path / parent / "tmpfiles.d/clean.conf"  # that of /etc replaces the other one
        path.parent.mkdir(parents=True)
        path.write_text(text, encoding="utf-8")
    expected = f"/etc/tmpfiles.d/clean.conf:2: {line.partition('#')[0].strip()}"
    assert evidence(detect_release_cleaned, snapshot) == ([expected] if found else [])


@pytest.mark.parametrize(("litellm", "number"), [("1.107.0", 1), ("1.82.8", 1), ("1.106.2", 0), ("1.107.1", 0)])
def test_compromised_litellm(tmp_path: Path, litellm: str, number: int) -> None:
    """A LiteLLM with malicious code is found in the release, also if release.json has another version."""
    found = evidence(detect_release_compromised, installed(tmp_path, litellm))
    assert len(found) == number
    assert all(f"LiteLLM {litellm}" in text and "https://" in text for text in found)


def test_litellm_with_an_advisory(tmp_path: Path) -> None:
    """A LiteLLM with known advisories is reported with their ids, the version that fixes each, and the source."""
    found = evidence(detect_release_advisory, installed(tmp_path, "1.102.1"))
    assert len(found) == 1
    assert "GHSA-7hp6-4w63-5g45; fixed in 1.102.2; https://" in found[0]
    injection = [
        text for text in evidence(detect_release_advisory, installed(tmp_path / "b", "1.83.6")) if "SQL" in text
    ]
    assert "CVE-2026-42208; fixed in 1.83.7" in injection[0]
    assert evidence(detect_release_advisory, installed(tmp_path / "c", "1.106.2")) == []


@pytest.mark.parametrize(
    ("day", "published", "said"),
    [
        (date(2026, 12, 20), "2026-10-21", ""),
        (date(2026, 12, 21), "2026-10-21", "was published 61 days ago, on 2026-10-21"),
        (date(2026, 12, 29), "", ""),
        (date(2026, 12, 30), "", "was installed 61 days ago, on 2026-10-30"),
    ],
)
def test_old_litellm(day: date, published: str, said: str) -> None:
    """A LiteLLM is old 60 days after its publication, or after its installation if that day is unknown."""
    release = Release("0.1.0-aaa", litellm="1.106.2", made="2026-10-30T00:00:00Z", litellm_released=published)
    found = assess_age(release, day)
    assert (said in found) if said else found == ""


@pytest.mark.parametrize(("key", "number"), [("sk-short", 1), ("sk-0123456789abcdefghij", 0), ("aws-ssm:/key", 0)])
def test_short_key(tmp_path: Path, key: str, number: int) -> None:
    """A master key that can be guessed is reported; a reference to one in AWS is none."""
    layout = Layout(root=tmp_path)
    path = layout.real(layout.environment_file)
    path.parent.mkdir(parents=True)
    path.write_text(f'LITELLM_MASTER_KEY="{key}"\nPORT="4000"\n', encoding="utf-8")
    assert len(evidence(detect_environment_key_short, Snapshot(layout))) == number


MODEL = "model_list:\n  - {model_name: a, litellm_params: {model: openai/a, mock_response: b}}\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("LITELLM_MASTER_KEY=", "litellm.env:2: LITELLM_MASTER_KEY is empty"),
        ("", "litellm.env: LITELLM_MASTER_KEY is not set"),
        ("LITELLM_MASTER_KEY=sk-1234", "litellm.env:2: LITELLM_MASTER_KEY=sk-1234 is the key of every"),
    ],
)
def test_unusable_key(tmp_path: Path, line: str, said: str) -> None:
    """A master key that is empty or missing is reported at the environment file, not at the configuration."""
    layout = Layout(root=tmp_path)
    for path, text in (
        (layout.environment_file, f"PORT=4000\n{line}\n"),
        (layout.config_link, f"{MODEL}general_settings:\n  master_key: os.environ/LITELLM_MASTER_KEY\n"),
    ):
        layout.real(path).parent.mkdir(parents=True, exist_ok=True)
        layout.real(path).write_text(text, encoding="utf-8")
    (found,) = evidence(detect_environment_unusable, Snapshot(layout))
    assert said in found
    assert not any("master" in text for text in evidence(detect_configuration_unusable, Snapshot(layout)))


BEDROCK = "model_list:\n- model_name: m\n  litellm_params:\n    model: bedrock/us.anthropic.claude-%s\n"


def findings(
    check: DoctorCheck, root: Path, env: Mapping[str, str], config: str, results: ConnectivityResults | None = None
) -> list[Finding]:
    """What a check finds with that environment and configuration. `results`: those of the connections."""
    snapshot = Snapshot(Layout(root=root))
    text = "".join(f'{name}="{value}"\n' for name, value in env.items())
    for path, content in ((Layout.environment_file, text), (Layout.config_link, config)):
        snapshot.layout.real(path).parent.mkdir(parents=True, exist_ok=True)
        snapshot.layout.real(path).write_text(content, encoding="utf-8")
    if results is not None:
        snapshot.cached("connectivity", lambda: results)
    return [each for each in check.detect(snapshot) if isinstance(each, Finding)]


def test_misspelt_region_of_the_environment(tmp_path: Path) -> None:
    """A misspelt region is reported with its line, and the remedy restarts: a reload keeps the environment."""
    host = "bedrock-runtime.us-esat-1.amazonaws.com"
    results = ConnectivityResults((ConnectionResult(f"https://{host}", "name", host, "unknown"),), (), inside=False)
    env = {"LITELLM_MASTER_KEY": "sk-good", "AWS_REGION_NAME": "us-esat-1"}
    (found,) = findings(detect_network_region, tmp_path, env, BEDROCK % "sonnet-5-5", results)
    assert found.evidence.startswith("/etc/litellm/litellm.env:2: AWS_REGION_NAME=us-esat-1 is not a region")
    assert found.remedy == (
        "sudoedit /etc/litellm/litellm.env && sudo litellmctl restart    # Did you mean us-east-1?"
    )
    (found,) = findings(detect_environment_doubtful, tmp_path, env, BEDROCK % "sonnet-5-5")
    assert found.evidence.startswith("/etc/litellm/litellm.env:2: AWS_REGION_NAME=us-esat-1")


def test_access_key_that_the_environment_has(tmp_path: Path) -> None:
    """An access key in the environment of a configuration for a role is reported with its line."""
    pair = {"AWS_ACCESS_KEY_ID": USER.access_key, "AWS_SECRET_ACCESS_KEY": USER.secret_key}
    config = f"{BEDROCK % 'sonnet-5-5'}x-identity: iam-role\n"
    env = {"LITELLM_MASTER_KEY": "sk-good", **pair, "AWS_REGION_NAME": "us-east-1"}
    (found,) = findings(detect_environment_unusable, tmp_path, env, config)
    assert re.match(r"/etc/litellm/litellm.env:2: \S+/config.yaml:5:1: x-identity is iam-role, and", found.evidence)
    assert findings(detect_configuration_unusable, tmp_path, env, config) == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("AWS_ACCESS_KEY=AKIAIOSFODNN7EXAMPLE", "litellm.env: AWS_ACCESS_KEY_ID is not set (/"),
        (
            f"AWS_SECRET_ACCESS_KEY={'x' * 40}",
            "litellm.env:2: AWS_SECRET_ACCESS_KEY is set, but AWS_ACCESS_KEY_ID",
        ),
        ("AWS_PROFILE=bedrock", "litellm.env:2: AWS_PROFILE is bedrock, but the service reads no ~/.aws"),
    ],
)
def test_access_key_that_the_environment_lacks(tmp_path: Path, line: str, said: str) -> None:
    """An access key that the configuration needs is reported at the environment, and only once."""
    name, _, value = line.partition("=")
    env = {"LITELLM_MASTER_KEY": "sk-good", name: value, "AWS_REGION_NAME": "us-east-1"}
    config = f"{BEDROCK % 'sonnet-5-5'}x-identity: access-key\n"
    (found,) = findings(detect_environment_unusable, tmp_path, env, config)
    assert said in found.evidence
    assert found.remedy.startswith("sudoedit /etc/litellm/litellm.env && sudo litellmctl restart")
    assert findings(detect_configuration_unusable, tmp_path, env, config) == []


@pytest.mark.parametrize(("variable", "edits"), [("AWS_BEDROCK_RUNTIME_ENDPOINT", True), ("OTHER", False)])
def test_endpoint_whose_name_does_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, edits: bool
) -> None:
    """If name servers answer that the host of an endpoint does not exist, the remedy is to correct its variable."""
    url = "https://vpce-0a1b.bedrock-runtime.us-east-1.vpce.amazonaws.com"
    results = ConnectivityResults((ConnectionResult(url, "name", url[8:], "unknown"),), (), inside=False)
    env = {"AWS_REGION_NAME": "us-east-1", variable: url}
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n", encoding="utf-8")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, ThreadPoolExecutor(1) as pool:
        server.bind(("127.0.0.1", 0))
        address = (socket.AF_INET, socket.SOCK_DGRAM, 0, "", server.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [address])  # port 53 needs root
        found = pool.submit(findings, detect_network_dns, tmp_path, env, BEDROCK % "sonnet-5-5", results)
        query, client = server.recvfrom(512)
        server.sendto(query[:2] + b"\x81\x83" + query[4:], client)
        (finding,) = found.result()
    assert "name servers: 127.0.0.1 (no such name)" in finding.evidence
    edit = f"sudoedit /etc/litellm/litellm.env && sudo litellmctl restart    # correct {variable}"
    assert finding.remedy.startswith(edit if edits else "resolvectl query vpce-")


@pytest.mark.parametrize(
    ("state", "unmask"),
    [
        ("enabled", ""),
        ("masked", "sudo systemctl unmask systemd-resolved.service && "),
        ("masked-runtime", "sudo systemctl unmask --runtime systemd-resolved.service && "),
    ],
)
def test_resolver_that_is_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, unmask: str) -> None:
    """A resolver that must be started is unmasked first, if it is masked."""
    monkeypatch.setattr(Systemctl, "show", lambda *_: {"UnitFileState": state})
    results = ConnectivityResults((ConnectionResult("https://x", "name", "x", "unknown"),), (), inside=False)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    (found,) = findings(detect_network_dns, tmp_path, {"AWS_REGION_NAME": "us-east-1"}, BEDROCK % "x", results)
    assert found.remedy.startswith(f"{unmask}sudo systemctl enable --now systemd-resolved ")


def test_units_that_are_masked_in_two_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units that are masked, for good or until the next boot, have a command each; others have none."""
    states = {"a.service": "masked", "b.socket": "masked-runtime", "c.socket": "masked", "d.service": "static"}
    monkeypatch.setattr(Systemctl, "show", lambda _, unit, *__: {"UnitFileState": states[unit]})
    expected = "sudo systemctl unmask a.service c.socket && sudo systemctl unmask --runtime b.socket && "
    assert Systemctl(Layout()).unmask_command(*states) == expected


BLOCKED = b"<html>Web page blocked</html>"


class Page(BaseHTTPRequestHandler):
    """A firewall that answers each request with a page of its own, or with nothing."""

    status, page = 200, BLOCKED

    def do_POST(self) -> None:
        """Answer with the page."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        if self.page:
            self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(self.page)))
        self.end_headers()
        self.wfile.write(self.page)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.mark.parametrize(("status", "page"), [(200, BLOCKED), (403, BLOCKED), (200, b"")])
def test_page_in_place_of_an_answer_of_aws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, page: bytes
) -> None:
    """A page of a firewall is no answer of AWS: the remedy names the firewall, and not permissions or the key."""
    monkeypatch.setattr(Page, "status", status)
    monkeypatch.setattr(Page, "page", page)
    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        pair = {"AWS_ACCESS_KEY_ID": USER.access_key, "AWS_SECRET_ACCESS_KEY": USER.secret_key}
        endpoints = {"AWS_BEDROCK_RUNTIME_ENDPOINT": url, "AWS_ENDPOINT_URL_STS": url}
        env = {**endpoints, **pair, "AWS_REGION_NAME": "us-east-1"}
        (found,) = findings(detect_aws_model_refused, tmp_path, env, BEDROCK % "sonnet-5-5")
        with pytest.raises(Unavailable, match="not AWS answers, but something in between"):
            findings(detect_aws_key, tmp_path, env, BEDROCK % "sonnet-5-5")
        server.shutdown()
    assert "not AWS answers, but something in between" in found.evidence
    assert found.remedy.startswith("curl -sv https://bedrock-runtime.us-east-1.amazonaws.com/ ")


def test_model_and_key_that_aws_rejects(tmp_path: Path) -> None:
    """An id of a model that Bedrock does not know is reported once, with its line and the id that was probably meant;
    a rejected key is reported with the file.
    """
    with run_cloud() as cloud:
        pair = {"AWS_ACCESS_KEY_ID": USER.access_key, "AWS_SECRET_ACCESS_KEY": USER.secret_key}
        env = {**cloud.environment, **pair, "AWS_REGION_NAME": "us-east-1"}
        (found,) = findings(detect_aws_model_refused, tmp_path, env, BEDROCK % "sonet-5-5")
        assert "/etc/litellm/config.yaml:4: m (us.anthropic.claude-sonet-5-5 in us-east-1)" in found.evidence
        meant = "did you mean us.anthropic.claude-sonnet-5-5? Bedrock has no"
        assert re.match(rf"sudoedit \S+/config.yaml && sudo litellmctl reload    # {re.escape(meant)}", found.remedy)
        (doubt,) = findings(detect_configuration_doubtful, tmp_path, env, BEDROCK % "sonet-5-5")
        diagnosis = Diagnosis((CheckRun(found.cause, (found,)), CheckRun(doubt.cause, (doubt,))))
        assert (diagnosis.causes, diagnosis.consequences) == ((found,), ((doubt, found.cause.id),))
        env["AWS_SECRET_ACCESS_KEY"] = "x" * 40
        (found,) = findings(detect_aws_key, tmp_path, env, BEDROCK % "sonnet-5-5")
        assert found.remedy.startswith("sudoedit /etc/litellm/litellm.env && sudo litellmctl restart    # Copy the")


def test_environment_file_that_was_emptied(tmp_path: Path) -> None:
    """For an environment file without content, the remedy is the copy of what was installed."""
    installed = FileState(Layout.environment_file, b'LITELLM_MASTER_KEY="sk-x"\n', 0o600)
    snapshot = make_snapshot(tmp_path, {installed.path: record_of(installed)})
    config = f"{MODEL}general_settings:\n  master_key: os.environ/LITELLM_MASTER_KEY\n"
    kept = f"{Layout.pristine}/{installed.digest}"
    for path, text in ((installed.path, ""), (Layout.config_link, config), (kept, installed.content.decode())):
        snapshot.layout.real(path).parent.mkdir(parents=True, exist_ok=True)
        snapshot.layout.real(path).write_text(text, encoding="utf-8")
    (found,) = (each for each in detect_environment_unusable.detect(snapshot) if isinstance(each, Finding))
    assert found.evidence.startswith(f"{installed.path}: the file is empty, as after a power failure: LITELLM_MASTER")
    assert found.remedy.startswith(f"sudo cp {kept} {installed.path} && sudo litellmctl restart")


def test_lost_variable(tmp_path: Path) -> None:
    """An unclosed quote is reported with its line and the variable that it swallows."""
    layout = Layout(root=tmp_path)
    layout.real(layout.environment_file).parent.mkdir(parents=True)
    layout.real(layout.environment_file).write_text('A="1\nPORT="4000"\nB="2"\n', encoding="utf-8")
    (found,) = evidence(detect_environment_syntax, Snapshot(layout))
    assert found.startswith("/etc/litellm/litellm.env:1: the value of A has no closing quote")
    assert "PORT in there is not set" in found


def test_ignored_lines(tmp_path: Path) -> None:
    """Lines that systemd ignores are one finding for each file."""
    layout = Layout(root=tmp_path)
    layout.real(layout.environment_file).parent.mkdir(parents=True)
    layout.real(layout.environment_file).write_text("A=1\n" + "no assignment\n" * 9, encoding="utf-8")
    (found,) = evidence(detect_environment_syntax, Snapshot(layout))
    assert found.startswith("/etc/litellm/litellm.env:2: the line is not an assignment")
    assert found.endswith("; more such lines: 3, 4, 5, 6 and others")


def test_variable_that_is_set_twice(tmp_path: Path) -> None:
    """A variable that one file sets twice is reported with both lines, and the advice to keep one of them."""
    layout = Layout(root=tmp_path)
    layout.real(layout.environment_file).parent.mkdir(parents=True)
    layout.real(layout.environment_file).write_text('A="1"\nB="2"\nA="3"\n', encoding="utf-8")
    (found,) = detect_environment_syntax.detect(Snapshot(layout))
    assert isinstance(found, Finding)
    assert found.evidence == "/etc/litellm/litellm.env:3: A is set again, and overrides line 1"
    assert found.remedy.endswith("# keep one of the two lines")


def test_missing_region(tmp_path: Path) -> None:
    """The remedy for a model without a region opens the environment file, where the variable belongs."""
    layout = Layout(root=tmp_path)
    layout.real(layout.config_link).parent.mkdir(parents=True)
    layout.real(layout.config_link).write_text("model_list: [{model_name: m, litellm_params: {model: bedrock/x}}]\n")
    layout.real(layout.environment_file).write_text("LITELLM_MASTER_KEY=sk-0123456789abcdefghij\n")
    found = [each for each in detect_configuration_unusable.detect(Snapshot(layout)) if isinstance(each, Finding)]
    (region,) = (each for each in found if "region" in each.evidence)
    assert region.remedy.startswith(
        f"sudoedit {layout.environment_file} && sudo litellmctl restart    # Set AWS_REGION"
    )


def test_key_in_two_files(tmp_path: Path) -> None:
    """The remedy for two master keys opens the file with the one in force: only its edit lets the clients in."""
    layout = Layout(root=tmp_path)
    for path, key in ((layout.environment_file, "sk-clients"), ("/etc/old.env", "sk-old")):
        layout.real(path).parent.mkdir(parents=True, exist_ok=True)
        layout.real(path).write_text(f"LITELLM_MASTER_KEY={key}\n", encoding="utf-8")
    files = "".join(f"{path} (ignore_errors=no)\n" for path in (layout.environment_file, "/etc/old.env"))
    snapshot = Host(tmp_path, EnvironmentFiles=files)
    snapshot.effective = observe_environment(layout, snapshot.service)
    snapshot.dotenv = snapshot.effective.dotenv
    (found,) = (each for each in detect_environment_overridden.detect(snapshot) if isinstance(each, Finding))
    assert found.evidence.startswith("/etc/litellm/litellm.env:1: LITELLM_MASTER_KEY has no effect, since /etc/old")
    assert found.remedy.startswith("sudoedit /etc/old.env && sudo litellmctl restart")


@pytest.mark.parametrize(
    ("text", "failed"),
    [
        ("ActiveState=failed SubState=failed", True),
        ("ActiveState=activating SubState=auto-restart NRestarts=0", True),
        ("ActiveState=activating SubState=start NRestarts=4", True),
        ("ActiveState=activating SubState=start NRestarts=0", False),
        ("ActiveState=inactive UnitFileState=enabled InactiveExitTimestampMonotonic=0", True),
        ("ActiveState=inactive UnitFileState=enabled InactiveExitTimestampMonotonic=12", False),
        ("ActiveState=inactive UnitFileState=disabled InactiveExitTimestampMonotonic=0", False),
        ("ActiveState=active SubState=running NRestarts=4", False),
    ],
)
def test_fix_starts_failed_service_only(text: str, failed: bool) -> None:
    """--fix starts a service that failed or could not start at boot, and not one that was stopped or is starting."""
    assert has_failed(dict(pair.split("=") for pair in text.split())) is failed


def test_the_same_problem_of_many_models_is_one_finding() -> None:
    """Items of the linter with the same code and remedy are merged, and some of the others' places are named."""
    places = [Place("/etc/litellm/models.yml", number, 7, "region") for number in range(1, 8)]
    items = [LintFinding(Severity.WARNING, "unknown-region", place, "is unknown", "Write it.") for place in places]
    other = LintFinding(Severity.WARNING, "unknown-region", places[0], "is unknown", "Did you mean us-east-1?")
    merged = [text for text, _ in merge_items([*items, other])]
    assert len(merged) == 2
    assert merged[0].startswith(f"{items[0]}; the same at {places[1]}, ")
    assert merged[0].endswith(" and 2 more")
    assert merged[1] == str(other)


def test_ca_file_without_certificates(tmp_path: Path) -> None:
    """A CA file that OpenSSL cannot load is reported once, with its variable, and one with certificates is not."""
    snapshot = make_snapshot(tmp_path, {})
    folder = tmp_path / "etc/litellm"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "litellm.env").write_text('AWS_CA_BUNDLE="/etc/litellm/ca.pem"\nSSL_CERT_FILE="/etc/litellm/ca.pem"\n')
    ca = folder / "ca.pem"
    ca.write_text("no certificate")
    ca.chmod(0o644)
    (found,) = evidence(detect_environment_file, snapshot)
    assert "SSL_CERT_FILE=/etc/litellm/ca.pem: the file has no usable certificate" in found
    (finding,) = detect_environment_file.detect(snapshot)
    assert isinstance(finding, Finding)
    assert finding.remedy.startswith("sudoedit /etc/litellm/litellm.env && sudo litellmctl restart")
    ca.write_bytes(Path(certifi.where()).read_bytes())
    assert evidence(detect_environment_file, snapshot) == []


@pytest.mark.parametrize(
    ("variables", "mode", "said"),
    [
        ("", None, ["PROMETHEUS_MULTIPROC_DIR=/srv/counts: the folder does not exist"]),
        ("", 0o755, ["litellm cannot write there: mode 0755, owner "]),
        ("", 0o777, []),
        ('METRICS="127.0.0.1:9400"\n', None, []),
    ],
    ids=["missing", "of another user", "writable", "METRICS"],
)
def test_folder_of_counters(tmp_path: Path, variables: str, mode: int | None, said: list[str]) -> None:
    """A folder for the counters of the callback that is missing, or that the service cannot write, is reported."""
    snapshot = make_snapshot(tmp_path, {})
    folder = tmp_path / "etc/litellm"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "litellm.env").write_text(f'PROMETHEUS_MULTIPROC_DIR="/srv/counts"\n{variables}', encoding="utf-8")
    model = "model_list: [{model_name: a, litellm_params: {model: openai/x, api_key: none}}]\n"
    (folder / "config.yaml").write_text(f"{model}litellm_settings: {{callbacks: [prometheus]}}\n", encoding="utf-8")
    if mode is not None:
        (tmp_path / "srv/counts").mkdir(parents=True)
        (tmp_path / "srv/counts").chmod(mode)
    found = evidence(detect_environment_file, snapshot)
    assert [text in each for text, each in zip(said, found, strict=True)] == [True] * len(said)


def test_silent_journal() -> None:
    """An entry that journald has not stored yet, at a start just now, does not make the journal a silent one."""
    assert judge_silence(started=60_000_000, newest=59_500_000) is None
    assert judge_silence(started=60_000_000, newest=90_000_000) is None
    gap = judge_silence(started=60_000_000, newest=20_000_000)
    assert gap is not None
    assert "40 s older than the last start" in gap.reason


@pytest.mark.parametrize(
    ("path", "size", "command"),
    [
        ("/var/log/journal", 300, "sudo journalctl --vacuum-size=200M"),
        ("/var/log/journal", 100, ""),
        ("/var/cache/apt", 100, "sudo apt-get clean"),
        ("/var/log/nginx", 300, ""),
    ],
)
def test_command_that_frees_space(path: str, size: int, command: str) -> None:
    """A journal that is smaller than what its cleaning keeps is not to be cleaned."""
    assert cleaner_of(Consumer(Path(path), size * 2**20)) == command


def test_largest_consumers(tmp_path: Path) -> None:
    """The largest folders and files are named, a known folder apart from what is next to it, and small ones not."""
    for name, mib in (("log/journal/a", 3), ("log/other", 2), ("lib/x/y", 5), ("small", 0)):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * mib * 2**20)
    known = {str(tmp_path / "log/journal"): "vacuum"}
    found = [str(each).removeprefix(f"{tmp_path}/") for each in find_consumers(tmp_path, 9, known)]
    assert found == ["lib 5 MiB", "log/journal 3 MiB", "log/other 2 MiB"]
    assert find_consumers(tmp_path, -1, known) == ()
