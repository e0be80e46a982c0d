"""status: the state of the service from systemd, and its workers and configuration from the main process.

diff: the files and units of the host against what was installed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from litellm_systemd import contract
from litellm_systemd.client.certificate import judge_certificate
from litellm_systemd.command import run
from litellm_systemd.commands.figures import (
    ACTIVE,
    Figures,
    MetricsReader,
    build_figures,
    build_sample,
    can_scrape,
    observe_ends,
)
from litellm_systemd.commands.logs import recent_errors
from litellm_systemd.contract import VERIFY_TIMER, ExitCode
from litellm_systemd.doctor.check_drop_ins import find_unmet
from litellm_systemd.doctor.check_unit import describe_start_error
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.aws import judge_end
from litellm_systemd.env.variables import ALLOW_MOCK_TESTING, MOCK_TESTING_WARNING
from litellm_systemd.errors import (
    InputError,
    InstallerError,
    InvalidAnswer,
    NotInstalled,
    Unavailable,
    join_sentences,
)
from litellm_systemd.gateway.config import read_document
from litellm_systemd.host.effective import observe_environment
from litellm_systemd.host.files import observe_file
from litellm_systemd.host.install_lock import find_holder
from litellm_systemd.host.layout import UNITS, Layout
from litellm_systemd.host.observe import (
    active_config,
    ask_service,
    is_booted,
    memory_field,
    observe_host,
    read_manifest,
    require_booted,
    require_installed,
    require_root,
    require_systemd,
)
from litellm_systemd.host.state import (
    FileKind,
    FileState,
    HostState,
    Record,
    UnitState,
    describe_drift,
    in_words,
    render_diff,
)
from litellm_systemd.host.systemctl import Systemctl, unit_state_of
from litellm_systemd.instances.temporary_unit import is_left_over
from litellm_systemd.releases.inventory import current_release, missing_python
from litellm_systemd.report.report import Check, Outcome, Report, render_count

_RELOAD = "sudo systemctl reload litellm"

#: States in which no process of the unit runs.
_OVER = ("inactive", "failed")

#: The properties of the unit, by the names in the report.
_PROPERTIES = {
    "load": "LoadState",
    "active": "ActiveState",
    "sub": "SubState",
    "since": "ActiveEnterTimestamp",
    "status": "StatusText",
    "main_pid": "MainPID",
    "restarts": "NRestarts",
    "result": "Result",
    "enabled": "UnitFileState",
    "need_daemon_reload": "NeedDaemonReload",
}
#: Whether the last start met what the unit or a drop-in demands of the host (systemd.unit(5)).
_CONDITIONS = ("ConditionResult", "ConditionTimestamp", "AssertResult", "AssertTimestamp")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration: its name below /etc/litellm/configs, and the SHA-256 of the file and its includes, in hex.

    `edited`: whether the file has changed since it was loaded; None if the service does not report what it has
    loaded, and this is the file. `since`: the Unix time at which it was loaded, 0 if that is unknown.
    """

    name: str
    sha256: str
    edited: bool | None
    since: float = 0

    def as_dict(self) -> dict[str, Any]:
        """For programs: name, sha256, edited."""
        return {"name": self.name, "sha256": self.sha256, "edited": self.edited}


def observe_loaded(layout: Layout, runtime: Mapping[str, Any]) -> Loaded | None:
    """The loaded configuration as the main process reports it, else the installed one; None if neither is known."""
    found, digest = observe_file_now(layout), runtime.get("sha256")
    if not digest:
        return found
    # A file that can't be read any more differs from what was loaded.
    edited = found is None or found.sha256 != digest
    name = runtime.get("config_name") or active_config(layout) or ""
    return Loaded(name, digest, edited, runtime.get("since") or 0)


def observe_file_now(layout: Layout) -> Loaded | None:
    """The configuration that a reload would load; None if it can't be read or is no YAML."""
    try:
        digest = read_document(layout.real(layout.config_link)).digest
    except (InstallerError, OSError):
        return None
    return Loaded(active_config(layout) or "", digest, None)


def edited_notes(layout: Layout, loaded: Loaded | None) -> tuple[str, ...]:
    """What to do if the service has loaded another configuration than the active one."""
    if loaded is None or not loaded.edited:
        return ()
    name = active_config(layout)
    if name in (None, loaded.name):
        files = _changed_files(layout, loaded) or (loaded.name,)
        were = "was" if len(files) == 1 else "were"
        return (f"{', '.join(files)} {were} edited since the service loaded it: {_RELOAD}",)
    return (f"{name} is the active configuration, but the service has loaded {loaded.name}: {_RELOAD}",)


def _changed_files(layout: Layout, loaded: Loaded) -> tuple[str, ...]:
    """The configuration and the files that it includes or imports, as far as they are newer than what was loaded."""
    folder = layout.real(layout.configs)
    try:
        document = read_document(layout.real(layout.config_link))
        files = (folder / loaded.name, *document.includes, *(each.path for each in document.python_files))
        changed = [path for path in files if loaded.since and path.stat().st_mtime > loaded.since]
    except (InstallerError, OSError):
        return ()
    return tuple(str(path.relative_to(folder) if path.is_relative_to(folder) else path) for path in changed)


def status(layout: Layout) -> Report:
    """State, release and configuration of the service, and for root its workers, reloads and backlog.

    `data` has the figures of `commands.figures` too, and the errors in the journal of the last hour.

    Root also sees whether the configuration was edited since it was loaded, and when temporary AWS credentials end.
    The exit code is UNAVAILABLE if the service isn't active, such as one that leaves its load balancer; FAILED if its
    credentials or its certificate have ended or what it reports is invalid; else OK.

    Raises:
        InstallerError: systemd is not running here, or nothing is installed.
    """
    systemctl = Systemctl(layout)
    require_systemd(systemctl)
    require_installed(systemctl)
    data = observe_service(systemctl)
    listen = systemctl.show(contract.SOCKET, "Listen").get("Listen", "")
    data |= {
        "listen": listen,
        "backlog": observe_backlog(listen),
        "version": _version(layout, "litellm_systemd"),
        "litellm": _version(layout, "litellm"),
        "release": _target(layout, layout.current),
        "missing_python": _missing_python(layout),
        "config": active_config(layout) or "unknown to this user",
        "metrics": _metrics(systemctl),
    }
    is_active = data["active"] in ACTIVE
    is_stopping = data["active"] == "deactivating" and data["result"] == "success"
    # The status of a failed service is its error.
    is_known = is_active or is_stopping or (data["active"] in _OVER and data["status"])
    data["last_error"] = "" if is_known else _last_error(layout)
    facts = tuple(
        (name.replace("_", " "), str(value)) for name, value in data.items() if value not in ("", None, "loaded")
    )
    runtime, invalid = _runtime() if is_active or data["active"] == "deactivating" else ({}, ())
    loaded = observe_loaded(layout, runtime) if runtime else None
    checks = (*invalid, *_credentials(layout), *_certificate(runtime))
    failed = ExitCode.FAILED if any(check.outcome is Outcome.FAILED for check in checks) else ExitCode.OK
    figures, unread = _figures(systemctl, data, runtime)
    return Report(
        describe_service(data),
        checks,
        facts=(*facts, *build_runtime_facts(runtime, loaded), *build_metrics_facts(figures)),
        notes=(
            *edited_notes(layout, loaded),
            *_python_notes(data["missing_python"], data["release"]),
            *_standby_notes(systemctl, is_active=is_active),
            *_boot_notes(data["enabled"]),
            *_unseen_notes(is_active=is_active),
            *_mock_notes(data["status"]),
            *_manifest_notes(layout),
            *unread,
        ),
        data={
            **data,
            "loaded": None if loaded is None else loaded.as_dict(),
            "runtime": runtime,
            "figures": figures.as_dict(),
            "errors": _errors(systemctl),
        },
        code=failed if is_active else ExitCode.UNAVAILABLE,
    )


def observe_service(systemctl: Systemctl) -> dict[str, Any]:
    """The unit as systemd reports it, by the names in the report, and the states of the socket and the standby."""
    found = systemctl.show(contract.SERVICE, *_PROPERTIES.values(), "ExecMainStatus", *_CONDITIONS)
    data: dict[str, Any] = {name: found.get(prop, "") for name, prop in _PROPERTIES.items()}
    socket = systemctl.unit_state(contract.SOCKET)
    data |= {
        "socket": socket.active,
        "masked": _masked(unit_state_of(contract.SERVICE, found), socket),
        "standby": _running(systemctl.unit_state(contract.STANDBY).active),
        "unmet": find_unmet(found),
    }
    if (data["active"] in _OVER or data["sub"] == "auto-restart") and found.get("ExecMainStatus") != str(
        int(ExitCode.CONFIG)
    ):
        data["status"] = ""  # systemd keeps the last one, such as "importing LiteLLM"
    return data


def describe_service(data: Mapping[str, Any]) -> str:
    """The state of the service, and what to do about it."""
    title = _describe(data)
    title = f"{title}: {data['status'].rstrip('.')}" if data["status"] else title
    return join_sentences(title, describe_next_step(data))


def _last_error(layout: Layout) -> str:
    """Why the last start failed, by its journal; empty if that does not say, or this user cannot read it."""
    try:
        return describe_start_error(Snapshot(layout))
    except (InstallerError, OSError):
        return ""


def _figures(
    systemctl: Systemctl, data: Mapping[str, Any], runtime: Mapping[str, Any]
) -> tuple[Figures, tuple[str, ...]]:
    """The figures, and a note if the metrics cannot be read."""
    counted, notes = MetricsReader(systemctl).try_read() if can_scrape(data) else (None, ())
    sample = build_sample(0.0, counted, runtime)
    return build_figures(sample, runtime, ends=observe_ends(systemctl.layout), backlog=data["backlog"]), notes


def _errors(systemctl: Systemctl) -> list[dict[str, Any]] | None:
    try:
        return list(recent_errors(systemctl))
    except InstallerError:
        return None


def _metrics(systemctl: Systemctl) -> str:
    """The address of the metrics, with the state of the socket unit if it does not listen; empty without METRICS."""
    found = systemctl.show(contract.METRICS_SOCKET, "LoadState", "ActiveState", "Listen")
    if found.get("LoadState") != "loaded":
        return ""
    listen = found.get("Listen", "").removesuffix(" (Stream)")
    active = found.get("ActiveState", "")
    return listen if active == "active" else f"{listen} ({active})"


def _running(active: str) -> str:
    return "" if active in _OVER else active


def _describe(data: Mapping[str, Any]) -> str:
    sub = "" if data["sub"] == data["active"] else f" ({data['sub']})"
    return f"{contract.SERVICE} {in_words(data['active'])}{sub}"


def describe_next_step(data: Mapping[str, Any]) -> str:
    """What to do about a service that is not active; empty if there is nothing to do but to wait."""
    if data["masked"]:
        return f"{data['masked']} is masked, so the service cannot start. For the remedy, run: sudo litellmctl doctor"
    if data["load"] in ("bad-setting", "error"):
        return f"systemd cannot load the unit. For the reason, run: systemctl status {contract.SERVICE}"
    if data["active"] == "inactive" and data.get("unmet"):
        return f"The last start did not meet {data['unmet']}…= of the unit. For its line, run: sudo litellmctl doctor"
    if data["active"] == "failed" or data["sub"] == "auto-restart":
        return f"Its result is {data['result']}. For the cause, run: sudo litellmctl doctor"
    if data["active"] == "activating" and data["restarts"] not in ("", "0"):
        times = render_count(int(data["restarts"]), "time")
        return f"systemd has restarted it {times} after a failure. For the cause, run: sudo litellmctl doctor"
    if data["active"] == "inactive" and data["socket"] == "failed":
        return f"{contract.SOCKET} has failed. For the cause, run: sudo litellmctl doctor"
    if data["active"] == "inactive" and data["socket"] == "active":
        return "The next connection starts it. To start it now, run: sudo litellmctl start"
    return "To start it, run: sudo litellmctl start" if data["active"] == "inactive" else ""


def _masked(service: UnitState, socket: UnitState) -> str:
    """The unit that is masked: the service, or the socket, without which it does not start; empty if neither is."""
    return next((each.name for each in (service, socket) if "masked" in (each.load, each.enabled)), "")


def _unseen_notes(*, is_active: bool) -> tuple[str, ...]:
    if not is_active or os.geteuid() == 0:
        return ()
    return ("Only root sees the workers, reloads and AWS credentials. To show them: sudo litellmctl status",)


def _boot_notes(enabled: str) -> tuple[str, ...]:
    return (
        ("The service does not start at boot. To change that: sudo litellmctl enable",)
        if enabled == "disabled"
        else ()
    )


def _credentials(layout: Layout) -> tuple[Check, ...]:
    """Whether temporary AWS credentials end soon or have ended; empty for others, or if they cannot be read."""
    try:
        found = judge_end(observe_environment(layout).dotenv.values, datetime.now(timezone.utc))
    except InstallerError:
        return ()
    return () if found is None else (found,)


def _certificate(runtime: dict[str, Any]) -> tuple[Check, ...]:
    """Whether the certificate that the service serves is valid; empty with plain HTTP, or if it is unknown."""
    served = runtime.get("tls")
    if not served:
        return ()
    # A service of an earlier version does not say from when it is valid.
    begin, end = (
        datetime.fromtimestamp(each, timezone.utc) for each in (served.get("not_before", 0), served["not_after"])
    )
    return (judge_certificate(begin, end, datetime.now(timezone.utc)),)


def _target(layout: Layout, path: str) -> str:
    found = observe_file(layout, path)
    return "" if found is None else Path(found.content.decode()).name


def _missing_python(layout: Layout) -> str | None:
    """The Python of the release in use, if an upgrade of the system removed it."""
    current = current_release(layout)
    return None if current is None else missing_python(layout, current)


def _python_notes(missing: str | None, release: str) -> tuple[str, ...]:
    if missing is None:
        return ()
    return (
        f"{missing} no longer exists, and release {release} needs it: the service cannot start again. Install again"
        " with an existing Python. Configuration and keys are kept.",
    )


def _standby_notes(systemctl: Systemctl, *, is_active: bool) -> tuple[str, ...]:
    """Why a standby runs: after a restart that was killed, or in place of a service that does not start."""
    if systemctl.unit_state(contract.STANDBY).active != "active":
        return ()
    if not is_active:
        return (f"{contract.STANDBY} serves until {contract.SERVICE} is active again.",)
    if find_holder(systemctl.layout) is not None or not is_left_over(systemctl):
        return ()
    return (
        f"{contract.STANDBY} still runs after a restart that was killed. To stop it: sudo litellmctl doctor --fix",
    )


def _mock_notes(status: str) -> tuple[str, ...]:
    # From the status line of the service, which any user can read.
    return (MOCK_TESTING_WARNING,) if ALLOW_MOCK_TESTING.name in status else ()


def _manifest_notes(layout: Layout) -> tuple[str, ...]:
    try:
        read_manifest(layout)
    except InputError as error:
        return (f"{error.message}, so no verb can change anything. {error.hint}",)
    return ()


def _version(layout: Layout, package: str) -> str:
    """The version of a package in the current release, which may differ from that of this process."""
    found = layout.real(layout.current).glob(f"lib/python*/site-packages/{package}-*.dist-info")
    return next((path.name.split("-")[1].removesuffix(".dist") for path in found), "")


def observe_backlog(listen: str) -> int | None:
    """The number of connections that wait for a worker, None if it is unknown. ss(8) calls it Recv-Q."""
    port = re.search(r":(\d+) ", listen)
    if port is None:
        return None
    try:
        answer = run(("ss", "--no-header", "--listening", "--tcp", "--numeric", "sport", "=", f":{port[1]}"))
    except InstallerError:
        return None
    fields = answer.stdout.split()
    return int(fields[1]) if len(fields) > 1 else None


def _runtime() -> tuple[dict[str, Any], tuple[Check, ...]]:
    """The status of the main process, empty if it does not answer this user; a failed check if it is invalid."""
    try:
        found = ask_service()
    except InvalidAnswer as error:
        return {}, (Check("main process", Outcome.FAILED, error.message, error.hint),)
    for worker in found.get("workers", ()):
        worker["pss_mib"] = observe_memory(worker["pid"])
    return found, ()


def observe_memory(pid: int) -> int | None:
    """The proportional set size of a process in MiB: shared pages are divided among the processes that share them."""
    return memory_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss")


def build_runtime_facts(runtime: dict[str, Any], loaded: Loaded | None) -> Iterable[tuple[str, str]]:
    if not runtime:
        return
    if loaded is not None and runtime["models"] is not None:
        yield "loaded", f"{loaded.name}, {render_count(runtime['models'], 'model')}, sha256 {loaded.sha256[:12]}"
    if runtime.get("leaving_until"):
        until = datetime.fromtimestamp(runtime["leaving_until"]).astimezone()
        requests = render_count(runtime.get("inflight", 0), "request")
        yield "leaving", f"the port closes at {until:%H:%M:%S}, {requests} in flight"
    if runtime["generation"] is not None:
        yield "generation", str(runtime["generation"])
    reload = runtime["last_reload"]
    if reload is not None:
        outcome = "done" if reload["ok"] else f"failed: {reload['error'].rstrip('.')}"
        yield "last reload", f"{outcome}, took {reload['seconds']:.1f} s"
    yield "workers replaced", str(runtime["restarts"])
    if redis := runtime.get("redis"):
        detail = f": {redis['cause'].rstrip('.')}" if redis["cause"] else ""
        yield "redis", f"{redis['counting']} limits, cooldowns and cache{detail}"
    if "memory_limit" in runtime:  # a release from before that field may run
        yield "memory limit", f"{runtime['memory_limit']} MiB for each worker"
    for worker in runtime["workers"]:
        memory = "" if worker["pss_mib"] is None else f", {worker['pss_mib']} MiB"
        yield (
            f"worker {worker['worker']}",
            f"pid {worker['pid']}, {worker['state']}, {render_age(worker['age'])} old,"
            f" {worker['inflight']} in flight, {worker['requests']} answered{memory}",
        )


def build_metrics_facts(figures: Figures) -> Iterable[tuple[str, str]]:
    """What the metrics have counted, in one line; nothing without METRICS."""
    if figures.statuses is None or figures.input_tokens is None or figures.output_tokens is None:
        return
    statuses = ", ".join(f"{rate.total:,.0f} with {status}" for status, rate in figures.statuses.items())
    tokens = f"{figures.input_tokens.total:,.0f} tokens in, {figures.output_tokens.total:,.0f} out"
    cost = "" if figures.cost is None else f", ${figures.cost.total:,.2f}"
    yield "answered", f"{statuses or 'no request'}; {tokens}{cost}"


def render_age(seconds: float) -> str:
    """A time span for people: `30 s`, `5 min`, `3 h`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def require_running(layout: Layout) -> None:
    """Check that the installed service runs, or starts with the next connection.

    Raises:
        Unavailable: it does not; the message has the next step.
    """
    if not layout.is_host or not is_booted():
        return
    systemctl = Systemctl(layout)
    found = systemctl.show(contract.SERVICE, "LoadState", "ActiveState", "SubState", "Result", "UnitFileState")
    socket = systemctl.unit_state(contract.SOCKET)
    is_over = found.get("SubState") == "auto-restart" or (
        found.get("ActiveState") in _OVER and socket.active != "active"
    )
    if found.get("LoadState") == "not-found" or not is_over:
        return
    data = {name: found.get(_PROPERTIES[name], "") for name in ("load", "active", "sub", "result")}
    data |= {"socket": socket.active, "masked": _masked(unit_state_of(contract.SERVICE, found), socket)}
    raise Unavailable(_describe(data), describe_next_step(data))


def diff(layout: Layout) -> Report:
    """Every path and unit that changed since the last install. Exit code CHANGES if there is one.

    Raises:
        NotInstalled: nothing is installed.
        PermissionDenied: this user cannot read the manifest.
        Unavailable: systemd does not run here.
        InputError: the manifest was not written by an install.
    """
    if not read_manifest(layout):
        require_root("litellmctl diff")
        raise NotInstalled
    require_booted(layout)
    host = observe_host(layout, Systemctl(layout))
    checks: list[Check] = []
    diffs: list[str] = []
    for path, record in sorted(host.manifest.items()):
        drift = describe_drift(host.files.get(path), record)
        if drift:
            checks.append(Check(path, Outcome.WARNING, drift, _remedy(record)))
            diffs += _difference(layout, host.files.get(path), path, record)
    units = (*UNITS, *((VERIFY_TIMER,) if layout.verify_timer in host.manifest else ()))
    checks += [Check(name, Outcome.WARNING, *drift) for name in units for drift in _unit_drift(layout, host, name)]
    number = render_count(len(checks), "difference")
    return Report(
        f"{number} from what was installed" if checks else "nothing differs from what was installed",
        tuple(checks),
        diffs=tuple(diffs),
        data={"differences": [{"what": check.name, "how": check.detail} for check in checks]},
        code=ExitCode.CHANGES if checks else ExitCode.OK,
    )


def _remedy(record: Record) -> str:
    if record.kind is FileKind.FILE:
        return "'sudo litellmctl install' restores modes and missing files, and keeps edits without --take-ours."
    return "Run: sudo litellmctl install"


def _difference(layout: Layout, found: FileState | None, path: str, record: Record) -> Iterator[str]:
    """The edit, against the copy of what was written."""
    pristine = observe_file(layout, f"{layout.pristine}/{record.digest}")
    if (
        pristine is None
        or (found is not None and found.kind is not FileKind.FILE)
        or record.kind is not FileKind.FILE
    ):
        return
    # The drift has the modes in words.
    before = pristine if found is None else replace(found, path=path, content=pristine.content)
    yield render_diff(replace(before, path=path), found)


def _unit_drift(layout: Layout, host: HostState, name: str) -> Iterator[tuple[str, str]]:
    unit = host.unit(name)
    if "masked" in (unit.load, unit.enabled):
        yield "masked", f"Run: sudo systemctl unmask {name}"
    elif not unit.is_enabled:
        yield "not enabled: it won't start at boot", f"Run: sudo systemctl enable {name}"
    if unit.need_reload:
        yield "changed on disk after systemd loaded it", "Run: sudo systemctl daemon-reload"
    if unit.fragment and unit.fragment != f"{layout.units}/{name}":
        yield f"systemd loads it from {unit.fragment}", "Remove that file, then run: sudo systemctl daemon-reload"
