"""What a proof by `verify` is kept as, beside what is printed: what was proven, JUnit's XML, a page; and changes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from litellm_systemd.errors import CannotCreate, remedy_of
from litellm_systemd.host import active_config
from litellm_systemd.inventory import current_release, read_release
from litellm_systemd.junit import render_junit
from litellm_systemd.layout import Layout
from litellm_systemd.report import Check, Outcome, Report

SUITE = "litellmctl verify"


@dataclass(frozen=True, slots=True)
class Files:
    """Where the user wants the report written to as well."""

    junit: Path | None = None
    html: Path | None = None

    def require_places(self) -> None:
        """Raise CannotCreate for a file whose folder isn't there: before anything is billed, not after it."""
        for path in filter(None, (self.junit, self.html)):
            if not path.parent.is_dir():
                raise CannotCreate(f"{path}: there is no folder {path.parent}", "Make it first.")

    def write(self, report: Report) -> None:
        """Write them anew, each by one rename, so that no reader finds half a file.

        Raises:
            CannotCreate: the disk or its rights say no.
        """
        if self.junit is not None:
            _write(self.junit, render_junit(report, SUITE))
        if self.html is not None:
            from litellm_systemd.render import render_page

            _write(self.html, render_page(report))


def _write(path: Path, text: str) -> None:
    content = text.encode()
    try:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            # /dev/stdout, a pipe: nothing to put another file in the place of.
            path.write_bytes(content)
            return
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
            try:
                stream.write(content)
                stream.flush()
                # Nothing in it is secret, and who looks at it is seldom root.
                os.fchmod(stream.fileno(), 0o644)
                Path(stream.name).replace(path)
            except BaseException:
                Path(stream.name).unlink()
                raise
    except OSError as error:
        raise CannotCreate(f"{path}: {error.strerror}", remedy_of(error)) from error


def tell_origin(report: Report, layout: Layout, now: datetime, *, installed: bool) -> Report:
    """The same, with when and what was proven: checked_at, versions and config in its data.

    `installed`: it was this host's own gateway. Of another one nothing is known but what it says itself.
    """
    told = report.data.get("litellm_version")
    versions, config = {"litellm_systemd": version("litellm-systemd"), "litellm": told}, None
    if installed:
        identifier = current_release(layout)
        release = None if identifier is None else read_release(layout, identifier)
        versions["litellm"] = told or (release.litellm if release is not None else "") or None
        config = _config(layout)
    at = now.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return replace(report, data={"checked_at": at, "versions": versions, "config": config, **report.data})


def _config(layout: Layout) -> dict[str, str] | None:
    try:
        content = layout.real(layout.config_link).read_bytes()
    except OSError:
        return None
    return {"name": active_config(layout) or "", "sha256": hashlib.sha256(content).hexdigest()}


@dataclass(frozen=True, slots=True)
class Change:
    """A check that ends otherwise than before; `before` is None at its first time."""

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
    """The checks that end otherwise than `seen` has them.

    One that wasn't made says nothing: an outage is told once, by the check that found it, and not by all behind it.
    """
    made = (check for check in report.checks if check.outcome is not Outcome.SKIPPED)
    return tuple(Change(check, seen.get(check.name)) for check in made if seen.get(check.name) is not check.outcome)
