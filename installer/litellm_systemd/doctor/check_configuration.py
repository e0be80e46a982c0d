"""The environment and the configuration: invalid, expired, missing, doubtful, or not loaded yet."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.doctor.check_files import installed_file, is_readable
from litellm_systemd.doctor.check_unit import find_missing_module, lacks_environment_file, removal
from litellm_systemd.doctor.engine import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot, edit_command
from litellm_systemd.env.aws import FILE_VARIABLES, KEY_ID, TwoMethods, judge_end
from litellm_systemd.env.environment_file import ONLY_NUL, Fault
from litellm_systemd.env.secret_references import is_reference
from litellm_systemd.env.service_credential import CREDENTIALS_FOLDER, add_secrets
from litellm_systemd.env.tls import ca_trouble
from litellm_systemd.env.variables import HOST, MASTER_KEY, METRICS, PORT, SHORT_KEY
from litellm_systemd.errors import RESTORE, InputError, InstallerError, MissingError, PermissionDenied, Unavailable
from litellm_systemd.gateway.callbacks import CALLBACK_SETTINGS
from litellm_systemd.gateway.config import ConfigError, LintFinding, Severity, lint
from litellm_systemd.gateway.config_types import REFERENCE
from litellm_systemd.gateway.environment import unread_names
from litellm_systemd.host.effective import (
    MANAGER,
    is_service_variable,
    listen_addresses,
    read_environ,
    read_unit_lines,
)
from litellm_systemd.host.encrypted_secrets import HOST_KEY, Undecryptable
from litellm_systemd.host.sandbox import host_findings
from litellm_systemd.host.state import FileKind
from litellm_systemd.host.stored_secrets import with_stored_secrets
from litellm_systemd.releases.needs import package_findings
from litellm_systemd.report.report import Outcome

FILE = Cause(
    "environment-file",
    "A variable names a file that the service cannot read, or a folder that it cannot use: without a CA file no TLS"
    " connection is trusted, without a credentials file no request is signed. A CA file with anything else than"
    " certificates stops the service, and so does a missing folder of PROMETHEUS_MULTIPROC_DIR.",
    "{edit} && sudo litellmctl restart    # {remedy}",
    requires=("files-not-installed", "files-user-gone"),
)


@detects(FILE)
def detect_environment_file(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect files and folders that variables name and that are missing or unreadable for the service's user."""
    named: dict[str, str] = {}
    for name in FILE_VARIABLES:
        path = snapshot.environment.get(name, "")
        if not path.startswith("/") or named.setdefault(path, name) != name:
            continue
        found = snapshot.file(path)
        where, edit = f"{snapshot.dotenv.where(name)}: {name}={path}", snapshot.edit_command(name)
        if found is None:
            remedy = f"correct the path, or create the file: readable for the user {contract.SERVICE_USER}"
            yield FILE.finding(f"{where}: the file does not exist", edit=edit, remedy=remedy)
        elif found.kind is not FileKind.LINK and not is_readable(found, contract.SERVICE_USER):
            evidence = f"{where}: mode {found.mode:04o}, owner {found.owner}:{found.group}"
            x = "x" if found.kind is FileKind.FOLDER else ""
            edit = f"sudo chgrp {contract.SERVICE_USER} {path} && sudo chmod g+r{x} {path}"
            yield FILE.finding(evidence, edit=edit, remedy="or name another file")
        elif name in CA_VARIABLES and (trouble := ca_trouble(snapshot.layout.real(path))):
            remedy = f"name a file with certificates in PEM format, or write them into {path}"
            yield FILE.finding(f"{where}: {trouble}", edit=edit, remedy=remedy)
    yield from _counters(snapshot)


#: The folder in which LiteLLM's callback counts, if the user names one. METRICS has a folder of its own.
_COUNTERS, _COUNTING = "PROMETHEUS_MULTIPROC_DIR", "prometheus"


def _counters(snapshot: Snapshot) -> Iterator[Finding]:
    """A folder of PROMETHEUS_MULTIPROC_DIR that is missing, or in which the service's user cannot write."""
    path, user = snapshot.environment.get(_COUNTERS, ""), contract.SERVICE_USER
    if not path.startswith("/") or snapshot.environment.get(METRICS.name) or not _counts(snapshot):
        return
    found, trouble = snapshot.file(path), "the folder does not exist"
    if found is not None:
        bit = 0o200 if found.owner == user else 0o020 if found.group == user else 0o002
        if found.mode & bit:
            return
        trouble = f"{user} cannot write there: mode {found.mode:04o}, owner {found.owner}:{found.group}"
    where, edit = snapshot.dotenv.where(_COUNTERS), snapshot.edit_command(_COUNTERS)
    remedy = "remove the variable: the service then makes a folder of its own"
    yield FILE.finding(f"{where}: {_COUNTERS}={path}: {trouble}", edit=edit, remedy=remedy)


def _counts(snapshot: Snapshot) -> bool:
    """Whether the configuration has the callback that counts. One that cannot be read is reported elsewhere."""
    try:
        settings = snapshot.gateway.section("litellm_settings")
    except (InputError, MissingError):
        return False
    return any(_COUNTING in (settings.get(name) or ()) for name in CALLBACK_SETTINGS)


#: Variables that name a file with certificates of CAs.
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "CURL_CA_BUNDLE")


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
        where = snapshot.dotenv.where(KEY_ID)
        yield CREDENTIALS.finding(f"{where}: they {found.detail}", outcome=found.outcome)


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


UNLOADABLE = Cause(
    "environment-unloadable",
    "systemd does not load a file of variables: it is missing or not valid, so that the service does not start"
    " (Result=resources), a drop-in removes it from the unit, or another tool replaced the unit.",
    "{edit} && sudo litellmctl start    # or create the file; a dash before its path makes it optional",
    requires=("host-systemd-absent", "host-systemd-silent", "files-not-installed", "unit-masked"),
)


@detects(UNLOADABLE)
def detect_environment_unloadable(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect environment files that are missing or that systemd rejects. `files-gone` reports our own missing one."""
    for each in snapshot.effective.unusable:
        lines = read_unit_lines(snapshot.layout, snapshot.service)
        names = [line for line in lines if line.name == "EnvironmentFile" and line.value == each.path]
        where = f"{names[-1].where}: " if names else ""
        path = each.path if each.path == snapshot.layout.environment_file or not names else names[-1].path
        edit = edit_command(path)
        # `--fix` restores it from the copy that litellmctl keeps.
        if path == each.path and (each.is_folder or each.reason == ONLY_NUL):
            edit = RESTORE.format(path=path)
        yield UNLOADABLE.finding(f"{where}EnvironmentFile={each.path}: {each.reason}", edit=edit)
    yield from _dropped_file(snapshot)


def _dropped_file(snapshot: Snapshot) -> Iterator[Finding]:
    """A drop-in that resets the list of files, or a unit without one, so that the service has no key."""
    own = snapshot.layout.environment_file
    if MASTER_KEY.name in snapshot.environment:
        return
    if lacks_environment_file(snapshot):
        path = snapshot.layout.service
        evidence = f"{path} was edited, or replaced by another tool: it has no EnvironmentFile={own}"
        evidence += "" if snapshot.service.get("User") else ", and no User=: the service would run as root"
        yield UNLOADABLE.finding(evidence, instead=removal(snapshot, path))
        return
    if own in snapshot.service.get("EnvironmentFiles", ""):
        return
    for each in read_unit_lines(snapshot.layout, snapshot.service):
        if (each.name, each.value) == ("EnvironmentFile", ""):
            evidence = f"{each.where}: EnvironmentFile= without a path removes {own} from the unit"
            yield UNLOADABLE.finding(evidence, edit=edit_command(each.path))


SYNTAX = Cause(
    "environment-syntax",
    "systemd reads a line of an environment file differently from how it looks: a variable is lost, or has another"
    " value.",
    "sudoedit {path} && sudo litellmctl restart    # {correction}",
    requires=("files-not-installed", "environment-undecryptable"),
)


_QUOTED = 'write each variable as NAME="value" in a line of its own'


@detects(SYNTAX)
def detect_environment_syntax(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect unclosed quotes, invalid names and other lines that systemd ignores or joins."""
    ignored: dict[str, list[Fault]] = {}
    for path, fault in snapshot.effective.faults:
        if fault.is_harmful:
            yield SYNTAX.finding(f"{path}:{fault.line}: {fault.text}", path=path, correction=_QUOTED)
        else:
            ignored.setdefault(path, []).append(fault)
    for path, (first, *others) in ignored.items():
        lines = ", ".join(str(each.line) for each in others[:_MOST])
        more = f"; more such lines: {lines}{' and others' if len(others) > _MOST else ''}" if others else ""
        correction = "keep one of the two lines" if first.repeats else _QUOTED
        yield SYNTAX.finding(
            f"{path}:{first.line}: {first.text}{more}", outcome=Outcome.WARNING, path=path, correction=correction
        )


ENVIRONMENT = Cause(
    "environment-unusable",
    "The environment has an invalid value: the service exits with code 78 at its next start, or its calls fail."
    " Two kinds of credentials are a warning: LiteLLM uses one of them.",
    "{edit} && sudo litellmctl restart    # {remedy}",
    requires=("files-not-installed", "environment-undecryptable"),
    # The latter two are failures if a variable is lost with the line or the drop-in.
    caused_by=("environment-unloadable", "environment-syntax", "unit-line", "unit-stale"),
)


@detects(ENVIRONMENT)
def detect_environment_unusable(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect invalid values in the environment. The check of the files reports a missing file."""
    dotenv, reported = snapshot.dotenv, ""
    try:
        _ = snapshot.settings
    except InputError as error:
        reported = error.message
        wrong = (name for name in dotenv.values if error.message.startswith(f"{dotenv.where(name)}: "))
        edit, outcome = snapshot.edit_command(next(wrong, "")), None
        if isinstance(error, TwoMethods):
            outcome = Outcome.WARNING
        yield ENVIRONMENT.finding(error.message, outcome=outcome, edit=edit, remedy=error.hint)
    items = _find_in_variables(snapshot)
    has_profile = any(item.code == "profile-without-file" for item, _ in items)
    for item, name in items:
        # The same is not reported twice, nor the key that the profile has.
        if item.code == _NO_KEY and (has_profile or name in reported):
            continue
        if item.severity is Severity.ERROR and not _names_same(item.message, reported):
            yield _variable_finding(snapshot, ENVIRONMENT, item, name)


#: The linter's code for a configuration with an access key that the environment does not have.
_NO_KEY = "missing-access-key"
#: The variable in the linter's messages about the identity of a configuration.
_IS_SET = re.compile(r"\band (\w+) is (?:not )?set\b")
#: An assignment in a message.
_ASSIGNMENT = re.compile(r"\b[A-Z][A-Z0-9_]+=\S+")


def _names_same(message: str, reported: str) -> bool:
    """Whether two messages are about the same assignment, such as AWS_REGION_NAME=us-east1."""
    return any(word in reported for word in _ASSIGNMENT.findall(message))


def _variable_finding(snapshot: Snapshot, cause: Cause, item: LintFinding, name: str) -> Finding:
    dotenv, edit = snapshot.dotenv, snapshot.edit_command(name)
    if item.place.file is not None and not dotenv.values.get(name):  # the configuration only refers to the variable
        text = f"{name} is {'empty' if name in dotenv.values else 'not set'} ({item.place.position} refers to it)"
    else:
        text = str(item).removeprefix("environment: ")
    if kept := _kept_copy(snapshot, dotenv.file_of(name)):
        text, edit = f"the file is empty, as after a power failure: {text}", f"sudo cp {kept} {dotenv.file_of(name)}"
    return cause.finding(f"{dotenv.where(name)}: {text}", edit=edit, remedy=item.remedy)


def _kept_copy(snapshot: Snapshot, path: str) -> str:
    """The copy that litellmctl keeps of an installed file that is empty now; an empty text for others."""
    found, record = snapshot.file(path), snapshot.records.get(path)
    if found is None or record is None or found.kind is not FileKind.FILE or found.content:
        return ""
    kept = installed_file(snapshot, path, record)
    return f"{snapshot.layout.pristine}/{record.digest}" if kept is not None and kept.content else ""


#: Places that are named next to the first one.
_MOST = 4


def merge_items(items: Iterable[LintFinding]) -> Iterator[tuple[str, LintFinding]]:
    """One text for each kind of problem with one remedy, such as a wrong region of many models, and the first one."""
    kinds: dict[tuple[str, str], list[LintFinding]] = {}
    for item in items:
        kinds.setdefault((item.code, item.remedy), []).append(item)
    for first, *others in kinds.values():
        named = ", ".join(item.where for item in others[:_MOST])
        more = f" and {len(others) - _MOST} more" if len(others) > _MOST else ""
        yield f"{first}; the same at {named}{more}" if others else str(first), first


def _find_in_variables(snapshot: Snapshot) -> tuple[tuple[LintFinding, str], ...]:
    """What the linter finds in the variables, each with its variable; nothing without a configuration to check."""
    try:
        found = lint_findings(snapshot)
    except (InputError, MissingError):
        return ()
    return tuple((item, name) for item in found if (name := variable_of(snapshot, item)) is not None)


def lint_findings(snapshot: Snapshot) -> tuple[LintFinding, ...]:
    """What the linter and the sandbox of this host find in the configuration and in the variables."""
    gateway, environ = snapshot.gateway, snapshot.environment
    return (*lint(gateway, environ), *host_findings(snapshot.layout, gateway, environ))


def variable_of(snapshot: Snapshot, item: LintFinding) -> str | None:
    """The variable that a finding is about; None if it is about the configuration.

    An empty variable is wrong where it is written, and not where the configuration refers to it. The master key is
    expected in the environment in any case.
    """
    if item.place.file is None:
        assignment = _ASSIGNMENT.match(item.message)
        return item.place.key or (assignment[0].partition("=")[0] if assignment else "")
    if item.code == "no-master-key":
        value = snapshot.gateway.section("general_settings").get("master_key", f"{REFERENCE}{MASTER_KEY.name}")
        is_reference = isinstance(value, str) and value.startswith(REFERENCE)
        return str(value).removeprefix(REFERENCE) if is_reference else None
    if item.code in (_NO_KEY, "other-identity"):
        named = _IS_SET.search(item.message)
        return named[1] if named else None
    if item.code == "unset-variable":
        empty = (name for _, name in snapshot.gateway.references if snapshot.environment.get(name) == "")
        return next((name for name in empty if f"refers to {name}, which is empty" in item.message), None)
    return None


DOUBTFUL_VARIABLE = Cause(
    "environment-doubtful",
    "LiteLLM starts with these variables, but a value is a placeholder, or a name is one that nothing reads.",
    "{edit} && sudo litellmctl restart    # {remedy}",
    outcome=Outcome.WARNING,
    requires=("files-not-installed", "environment-unusable"),
    caused_by=("network-region",),
)


@detects(DOUBTFUL_VARIABLE)
def detect_environment_doubtful(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect warnings of the linter about the variables of the environment."""
    for item, name in _find_in_variables(snapshot):
        if item.severity is Severity.WARNING:
            yield _variable_finding(snapshot, DOUBTFUL_VARIABLE, item, name)


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


OVERRIDDEN = Cause(
    "environment-overridden",
    "Two files set a variable to different values, and systemd uses the later one: each EnvironmentFile= comes after"
    " every Environment=, and a drop-in's after that of the unit.",
    "{edit} && sudo litellmctl restart    # keep one of the two",
    outcome=Outcome.WARNING,
    requires=("files-not-installed", "environment-unusable"),
)


@detects(OVERRIDDEN)
def detect_environment_overridden(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect an Environment= that has no effect, and a second master key. Other variables may be overridden."""
    for each in snapshot.effective.overridden:
        is_key = each.name == MASTER_KEY.name
        if each.path.endswith(".conf") or is_key:
            result = "; clients with that key are refused" if is_key else ""
            evidence = f"{each.where}: {each.name} has no effect, since {each.by} sets it again{result}"
            # The clients' key must be the one in force: no edit of the other file lets them in.
            edit = snapshot.edit_command(each.name) if is_key else edit_command(each.path)
            yield OVERRIDDEN.finding(evidence, edit=edit)


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
    if key and len(key) < SHORT_KEY and not is_reference(key):
        where = snapshot.dotenv.where(MASTER_KEY.name)
        yield KEY_SHORT.finding(f"{where}: {MASTER_KEY.name} has fewer than {SHORT_KEY} characters")


ENVIRONMENT_STALE = Cause(
    "environment-stale",
    "The environment was changed after the service read it, in a file or a drop-in: the change has no effect yet.",
    "sudo litellmctl restart",
    outcome=Outcome.WARNING,
    requires=("host-systemd-absent", "host-systemd-silent", "environment-unusable"),
    # Those that judge the environment of the next start: their remedy changes it, and ends with a restart.
    caused_by=(
        "files-unfinished",
        "files-suspended",
        *("environment-syntax", "environment-unloadable", "environment-file", "environment-credentials"),
        *("environment-secrets", "port-address", "network-region", "network-proxy"),
        *("aws-key", "aws-profile", "aws-role", "aws-identity"),
    ),
)


@detects(ENVIRONMENT_STALE)
def detect_environment_stale(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect variables that the running service has with other values. Only their names are reported."""
    if not snapshot.is_active:
        return
    running = read_environ(Path(f"/proc/{snapshot.service['MainPID']}/environ"))
    # The main process adds what systemd passes to it encrypted, which proc(5) does not show. It could change what
    # proc(5) shows, and so does not choose the folder that root reads.
    running[CREDENTIALS_FOLDER] = f"/run/credentials/{contract.SERVICE}"
    add_secrets(running)
    dotenv, unread = snapshot.dotenv, _unread_names(snapshot, running)
    by_file: dict[str, list[str]] = {}
    changed = changed_variables(dotenv.values, running)
    for name in changed:
        path = dotenv.file_of(name)
        # Of the user's own files only what the service reads: the rest may be for another program.
        if path == snapshot.layout.environment_file or (path != MANAGER and name not in unread):
            by_file.setdefault(path, []).append(name)
    removed = [name for name in running if is_service_variable(name) and name not in {*dotenv.values, *unread}]
    parts = [f"{path}: the service runs with other values of: {', '.join(names)}" for path, names in by_file.items()]
    if removed:
        parts.append(f"the service still runs with what was removed: {', '.join(sorted(removed))}")
    if removed or (by_file and not set(changed) <= _reported_names(snapshot)):
        yield ENVIRONMENT_STALE.finding("; ".join(parts))


def _reported_names(snapshot: Snapshot) -> set[str]:
    """The variables whose other findings have a restart or an install as a remedy already."""
    names = {name for _, name in _find_in_variables(snapshot)}
    names.update(each.name for each in snapshot.effective.overridden)
    if snapshot.settings.listen not in listen_addresses(snapshot.socket.get("Listen", "")):
        names.update((HOST.name, PORT.name))
    return names


def _unread_names(snapshot: Snapshot, running: Mapping[str, str]) -> frozenset[str]:
    """The variables that nothing reads, as far as is known; none without a configuration."""
    try:
        return frozenset(unread_names(snapshot.gateway, {**running, **snapshot.environment}))
    except (InputError, MissingError):
        return frozenset()


def changed_variables(wanted: Mapping[str, str], running: Mapping[str, str]) -> tuple[str, ...]:
    """The names of the `wanted` variables that a process does not have with that value, sorted."""
    return tuple(sorted(name for name, value in wanted.items() if running.get(name) != value))


UNUSABLE = Cause(
    "configuration-unusable",
    "The configuration has an error: the service does not start with it (exit code 78). A service that runs keeps"
    " serving with the previous one and rejects a reload.",
    "sudoedit {path} && sudo systemctl reload-or-restart litellm    # {remedy}",
    requires=("files-not-installed", "files-config-gone"),
    caused_by=("files-gone", "files-unreadable", "files-kind", "environment-syntax"),
)


@detects(UNUSABLE)
def detect_configuration_unusable(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a configuration that cannot be read, or that the linter finds an error in."""
    path = snapshot.config_path
    try:
        _ = snapshot.gateway
    except (InputError, MissingError) as error:
        yield UNUSABLE.finding(error.message, path=_file_of(error) or path, remedy=error.hint)
        return
    reported = _key_is_reported(snapshot)
    errors = (
        item
        for item in lint_findings(snapshot)
        if item.severity is Severity.ERROR
        and variable_of(snapshot, item) is None
        and not (reported and item.code == "weak-master-key")
    )
    for text, item in merge_items(errors):
        edit = f"{snapshot.edit_command('AWS_REGION_NAME')} && sudo litellmctl restart    # {item.remedy}"
        instead = edit if item.code == "no-region" else ""
        yield UNUSABLE.finding(text, path=item.place.file or path, remedy=item.remedy, instead=instead)


def _file_of(error: InstallerError) -> str | None:
    """The file with the error of a configuration that cannot be read."""
    return error.findings[0].place.file if isinstance(error, ConfigError) else None


def _key_is_reported(snapshot: Snapshot) -> bool:
    """Whether the environment is unusable: `environment-unusable` then reports its key already."""
    try:
        return not snapshot.settings
    except InputError:
        return True


#: Codes of the linter and of `package_findings` for packages that the release lacks.
_LACKS = ("missing-import", "missing-package")

PACKAGE = Cause(
    "configuration-package",
    "The configuration, or a Python file that it names, needs a package that the release does not have: the service"
    " does not start, or the feature fails.",
    "{remedy}",
    outcome=Outcome.WARNING,
    requires=("files-not-installed", "files-config-gone", "configuration-unusable"),
    caused_by=("release-damaged",),
)


@detects(PACKAGE)
def detect_configuration_package(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect packages that the release lacks; a failure if the service does not start for lack of one."""
    lacking, _ = package_findings(snapshot.layout, snapshot.gateway)
    items = [item for item in (*lint_findings(snapshot), *lacking) if item.code in _LACKS]
    module = ""
    with contextlib.suppress(PermissionDenied):  # only root can read the journal
        module = find_missing_module(snapshot) if items else ""
    for text, item in merge_items(items):
        is_needed = bool(module) and re.search(rf"\b{module}\b", item.message.replace("-", "_")) is not None
        yield PACKAGE.finding(text, outcome=Outcome.FAILED if is_needed else None, remedy=item.remedy)


DOUBTFUL = Cause(
    "configuration-doubtful",
    "LiteLLM starts with this configuration but behaves differently from what it suggests.",
    "sudoedit {path} && sudo systemctl reload litellm    # {remedy}",
    outcome=Outcome.WARNING,
    requires=("files-not-installed", "files-config-gone", "configuration-unusable"),
    caused_by=("network-region",),
    repeats=("aws-model-refused",),
)


@detects(DOUBTFUL)
def detect_configuration_doubtful(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect warnings of the linter about the active configuration. `configuration-package` reports packages."""
    items = (item for item in lint_findings(snapshot) if item.severity is Severity.WARNING)
    warnings = (item for item in items if item.code not in _LACKS and variable_of(snapshot, item) is None)
    for text, item in merge_items(warnings):
        path = item.place.file or snapshot.config_path
        # That of AWS's refusal.
        subject = "model-unknown" if item.code == "unknown-model" else ""
        yield DOUBTFUL.finding(text, path=path, remedy=item.remedy, subject=subject)


STALE = Cause(
    "configuration-stale",
    "The configuration was changed after the service loaded it: the change has no effect yet.",
    "sudo systemctl reload litellm",
    outcome=Outcome.WARNING,
    requires=("host-systemd-absent", "host-systemd-silent", "configuration-unusable", "service-silent"),
    caused_by=("files-unfinished", "files-suspended"),
)


@detects(STALE)
def detect_configuration_stale(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a configuration on disk that differs from the one that the service has loaded."""
    if not snapshot.is_active:
        return
    running, last_reload = snapshot.runtime.get("sha256"), snapshot.runtime.get("last_reload")
    if last_reload and not last_reload["ok"]:
        return  # `service-reload-failed` has the reason
    if running is not None and running != snapshot.gateway.digest:
        on_disk = f"{snapshot.gateway.source} has sha256 {snapshot.gateway.digest[:12]}"
        yield STALE.finding(f"{on_disk}, the service has {running[:12]}")
