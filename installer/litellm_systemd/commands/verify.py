"""verify --fallbacks, and the outputs of verify: its target, JUnit XML, an HTML page, changes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from litellm_systemd import contract
from litellm_systemd.commands.config_files import standalone
from litellm_systemd.commands.resolve import Request
from litellm_systemd.commands.service import installed_settings
from litellm_systemd.commands.service_config import resolve_service
from litellm_systemd.commands.status import Loaded, edited_notes, observe_file_now, observe_loaded
from litellm_systemd.errors import CannotCreate, InvalidAnswer, UsageError, remedy_of
from litellm_systemd.gateway.config import read_config
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import ask_service, is_booted
from litellm_systemd.host.stored_secrets import find_key
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.install.apply import Say
from litellm_systemd.instances.throwaway import throwaway_process, throwaway_unit
from litellm_systemd.releases.inventory import current_release, read_release
from litellm_systemd.report.exports import render_junit
from litellm_systemd.report.report import Check, Outcome, Report
from litellm_systemd.user_files import require_output, write_output
from litellm_systemd.verify.run import verify_fallbacks

_UNIT_NOTE = "Tried on a throwaway unit with the service's release, environment, configuration, user and sandbox."
_PROCESS_NOTE = "Tried on a throwaway process, without the service's user and sandbox."


def prove_fallbacks(
    request: Request, environ: Mapping[str, str], *, timeout: float, say: Say = lambda _line: None
) -> Report:
    """Start a throwaway instance, try each fallback on it, and remove it.

    For root, on a host with the service, and without -c and -e, it is a copy of the service, with the installed
    environment and the active configuration. Otherwise it is a process with those of the request.

    Raises:
        InstallerError: there is nothing to start, or it doesn't start. The service itself was not changed.
    """
    layout, systemctl = request.layout, Systemctl(request.layout)
    if _is_of_service(request) and systemctl.unit_state(contract.SERVICE).load == "loaded":
        settings, config = installed_settings(layout), read_config(layout.real(layout.config_link))
        say("starting a throwaway instance next to the service")
        with throwaway_unit(layout, systemctl, find_key(settings), timeout) as gateway:
            report = verify_fallbacks(gateway, config)
        return replace(report, notes=(_UNIT_NOTE, *report.notes))
    service = resolve_service(request)
    say("starting a throwaway instance as a process")
    with throwaway_process(
        standalone(service.choice.name, service.own, service.gateway),
        {**environ, **service.settings.environment},
        key=find_key(service.settings),
        timeout=timeout,
        start_timeout=service.settings.start_timeout,
    ) as gateway:
        report = verify_fallbacks(gateway, service.gateway)
    return replace(report, notes=(_PROCESS_NOTE, *report.notes))


def _is_of_service(request: Request) -> bool:
    asks = request.env_file is not None or request.config is not None
    return request.layout.is_host and not asks and os.geteuid() == 0 and is_booted()


SUITE = "litellmctl verify"
#: Seconds for the service to report what it has loaded. A slower one hangs, and fails the checks.
_ANSWER = 2.5


@dataclass(frozen=True, slots=True)
class Files:
    junit: Path | None = None
    html: Path | None = None

    def require_places(self) -> None:
        """Raise CannotCreate for a file that can't be written: before anything is billed, not after it."""
        if self.junit is not None and self.junit == self.html:
            raise UsageError(f"--junit and --html name the same file, {self.html}", "Name two files.")
        for path in filter(None, (self.junit, self.html)):
            require_place(path)

    def write(self, report: Report) -> None:
        """Write or replace the files, each by one rename, so that no reader finds half a file.

        Raises:
            CannotCreate: a file can't be written.
        """
        if self.junit is not None:
            write_page(self.junit, render_junit(report, SUITE))
        if self.html is not None:
            from litellm_systemd.install.render import render_page

            write_page(self.html, render_page(report))


def require_place(path: Path) -> None:
    """Raise CannotCreate for a file that can't be written."""
    if not path.parent.is_dir():
        raise CannotCreate(f"{path}: there is no folder {path.parent}", "Create it first.")
    try:
        require_output(path)
    except OSError as error:
        raise CannotCreate(f"{path}: {error.strerror}", remedy_of(error)) from error


def write_page(path: Path, text: str) -> None:
    """Write or replace a file for other users too, by one rename. Raises CannotCreate if it can't be written."""
    try:
        # It has no secrets, and other users read it.
        write_output(path, text.encode(), 0o644)
    except OSError as error:
        raise CannotCreate(f"{path}: {error.strerror}", remedy_of(error)) from error


@dataclass(frozen=True, slots=True)
class VerifyTarget:
    """The gateway that was verified: that of this host as it runs, a throwaway one with its files, or another.

    About another one, only what it reports itself is known.
    """

    is_own: bool
    is_throwaway: bool = False


def describe_target(report: Report, layout: Layout, now: datetime, origin: VerifyTarget) -> Report:
    """Add time and target: checked_at, versions and config in the data, and a note if the configuration is old."""
    reported = report.data.get("litellm_version")
    versions, config = {"litellm_systemd": version("litellm-systemd"), "litellm": reported}, None
    invalid: tuple[Check, ...] = ()
    if origin.is_own:
        identifier = current_release(layout)
        release = None if identifier is None else read_release(layout, identifier)
        versions["litellm"] = reported or (release.litellm if release is not None else "") or None
        try:
            config = _config(layout, origin)
        except InvalidAnswer as error:
            invalid = (Check("main process", Outcome.FAILED, error.message, error.hint),)
    at = now.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    described = None if config is None else config.as_dict()
    return replace(
        report,
        checks=(*report.checks, *invalid),
        notes=(*edited_notes(layout, config), *report.notes),
        data={"checked_at": at, "versions": versions, "config": described, **report.data},
    )


def record_outcome(layout: Layout, report: Report, now: datetime, origin: VerifyTarget) -> None:
    """Keep the outcome of a verify of the service for its metrics, if the folder for it exists and can be written."""
    path = layout.real(contract.VERIFY_RESULT)
    if origin.is_own and not origin.is_throwaway and path.parent.is_dir():
        new = path.with_name(f".{path.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            new.write_text(json.dumps({"at": now.timestamp(), "ok": report.code == 0}), encoding="utf-8")
            new.chmod(0o644)
            new.rename(path)


def _config(layout: Layout, origin: VerifyTarget) -> Loaded | None:
    loaded = observe_loaded(layout, ask_service(_ANSWER) if layout.is_host else {})
    if not origin.is_throwaway:
        return loaded
    now = observe_file_now(layout)
    return now if now is None or loaded is None else replace(now, edited=loaded.edited)


@dataclass(frozen=True, slots=True)
class Change:
    """A check with a new outcome; `before` is None in the first round."""

    check: Check
    before: Outcome | None

    def as_dict(self, at: str) -> dict[str, Any]:
        """For programs: checked_at, check, before, now, detail, hint."""
        return {
            "checked_at": at,
            "check": self.check.name,
            "before": None if self.before is None else self.before.value,
            "now": self.check.outcome.value,
            "detail": self.check.detail,
            "hint": self.check.hint,
        }

    def as_line(self) -> str:
        """For people: "liveliness: ok → FAILED, cause. Remedy"."""
        now = "FAILED" if self.check.outcome is Outcome.FAILED else self.check.outcome.value
        said = ". ".join(part.rstrip(".") for part in (self.check.detail, self.check.hint) if part)
        before = "" if self.before is None else f"{self.before.value} → "
        return f"{self.check.name}: {before}{now}" + (f", {said}" if said else "")


def find_changes(seen: Mapping[str, Outcome], report: Report) -> tuple[Change, ...]:
    """The checks whose outcome differs from `seen`.

    Skipped checks are no change: an outage is reported once, by the check that found it.
    """
    made = (check for check in report.checks if check.outcome is not Outcome.SKIPPED)
    return tuple(Change(check, seen.get(check.name)) for check in made if seen.get(check.name) is not check.outcome)
