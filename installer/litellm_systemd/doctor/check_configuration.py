"""The active configuration: can the service use it, does the linter warn, and has the service loaded it?"""

from __future__ import annotations

from collections.abc import Iterator

from litellm_systemd.doctor.cause import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.errors import InputError, InstallerError, MissingError
from litellm_systemd.gateway.config import ConfigError, Severity, lint
from litellm_systemd.report.report import Outcome

UNUSABLE = Cause(
    "configuration-unusable",
    "The configuration has an error: the service keeps serving with the previous one, rejects a reload, and does not"
    " start again after a stop (exit code 78).",
    "sudoedit {path} && sudo systemctl reload-or-restart litellm    # {remedy}",
    requires=("files-not-installed", "files-config-gone"),
    caused_by=("files-gone", "files-unreadable", "files-kind"),
)


@detects(UNUSABLE)
def detect_configuration_unusable(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a configuration that cannot be read, or that the linter finds an error in."""
    path = snapshot.layout.config_link
    try:
        gateway = snapshot.gateway
    except (InputError, MissingError) as error:
        yield UNUSABLE.finding(error.message, path=_file_of(error) or path, remedy=error.hint)
        return
    reported = _key_is_reported(snapshot)
    for item in lint(gateway, snapshot.environment):
        if item.severity is Severity.ERROR and not (reported and item.code == "weak-master-key"):
            yield UNUSABLE.finding(str(item), path=item.place.file or path, remedy=item.remedy)


def _file_of(error: InstallerError) -> str | None:
    """The file in which a configuration that can't be read is wrong."""
    return error.findings[0].place.file if isinstance(error, ConfigError) else None


def _key_is_reported(snapshot: Snapshot) -> bool:
    """Whether the environment is unusable: `environment-unusable` then reports its key already."""
    try:
        return not snapshot.settings
    except InputError:
        return True


DOUBTFUL = Cause(
    "configuration-doubtful",
    "LiteLLM starts with this configuration but behaves differently from what it suggests.",
    "sudoedit {path} && sudo systemctl reload litellm    # {remedy}",
    outcome=Outcome.WARNING,
    requires=("files-not-installed", "files-config-gone", "configuration-unusable"),
)


@detects(DOUBTFUL)
def detect_configuration_doubtful(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect warnings of the linter about the active configuration."""
    for item in lint(snapshot.gateway, snapshot.environment):
        if item.severity is Severity.WARNING:
            path = item.place.file or snapshot.layout.config_link
            yield DOUBTFUL.finding(str(item), path=path, remedy=item.remedy)


STALE = Cause(
    "configuration-stale",
    "The configuration was changed after the service loaded it: the change has no effect yet.",
    "sudo systemctl reload litellm",
    outcome=Outcome.WARNING,
    requires=("host-systemd-absent", "host-systemd-silent", "configuration-unusable", "service-silent"),
)


@detects(STALE)
def detect_configuration_stale(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a configuration on disk that differs from the one that the service has loaded."""
    running = snapshot.runtime.get("sha256") if snapshot.is_active else None
    if running is not None and running != snapshot.gateway.digest:
        on_disk = f"{snapshot.gateway.source} has sha256 {snapshot.gateway.digest[:12]}"
        yield STALE.finding(f"{on_disk}, the service has {running[:12]}")
