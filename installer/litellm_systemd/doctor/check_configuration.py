"""The environment and the configuration: invalid, expired, missing, doubtful, or not loaded yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.doctor.check_files import is_readable
from litellm_systemd.doctor.engine import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.aws import FILE_VARIABLES, judge_end
from litellm_systemd.env.secret_references import is_reference
from litellm_systemd.env.service_credential import CREDENTIALS_FOLDER, add_secrets
from litellm_systemd.env.variables import MASTER_KEY, SHORT_KEY
from litellm_systemd.errors import InputError, InstallerError, MissingError, Unavailable
from litellm_systemd.gateway.config import ConfigError, LintFinding, Severity, lint
from litellm_systemd.host.encrypted_secrets import HOST_KEY, Undecryptable
from litellm_systemd.host.sandbox import host_findings
from litellm_systemd.host.state import FileKind
from litellm_systemd.host.stored_secrets import with_stored_secrets
from litellm_systemd.releases.needs import package_findings
from litellm_systemd.report.report import Outcome

FILE = Cause(
    "environment-file",
    "A variable names a file that the service cannot read: without a CA file no TLS connection is trusted, without a"
    " credentials file no request is signed.",
    "sudo chgrp litellm {path} && sudo chmod 640 {path}    # create the file first if it is missing",
    requires=("files-not-installed", "files-user-gone"),
)


@detects(FILE)
def detect_environment_file(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect files and folders that variables name and that are missing or unreadable for the service's user."""
    for name in FILE_VARIABLES:
        path = snapshot.environment.get(name, "")
        if not path.startswith("/"):
            continue
        found = snapshot.file(path)
        if found is None:
            yield FILE.finding(f"{name}={path}: the file does not exist", path=path)
        elif found.kind is not FileKind.LINK and not is_readable(found, contract.SERVICE_USER):
            yield FILE.finding(f"{name}={path}: mode {found.mode:04o}, owner {found.owner}:{found.group}", path=path)


CREDENTIALS = Cause(
    "environment-credentials",
    "The temporary AWS credentials in the environment have expired, or expire within the hour (a warning): Bedrock"
    " then rejects every call.",
    "litellmctl init --force --from-profile PROFILE && sudo litellmctl install    # or put new ones into .env",
    requires=("files-not-installed", "environment-unusable"),
)


@detects(CREDENTIALS)
def detect_environment_credentials(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect temporary credentials that have expired or soon will. Install reports those without a known expiry."""
    found = judge_end(snapshot.environment, datetime.now(timezone.utc))
    if found is not None and found.outcome in (Outcome.WARNING, Outcome.FAILED):
        yield CREDENTIALS.finding(f"{snapshot.layout.environment_file}: they {found.detail}", outcome=found.outcome)


UNDECRYPTABLE = Cause(
    "environment-undecryptable",
    "This host cannot decrypt the secrets of the environment: its key was lost or changed, or they were encrypted on"
    " another host. The service cannot start (243/CREDENTIALS).",
    "Restore {key}. If it is lost, write the keys into .env, then: sudo rm {path} && sudo litellmctl install",
    requires=("files-not-installed",),
)


@detects(UNDECRYPTABLE)
def detect_environment_undecryptable(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect encrypted secrets that systemd-creds cannot decrypt."""
    try:
        _ = snapshot.environment
    except Undecryptable as error:
        yield UNDECRYPTABLE.finding(error.message, path=snapshot.layout.secrets, key=HOST_KEY)


ENVIRONMENT = Cause(
    "environment-unusable",
    "The environment file has an invalid value: the service exits with code 78 at its next start.",
    "sudoedit {path} && sudo litellmctl restart    # {remedy}",
    requires=("files-not-installed", "environment-undecryptable"),
)


@detects(ENVIRONMENT)
def detect_environment_unusable(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect invalid values in the environment file. The check of the files reports a missing file."""
    try:
        _ = snapshot.settings
    except InputError as error:
        yield ENVIRONMENT.finding(error.message, path=snapshot.layout.environment_file, remedy=error.hint)
    for item in _find_in_variables(snapshot):
        if item.severity is Severity.ERROR:
            yield ENVIRONMENT.finding(str(item), path=snapshot.layout.environment_file, remedy=item.remedy)


def _find_in_variables(snapshot: Snapshot) -> tuple[LintFinding, ...]:
    """What the linter finds in the variables; nothing if there is no configuration to check them with."""
    try:
        found = _findings(snapshot)
    except (InputError, MissingError):
        return ()
    return tuple(item for item in found if _is_about_variable(item))


def _findings(snapshot: Snapshot) -> tuple[LintFinding, ...]:
    gateway, environ = snapshot.gateway, snapshot.environment
    return (*lint(gateway, environ), *host_findings(snapshot.layout, gateway, environ))


def _is_about_variable(item: LintFinding) -> bool:
    return item.place.file is None


DOUBTFUL_VARIABLE = Cause(
    "environment-doubtful",
    "LiteLLM starts with these variables, but a value is a placeholder, or a name is one that nothing reads.",
    "sudoedit {path} && sudo litellmctl restart    # {remedy}",
    outcome=Outcome.WARNING,
    requires=("files-not-installed", "environment-unusable"),
)


@detects(DOUBTFUL_VARIABLE)
def detect_environment_doubtful(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect warnings of the linter about the variables of the environment file."""
    for item in _find_in_variables(snapshot):
        if item.severity is Severity.WARNING:
            yield DOUBTFUL_VARIABLE.finding(str(item), path=snapshot.layout.environment_file, remedy=item.remedy)


SECRETS = Cause(
    "environment-secrets",
    "A secret that the environment refers to in AWS cannot be read: the service does not start again after a stop,"
    " and a reload fails.",
    "sudo systemctl reload-or-restart litellm    # after this: {remedy}",
    requires=("files-not-installed", "environment-unusable"),
)


@detects(SECRETS)
def detect_environment_secrets(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect secrets in AWS Secrets Manager or SSM Parameter Store that the service cannot read."""
    try:
        with_stored_secrets(snapshot.environment, timeout=snapshot.optional_timeout)
    except (InputError, Unavailable) as error:
        yield SECRETS.finding(error.message, remedy=error.hint)


KEY_SHORT = Cause(
    "environment-key-short",
    "The master key is so short that it can be guessed.",
    f"Write a longer {MASTER_KEY.name} into .env, such as the output of 'openssl rand -hex 24', then: sudo litellmctl"
    " install",
    outcome=Outcome.WARNING,
    requires=("files-not-installed", "environment-unusable"),
)


@detects(KEY_SHORT)
def detect_environment_key_short(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a master key that can be guessed."""
    key = snapshot.settings.master_key
    if len(key) < SHORT_KEY and not is_reference(key):
        yield KEY_SHORT.finding(f"{MASTER_KEY.name} has fewer than {SHORT_KEY} characters")


ENVIRONMENT_STALE = Cause(
    "environment-stale",
    "The environment file was changed after the service read it: the change has no effect yet.",
    "sudo litellmctl restart",
    outcome=Outcome.WARNING,
    requires=("host-systemd-absent", "host-systemd-silent", "environment-unusable"),
)


@detects(ENVIRONMENT_STALE)
def detect_environment_stale(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect variables of the file that the running service does not have. Only their names are reported."""
    # A file that a drop-in adds comes later and overrides ours; `show` returns the last one.
    last = snapshot.service.get("EnvironmentFiles", "")
    if not snapshot.is_active or not last.startswith(f"{snapshot.layout.environment_file} "):
        return
    running = read_environ(Path(f"/proc/{snapshot.service['MainPID']}/environ"))
    # The main process adds what systemd passes to it encrypted, which proc(5) does not show. It could change what
    # proc(5) shows, and so does not choose the folder that root reads.
    running[CREDENTIALS_FOLDER] = f"/run/credentials/{contract.SERVICE}"
    add_secrets(running)
    changed = changed_variables(snapshot.environment, running)
    if changed:
        path = snapshot.layout.environment_file
        yield ENVIRONMENT_STALE.finding(f"{path}: the service runs with other values of: {changed}")


def read_environ(path: Path) -> dict[str, str]:
    """The environment with which a process was started (proc(5))."""
    pairs = path.read_bytes().decode(errors="replace").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def changed_variables(wanted: Mapping[str, str], running: Mapping[str, str]) -> str:
    """The names of the `wanted` variables that a process does not have with that value; systemd adds others."""
    return ", ".join(sorted(name for name, value in wanted.items() if running.get(name) != value))


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
        _ = snapshot.gateway
    except (InputError, MissingError) as error:
        yield UNUSABLE.finding(error.message, path=_file_of(error) or path, remedy=error.hint)
        return
    reported = _key_is_reported(snapshot)
    for item in _findings(snapshot):
        if item.severity is not Severity.ERROR or _is_about_variable(item):
            continue
        if not (reported and item.code == "weak-master-key"):
            yield UNUSABLE.finding(str(item), path=item.place.file or path, remedy=item.remedy)


def _file_of(error: InstallerError) -> str | None:
    """The file with the error of a configuration that cannot be read."""
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
    """Detect warnings about the active configuration: of the linter, and about packages that the release lacks."""
    lacking, _ = package_findings(snapshot.layout, snapshot.gateway)
    for item in (*_findings(snapshot), *lacking):
        if item.severity is Severity.WARNING and not _is_about_variable(item):
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
