"""What the service is told: its environment and its configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from litellm_systemd.doctor.cause import Cause, Finding, looks_for
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import InputError
from litellm_systemd.gateway.config import Severity, lint
from litellm_systemd.report.report import Outcome

ENVIRONMENT = Cause(
    "environment-unusable",
    "The service refuses its environment and stays off with exit code 78, or would at the next start.",
    "sudoedit {path}, then: sudo litellmctl restart    # {remedy}",
    needs=("files-not-installed",),
)


@looks_for(ENVIRONMENT)
def environment(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the environment file holds values that can work. That it is gone is told with the files."""
    try:
        _ = snapshot.settings
    except InputError as error:
        yield ENVIRONMENT.found(error.message, path=snapshot.layout.environment_file, remedy=error.hint)


ENVIRONMENT_STALE = Cause(
    "environment-stale",
    "The environment file was changed since the service read it: the change has no effect yet.",
    "sudo litellmctl restart",
    outcome=Outcome.WARNING,
    needs=("host-systemd-absent", "host-systemd-silent", "environment-unusable"),
)


@looks_for(ENVIRONMENT_STALE)
def environment_stale(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the running service has the variables of the file. Names alone are told."""
    # One that a drop-in adds comes later and overrides ours; the last is what `show` leaves.
    last = snapshot.service.get("EnvironmentFiles", "")
    if not snapshot.is_active or not last.startswith(f"{snapshot.layout.environment_file} "):
        return
    changed = differing(snapshot.environment, read_environ(Path(f"/proc/{snapshot.service['MainPID']}/environ")))
    if changed:
        yield ENVIRONMENT_STALE.found(f"{snapshot.layout.environment_file}: not as the service has it: {changed}")


def read_environ(path: Path) -> dict[str, str]:
    """The environment that a process was started with (proc(5))."""
    pairs = path.read_bytes().decode(errors="replace").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def differing(wanted: Mapping[str, str], running: Mapping[str, str]) -> str:
    """The names of variables that a process hasn't as they are wanted; systemd adds others of its own."""
    return ", ".join(sorted(name for name, value in wanted.items() if running.get(name) != value))


UNUSABLE = Cause(
    "configuration-unusable",
    "The configuration can't work: the service serves on with the one that it had, refuses a reload, and stays off"
    " after a restart (exit code 78).",
    "sudoedit {path}, then: sudo systemctl reload-or-restart litellm    # {remedy}",
    needs=("files-not-installed", "files-config-gone"),
    follows=("files-gone", "files-unreadable"),
)


@looks_for(UNUSABLE)
def unusable(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the active configuration can be read, and has no error that the linter knows."""
    path = snapshot.layout.config_link
    try:
        gateway = snapshot.gateway
    except InputError as error:
        yield UNUSABLE.found(error.message, path=path, remedy=error.hint)
        return
    told = _key_is_told(snapshot)
    for item in lint(gateway, snapshot.environment):
        if item.severity is Severity.ERROR and not (told and item.code == "weak-master-key"):
            yield UNUSABLE.found(str(item), path=path, remedy=item.remedy)


def _key_is_told(snapshot: Snapshot) -> bool:
    """Whether the environment is unusable: then its key is told there, and need not be told here again."""
    try:
        return not snapshot.settings
    except InputError:
        return True


DOUBTFUL = Cause(
    "configuration-doubtful",
    "LiteLLM starts with it and doesn't do what it seems to say.",
    "sudoedit {path}, then: sudo systemctl reload litellm    # {remedy}",
    outcome=Outcome.WARNING,
    needs=("files-not-installed", "files-config-gone", "configuration-unusable"),
)


@looks_for(DOUBTFUL)
def doubtful(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the linter warns of the active configuration."""
    for item in lint(snapshot.gateway, snapshot.environment):
        if item.severity is Severity.WARNING:
            yield DOUBTFUL.found(str(item), path=snapshot.layout.config_link, remedy=item.remedy)


STALE = Cause(
    "configuration-stale",
    "The configuration was changed since the service read it: the change has no effect yet.",
    "sudo systemctl reload litellm",
    outcome=Outcome.WARNING,
    needs=("host-systemd-absent", "host-systemd-silent", "configuration-unusable", "service-silent"),
)


@looks_for(STALE)
def stale(snapshot: Snapshot) -> Iterator[Finding]:
    """Whether the service runs with the configuration as it is on the disk."""
    running = snapshot.runtime.get("sha256") if snapshot.is_active else None
    if running is not None and running != snapshot.gateway.digest:
        seen = f"{snapshot.gateway.source}: sha256 {snapshot.gateway.digest[:12]}, the service has {running[:12]}"
        yield STALE.found(seen)
