"""The running service: does it respond, do its workers serve, and which configuration and release does it run?

And its journal since the last start: known messages of LiteLLM, AWS, the runtime and systemd, and repeated errors. A
message in the journal shows what happened, which may be over. The checks of the journal therefore only warn, and
their findings are consequences if another check fails.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from litellm_systemd import contract
from litellm_systemd.client.certificate import served_certificate
from litellm_systemd.client.gateway import READINESS, Gateway, GatewayError, own_gateway
from litellm_systemd.contract import CONTROL_SOCKET, RUNTIME_DIRECTORY, SERVING_HTTPS
from litellm_systemd.doctor.check_configuration import CA_VARIABLES
from litellm_systemd.doctor.check_network import BLOCKING, REOPEN, judge_names
from litellm_systemd.doctor.check_unit import CORRECT_LINE, STARTUP_BLOCKERS, control_socket, drop_ins, explain
from litellm_systemd.doctor.engine import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.doctor.start_errors import read_error
from litellm_systemd.env.secret_references import is_reference
from litellm_systemd.env.settings import Settings
from litellm_systemd.env.variables import HIDDEN, is_loopback
from litellm_systemd.errors import InputError, InstallerError, InvalidAnswer, MissingError, PermissionDenied
from litellm_systemd.gateway.config_types import GatewayConfig, Model, render_key, walk_texts
from litellm_systemd.host.effective import listen_addresses
from litellm_systemd.host.sandbox import has_own_sandbox
from litellm_systemd.logs.events import ERROR, Group, LogEvent, group_events, read_events
from litellm_systemd.releases.inventory import current_release, releases_of
from litellm_systemd.report.report import Outcome, render_count

_REQUIRES = ("host-systemd-absent", "host-systemd-silent", "files-not-installed", "unit-masked")
_DATABASE = (
    *("database-disk", "database-down", "database-refused", "database-connections", "database-history"),
    *("database-pending", "database-blocked", "database-unused"),
)

SILENT = Cause(
    "service-silent",
    "The main process does not respond as it should: it hangs, a signal stopped it, or another program answers in its"
    " place. Its workers may continue to serve; the watchdog kills it after WATCHDOG_TIMEOUT seconds.",
    "{remedy}",
    requires=_REQUIRES,
    caused_by=("unit-overridden",),
)


#: The line with which systemd does not create the folder of the control socket.
_NO_FOLDER = "RuntimeDirectory="


@detects(SILENT)
def detect_service_silent(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a main process that does not respond on its control socket, or with an invalid answer."""
    try:
        is_silent = snapshot.is_active and not snapshot.runtime
    except InvalidAnswer as error:
        yield SILENT.finding(error.message, remedy="sudo systemctl restart litellm")
        return
    if is_silent:
        state = _state(snapshot)
        process = f"the main process {snapshot.service['MainPID']} is {state}"
        # Any cleaner of /run can remove it. The processes then serve on, but no command reaches them.
        path = f"{RUNTIME_DIRECTORY}/{CONTROL_SOCKET}"
        is_gone, remedy = not control_socket(snapshot).exists(), "sudo systemctl restart litellm"
        reason = f"{path} was removed while the service runs" if is_gone else f"no response on {path}"
        resets = [each for each in drop_ins(snapshot, empty=True) if each.assignment == _NO_FOLDER]
        if is_gone and resets:
            where = resets[0].where
            reason, remedy = f"{where}: {_NO_FOLDER}: no {path}", CORRECT_LINE.format(where=where)
        is_unsure = snapshot.is_overloaded and not is_gone and not state.startswith("T")
        busy = f"; the load of this host is {os.getloadavg()[0]:.0f}" if is_unsure else ""
        outcome = Outcome.WARNING if is_unsure else None
        yield SILENT.finding(f"{reason}; {process}{busy}", outcome=outcome, remedy=remedy)


def _state(snapshot: Snapshot) -> str:
    """The state of the main process as the kernel reports it, such as `T (stopped)`."""
    try:
        text = Path(f"/proc/{snapshot.service['MainPID']}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "gone"
    found = re.search(r"^State:\s+(.*)$", text, re.MULTILINE)
    return found[1] if found else "in an unknown state"


NOT_READY = Cause(
    "service-not-ready",
    "systemd considers the service active, but the service does not report that it is ready.",
    "{remedy}",
    requires=_REQUIRES,
    caused_by=(
        "host-loopback",
        "port-address",
        *STARTUP_BLOCKERS,
        *_DATABASE,
        "service-silent",
        "port-socket-failed",
        "port-closed",
        "journal-service",
    ),
)
_RESTART = "journalctl -u litellm -n 50; sudo litellmctl restart"
_FIREWALL = (
    "sudo nft list ruleset; sudo iptables -S    # find the rule for the port. Without one, the workers accept no"
    " connections: sudo litellmctl restart"
)
#: Seconds for a connection to this host. The kernel itself accepts it, and at once.
_CONNECT = 0.9


@detects(NOT_READY)
def detect_service_not_ready(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a service that is not ready on its port. The request costs nothing and needs no key."""
    problem, remedy = _observe_readiness(snapshot)
    if problem:
        yield NOT_READY.finding(problem, remedy=remedy)


def _observe_readiness(snapshot: Snapshot) -> tuple[str, str]:
    """Why an active service is not ready on its port, and the remedy; empty if it is ready, or not active."""
    return snapshot.cached("readiness", lambda: _query_readiness(snapshot))  # type: ignore[no-any-return]


def _query_readiness(snapshot: Snapshot) -> tuple[str, str]:
    addresses = listen_addresses(snapshot.socket.get("Listen", ""))
    text = snapshot.service.get("StatusText", "")
    if not snapshot.is_active or not addresses or text.startswith("leaving"):
        return "", ""
    host, _, port = addresses[0].rpartition(":")
    url = Settings({}, host=host.strip("[]") or "::", port=int(port)).base_url
    address = urlsplit(url).hostname or "", int(port)
    if snapshot.socket.get("ActiveState") == "active" and (error := _connection_error(address)):
        where = f"{contract.SOCKET} listens on {addresses[0]}"
        queues = _accept_queues(address[1])
        if not queues:
            where = f"the unit {contract.SOCKET} has {addresses[0]}, but nothing listens there"
            return f"{where}: the socket was opened before its unit was changed", REOPEN
        if waiting := sum(queues):
            return f"{where}, but no worker accepts connections: {waiting} of them wait there", _RESTART
        return f"{where}, but a connection to {urlsplit(url).netloc} fails: {error}; a firewall rule?", _FIREWALL
    try:
        gateway = Gateway(url, timeout=2.0)
        if text.startswith(SERVING_HTTPS):
            # Any certificate will do for a request without a key. check_tls compares it with the file.
            fingerprint = served_certificate(*address, 2.0).sha256
            gateway = replace(gateway, base_url=url.replace("http:", "https:"), fingerprint=fingerprint)
        answer = gateway.get(READINESS)
    except (GatewayError, OSError) as error:
        return str(error), _RESTART
    problem = f"{gateway.base_url}{READINESS}: HTTP {answer.status}, {gateway.explain(answer)}"
    return ("", "") if answer.ok else (problem, _RESTART)


def _accept_queues(port: int) -> list[int]:
    """For each socket that listens on a port, the number of connections that no process has accepted yet.

    With a full queue, no more are made.
    """
    # proc(5): the receive queue of a listening socket (state 0A).
    paths = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
    text = "".join(path.read_text("ascii") for path in paths if path.exists())
    return [int(number, 16) for number in re.findall(rf":{port:04X} \S+ 0A \w+:(\w+)", text)]


def _connection_error(address: tuple[str, int]) -> str:
    """Why this host cannot connect to its own address; empty if it can."""
    try:
        socket.create_connection(address, _CONNECT).close()
    except TimeoutError:
        return f"no answer within {_CONNECT} s"
    except OSError as error:
        return error.strerror or str(error)
    return ""


WORKERS = Cause(
    "service-workers",
    "A worker does not serve: it cannot start, or has not responded for a while. The others take over its load.",
    "{remedy}",
    outcome=Outcome.WARNING,
    requires=(*_REQUIRES, "service-silent"),
    caused_by=(*STARTUP_BLOCKERS, "journal-service"),
)
#: Seconds for a worker to start, and since it last passed its health check.
_MAX_START, _MAX_SILENCE = 60, 30


@detects(WORKERS)
def detect_service_workers(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect workers of the current generation that do not serve."""
    if not snapshot.is_active:
        return
    status = str(snapshot.runtime.get("status", ""))
    remedy = "journalctl -u litellm -p warning -n 50; sudo litellmctl restart    # the journal shows why"
    if is_short_of_workers(status):
        error = read_error(status, snapshot.layout.etc)
        evidence, found = explain(snapshot, error) if error.is_explained else (status, "")
        yield WORKERS.finding(evidence, remedy=found or remedy)
    for worker in snapshot.runtime.get("workers", ()):
        late = worker["state"] == "starting" and worker["age"] > _MAX_START
        if late or (worker["state"] == "serving" and worker["answered"] > _MAX_SILENCE):
            silence = f"no health check passed for {worker['answered']:.0f} s"
            evidence = f"worker {worker['worker']} (pid {worker['pid']}) is {worker['state']}; {silence}"
            yield WORKERS.finding(evidence, remedy=remedy)


MEMORY = Cause(
    "service-memory",
    "Workers reach the limit of their memory again and again, and are replaced: code keeps what it should free,"
    " such as a callback that collects requests, or the limit is too low for the load.",
    "Let your code free what it keeps, then: sudo litellmctl reload. For a larger limit set WORKER_MEMORY_LIMIT in"
    " .env, then: sudo litellmctl install",
    outcome=Outcome.WARNING,
    requires=(*_REQUIRES, "service-silent"),
)
#: How often a worker may reach its limit within the time of `Snapshot.recent_events`.
_MAX_RECYCLED = 2
_RECYCLED = re.compile(r"recycled at (\d+) MiB of memory")


@detects(MEMORY)
def detect_service_memory(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect workers that are recycled for their memory again and again since the last start."""
    workers = len(snapshot.runtime.get("workers", ())) if snapshot.is_active else 0
    if not workers:
        return
    started = _started_time(snapshot)
    events = [event for event in snapshot.recent_events if event.when > started]
    found = [(event, match[1]) for event in events if (match := _RECYCLED.search(event.text))]
    if len(found) > _MAX_RECYCLED * workers:
        last, size = found[-1]
        own = ", ".join(each.shown for each in snapshot.gateway.python_files)
        yield MEMORY.finding(
            f"in the last hour {len(found)} workers reached {snapshot.runtime['memory_limit']} MiB, the last one at"
            f" {time.strftime('%H:%M:%S', time.localtime(last.when))} with {size} MiB"
            + (f"; your own code in them: {own}" if own else "")
        )


BLOCKED = Cause(
    "service-blocked",
    "Code blocks the event loop of a worker: it waits or calculates without `await`. The other requests wait"
    " meanwhile, and a worker that is blocked for half of WATCHDOG_TIMEOUT is killed with all its requests.",
    "Let the code await: asyncio.sleep() for time.sleep(), httpx.AsyncClient for requests, asyncio.to_thread() for"
    " any other call. Then: sudo litellmctl reload",
    requires=(*_REQUIRES, "service-silent"),
)
#: How often code must have blocked workers to be reported, if no worker was killed for it.
_MIN_BLOCKS = 3


@detects(BLOCKED)
def detect_service_blocked(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect code that blocks workers, by the line that runs meanwhile."""
    for each in snapshot.runtime.get("blocks", ()) if snapshot.is_active else ():
        if each["killed"] or each["count"] >= _MIN_BLOCKS:
            call = f" ({each['call']})" if each["call"] else ""
            request = f", last in {each['request']}" if each["request"] else ""
            killed = f"; workers killed for it: {each['killed']}" if each["killed"] else ""
            count = render_count(each["count"], "time")
            yield BLOCKED.finding(
                f"{each['where']}{call}: {count}, for up to {each['longest']:.0f} s{request}{killed};"
                f" the last time {each['age']:.0f} s ago",
                outcome=Outcome.FAILED if each["killed"] else Outcome.WARNING,
            )


def is_short_of_workers(status: str) -> bool:
    """Whether the status line reports a worker that does not serve, in today's words or those of earlier releases."""
    return re.search(r"\d+ of \d+ workers?\b|cannot start a worker|a worker can't start", status) is not None


GUESSING = Cause(
    "service-guessing",
    "A client guessed keys within the last hour, since the last start: it sent many different wrong keys. Its"
    " refusals are delayed, and requests with the right key are not. A generated key is too long to be guessed.",
    "Block the address in the firewall or the security group. If you chose the key yourself, write a longer"
    " LITELLM_MASTER_KEY in .env, then: sudo litellmctl install",
    outcome=Outcome.WARNING,
    requires=(*_REQUIRES, "service-silent"),
)


@detects(GUESSING)
def detect_service_guessing(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect clients that guess keys."""
    guesses = snapshot.runtime.get("guesses", ()) if snapshot.is_active else ()
    for each in guesses[:1]:
        others = f"; {len(guesses) - 1} more clients guess keys" if len(guesses) > 1 else ""
        yield GUESSING.finding(
            f"{each['client']}: {each['refused']} guesses, the last {each['age']:.0f} s ago{others}"
        )


RELOAD = Cause(
    "service-reload-failed",
    "The last reload failed, and the service keeps serving with the previous configuration.",
    "sudoedit {path} && sudo systemctl reload litellm    # correct what the message names",
    outcome=Outcome.WARNING,
    requires=(*_REQUIRES, "service-silent"),
    caused_by=(
        *("configuration-unusable", "files-config-gone", "files-gone", "files-unreadable"),
        *("tls-unusable", "tls-expiry", "database-parts"),
    ),
)


@detects(RELOAD)
def detect_service_reload_failed(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect that the last reload failed."""
    last = snapshot.runtime.get("last_reload") if snapshot.is_active else None
    if last and not last["ok"]:
        yield RELOAD.finding(str(last["error"]), path=snapshot.config_path)


OLD_RELEASE = Cause(
    "service-old-release",
    "The service still runs another release than the active one.",
    "sudo litellmctl restart",
    outcome=Outcome.WARNING,
    requires=(*_REQUIRES, "files-release-gone"),
    caused_by=("files-unfinished", "files-suspended"),
)


@detects(OLD_RELEASE)
def detect_service_old_release(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a main process that runs another release than the one that `current` points to."""
    if not snapshot.is_active:
        return
    if not snapshot.is_root:
        raise PermissionDenied("only root can see which release a process runs")
    current = current_release(snapshot.layout)
    used = releases_of(snapshot.layout, Path(f"/proc/{snapshot.service['MainPID']}"))
    if used and current not in used:
        yield OLD_RELEASE.finding(
            f"it runs {', '.join(sorted(used))}, but {snapshot.layout.current} points to {current}"
        )


_JOURNAL_REQUIRES = ("host-systemd-absent", "host-systemd-silent", "files-not-installed")
_CAUSED_BY = (
    *STARTUP_BLOCKERS,
    *_DATABASE,
    *("unit-start-error", "unit-start-limit", "unit-watchdog", "unit-oom", "unit-killed", "unit-exit"),
    *("service-silent", "service-not-ready"),
)
_NETWORK = (
    *("network-sandbox", "network-dns", "network-proxy", "network-unreachable", "network-certificate"),
    "environment-credentials",
)
_CREDENTIALS = (
    *("host-clock", "aws-role", "aws-key", "aws-profile", "aws-identity"),
    *("aws-model-ended", "aws-model-refused"),
)
#: Seconds; older messages are not reported.
_MAX_AGE = 86_400
#: How often an unknown error must appear to be reported.
_MIN_UNKNOWN = 3
#: Where code of the user's is, in a message about its exception.
_PLACE = re.compile(r"; [\w.-]{1,99}\.py:\d")
#: The start of the names of the settings of a drop-in that may explain a known message.
_SETTINGS = {
    "too-many-files": ("LimitNOFILE",),
    "too-many-tasks": ("TasksMax", "LimitNPROC", "LimitAS"),
    "unreachable": BLOCKING,
}
#: Those with the address of a server that the service cannot reach, as of asyncio or HOST:PORT.
_NAMES_ADDRESS = ("guardrail-unreachable", "unreachable")
#: Of Python, for a file that does not exist or is not accessible (errno(3)).
_NOT_OPENED = re.compile(r"\[Errno (?:2|13)\] [\w ]{1,60}: '(/[^']{1,300})'")
#: The error of the resolver if no name server has an answer. A name that does not exist is another one.
_NO_ANSWER = "Temporary failure in name resolution"
_ADDRESS = re.compile(r"\('(?P<host>[^']{1,99})', (?P<port>\d{1,5})\)|\b(?P<name>[\w.-]{1,99}):(?P<number>\d{1,5})\b")
_PORTS = {"http": 80, "https": 443}
#: The model that a message names at its end, and the parameter with the key of its provider.
_MODEL, _API_KEY = re.compile(r"[;(] ?model ([^()\n]{1,200})\)$"), "api_key"
_REMEDY = "{remedy}    # to see all messages: litellmctl logs --errors"


def _groups(snapshot: Snapshot) -> tuple[Group, ...]:
    return snapshot.cached("journal groups", lambda: _observe(snapshot))  # type: ignore[no-any-return]


def _observe(snapshot: Snapshot) -> tuple[Group, ...]:
    since = snapshot.service.get("InactiveExitTimestamp", "")
    if not since:
        return ()  # not started since this boot
    snapshot.require_journal()
    journal = snapshot.systemctl.entries(since=since, priority="warning", timeout=snapshot.optional_timeout)
    if not journal.entries and not snapshot.is_root:
        raise PermissionDenied("only root and the group systemd-journal can read the journal")
    entries = entries_since(journal.entries, _started_at(snapshot))
    own: set[str] = set()
    with contextlib.suppress(InstallerError, OSError):
        own = {each.path.stem for each in snapshot.gateway.python_files}
    return group_events(recent_events(read_events(entries), time.time()), own)


def _started_at(snapshot: Snapshot) -> int:
    """When the last start began: microseconds of CLOCK_MONOTONIC; 0 if it is not known."""
    return int(snapshot.service.get("InactiveExitTimestampMonotonic") or "0")


def _started_time(snapshot: Snapshot) -> float:
    """When the last start began, as a Unix time."""
    return time.time() - time.monotonic() + _started_at(snapshot) / 1e6


def entries_since(entries: Iterable[Mapping[str, Any]], start: int) -> tuple[Mapping[str, Any], ...]:
    """The journal entries of a start, by its microseconds of CLOCK_MONOTONIC.

    The times that systemd prints have seconds. Within the first second are messages of the previous process.
    """
    return tuple(entry for entry in entries if int(entry.get("__MONOTONIC_TIMESTAMP", start)) >= start)


def recent_events(events: tuple[LogEvent, ...], now: float) -> tuple[LogEvent, ...]:
    """The events of the last day; `now` is a Unix time."""
    return tuple(event for event in events if event.when > now - _MAX_AGE)


def reportable_groups(groups: tuple[Group, ...], area: str) -> Iterator[Group]:
    """The groups of an area whose messages are frequent enough to be reported."""
    for group in groups:
        known = group.signature
        if known is not None and known.area == area and 0 < known.min_count <= group.count:
            yield group


def _find(snapshot: Snapshot, cause: Cause, explains: tuple[str, ...] = ()) -> Iterator[Finding]:
    """Findings of an area; those that are named in `explains` are failures if the service does not serve."""
    groups = _groups(snapshot)
    rejected = any(True for area in ("aws", "upstream") for _ in reportable_groups(groups, area))
    for group in reportable_groups(groups, cause.id.removeprefix("journal-")):
        if rejected and group.signature is not None and group.signature.name == "cooldown":
            continue  # the rejected calls are its cause
        if group.signature is not None:
            fails = group.signature.name in explains and _serves_badly(snapshot)
            evidence = f"{group.signature.means} ({_times(group)}): {group.sample}"
            remedy = group.signature.remedy
            names = _SETTINGS.get(group.signature.name, ())
            if names and (lines := [each for each in drop_ins(snapshot) if each.name.startswith(names)]):
                evidence = f"{lines[0].where}: {lines[0].assignment}: {evidence}"
                remedy = CORRECT_LINE.format(where=lines[0].where)
            elif group.signature.name == "unreachable" and _NO_ANSWER in group.sample:
                host = _find_host(snapshot, group.sample)
                more, remedy = judge_names(snapshot, host)
                evidence, remedy = f"{evidence}; {more}", remedy.format(host=host or "HOST")
            elif group.signature.name in _NAMES_ADDRESS and (where := _find_setting(snapshot, group.sample)):
                evidence = f"{where}: {evidence}"
                if "Connection refused" in group.sample or "[Errno 111]" in group.sample:
                    remedy = "Start the server of that address, or correct the address; then: sudo litellmctl restart"
            elif group.signature.name == "provider-key" and (keys := _find_keys(snapshot, group.sample)):
                evidence = f"{' or '.join(keys)}: {evidence}"
                remedy = f"{next(iter(keys.values()))} && sudo litellmctl restart"
            elif group.signature.name == "untrusted" and (changed := changed_ca_file(snapshot)):
                evidence, remedy = f"{changed}: {evidence}", "sudo litellmctl restart"
            elif group.signature.name == "too-many-files" and snapshot.is_active and snapshot.is_root:
                places = [event.sample for event in group.events if _PLACE.search(event.sample)]
                evidence = evidence.replace(group.sample, places[-1] if places else group.sample)
                evidence += _most_open_files(snapshot)
            elif group.signature.name == "callback-raised" and (place := _failing_authentication(snapshot, group)):
                fails = True
                raised = "custom_auth raises an exception, also for the master key"
                evidence = f"{place}: {raised} ({_times(group)}): {group.sample}"
                remedy = f"sudoedit {place.rpartition(':')[0]} && sudo litellmctl reload"
            elif group.signature.name == "callback-raised" and (calls := _failed_calls(snapshot)):
                fails = True
                where = f"in each of the {calls} requests since the workers started"
                evidence = f"{group.signature.means} {where}: {group.sample}"
            if group.signature.name == "callback-raised" and (path := _hidden_path(snapshot, group.sample)):
                evidence += "; the sandbox of the service hides that folder, whatever its mode"
                remedy = (
                    f"Move {path} below {snapshot.layout.etc}, name it so in the file; then: sudo litellmctl reload"
                )
            outcome = Outcome.FAILED if fails else Outcome.WARNING
            yield cause.finding(evidence, outcome=outcome, remedy=remedy, subject=group.signature.name)


#: The fewest requests, failed by the user's code without one success, that make it a failure.
_MIN_CALLS = 3


def _failed_calls(snapshot: Snapshot) -> int:
    """How many requests called a model since the workers started, if the user's code failed each; 0 otherwise."""
    with contextlib.suppress(InstallerError, OSError):
        workers = snapshot.runtime.get("workers", ()) if snapshot.is_active else ()
        calls, failed = (sum(each.get(name, 0) for each in workers) for name in ("calls", "failed_calls"))
        return calls if calls == failed and calls >= _MIN_CALLS else 0
    return 0


#: A message about an exception of the user's code, and the request with which it is tried again. It calls no model.
_RAISED = re.compile(
    r"[^:]{1,60}: (?P<text>.*) \([^()]*?(?P<file>[\w.-]{1,99}\.py):(?P<line>\d{1,6}) [\w<>]+\)", re.DOTALL
)
_TRIAL = "/v1/models"


def _failing_authentication(snapshot: Snapshot, group: Group) -> str:
    """FILE:LINE of the exception by which custom_auth refuses also the right key; empty if it does not."""
    with contextlib.suppress(InstallerError, OSError):
        key, settings = snapshot.settings.master_key, snapshot.gateway.section("general_settings")
        if not (snapshot.is_active and settings.get("custom_auth")) or is_reference(key):
            return ""
        gateway = own_gateway(snapshot.settings, key, timeout=2.0)
        answer = gateway.get(_TRIAL)
        said = gateway.explain(answer)[:_MAX_COMPARED]
        for found in filter(None, (_RAISED.match(event.sample) for event in group.events)):
            if not answer.ok and said == f"Authentication Error, {found['text']}".strip()[:_MAX_COMPARED]:
                paths = (path for path in snapshot.gateway.other_files if path.name == found["file"])
                return f"{next(paths, found['file'])}:{found['line']}"
    return ""


#: Characters of an exception that are compared with the response, which is shortened.
_MAX_COMPARED = 100


def _find_setting(snapshot: Snapshot, text: str) -> str:
    """The position and name of the setting that has an address of a message as a URL; empty if none has."""
    found = {
        _address(each["host"] or each["name"], int(each["port"] or each["number"]))
        for each in _ADDRESS.finditer(text)
    }
    settings = [(f"{snapshot.dotenv.where(name)}: {name}", value) for name, value in snapshot.environment.items()]
    with contextlib.suppress(InputError, MissingError):  # the service runs with an earlier configuration
        config = snapshot.gateway
        texts = walk_texts(config.document)
        settings += [(f"{config.place(path).position}: {render_key(path)}", value) for path, value in texts]
    for where, value in settings:
        with contextlib.suppress(ValueError):  # not a URL, or a port that is no number
            url = urlsplit(value)
            if url.hostname and _address(url.hostname, url.port or _PORTS.get(url.scheme, 0)) in found:
                return where
    return ""


def _hidden_path(snapshot: Snapshot, text: str) -> str:
    """The path of the file that a message could not open because the sandbox hides it; empty if that is not why."""
    found = _NOT_OPENED.search(text)
    return found[1] if found and HIDDEN.match(found[1]) and not has_own_sandbox(snapshot.layout) else ""


def _named_models(config: GatewayConfig, text: str) -> list[Model]:
    """The entries of the model that a message names at its end."""
    group = _MODEL.search(text)
    return [each for each in config.models if group and fnmatchcase(group[1], each.name)]


def _find_host(snapshot: Snapshot, text: str) -> str:
    """The host in the api_base of the model that a message names; empty if it has none, or cannot be known."""
    with contextlib.suppress(InstallerError, OSError, ValueError):  # as for the keys, or the URL is not valid
        config = snapshot.gateway
        for model in _named_models(config, text):
            if host := urlsplit(str(config.called_params(model).get("api_base", ""))).hostname:
                return host
    return ""


def _find_keys(snapshot: Snapshot, text: str) -> dict[str, str]:
    """Where the API keys of the model that a message names are set, each with the command that opens its file."""
    found = dict[str, str]()
    with contextlib.suppress(InstallerError, OSError):  # this user cannot read them, or the file was edited since
        config = snapshot.gateway
        for model in _named_models(config, text):
            key = config.called_params(model).get(_API_KEY)
            # Without the parameter, the libraries of most providers read this variable.
            name = str(key or f"{model.provider}_API_KEY".upper()).removeprefix(contract.REFERENCE)
            if name in snapshot.environment:
                found[f"{snapshot.dotenv.where(name)}: {name}"] = snapshot.edit_command(name)
            elif key:
                place = config.place(config.param_path(model, _API_KEY))
                found[str(place)] = f"sudoedit {place.file or snapshot.config_path}"
    return found


def _address(host: str, port: int) -> tuple[str, int]:
    """An address for comparisons: all names of this host are one."""
    return "localhost" if is_loopback(host) else host.lower(), port


def changed_ca_file(snapshot: Snapshot) -> str:
    """The CA file that was changed after the service read it, for a message; empty if none was."""
    started = _started_time(snapshot)
    for name in CA_VARIABLES if snapshot.is_active else ():
        with contextlib.suppress(OSError):
            path = snapshot.environment.get(name)
            if path and snapshot.layout.real(path).stat().st_ctime > started:
                return f"{path} ({name}) was changed after the service read it"
    return ""


def _most_open_files(snapshot: Snapshot) -> str:
    """The process of the service with the most open files, and what most of them are; empty if all have exited."""
    pids = [snapshot.service["MainPID"], *(str(each["pid"]) for each in snapshot.runtime.get("workers", ()))]
    opened = {pid: _open_files(pid) for pid in pids}
    pid, files = max(opened.items(), key=lambda item: item[1].total())
    for target, number in files.most_common(1):
        return f"; pid {pid} has {files.total()} open now, {number} of them {target}"
    return ""


def _open_files(pid: str) -> Counter[str]:
    """The number of open files of a process by target; empty if it has exited."""
    files: Counter[str] = Counter()
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # it was closed in the meantime
                files[str(link.readlink()).partition(":[")[0]] += 1
    return files


def _serves_badly(snapshot: Snapshot) -> bool:
    """Whether the active service is not ready, or short of workers."""
    is_short = is_short_of_workers(snapshot.service.get("StatusText", ""))
    return snapshot.is_active and (is_short or any(_observe_readiness(snapshot)))


def _times(group: Group) -> str:
    last = time.strftime("%H:%M:%S", time.localtime(group.last))
    return f"once, at {last}" if group.count == 1 else f"{group.count} times, last at {last}"


AWS = Cause(
    "journal-aws",
    "AWS rejected or interrupted calls since the last start; clients got errors or the answer of a fallback.",
    _REMEDY,
    outcome=Outcome.WARNING,
    requires=_JOURNAL_REQUIRES,
    # What AWS rejects now, with the same credentials, explains what it has rejected.
    caused_by=(*_CAUSED_BY, *_NETWORK, *_CREDENTIALS, "aws-throttled"),
)


@detects(AWS)
def detect_journal_aws(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect calls that AWS rejected, except for mistakes of clients."""
    yield from _find(snapshot, AWS)


UPSTREAM = Cause(
    "journal-upstream",
    "The service could not reach a provider, or another provider than AWS rejected calls, since the last start.",
    _REMEDY,
    outcome=Outcome.WARNING,
    requires=_JOURNAL_REQUIRES,
    caused_by=(*_CAUSED_BY, *_NETWORK),
)


@detects(UPSTREAM)
def detect_journal_upstream(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect failed connections to providers, and calls that another provider than AWS rejected."""
    yield from _find(snapshot, UPSTREAM)


LITELLM = Cause(
    "journal-litellm",
    "LiteLLM logged an internal problem since the last start.",
    _REMEDY,
    outcome=Outcome.WARNING,
    requires=_JOURNAL_REQUIRES,
    caused_by=_CAUSED_BY,
)


@detects(LITELLM)
def detect_journal_litellm(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect known problems inside LiteLLM."""
    yield from _find(snapshot, LITELLM)


#: Known messages that say why a service is not ready, or why a worker does not start.
_EXPLAINS = ("too-many-files", "too-many-tasks", "no-space", "out-of-memory", "sandboxed", "blocked", "worker-exited")

SERVICE = Cause(
    "journal-service",
    "The service lost requests, or lacked a resource of the host, since the last start.",
    _REMEDY,
    outcome=Outcome.WARNING,
    requires=_JOURNAL_REQUIRES,
    caused_by=(*(name for name in _CAUSED_BY if name != "service-not-ready"), "service-blocked", "files-owner"),
)


@detects(SERVICE)
def detect_journal_service(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect known problems of the service's processes."""
    yield from _find(snapshot, SERVICE, _EXPLAINS)


SYSTEMD = Cause(
    "journal-systemd",
    "systemd logged a warning about the units since the last start.",
    _REMEDY,
    outcome=Outcome.WARNING,
    requires=_JOURNAL_REQUIRES,
    caused_by=(*_CAUSED_BY, "unit-bad"),
)


@detects(SYSTEMD)
def detect_journal_systemd(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect warnings of systemd that no other check covers."""
    yield from _find(snapshot, SYSTEMD)


UNKNOWN = Cause(
    "journal-unknown",
    "The service repeatedly logged an error that litellmctl does not know since the last start.",
    "litellmctl logs -p err -n 50    # shows the whole messages",
    outcome=Outcome.WARNING,
    requires=_JOURNAL_REQUIRES,
    caused_by=_CAUSED_BY,
)


@detects(UNKNOWN)
def detect_journal_unknown(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect unknown errors that repeat."""
    for group in _groups(snapshot):
        from_service = not any(event.from_systemd for event in group.events)
        if from_service and group.signature is None and group.priority <= ERROR and group.count >= _MIN_UNKNOWN:
            yield UNKNOWN.finding(f"{_times(group)}: {group.sample}")
