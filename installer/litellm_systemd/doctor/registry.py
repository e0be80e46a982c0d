"""What doctor reports: all checks, in the order of the report, and remarks.

What other things depend on is checked first. A remark is an observation that is not a problem but explains what the
user sees.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType

from litellm_systemd import contract
from litellm_systemd.doctor import (
    check_aws,
    check_configuration,
    check_database,
    check_drop_ins,
    check_files,
    check_host,
    check_journald,
    check_metrics,
    check_network,
    check_nginx,
    check_redis,
    check_release,
    check_service,
    check_tls,
    check_unit,
)
from litellm_systemd.doctor.engine import DoctorCheck
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import InstallerError
from litellm_systemd.host.install_lock import find_holder
from litellm_systemd.host.observe import is_booted
from litellm_systemd.host.state import FileKind, is_edited
from litellm_systemd.install.undo_log import read_undo_log
from litellm_systemd.report.report import render_count

_MODULES = (
    *(
        check_host,
        check_journald,
        check_release,
        check_files,
        check_configuration,
        check_tls,
        check_database,
        check_redis,
        check_drop_ins,
        check_unit,
    ),
    *(check_network, check_aws, check_service, check_nginx, check_metrics),
)


def checks_of(module: ModuleType) -> tuple[DoctorCheck, ...]:
    """The checks that a module defines, in the order of their definition."""
    return tuple(value for value in vars(module).values() if isinstance(value, DoctorCheck))


CHECKS = tuple(check for module in _MODULES for check in checks_of(module))


def collect_remarks(snapshot: Snapshot, seconds: float = 1.0) -> tuple[str, ...]:
    """One sentence each. What this user cannot see, or what takes longer than `seconds`, is left out."""
    found: list[str] = []

    def collect() -> None:
        for remarks in _SOURCES:
            with contextlib.suppress(InstallerError, OSError):
                found.extend(remarks(snapshot))

    # A check that hangs may hold the lock of what a remark needs; this thread is then abandoned as well.
    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(seconds)
    return tuple(found)


def _change_in_progress(snapshot: Snapshot) -> Iterator[str]:
    holder = find_holder(snapshot.layout)
    if holder is not None and not holder.remedy:  # else `files-suspended` reports it
        yield f"{holder}: these findings may be temporary."


def _edited_files(snapshot: Snapshot) -> Iterator[str]:
    if read_undo_log(snapshot.layout) is not None:  # files of an interrupted change differ as well
        return
    edited = [
        path
        for path, record in sorted(snapshot.manifest.items())
        if (found := snapshot.file(path)) is not None
        and (found.kind, record.kind) == (FileKind.FILE, FileKind.FILE)
        and is_edited(found, record)
    ]
    if edited:
        yield f"Edited by hand, which is allowed: {', '.join(edited)}. To see the changes: sudo litellmctl diff"


def _stopped_service(snapshot: Snapshot) -> Iterator[str]:
    if not is_booted():
        return
    unit, socket = snapshot.unit(contract.SERVICE), snapshot.unit(contract.SOCKET)
    if (
        {unit.load, socket.load} == {"loaded"}
        and (unit.active, socket.active == "failed") == ("inactive", False)
        and snapshot.service.get("Result") == "success"
        and snapshot.service.get("Job", "0") in ("", "0")
    ):
        at_boot = "starts at the next boot" if unit.is_enabled else "is disabled, so no boot starts it"
        start = "sudo litellmctl start" if unit.is_enabled else "sudo litellmctl enable && sudo litellmctl start"
        yield f"{contract.SERVICE} is stopped (it did not fail) and {at_boot}. To start it: {start}"


def _starting_service(snapshot: Snapshot) -> Iterator[str]:
    if is_booted() and snapshot.unit(contract.SERVICE).active == "activating":
        step = f" ({snapshot.service['StatusText']})" if snapshot.service.get("StatusText") else ""
        if "; " not in step:  # else `unit-start-error` reports what it waits for
            hint = "If it stays so, a reason may be in: sudo litellmctl logs --errors"
            yield f"{contract.SERVICE} is not active yet{step}. {hint}"


def _stopping_service(snapshot: Snapshot) -> Iterator[str]:
    if is_booted() and snapshot.unit(contract.SERVICE).active == "deactivating":
        step = f": {snapshot.service['StatusText']}" if snapshot.service.get("StatusText") else ""
        yield f"{contract.SERVICE} is stopping{step}"


#: A line about refused requests or closed connections (runtime/master/refusals.py), its reasons and its clients, each
#: with a number; whether it applies to HTTPS (True) or plain HTTP (False) alone; and what to do about it.
_REFUSALS = (
    (
        re.compile(r"refused (?P<reasons>.{0,300}\d requests? with a wrong key.{0,300}?), from (?P<clients>.+)"),
        *("refused", "request", None, "To configure a client with its key: sudo litellmctl client"),
    ),
    (
        re.compile(r"closed (?P<reasons>.{0,300}\d connections? with plain HTTP.{0,300}?), from (?P<clients>.+)"),
        *("closed", "connection", True),
        "Write https:// into the base URL of those clients, or into the proxy (nginx: proxy_pass https://…)",
    ),
    (
        re.compile(r"closed (?P<reasons>.{0,300}\d connections? with TLS.{0,300}?), from (?P<clients>.+)"),
        *("closed", "connection", False),
        "Write http:// into the base URL of those clients, or into the proxy (nginx: proxy_pass http://…), or serve"
        " HTTPS: docs/tls.md",
    ),
)
_REASON = re.compile(r"(?P<number>\d+) (?P<noun>request|connection)s? (?P<name>.+?)(?=(?:,| and) \d+ (?P=noun)s? |$)")
_CLIENT = re.compile(r"(?P<name>\S.*?) \((?P<number>\d+)\)(?:, |$)")
_OLD_KEY = re.compile(r"(.{1,300}) uses the old master key, which is (refused from .+)")
#: LiteLLM's refusal of a request for a model that is not configured.
_UNKNOWN_MODEL = re.compile(r"Invalid model name passed in model=(.{1,200}?)\. Call `")
#: Clients or models that a remark names, and requests for a model that are no single mistake.
_NAMED, _MIN_REQUESTS = 5, 5


def _refused_clients(snapshot: Snapshot) -> Iterator[str]:
    if not snapshot.is_active:
        return
    texts = [each.text for each in snapshot.recent_events]
    users = {match[1]: match[2] for text in texts if (match := _OLD_KEY.match(text))}
    for end in dict.fromkeys(users.values()):
        clients = [client for client, each in users.items() if each == end]
        more = f" and {len(clients) - _NAMED} more" if len(clients) > _NAMED else ""
        yield f"In the last hour these clients used the old master key, {end}: {', '.join(clients[:_NAMED])}{more}"
    for pattern, verb, noun, https, hint in _REFUSALS:
        lines = [match for text in texts if (match := pattern.match(text))]
        if not lines or (https is not None and _serves_https(snapshot) is not https):
            continue
        reasons = _add_up(_REASON, [line["reasons"] for line in lines])
        refused = _add_up(_CLIENT, [line["clients"] for line in lines])
        counts = [f"{render_count(count, noun)} {reason}" for reason, count in reasons]
        listed = " and ".join(filter(None, (", ".join(counts[:-1]), counts[-1])))
        named = ", ".join(f"{client} ({count})" for client, count in refused[:_NAMED])
        more = f" and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
        yield f"In the last hour the service {verb} {listed}, from {named}{more}. {hint}"


def _serves_https(snapshot: Snapshot) -> bool:
    """Whether the service serves HTTPS, from its status: the environment is for root alone."""
    return contract.SERVING_HTTPS in snapshot.service.get("StatusText", "")


def _add_up(pattern: re.Pattern[str], texts: list[str]) -> list[tuple[str, int]]:
    """The names that a pattern finds, with their numbers added up, the largest first."""
    counts: Counter[str] = Counter()
    for match in (match for text in texts for match in pattern.finditer(text)):
        counts[match["name"]] += int(match["number"])
    return counts.most_common()


def _unknown_models(snapshot: Snapshot) -> Iterator[str]:
    counts: Counter[str] = Counter()
    for event in snapshot.recent_events if snapshot.is_active else ():
        if match := _UNKNOWN_MODEL.search(event.text):
            counts[match[1]] += event.count
    named = [f"{model} ({count} times)" for model, count in counts.most_common(_NAMED) if count >= _MIN_REQUESTS]
    if named:
        hint = "Correct the clients, or add the models or an alias to the configuration. To see it: litellmctl models"
        yield f"In the last hour clients requested models that are not configured: {', '.join(named)}. {hint}"


_SOURCES: tuple[Callable[[Snapshot], Iterator[str]], ...] = (
    _change_in_progress,
    _edited_files,
    _stopped_service,
    _starting_service,
    _stopping_service,
    _refused_clients,
    _unknown_models,
)
