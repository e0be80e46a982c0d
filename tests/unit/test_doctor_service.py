"""What doctor finds in the journal and the processes of a running service, without systemd."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from litellm_systemd.doctor.check_configuration import detect_environment_unusable
from litellm_systemd.doctor.check_drop_ins import detect_unit_dependency, detect_unit_drop_in
from litellm_systemd.doctor.check_service import (
    detect_journal_litellm,
    detect_journal_service,
    detect_journal_upstream,
    detect_service_memory,
    detect_service_not_ready,
    detect_service_silent,
)
from litellm_systemd.doctor.check_unit import (
    describe_start_error,
    detect_unit_exit,
    detect_unit_killed,
    detect_unit_line,
    detect_unit_oom,
    detect_unit_stale,
    detect_unit_start_error,
    detect_unit_start_limit,
    find_missing_module,
)
from litellm_systemd.doctor.engine import DoctorCheck, Finding
from litellm_systemd.doctor.registry import collect_remarks
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.dotenv import Dotenv, parse_dotenv
from litellm_systemd.gateway.config import parse_config, read_config
from litellm_systemd.host.journald import JournalGap, find_gap
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import UnitState
from litellm_systemd.host.systemctl import Event, Journal, journal_argv
from litellm_systemd.report.report import Outcome

UNREACHABLE = "LiteLLM Proxy: litellm.InternalServerError: OpenAIException - Connection error. (model other)"
LEAK = (
    "LiteLLM: LiteLLM.LoggingError: Exception occurred while success logging (OSError: [Errno 24] Too many open"
    " files: '/etc/hostname'; mine.py:7 async_log_success_event)"
)
#: Above the largest pid (proc_sys_kernel(5), pid_max).
GONE = 2**22 + 1
NO_ACCEPT = "litellm_systemd.runtime.worker.acceptor: cannot accept a connection: Too many open files"


class Host(Snapshot):
    """A host whose service has logged these texts. Its unit has one drop-in with these lines."""

    is_active: Any = True
    runtime: Any = None
    service: Any = None
    socket: Any = None
    systemctl: Any = None
    journal_gap: Any = None
    events: Any = ()
    dotenv: Any = Dotenv(".env", {})
    environment: Any = None
    gateway: Any = Snapshot.gateway

    def __init__(self, folder: Path, *texts: str, lines: str = "Nice=1") -> None:
        super().__init__(Layout(root=folder))
        drop_in = folder / "mine.conf"
        drop_in.write_text(f"[Service]\n{lines}\n", encoding="utf-8")
        self.environment = self.dotenv.values
        self.runtime = {"workers": []}
        self.service = {
            "MainPID": str(os.getpid()),
            "InactiveExitTimestamp": "today",
            "StatusText": "serving on 127.0.0.1:4000 with 1 model, 1 of 2 workers",
            "DropInPaths": "/mine.conf",
        }
        self.is_root = True
        self.systemctl = self
        self._texts = texts

    def entries(self, **_: Any) -> Journal:
        """The texts as entries of the last minute."""
        fields = {"_PID": "7", "PRIORITY": "3", "__REALTIME_TIMESTAMP": str(int((time.time() - 60) * 1e6))}
        return Journal(tuple({"MESSAGE": text, **fields} for text in self._texts))


class WithoutEvents(Host):
    """A host whose journal has nothing about the service."""

    events: Any = property(Snapshot.require_journal)


class WithJournal(Host):
    """A host whose events are those that systemctl returns."""

    events: Any = Snapshot.events


def find(check: DoctorCheck, host: Snapshot) -> list[Finding]:
    return [each for each in check.detect(host) if isinstance(each, Finding)]


@pytest.mark.parametrize("line", ["PrivateNetwork=yes", "RestrictAddressFamilies=AF_UNIX", "IPAddressDeny=any"])
def test_drop_in_that_blocks_a_provider(tmp_path: Path, line: str) -> None:
    """If a provider cannot be reached, a drop-in that restricts the network is named, with its line to remove."""
    (found,) = find(detect_journal_upstream, Host(tmp_path, UNREACHABLE, lines=f"Nice=1\n{line}"))
    assert found.evidence.startswith(f"/mine.conf:3: {line}: The service cannot reach the provider")
    assert found.remedy.startswith("Correct or remove /mine.conf:3")
    (found,) = find(detect_journal_upstream, Host(tmp_path, UNREACHABLE))
    assert "mine.conf" not in found.evidence + found.remedy
    assert found.remedy.startswith("check DNS")


GUARDRAIL = (
    "LiteLLM Proxy: Presidio PII analysis failed: ClientConnectorError (ConnectionRefusedError: [Errno 111] Connect"
    " call failed ('127.0.0.1', 5002); guardrail presidio)"
)
GUARDED = """\
model_list:
  - {model_name: m, litellm_params: {model: openai/m, api_base: "http://10.0.0.7:5002"}}
guardrails:
  - guardrail_name: pii
    litellm_params: {guardrail: presidio, mode: pre_call, presidio_analyzer_api_base: "http://localhost:5002/"}
"""


def test_server_of_a_model_that_is_down(tmp_path: Path) -> None:
    """If nothing listens at the address of a model, the remedy is to start that server, and not about DNS."""
    refused = "[Errno 111] Connect call failed ('10.0.0.7', 5002)"
    host = Host(tmp_path, f"{UNREACHABLE[:-1]}; ConnectionRefusedError: {refused})")
    host.gateway = parse_config(GUARDED, "config.yaml")
    (found,) = find(detect_journal_upstream, host)
    assert found.evidence.startswith("config.yaml:2:55: model_list[0].litellm_params.api_base: ")
    assert found.remedy.startswith("Start the server of that address, or correct the address; then: ")


def test_messages_of_own_loggers(tmp_path: Path) -> None:
    """A warning of the user's own Python file is not taken for the message of a provider whose words it has."""
    own = "team_hook: connection refused by 10.0.0.9, retrying"
    wrapped = json.dumps({"message": "connection refused by 10.0.0.9", "component": "team_hook"})
    host = Host(tmp_path, own, wrapped)
    assert find(detect_journal_upstream, host)
    host = Host(tmp_path, own, wrapped, UNREACHABLE, "team_hook: OSError: [Errno 28] No space left on device")
    (tmp_path / "team_hook.py").write_text("handler = None\n", encoding="utf-8")
    (tmp_path / "config.yaml").write_text(f"{GUARDED}litellm_settings: {{callbacks: team_hook.handler}}\n")
    host.gateway = read_config(tmp_path / "config.yaml")
    (found,) = find(detect_journal_upstream, host)
    assert "team_hook" not in found.evidence
    assert "The service cannot reach the provider (once" in found.evidence
    (found,) = find(detect_journal_service, host)
    assert "No space left" in found.evidence


def test_name_servers_without_an_answer(tmp_path: Path) -> None:
    """If the name servers have no answer about another provider, they are the evidence, and its host is named."""
    config = GUARDED.replace("10.0.0.7", "llm.corp.example")
    message = (
        "OpenAIException - Connection error. (gaierror: [Errno -3] Temporary failure in name resolution; model m)"
    )
    host = Host(tmp_path, f"LiteLLM Proxy: litellm.APIConnectionError: {message}")
    host.gateway = parse_config(config, "config.yaml")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n", encoding="ascii")
    (found,) = find(detect_journal_upstream, host)
    assert "; name servers: 127.0.0.1 (" in found.evidence
    assert found.remedy.startswith("resolvectl query llm.corp.example ")


REJECTED = (
    "LiteLLM Proxy: litellm.AuthenticationError: AuthenticationError: OpenAIException - Incorrect API key provided:"
    " sk-***. (invalid_api_key; model %s)"
)
KEYS = """\
model_list:
  - {model_name: own, litellm_params: {model: openai/m, api_key: os.environ/TEAM_KEY}}
  - {model_name: own, litellm_params: {model: openai/m, api_key: sk-written-here}}
  - {model_name: usual, litellm_params: {model: openai/m}}
  - {model_name: shared, litellm_params: {model: openai/m, litellm_credential_name: ours}}
  - {model_name: "mistral/*", litellm_params: {model: "mistral/*"}}
credential_list:
  - {credential_name: ours, credential_values: {api_key: sk-written-here}, credential_info: {}}
"""


@pytest.mark.parametrize(
    ("model", "where", "edit"),
    [
        ("own", ".env:2: TEAM_KEY or config.yaml:3:57: model_list[1].litellm_params.api_key", ".env"),
        ("usual", ".env:3: OPENAI_API_KEY", ".env"),
        ("shared", "config.yaml:8:49: credential_list[0].credential_values.api_key", "config.yaml"),
        ("mistral/large", ".env:4: MISTRAL_API_KEY", ".env"),
    ],
)
def test_key_that_a_provider_rejects(tmp_path: Path, model: str, where: str, edit: str) -> None:
    """If a provider rejects a key, the line that sets it is named, in .env or in the configuration."""
    host = Host(tmp_path, REJECTED % model)
    host.gateway = parse_config(KEYS, "config.yaml")
    host.dotenv = parse_dotenv("\nTEAM_KEY=a\nOPENAI_API_KEY=b\nMISTRAL_API_KEY=c\n", ".env")
    host.environment = host.dotenv.values
    (found,) = find(detect_journal_upstream, host)
    assert found.evidence.startswith(f"{where}: The provider rejects the key of a model (once, ")
    assert found.remedy.startswith(f"sudoedit {edit} && sudo litellmctl restart ")


RAISED = "LiteLLM Proxy: 'tenant' (KeyError; mine.py:7 async_pre_call_hook)"


@pytest.mark.parametrize(
    ("counts", "outcome"),
    [
        (((2, 2), (1, 1)), Outcome.FAILED),
        (((2, 2), (9, 8)), Outcome.WARNING),
        (((2, 2), (0, 0)), Outcome.WARNING),  # too few to tell
        (((0, 0), (0, 0)), Outcome.WARNING),  # corrected by a reload
        ((), Outcome.WARNING),
    ],
)
def test_callback_that_fails_each_request(
    tmp_path: Path, counts: tuple[tuple[int, int], ...], outcome: Outcome
) -> None:
    """A callback whose exception fails each request is a failure, and one that lets others succeed is a warning."""
    host = Host(tmp_path, RAISED)
    host.runtime = {"workers": [{"calls": calls, "failed_calls": failed} for calls, failed in counts]}
    (found,) = find(detect_journal_service, host)
    assert found.outcome is outcome
    is_failure = outcome is Outcome.FAILED
    assert (" raised an exception in each of the 3 requests since the workers " in found.evidence) is is_failure
    assert "mine.py:7 async_pre_call_hook" in found.evidence


@pytest.mark.parametrize(("folder", "is_hidden"), [("/home/me", True), ("/etc/litellm", False)])
def test_file_of_a_callback_that_the_sandbox_hides(tmp_path: Path, folder: str, is_hidden: bool) -> None:
    """If a callback opens a file in a home, the sandbox is named, and the remedy is to move the file."""
    error = f"[Errno 13] Permission denied: '{folder}/system.txt' (PermissionError; mine.py:5 async_pre_call_hook)"
    (found,) = find(detect_journal_service, Host(tmp_path, f"LiteLLM Proxy: {error}"))
    assert ("; the sandbox of the service hides that folder" in found.evidence) is is_hidden
    assert found.remedy.startswith(f"Move {folder}/system.txt below /etc/litellm, ") is is_hidden


def test_rejected_key_of_an_unknown_model(tmp_path: Path) -> None:
    """Without the configuration that the service runs with, the rejected key is found without a line."""
    for host in (Host(tmp_path, REJECTED % "gone"), Host(tmp_path, REJECTED.partition(" (")[0])):
        (found,) = find(detect_journal_upstream, host)
        assert found.evidence.startswith("The provider rejects the key of a model")
        assert found.remedy.startswith("correct the key in .env")


def test_setting_of_a_server_that_is_down(tmp_path: Path) -> None:
    """If the server of a guardrail is down, the line with its address is named, in the configuration or in .env."""
    host = Host(tmp_path, GUARDRAIL)
    host.gateway = parse_config(GUARDED, "config.yaml")
    (found,) = find(detect_journal_litellm, host)
    where = "config.yaml:5:59: guardrails[0].litellm_params.presidio_analyzer_api_base"
    assert found.evidence.startswith(f"{where}: LiteLLM cannot reach the server of a guardrail")
    host = Host(tmp_path, GUARDRAIL)
    host.dotenv = parse_dotenv("\nPRESIDIO_ANALYZER_API_BASE=http://127.0.0.1:5002\n", ".env")
    host.environment = host.dotenv.values
    (found,) = find(detect_journal_litellm, host)
    assert found.evidence.startswith(".env:2: PRESIDIO_ANALYZER_API_BASE: LiteLLM cannot reach")
    # The service runs with the configuration from before an edit that is no YAML.
    (found,) = find(detect_journal_litellm, Host(tmp_path, GUARDRAIL))
    assert found.evidence.startswith("LiteLLM cannot reach")


@pytest.mark.parametrize(("times", "started", "is_found"), [(4, 0.0, False), (5, 0.0, True), (5, 3.0, False)])
def test_workers_that_reach_their_limit(tmp_path: Path, times: int, started: float, is_found: bool) -> None:
    """Two workers that reach the limit of their memory more than four times since the start are reported."""
    host = Host(tmp_path, *(f"worker 1 (pid {pid}) recycled at 65{pid} MiB of memory" for pid in range(times)))
    host.gateway = parse_config(GUARDED, "config.yaml")
    host.runtime = {"workers": [{}, {}], "memory_limit": 650}
    # The messages are a minute old.
    host.service["InactiveExitTimestampMonotonic"] = str(int((time.monotonic() - started) * 1e6)) if started else "0"
    found = find(detect_service_memory, host)
    assert [each.evidence[:44] for each in found] == ["in the last hour 5 workers reached 650 MiB, "] * is_found
    assert all(each.evidence.endswith(" with 654 MiB") for each in found)


def test_drop_in_that_limits_threads(tmp_path: Path) -> None:
    """If requests fail for want of a thread, the line of the drop-in with the limit is named."""
    host = Host(tmp_path, "LiteLLM Proxy: litellm.APIConnectionError: can't start new thread", lines="LimitNPROC=3")
    (found,) = find(detect_journal_service, host)
    assert found.evidence.startswith("/mine.conf:2: LimitNPROC=3: The service reached its limit of processes")


def test_drop_in_that_limits_the_job(tmp_path: Path) -> None:
    """If systemd gave up the start at a limit of a drop-in for jobs, that line is named."""
    host = Host(tmp_path, "litellm.service: Job litellm.service/start timed out.", lines="JobRunningTimeoutSec=2")
    (found,) = find(detect_unit_drop_in, host)
    assert found.evidence.startswith(
        "/mine.conf:2: JobRunningTimeoutSec=2; litellm.service: Job litellm.service/start"
    )
    assert find(detect_unit_drop_in, Host(tmp_path, lines="JobRunningTimeoutSec=90")) == []


def test_drop_in_that_limits_memory(tmp_path: Path) -> None:
    """If a library aborts because a drop-in limits the memory, the line to remove is named, not a damaged library."""
    host = Host(tmp_path, lines="LimitAS=400M")
    host.is_active = False
    host.service = {**host.service, "Result": "signal", "ExecMainStatus": "6", "ActiveState": "failed"}
    (found,) = find(detect_unit_killed, host)
    assert found.evidence.startswith("/mine.conf:2: Result=signal, SIGABRT")
    assert found.remedy.startswith("Correct or remove /mine.conf:2")


@pytest.mark.parametrize(("state", "line"), [("auto-restart", 2), ("failed", 3)])
def test_drop_in_that_delays_a_restart(tmp_path: Path, state: str, line: int) -> None:
    """If systemd waits before a restart, the line with the delay is named; if it starts none, that with Restart=."""
    host = Host(tmp_path, lines="RestartSec=30min\nRestart=on-failure")
    host.is_active = False
    host.service = {**host.service, "Result": "signal", "ExecMainStatus": "9", "SubState": state}
    (found,) = find(detect_unit_killed, host)
    assert found.evidence.startswith(f"/mine.conf:{line}: Result=signal, SIGKILL")


@pytest.mark.parametrize("is_between", [False, True])
def test_failure_without_a_journal(tmp_path: Path, is_between: bool) -> None:
    """A service that fails is a failure also without its journal, and the remedy begins with that of the journal."""

    host = WithoutEvents(tmp_path, lines="LimitNOFILE=48")
    host.is_active, host.journal_gap = False, JournalGap("journald.conf:2: Storage=none", "sudoedit journald.conf")
    result = (
        {"Result": "success", "NRestarts": "7"} if is_between else {"Result": "exit-code", "ExecMainStatus": "75"}
    )
    host.service = {**host.service, **result, "ActiveState": "activating"}
    (found,) = find(detect_unit_exit, host)
    assert found.outcome is Outcome.FAILED
    assert found.evidence.startswith("Result=unknown; " if is_between else "exit code 75 ")
    assert "journald.conf:2: Storage=none" in found.evidence
    assert "/mine.conf:2 LimitNOFILE=48" in found.evidence
    assert found.remedy.startswith("sudoedit journald.conf; sudo litellmctl start")


@pytest.mark.parametrize("is_stored", [False, True])
def test_quiet_journal_after_an_earlier_failure(tmp_path: Path, is_stored: bool) -> None:
    """The error of an earlier start is not that of the last one, which the journal does not have. What systemd itself
    reports of the last one is judged as before.
    """
    host = WithJournal(tmp_path, "OSError: [Errno 24] Too many open files", lines="Group=gone")
    host.is_active, host.is_root = False, False  # root waits for the journal of this host
    host.journal_gap = JournalGap("mine.conf:2: LogLevelMax=2", "sudoedit mine.conf")
    failed = {"Result": "exit-code", "ExecMainStatus": "216", "ActiveState": "failed", "InvocationID": "2"}
    host.service = {**host.service, **failed}
    starting = {"MESSAGE_ID": "7d4958e842da4a758f6c1cdc7b36dcc5", "INVOCATION_ID": "2" if is_stored else "1"}
    ended = {**starting, "MESSAGE_ID": "d9b373ed55a64feb8242e02dbe79a49c", "UNIT_RESULT": "exit-code"}
    events = (Event(1, "Starting", starting), Event(2, "Failed with result 'exit-code'.", ended))
    host.systemctl = SimpleNamespace(entries=host.entries, events=lambda *_: events)
    (found,) = find(detect_unit_exit, host)
    assert ("Too many open files" in found.evidence) is is_stored
    assert ("no messages of the service (mine.conf:2: LogLevelMax=2)" in found.evidence) is not is_stored
    (found,) = find(detect_unit_drop_in, host)
    assert found.evidence.startswith("/mine.conf:2: Group=gone; ")


@pytest.mark.parametrize("result", ["oom-kill", "start-limit-hit"])
def test_result_without_a_journal(tmp_path: Path, result: str) -> None:
    """A result of systemd is a failure also without the journal."""
    host = WithoutEvents(tmp_path)
    host.is_active, host.journal_gap = False, JournalGap("mine.conf:2: Storage=none", "sudoedit mine.conf")
    host.service = {**host.service, "Result": result, "ActiveState": "failed"}
    check = detect_unit_oom if result == "oom-kill" else detect_unit_start_limit
    (found,) = find(check, host)
    assert found.outcome is Outcome.FAILED


def test_leak_of_open_files(tmp_path: Path) -> None:
    """At the limit of open files, the line of the user's code and what most of the open files are is named; if a
    drop-in has lowered the limit, that is the cause.
    """
    host, leaked = Host(tmp_path, LEAK, NO_ACCEPT), tmp_path / "leaked"
    leaked.touch()
    with ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(leaked.open())
        (found,) = find(detect_journal_service, host)
    assert "'/etc/hostname'; mine.py:7 async_log_success_event" in found.evidence
    assert f"pid {os.getpid()} has " in found.evidence
    assert found.evidence.endswith(f" 300 of them {leaked}")
    assert found.remedy.startswith("if the message names a file, close it in the code")
    # A worker may exit during the check.
    host.runtime = {"workers": [{"pid": GONE}]}
    assert f"; pid {os.getpid()} has " in find(detect_journal_service, host)[0].evidence
    host.service["MainPID"] = str(GONE)
    assert find(detect_journal_service, host)[0].remedy.startswith("if the message names a file")
    (found,) = find(detect_journal_service, Host(tmp_path, NO_ACCEPT, lines="LimitNOFILE=64"))
    assert found.evidence.startswith("/mine.conf:2: LimitNOFILE=64: A process has reached its limit")


class _Refusing(BaseHTTPRequestHandler):
    """A gateway whose custom_auth raises KeyError('tenant')."""

    def do_GET(self) -> None:
        body = json.dumps({"error": {"message": "Authentication Error, 'tenant'"}}).encode()
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("name", "place", "fails"),
    [
        ("tenant", "mine.py:3 user_api_key_auth", True),
        ("tenant", "mine.py:9 lookup", True),
        ("another", "mine.py:3 user_api_key_auth", False),  # of another client
    ],
)
def test_authentication_that_always_fails(tmp_path: Path, name: str, place: str, fails: bool) -> None:
    """If custom_auth refuses the right key by an exception, that is a failure that names the file and the line."""
    config = tmp_path / "etc/litellm/config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text(
        "model_list: [{model_name: a, litellm_params: {model: openai/a}}]\n"
        "general_settings: {custom_auth: mine.user_api_key_auth}\n",
        encoding="utf-8",
    )
    (config.parent / "mine.py").touch()
    host = Host(tmp_path, f"LiteLLM Proxy: '{name}' (KeyError; {place})")
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        values = {"LITELLM_MASTER_KEY": "sk-0123456789abcdef0123", "PORT": str(server.server_port)}
        host.dotenv, host.environment = Dotenv(".env", values), values
        (found,) = find(detect_journal_service, host)
        server.shutdown()
    assert found.outcome is (Outcome.FAILED if fails else Outcome.WARNING)
    line = place.partition(" ")[0].removeprefix("mine.py:")
    assert found.evidence.startswith(f"{config.parent}/mine.py:{line}: custom_auth") is fails
    assert found.remedy.startswith(f"sudoedit {config.parent}/mine.py && ") is fails


class _Systemd:
    """A systemd whose journald runs."""

    def show(self, *_: str) -> dict[str, str]:
        return {"ActiveState": "active"}


@pytest.mark.parametrize(("line", "is_gap"), [("LogNamespace=mine", False), ("StandardError=null", True)])
def test_journal_of_another_namespace(tmp_path: Path, line: str, is_gap: bool) -> None:
    """A service with a journal namespace of its own is healthy, since it is read too."""
    host = Host(tmp_path, lines=line)
    systemd: Any = _Systemd()
    gap = find_gap(host.layout, systemd, {**host.service, **dict((line.split("="),))})
    assert (gap is not None) is is_gap
    assert "--namespace=*" in journal_argv()


def test_refused_clients(tmp_path: Path) -> None:
    """Clients with a wrong key, as after `rotate-key`, are a remark that adds up the last hour. Guesses, which are a
    finding, are not.
    """
    refused = "refused 7 requests with a wrong key, from 10.0.0.9 (7)"
    (remark,) = (each for each in collect_remarks(Host(tmp_path, refused)) if "refused" in each)
    assert remark.startswith(f"In the last hour the service {refused}. ")
    mixed = "refused 5 requests without a key and 2 requests with a wrong key, from 10.0.0.8 (6), 10.0.0.9 (1)"
    once = "refused 1 request with a wrong key, from ::1 (1)"
    (remark,) = (each for each in collect_remarks(Host(tmp_path, refused, mixed, once)) if "refused" in each)
    summed = (
        "refused 10 requests with a wrong key and 5 requests without a key, from 10.0.0.9 (8), 10.0.0.8 (6), ::1 (1)"
    )
    assert remark.startswith(f"In the last hour the service {summed}. ")
    many = (f"refused 1 request with a wrong key, from 10.0.0.{number} (1)" for number in range(7))
    (remark,) = (each for each in collect_remarks(Host(tmp_path, *many)) if "refused" in each)
    assert "refused 7 requests with a wrong key, from 10.0.0.0 (1), " in remark
    assert " 10.0.0.4 (1) and 2 more. " in remark
    guessed = "refused 7 guessed keys after 7 requests"
    assert not [each for each in collect_remarks(Host(tmp_path, guessed)) if "refused" in each]


def test_clients_with_the_other_scheme(tmp_path: Path) -> None:
    """Clients that use TLS on a plain port, or none on a port of HTTPS, are a remark, unless the port has changed."""
    plain = "closed 60 connections with plain HTTP on the port of HTTPS, from 127.0.0.1 (60)"
    tls = "closed 9 connections with TLS on the port of plain HTTP, from 127.0.0.1 (9)"
    host = Host(tmp_path, plain, tls)
    (remark,) = (each for each in collect_remarks(host) if "closed" in each)
    assert remark.startswith(f"In the last hour the service {tls}. Write http://")
    host.service = {**host.service, "StatusText": "serving HTTPS (…) on 127.0.0.1:4000 with 1 model, 2 workers"}
    (remark,) = (each for each in collect_remarks(host) if "closed" in each)
    assert remark.startswith(f"In the last hour the service {plain}. Write https://")


def test_clients_with_the_old_key(tmp_path: Path) -> None:
    """During the overlap of `rotate-key`, the clients that still use the old key are named with its end."""
    end = "which is refused from 2026-11-30 05:00:00"
    texts = (f"{each} uses the old master key, {end}" for each in ("10.0.0.9", "4 more in 10 s: 10.0.0.9", "::1"))
    (remark,) = (each for each in collect_remarks(Host(tmp_path, *texts)) if "old" in each)
    assert remark.endswith(" the old master key, refused from 2026-11-30 05:00:00: 10.0.0.9, ::1")
    many = (f"10.0.0.{number} uses the old master key, {end}" for number in range(7))
    (remark,) = (each for each in collect_remarks(Host(tmp_path, *many)) if "old" in each)
    assert remark.endswith(" 10.0.0.4 and 2 more")


def test_unknown_models(tmp_path: Path) -> None:
    """A model that is not configured and that clients request again and again is a remark, with the number."""
    text = "LiteLLM Proxy: 400: {'error': 'Invalid model name passed in model=%s. Call `/v1/models`'}"
    texts = [text % "claude-3.7-old"] * 6 + [text % "once"]
    (remark,) = (each for each in collect_remarks(Host(tmp_path, *texts)) if "not configured" in each)
    assert "not configured: claude-3.7-old (6 times). " in remark


def test_port_without_connections(tmp_path: Path) -> None:
    """If no process accepts connections, the workers are the cause. If systemd listens and the connection fails
    nevertheless, a firewall is. If nothing listens, the socket is an earlier one.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as stack:
        address = server.getsockname()
        listen = f"127.0.0.1:{address[1]} (Stream)"
        for _ in range(3):  # until the kernel drops further connections
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)
        host = Host(tmp_path)
        host.socket = {"Listen": listen, "ActiveState": "active"}
        (found,) = find(detect_service_not_ready, host)
        assert ": 1 of them wait" in found.evidence
        assert found.remedy.endswith("sudo litellmctl restart")
    with socket.create_server(("127.0.0.2", address[1])):  # on the port, although it refuses the connection
        host = Host(tmp_path)
        host.socket = {"Listen": listen, "ActiveState": "active"}
        (found,) = find(detect_service_not_ready, host)
        assert "fails: Connection refused; a firewall rule?" in found.evidence
        assert found.remedy.startswith("sudo nft list ruleset; sudo iptables -S")
    host = Host(tmp_path)
    host.socket = {"Listen": listen, "ActiveState": "active"}
    (found,) = find(detect_service_not_ready, host)
    assert "nothing listens there" in found.evidence
    assert found.remedy == "sudo systemctl restart litellm.socket litellm.service"


class Stopped(Host):
    """A stopped host whose other units have these states."""

    def __init__(self, folder: Path, lines: str, properties: dict[str, str], **states: str) -> None:
        super().__init__(folder, lines=lines)
        self.is_active = False
        self.service = {**self.service, **properties}
        self._states = states

    def starting_units(self) -> tuple[str, ...]:
        """A unit that other units wait for."""
        return ("wait-online.service",)

    def show(self, unit: str, *_: str) -> dict[str, str]:
        """The state of another unit."""
        state = self._states.get(unit.replace(".", "_"), "active")
        return {"LoadState": "masked" if state == "masked" else "loaded", "ActiveState": state}


def test_units_that_prevent_the_start(tmp_path: Path) -> None:
    """A required unit that has failed is named, of a mount with the line, and so is one that excludes the service."""
    needs = {"Requires": "-.mount system.slice data-a.mount x.service", "Conflicts": "shutdown.target"}
    host = Stopped(tmp_path, "[Unit]\nRequiresMountsFor=/data/a/b", needs, **{"data-a_mount": "failed"})
    (found,) = find(detect_unit_dependency, host)
    line = "/mine.conf:3: RequiresMountsFor=/data/a/b"
    assert found.evidence == f"{line}: litellm.service requires data-a.mount, and data-a.mount has failed"
    (found,) = find(detect_unit_dependency, Stopped(tmp_path, "", needs, x_service="masked"))
    assert found.evidence == "litellm.service requires x.service, and x.service is masked"
    # systemd would start it with the service.
    assert find(detect_unit_dependency, Stopped(tmp_path, "", needs, x_service="inactive")) == []
    excluded = {"ConflictedBy": "other.service", "UnitFileState": "enabled"}
    (found,) = find(detect_unit_dependency, Stopped(tmp_path, "", excluded))
    assert found.evidence.startswith("other.service is active, and cannot run next to litellm.service")
    (found,) = find(detect_unit_dependency, Stopped(tmp_path, "", {"Job": "7", "ActiveState": "inactive"}))
    assert found.evidence == "the start of litellm.service waits, and wait-online.service is still starting"
    # It was replaced by the other one.
    assert find(detect_unit_dependency, Stopped(tmp_path, "", {**excluded, "UnitFileState": "disabled"})) == []


def test_units_that_the_next_start_needs(tmp_path: Path) -> None:
    """A service that runs, and whose next start fails for a unit that a drop-in requires, gets a warning."""
    host = Stopped(tmp_path, "[Unit]\nRequires=data.mount x.service", {}, data_mount="masked")
    host.is_active = True
    (found,) = find(detect_unit_dependency, host)
    line = "/mine.conf:3: Requires=data.mount x.service"
    assert found.evidence == f"{line}: data.mount is masked, so the next start fails"
    assert found.outcome is Outcome.WARNING


def test_time_limit_of_a_drop_in(tmp_path: Path) -> None:
    """A service that systemd ends at RuntimeMaxSec= of a drop-in is reported with the line."""
    host = Host(tmp_path, lines="RuntimeMaxSec=60")
    host.service = {**host.service, "NRestarts": "3", "ActiveState": "active"}
    failed = {"MESSAGE_ID": "d9b373ed55a64feb8242e02dbe79a49c", "UNIT_RESULT": "timeout"}
    messages = ("litellm.service: Service reached runtime time limit. Stopping.", "Failed with result 'timeout'.")
    host.events = tuple(Event(time.time() - 60, text, failed) for text in messages)
    (found,) = find(detect_unit_exit, host)
    assert found.evidence.startswith("/mine.conf:2: RuntimeMaxSec=60: the service ran for that long; Result=timeout")
    assert found.remedy.startswith("Correct or remove /mine.conf:2, then: ")


@pytest.mark.parametrize("target", ["/data/litellm", "../../data/litellm"])
def test_folder_of_the_service_that_is_a_link(tmp_path: Path, target: str) -> None:
    """A folder of the service that is a link is named with its target, and the remedy is a bind mount."""
    text = "litellm.service: Failed at step STATE_DIRECTORY spawning /opt/x: Not a directory"
    host = Host(tmp_path, text)
    host.is_active = False
    host.service = {**host.service, "Result": "exit-code", "ExecMainStatus": "238", "ActiveState": "activating"}
    (found,) = find(detect_unit_start_error, host)
    assert found.remedy.startswith("ls -ld /var/lib/litellm")
    link = host.layout.real(host.layout.state)
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    (found,) = find(detect_unit_start_error, host)
    assert found.evidence.startswith(
        "/var/lib/litellm is a link to /data/litellm, and systemd follows no link there:"
    )
    assert "echo '/data/litellm /var/lib/litellm none bind'" in found.remedy


def test_no_folder_for_the_control_socket(tmp_path: Path) -> None:
    """A drop-in that removes the folder of the control socket is named, and no restart is advised."""
    host = Host(tmp_path, lines="RuntimeDirectory=")
    host.runtime = {}
    (found,) = find(detect_service_silent, host)
    assert found.evidence.startswith("/mine.conf:2: RuntimeDirectory=: no /run/litellm/control.sock; ")
    assert found.remedy.startswith("Correct or remove /mine.conf:2, ")


def test_error_of_a_start(tmp_path: Path) -> None:
    """A service that does not start has the line of that start's journal that names the cause, with its meaning."""
    failed = "litellm.service: Failed to set up credentials: Protocol error"
    host = Host(tmp_path, failed, "litellm.service: Main process exited, code=exited, status=243/CREDENTIALS")
    host.is_active = False
    host.service = {**host.service, "Result": "exit-code", "ExecMainStatus": "243", "ActiveState": "activating"}
    means = "A file or secret that the unit names is missing, or cannot be read or decrypted"
    assert describe_start_error(host) == f"{means}: {failed}"
    assert describe_start_error(Host(tmp_path, failed)) == ""


@pytest.mark.parametrize("error", ["No package metadata was found for langfuse", "No module named 'langfuse.model'"])
def test_package_that_a_start_lacks(tmp_path: Path, error: str) -> None:
    """The package for lack of which a service does not start is known from the message of Python or of LiteLLM."""
    host = Host(tmp_path, f"LiteLLM rejects /etc/litellm/configs/mine.yml: Could not build the callback: {error}")
    assert find_missing_module(host) == ""
    host.is_active = False
    host.service = {**host.service, "Result": "exit-code", "ExecMainStatus": "78", "ActiveState": "failed"}
    assert find_missing_module(host) == "langfuse"


LEAVING = "leaving: 1 request in flight, the port closes at 14:03:22; /health/readiness answers 503"


def test_leaving_instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planned 503 of an instance that leaves its load balancer is no finding, and a stop is a remark."""
    host = Host(tmp_path)
    host.socket = {"Listen": "127.0.0.1:1 (Stream)"}
    assert find(detect_service_not_ready, host)
    host = Host(tmp_path)
    host.socket, host.service["StatusText"] = {"Listen": "127.0.0.1:1 (Stream)"}, LEAVING
    assert find(detect_service_not_ready, host) == []
    monkeypatch.setattr("litellm_systemd.doctor.registry.is_booted", lambda: True)
    monkeypatch.setattr(Host, "unit", lambda _self, name: UnitState(name, load="loaded", active="deactivating"))
    assert f"litellm.service is stopping: {LEAVING}" in collect_remarks(host)


SIGN_IN = "LiteLLM Proxy: trusted_proxy_ranges is not set, so failed Admin UI sign-in attempts are limited"


@pytest.mark.parametrize(
    ("command", "printed", "shown"),
    [
        (
            "ExecStartPost",
            ("curl: (6) Could not resolve host: x",),
            "; last output: curl: (6) Could not resolve host: x",
        ),
        (
            "ExecStartPre",
            ("Traceback (most recent call last):", '  File "x"', "KeyError: 1"),
            "; last output: KeyError: 1",
        ),
        ("ExecStartPost", (), ""),
    ],
)
def test_command_of_a_drop_in_that_fails(tmp_path: Path, command: str, printed: tuple[str, ...], shown: str) -> None:
    """A command of a drop-in that fails has its own last line as evidence, and no warning of LiteLLM."""
    exited = "litellm.service: Control process exited, code=exited, status=6/NOTCONFIGURED"
    host = with_failed_command(tmp_path, f"{command}=/usr/local/bin/notify", exited)
    lines = (
        ("4", "8", SIGN_IN),
        ("5", "7", "serving"),
        *(("6", "9", text) for text in printed),
        ("5", "7", "stopping"),
    )
    entries = tuple({"PRIORITY": level, "_PID": pid, "MESSAGE": text} for level, pid, text in lines)
    host.entries = lambda **_: Journal(entries)  # type: ignore[method-assign]
    (found,) = find(detect_unit_drop_in, host)
    assert found.evidence == f"/mine.conf:2: {command}=/usr/local/bin/notify; {exited}{shown}"
    (found,) = find(detect_unit_exit, host)
    assert "sign-in" not in found.evidence


def with_failed_command(folder: Path, line: str, exited: str) -> Host:
    """A host whose drop-in has a command that has failed."""
    host = Host(folder, lines=line)
    host.is_active = False
    host.service = {**host.service, "Result": "exit-code", "ExecMainStatus": "0", "ActiveState": "activating"}
    failed = {"MESSAGE_ID": "d9b373ed55a64feb8242e02dbe79a49c", "UNIT_RESULT": "exit-code"}
    host.events = (
        Event(1, "Starting", {"MESSAGE_ID": "7d4958e842da4a758f6c1cdc7b36dcc5"}),
        Event(2, exited, {}),
        Event(3, "Failed with result 'exit-code'.", failed),
    )
    return host


@pytest.mark.parametrize(
    ("mode", "text", "fault", "remedy"),
    [
        (0o644, "#!/bin/sh\n", "{} is not executable", "sudo chmod a+x {} && sudo litellmctl start"),
        (
            0o755,
            "#!/bin/sh\r\n",
            "the first line of {} names '/bin/sh\\r', which does not exist",
            "sudo sed -i 's/\\r$//' {} && sudo litellmctl start",
        ),
        (
            0o755,
            "#!/opt/none/python -u\n",
            "the first line of {} names '/opt/none/python', which does not exist",
            "Correct ",
        ),
        (0, "", "{} does not exist", "Correct or remove /mine.conf:2, then: "),
    ],
)
def test_command_of_a_drop_in_that_systemd_cannot_execute(
    tmp_path: Path, mode: int, text: str, fault: str, remedy: str
) -> None:
    """If systemd cannot execute the program of a drop-in, the reason is named, and the command that repairs it."""
    program = tmp_path / "usr/local/bin/fetch.sh"
    program.parent.mkdir(parents=True)
    if mode:
        program.write_text(text, encoding="ascii", newline="")
        program.chmod(mode)
    exited = "litellm.service: Control process exited, code=exited, status=203/EXEC"
    host = with_failed_command(tmp_path, "ExecStartPre=+/usr/local/bin/fetch.sh --all", exited)
    (found,) = find(detect_unit_drop_in, host)
    assert found.evidence.endswith(f"{exited}; {fault.format(program)}")
    assert found.remedy.startswith(remedy.format(program))


@pytest.mark.parametrize("line", ["+-/none", "%E/none", '"/opt/my tools/none"', "/bin/sh -c true", "sh -c true"])
def test_command_of_a_drop_in_that_is_not_judged(tmp_path: Path, line: str) -> None:
    """Only a program with a plain path, whose failure counts, is judged; the line of the faulty one is named."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sh").write_text("#!/bin/sh\t-e\n", encoding="ascii")
    (tmp_path / "bin/sh").chmod(0o755)
    exited = "litellm.service: Control process exited, code=exited, status=203/EXEC"
    host = with_failed_command(tmp_path, f"ExecStartPre={line}\nExecStartPost=/none\nExecStartPre={line}", exited)
    (found,) = find(detect_unit_drop_in, host)
    assert found.evidence.endswith(f"{exited}; {tmp_path}/none does not exist")
    assert found.remedy.startswith("Correct or remove /mine.conf:3, then: ")


DROP_IN = "/etc/systemd/system/litellm.service.d/key.conf"


@pytest.mark.parametrize(
    ("text", "is_lost"),
    [
        ("[Service]\nEnviromentFile=-/etc/litellm/secrets.env", True),
        ("[Servce]\nEnvironmentFile=/etc/litellm/secrets.env", True),
        ('[Service]\nEnvironmnt="A=1" "LITELLM_MASTER_KEY=sk-1"', True),
        ("[Service]\nMemoryMaxx=1G", False),
        ("[Service]\nEnviromentFile=/etc/litellm/none.env", False),
    ],
)
def test_variable_that_is_lost_with_a_drop_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, is_lost: bool
) -> None:
    """A line that systemd ignores, or a drop-in that it has not read, is a failure if a variable is lost with it.

    The missing variable is then a consequence.
    """
    host = Host(tmp_path)
    model = "model_list: [{model_name: a, litellm_params: {model: openai/a}}]"
    host.gateway = parse_config(f"{model}\ngeneral_settings: {{master_key: os.environ/LITELLM_MASTER_KEY}}", "c.yml")
    complaint = f"{DROP_IN}:2: Unknown key, ignoring.\n"
    host.verify = lambda unit, _: complaint if "service" in unit else ""  # type: ignore[attr-defined]
    monkeypatch.setattr(Host, "unit", lambda _self, name: UnitState(name, load="loaded"))
    host.socket = host.service = {}
    for path, content in ((DROP_IN, text), ("/etc/litellm/secrets.env", 'LITELLM_MASTER_KEY="sk-1"')):
        host.layout.real(path).parent.mkdir(parents=True)
        host.layout.real(path).write_text(content, encoding="utf-8")
    for check in (detect_unit_line, detect_unit_stale):
        (found,) = find(check, host)
        assert found.outcome is (Outcome.FAILED if is_lost else Outcome.WARNING)
        assert found.evidence.endswith(": so the service lacks LITELLM_MASTER_KEY") is is_lost
        assert check.cause.id in detect_environment_unusable.cause.caused_by
    host.environment = {"LITELLM_MASTER_KEY": "sk-2"}
    assert [each.outcome for each in find(detect_unit_line, host)] == [Outcome.WARNING]
