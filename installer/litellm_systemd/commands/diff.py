"""diff: the host against what was installed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from litellm_systemd.contract import VERIFY_TIMER, ExitCode
from litellm_systemd.errors import NotInstalled
from litellm_systemd.host.files import observe_file
from litellm_systemd.host.layout import UNITS, Layout
from litellm_systemd.host.observe import observe_host, read_manifest, require_booted, require_root
from litellm_systemd.host.state import FileKind, FileState, HostState, Record, describe_drift, render_diff
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.report.report import Check, Outcome, Report, render_count


def diff(layout: Layout) -> Report:
    """Every path and unit that changed since the last install. Exit code CHANGES if there is one.

    Raises:
        NotInstalled: nothing is installed.
        PermissionDenied: this user cannot read the manifest.
        Unavailable: systemd does not run here.
        InputError: the manifest was not written by an install.
    """
    if not read_manifest(layout):
        require_root("litellmctl diff")
        raise NotInstalled
    require_booted(layout)
    host = observe_host(layout, Systemctl(layout))
    checks: list[Check] = []
    diffs: list[str] = []
    for path, record in sorted(host.manifest.items()):
        drift = describe_drift(host.files.get(path), record)
        if drift:
            checks.append(Check(path, Outcome.WARNING, drift, _remedy(record)))
            diffs += _difference(layout, host.files.get(path), path, record)
    units = (*UNITS, *((VERIFY_TIMER,) if layout.verify_timer in host.manifest else ()))
    checks += [Check(name, Outcome.WARNING, *drift) for name in units for drift in _unit_drift(layout, host, name)]
    number = render_count(len(checks), "difference")
    return Report(
        f"{number} from what was installed" if checks else "nothing differs from what was installed",
        tuple(checks),
        diffs=tuple(diffs),
        data={"differences": [{"what": check.name, "how": check.detail} for check in checks]},
        code=ExitCode.CHANGES if checks else ExitCode.OK,
    )


def _remedy(record: Record) -> str:
    if record.kind is FileKind.FILE:
        return "'sudo litellmctl install' restores modes and missing files, and keeps edits without --take-ours."
    return "Run: sudo litellmctl install"


def _difference(layout: Layout, found: FileState | None, path: str, record: Record) -> Iterator[str]:
    """The edit, against the copy of what was written."""
    pristine = observe_file(layout, f"{layout.pristine}/{record.digest}")
    if (
        pristine is None
        or (found is not None and found.kind is not FileKind.FILE)
        or record.kind is not FileKind.FILE
    ):
        return
    # The drift has the modes in words.
    before = pristine if found is None else replace(found, path=path, content=pristine.content)
    yield render_diff(replace(before, path=path), found)


def _unit_drift(layout: Layout, host: HostState, name: str) -> Iterator[tuple[str, str]]:
    unit = host.unit(name)
    if "masked" in (unit.load, unit.enabled):
        yield "masked", f"Run: sudo systemctl unmask {name}"
    elif not unit.is_enabled:
        yield "not enabled: it won't start at boot", f"Run: sudo systemctl enable {name}"
    if unit.need_reload:
        yield "changed on disk after systemd loaded it", "Run: sudo systemctl daemon-reload"
    if unit.fragment and unit.fragment != f"{layout.units}/{name}":
        yield f"systemd loads it from {unit.fragment}", "Remove that file, then run: sudo systemctl daemon-reload"
