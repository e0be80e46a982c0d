"""The outputs of `verify` next to the printed report: its target, JUnit XML, an HTML page, and changes."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from litellm_systemd.commands.loaded_config import Loaded, edited_notes, observe_file_now, observe_loaded
from litellm_systemd.errors import CannotCreate, UsageError, remedy_of
from litellm_systemd.host.layout import Layout
from litellm_systemd.instances.runtime_calls import ask_service
from litellm_systemd.releases.inventory import current_release, read_release
from litellm_systemd.report.junit import render_junit
from litellm_systemd.report.report import Check, Outcome, Report

SUITE = "litellmctl verify"
#: Seconds for the service to report what it has loaded. A slower one hangs, and fails the checks.
_ANSWER = 2.5


@dataclass(frozen=True, slots=True)
class Files:
    """The files for the report."""

    junit: Path | None = None
    html: Path | None = None

    def require_places(self) -> None:
        """Raise CannotCreate for a file that can't be written: before anything is billed, not after it."""
        if self.junit is not None and self.junit == self.html:
            raise UsageError(f"--junit and --html name the same file, {self.html}", "Name two files.")
        for path in filter(None, (self.junit, self.html)):
            if not path.parent.is_dir():
                raise CannotCreate(f"{path}: there is no folder {path.parent}", "Create it first.")
            try:
                _require_place(path)
            except OSError as error:
                raise CannotCreate(f"{path}: {error.strerror}", remedy_of(error)) from error

    def write(self, report: Report) -> None:
        """Write or replace the files, each by one rename, so that no reader finds half a file.

        Raises:
            CannotCreate: a file can't be written.
        """
        if self.junit is not None:
            _write(self.junit, render_junit(report, SUITE))
        if self.html is not None:
            from litellm_systemd.install.render import render_page

            _write(self.html, render_page(report))


def _is_written_through(path: Path) -> bool:
    """Whether it is /dev/stdout, a pipe or a link, which must not be replaced by a file."""
    return path.is_symlink() or (path.exists() and not path.is_file())


def _require_place(path: Path) -> None:
    """Raise OSError if `_write` would fail, as far as can be checked without leaving a file."""
    if _is_written_through(path):
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
        pass
    if path.exists():
        folder, user = path.parent.stat(), os.geteuid()
        # As in /tmp, where a user can't replace a file of another user (rename(2)).
        if folder.st_mode & stat.S_ISVTX and user not in (0, folder.st_uid, path.stat().st_uid):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _write(path: Path, text: str) -> None:
    content = text.encode()
    try:
        if _is_written_through(path):
            path.write_bytes(content)
            return
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
            try:
                stream.write(content)
                stream.flush()
                # It has no secrets, and its reader is seldom root.
                os.fchmod(stream.fileno(), 0o644)
                Path(stream.name).replace(path)
            except BaseException:
                Path(stream.name).unlink()
                raise
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
    if origin.is_own:
        identifier = current_release(layout)
        release = None if identifier is None else read_release(layout, identifier)
        versions["litellm"] = reported or (release.litellm if release is not None else "") or None
        config = _config(layout, origin)
    at = now.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    described = None if config is None else config.as_dict()
    return replace(
        report,
        notes=(*edited_notes(layout, config), *report.notes),
        data={"checked_at": at, "versions": versions, "config": described, **report.data},
    )


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
