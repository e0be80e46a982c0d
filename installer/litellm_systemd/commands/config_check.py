"""config check: all that is wrong with a configuration, each with its place in the file and its remedy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from litellm_systemd.commands.desired import Request, choose_config, find_config, read_choice
from litellm_systemd.commands.end_of_life import find_ends
from litellm_systemd.contract import ExitCode
from litellm_systemd.env.settings import Dotenv, Settings, build_settings, read_dotenv
from litellm_systemd.errors import MissingError, PermissionDenied
from litellm_systemd.gateway.config import (
    ConfigChoice,
    ConfigError,
    ConfigOrigin,
    GatewayConfig,
    LintFinding,
    Severity,
    lint,
    localize,
    parse_config,
)
from litellm_systemd.host.observe import active_config, read_installed
from litellm_systemd.report.report import Check, Outcome, Report
from litellm_systemd.resources import read_config as read_shipped

_OUTCOMES = {Severity.ERROR: Outcome.FAILED, Severity.WARNING: Outcome.WARNING}


@dataclass(frozen=True, slots=True)
class _Ground:
    """The environment that the service has or would get, by its source; without `settings` it is unknown."""

    source: str
    settings: Settings | None = None
    installed: Mapping[str, str] = field(default_factory=dict, repr=False)
    is_installed: bool = False


def check_config(request: Request) -> Report:
    """Everything that is wrong with a configuration; exit code 78 if any of it is an error.

    It is the one that the request names, else the one that an install would take. It is judged in the environment
    of the request's `.env`, else in the installed one. Where neither can be read, what depends on variables isn't
    judged.

    Raises:
        InstallerError: there is no such configuration, the file can't be read, or `.env` can't be used.
    """
    ground = _ground(request)
    choice = _choose(request, ground)
    try:
        config = _read(choice, ground)
        findings = (*_judge(config, ground), *_ends(request, config, ground))
    except ConfigError as error:
        findings = error.findings
    source = str(choice.path or choice.name)
    notes = () if ground.settings is None else ground.settings.warnings
    if choice.passed_over is not None:
        notes += (f"{choice.passed_over} was not looked at: write ./{choice.passed_over.name} for that one.",)
    skipped = Check("environment", Outcome.SKIPPED, f"environment: {ground.source}", "Name a .env with -e.")
    failed = any(finding.severity is Severity.ERROR for finding in findings)
    return Report(
        f"{source}: {_count(findings)}",
        (*_lines(findings), *((skipped,) if ground.settings is None else ())),
        notes=notes,
        data={
            "source": source,
            "environment": None if ground.settings is None else ground.source,
            "findings": [_as_data(finding) for finding in findings],
        },
        code=ExitCode.CONFIG if failed else None,
        plain=True,
    )


def finding_checks(findings: Iterable[LintFinding]) -> tuple[Check, ...]:
    """Each finding as a line of a report."""
    return tuple(Check(item.code, _OUTCOMES[item.severity], str(item), item.remedy) for item in findings)


def _lines(findings: Iterable[LintFinding]) -> Iterator[Check]:
    """Each finding as compilers write it: `FILE:LINE:COLUMN: error: what [code]`."""
    for item in findings:
        what = f"{item.place.key} {item.message}".lstrip()
        detail = f"{item.place.position}: {item.severity.value}: {what} [{item.code}]"
        yield Check(item.code, _OUTCOMES[item.severity], detail, item.remedy)


def _ground(request: Request) -> _Ground:
    file = request.env_file or request.cwd / ".env"
    path = request.layout.environment_file
    try:
        installed, missing = read_installed(request.layout), f"there is no .env here, nor {path}"
    except PermissionDenied:
        installed, missing = {}, f"there is no .env here, and {path} can't be read by this user"
    if request.env_file is not None or file.exists():
        dotenv = read_dotenv(file)
    elif installed:
        dotenv = Dotenv(path, installed)
    else:
        return _Ground(f"{missing}: what depends on variables was not judged")
    settings = build_settings(dotenv, installed=installed, new_key=lambda: "sk-made-by-the-install")
    return _Ground(dotenv.source, settings, installed, is_installed=dotenv.source == path)


def _choose(request: Request, ground: _Ground) -> ConfigChoice:
    if ground.settings is not None:
        return choose_config(request, ground.settings, ground.installed)
    name = request.config or active_config(request.layout)
    if name is None:
        raise MissingError("no configuration is active: nothing is installed", "Name a file, such as ./config.yaml.")
    return find_config(request, name)


def _read(choice: ConfigChoice, ground: _Ground) -> GatewayConfig:
    region = None if ground.settings is None else ground.settings.region
    if choice.origin is not ConfigOrigin.SHIPPED or region is None:
        return read_choice(choice)
    return parse_config(localize(read_shipped(choice.name), region), choice.name)


def _judge(config: GatewayConfig, ground: _Ground) -> tuple[LintFinding, ...]:
    if ground.settings is None:
        return lint(config, None)
    findings = lint(config, ground.settings.environment)
    if ground.is_installed:
        return findings
    # An install asks the EC2 instance for its region, which isn't worth two seconds here.
    remedy = "Set AWS_REGION_NAME in .env. On EC2 an install asks the instance instead."
    return tuple(
        replace(finding, severity=Severity.WARNING, remedy=remedy) if finding.code == "no-region" else finding
        for finding in findings
    )


def _ends(request: Request, config: GatewayConfig, ground: _Ground) -> tuple[LintFinding, ...]:
    environ = {} if ground.settings is None else ground.settings.environment
    return () if request.today is None else find_ends(request.layout, config, environ, request.today)


def _count(findings: tuple[LintFinding, ...]) -> str:
    if not findings:
        return "nothing is wrong"
    numbers = ((severity.value, sum(each.severity is severity for each in findings)) for severity in Severity)
    return ", ".join(f"{number} {word}{'s' * (number > 1)}" for word, number in numbers if number)


def _as_data(finding: LintFinding) -> dict[str, Any]:
    texts = {"message": finding.message, "remedy": finding.remedy}
    return {"severity": finding.severity.value, "code": finding.code, **asdict(finding.place), **texts}
