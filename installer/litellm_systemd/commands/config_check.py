"""config check: each problem of a configuration, with its position in the file and its remedy.

Models that are at, or near, their end of life on Bedrock are problems too, which an install checks as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

from litellm_systemd.commands.config_files import read_gateway
from litellm_systemd.commands.resolve import Request, Selection, resolve, skipped_note
from litellm_systemd.contract import SERVICE_USER, ExitCode
from litellm_systemd.doctor.check_files import is_readable
from litellm_systemd.errors import InputError, InstallerError
from litellm_systemd.gateway.config import (
    ConfigChoice,
    ConfigError,
    ConfigOrigin,
    GatewayConfig,
    LintFinding,
    Severity,
    lint,
    read_config,
    render_grant,
)
from litellm_systemd.gateway.config_types import Place
from litellm_systemd.gateway.environment import unread_names
from litellm_systemd.gateway.models import build_served, end_findings
from litellm_systemd.host.files import observe_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import active_config
from litellm_systemd.host.sandbox import host_findings
from litellm_systemd.host.state import FileKind
from litellm_systemd.releases.needs import package_findings
from litellm_systemd.releases.source import installed_version
from litellm_systemd.report.annotations import render_github, render_sarif
from litellm_systemd.report.report import Check, Outcome, Report, render_count
from litellm_systemd.resources import read_linter_docs

_OUTCOMES = {Severity.ERROR: Outcome.FAILED, Severity.WARNING: Outcome.WARNING}


def check_config(request: Request, *, strict: bool = False) -> Report:
    """Check a configuration; exit code 78 if there is an error, or 1 for a warning if `strict`.

    Without an environment, the checks that depend on variables are skipped.

    Raises:
        InstallerError: there is no such configuration, the file can't be read, or `.env` is invalid.
    """
    selection = resolve(request, read_only=True)
    choice = selection.config
    unread: tuple[str, ...] = ()
    try:
        config = read_gateway(request.layout, choice, selection.settings.region)
        lacking, needs = package_findings(request.layout, config)
        findings = (*_lint(request.layout, config, selection), *lacking, *_end_of_life(request, config, selection))
        unread = _unread_note(config, selection)
    except ConfigError as error:
        findings, needs = error.findings, ()
    source = str(choice.path or choice.name)
    return Report(
        f"{source}: {_count(findings)}",
        (*_lines(findings), *environment_check(selection)),
        notes=(*(() if selection.unknown else selection.settings.warnings), *needs, *unread, *skipped_note(choice)),
        data={
            "source": source,
            "environment": None if selection.unknown else selection.dotenv.source,
            "findings": [_as_data(finding) for finding in findings],
        },
        code=exit_code_of(findings, strict=strict),
        plain=True,
    )


def exit_code_of(findings: tuple[LintFinding, ...], *, strict: bool = False) -> ExitCode:
    """CONFIG if there is an error; with `strict` FAILED for a warning."""
    if any(finding.severity is Severity.ERROR for finding in findings):
        return ExitCode.CONFIG
    return ExitCode.FAILED if strict and findings else ExitCode.OK


def render(report: Report, form: str, root: Path) -> str:
    """A report of `check_config` as `github` or `sarif`, with paths relative to `root`."""
    if form == "github":
        return render_github(report, root)
    return render_sarif(report, root, installed_version(), read_linter_docs())


def _unread_note(config: GatewayConfig, selection: Selection) -> tuple[str, ...]:
    """A note about variables of a .env that may be for other programs, or for code of the user's own."""
    names = () if selection.unknown or selection.is_installed else unread_names(config, selection.dotenv.values)
    if not names:
        return ()
    return (
        f"Neither LiteLLM nor the service reads these variables of {selection.dotenv.source}: {', '.join(names)}.",
    )


def environment_check(selection: Selection) -> tuple[Check, ...]:
    """A skipped check with the reason if no environment is known."""
    if not selection.unknown:
        return ()
    detail = f"{selection.unknown}: what depends on variables was not checked"
    return (Check("environment", Outcome.SKIPPED, detail, "Name a .env with -e."),)


def finding_checks(findings: Iterable[LintFinding]) -> tuple[Check, ...]:
    return tuple(Check(item.code, _OUTCOMES[item.severity], str(item), item.remedy) for item in findings)


def _lines(findings: Iterable[LintFinding]) -> Iterator[Check]:
    """Each finding as compilers write it: `FILE:LINE:COLUMN: error: message [code]`."""
    for item in findings:
        message = f"{item.place.key} {item.message}".lstrip()
        detail = f"{item.place.position}: {item.severity.value}: {message} [{item.code}]"
        yield Check(item.code, _OUTCOMES[item.severity], detail, item.remedy)


def _lint(layout: Layout, config: GatewayConfig, selection: Selection) -> tuple[LintFinding, ...]:
    if selection.unknown:
        return lint(config, None)
    here = (*host_findings(layout, config, selection.environ), *_unreadable(layout, config, selection.config))
    findings = selection.locate((*lint(config, selection.environ), *here))
    if selection.is_installed:
        return findings
    # An install gets the region from the EC2 instance metadata; a check does not wait two seconds for them.
    remedy = "Set AWS_REGION_NAME in .env. On EC2 an install uses the region of the instance instead."
    return tuple(
        replace(finding, severity=Severity.WARNING, remedy=remedy) if finding.code == "no-region" else finding
        for finding in findings
    )


def _unreadable(layout: Layout, config: GatewayConfig, choice: ConfigChoice) -> Iterator[LintFinding]:
    """Files of an installed configuration that root reads, but the user of the service does not."""
    if choice.origin is not ConfigOrigin.INSTALLED or choice.path is None:
        return
    for path in (choice.path, *config.other_files):
        found = (
            observe_file(layout, f"/{path.relative_to(layout.root)}") if path.is_relative_to(layout.root) else None
        )
        if found is not None and found.kind is FileKind.FILE and not is_readable(found):
            yield LintFinding(
                Severity.ERROR,
                "hidden-file",
                Place(str(path)),
                f"the user {SERVICE_USER} of the service can't read it",
                f"Run: {render_grant(path)}",
            )


def _end_of_life(request: Request, config: GatewayConfig, selection: Selection) -> tuple[LintFinding, ...]:
    return () if request.today is None else find_ends(request.layout, config, selection.environ, request.today)


def _count(findings: tuple[LintFinding, ...]) -> str:
    if not findings:
        return "no problems"
    numbers = ((severity.value, sum(each.severity is severity for each in findings)) for severity in Severity)
    return ", ".join(render_count(number, word) for word, number in numbers if number)


def _as_data(finding: LintFinding) -> dict[str, Any]:
    texts = {"message": finding.message, "remedy": finding.remedy}
    return {"severity": finding.severity.value, "code": finding.code, **asdict(finding.place), **texts}


def find_ends(
    layout: Layout, gateway: GatewayConfig, environ: Mapping[str, str], today: date, *, allow: bool = False
) -> tuple[LintFinding, ...]:
    """Findings about models after their end of life (errors) or near it (warnings).

    The dates are those of LiteLLM's model map and of our own table; no request is sent. A model that the active
    configuration already calls is a warning only: a second run, an upgrade and a rollback continue.
    """
    served = build_served(gateway, environ)
    known = _called(gateway, environ) if allow else _active(layout, environ)
    return tuple(end_findings(gateway, served, today, known=known))


def check_ends(
    layout: Layout, gateway: GatewayConfig, environ: Mapping[str, str], today: date, *, allow: bool = False
) -> tuple[str, ...]:
    """The warnings of `find_ends`, one line each.

    Raises:
        InputError: a model is after its end of life, `allow` is not set, and the active configuration lacks it.
    """
    findings = find_ends(layout, gateway, environ, today, allow=allow)
    for finding in findings:
        if finding.severity is Severity.ERROR:
            raise InputError(str(finding), f"{finding.remedy} Or accept it: --allow-eol of install and config use.")
    return tuple(finding.render() for finding in findings)


def active_ends(layout: Layout, environ: Mapping[str, str], today: date) -> tuple[str, ...]:
    """The same for the active configuration, without errors; empty if it can't be read."""
    gateway = _read_active(layout)
    return () if gateway is None else check_ends(layout, gateway, environ, today, allow=True)


def _active(layout: Layout, environ: Mapping[str, str]) -> frozenset[str]:
    gateway = _read_active(layout)
    return frozenset() if gateway is None else _called(gateway, environ)


def _read_active(layout: Layout) -> GatewayConfig | None:
    name = active_config(layout)
    try:
        return None if name is None else read_config(layout.real(layout.config(name)))
    except InstallerError:
        return None


def _called(gateway: GatewayConfig, environ: Mapping[str, str]) -> frozenset[str]:
    """The models of a configuration, by their ids on Bedrock."""
    return frozenset(
        each.found.model for each in build_served(gateway, environ) if each.found and each.found.model is not None
    )
