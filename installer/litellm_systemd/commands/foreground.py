"""rehearse --foreground: the part of an install that works without systemd, namespaces and root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from litellm_systemd.client.gateway import Gateway
from litellm_systemd.command import interruptible
from litellm_systemd.commands.install_plan import build_desired
from litellm_systemd.commands.rehearse import RehearseOptions
from litellm_systemd.commands.service_config import ServiceConfig, resolve_service
from litellm_systemd.errors import CannotCreate, MissingError, Unavailable
from litellm_systemd.host.files import plain_umask, remove_path
from litellm_systemd.host.install_lock import hold_lock
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import OLDEST_SYSTEMD, observe_releases, port_trouble
from litellm_systemd.host.state import FileKind, FileState, HostState, Running
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.install.apply import Say
from litellm_systemd.instances.foreground import Folders, check_units, find_folders, find_home, foreground_service
from litellm_systemd.releases.build import build_release
from litellm_systemd.releases.inventory import read_release
from litellm_systemd.releases.source import Source, find_source, installed_version
from litellm_systemd.report.report import Check, Outcome, Report
from litellm_systemd.verify.run import Scope, verify

_NOT_REHEARSED = Check(
    "not rehearsed: systemd",
    Outcome.SKIPPED,
    "the service's user and sandbox, start at boot, restarts, and the socket unit that keeps the port open",
)

_UNIT_ERRORS = "; systemd-analyze finds errors in the units"


def rehearse_in_foreground(
    options: RehearseOptions, environ: Mapping[str, str], say: Say = lambda _line: None
) -> Report:
    """Build the release and render the units below the user's XDG folders, run the service, verify it, stop it.

    Args:
        options: the request and the flags.
        environ: where the folders are looked up.
        say: called with each line of progress.

    Raises:
        InstallerError: the request can't be used, the release can't be built, or the service doesn't start.
        Interrupted: a signal ended it. The service is stopped.
    """
    folders = find_folders(environ, find_home(environ))
    layout = Layout(root=folders.data / "litellm-systemd" / "root")
    with plain_umask(), interruptible():
        try:
            layout.root.mkdir(parents=True, exist_ok=True)
            with hold_lock(layout, "rehearse", wait=options.wait, say=say):
                return _rehearse(options, layout, folders, say)
        except OSError as error:
            hint = "XDG_DATA_HOME and XDG_STATE_HOME name the folders to write to; the default is below HOME."
            raise CannotCreate(f"{error.filename}: {error.strerror}", hint) from error


def _rehearse(options: RehearseOptions, layout: Layout, folders: Folders, say: Say) -> Report:
    # What an earlier rehearsal rendered must not be taken for an installation that a user edited.
    remove_path(layout, layout.etc)
    service = resolve_service(replace(options.request, layout=layout))
    if trouble := port_trouble(service.settings.listen):
        raise Unavailable(trouble, "PORT is set in .env.")
    release = _build(options, layout, say)
    checks = [_describe(layout, release), _render(service, layout, release, say)]
    say(f"starting the service in the foreground (its log: {folders.log})")
    gateway = Gateway(service.settings.base_url, api_key=service.settings.master_key)
    with foreground_service(layout, folders) as process:
        seconds = process.await_ready(lambda status: say(f"  {status}"))
        checks.append(Check("start", Outcome.OK, "READY=1", seconds=seconds))
        proof = Report(f"served on {gateway.base_url}")
        if options.verify:
            scope = Scope(service.gateway.names, spend=options.spend, mocked=service.gateway.mocked_names)
            proof = verify(gateway, scope)
        limit = f"WATCHDOG=1, WatchdogSec={process.watchdog_timeout:g}"
        checks.append(Check("watchdog", Outcome.OK, limit, seconds=process.await_watchdog()))
        say("stopping it")
        checks += [*proof.checks, Check("stop", Outcome.OK, "STOPPING=1, exit code 0", seconds=process.stop())]
    errors = _UNIT_ERRORS if checks[1].outcome is Outcome.FAILED else ""
    return Report(
        title=f"rehearsed in the foreground: {proof.title}{errors}",
        checks=(*checks, _NOT_REHEARSED),
        notes=(*service.notes, *proof.notes),
        data={**proof.data, "root": str(layout.root), "log": str(folders.log)},
    )


def _build(options: RehearseOptions, layout: Layout, say: Say) -> str:
    """The identifier of the release, built unless it exists. Those of earlier rehearsals are removed."""
    identifier = build_release(layout, _source(options), say, starts=True)
    for other in set(observe_releases(layout)) - {identifier}:
        remove_path(layout, layout.release(other))
    return identifier


def _source(options: RehearseOptions) -> Source:
    if options.bundle is None:
        return find_source()
    # Late: it loads what the other verbs don't need.
    from litellm_systemd.releases.bundle import open_own_bundle

    return open_own_bundle(options.bundle)


def _describe(layout: Layout, release: str) -> Check:
    litellm = read_release(layout, release).litellm
    return Check("release", Outcome.OK, f"{layout.real(layout.release(release))} with LiteLLM {litellm}")


def _render(service: ServiceConfig, layout: Layout, release: str, say: Say) -> Check:
    say(f"writing units, environment and configurations below {layout.root}")
    desired = build_desired(
        layout,
        service,
        HostState(),
        release=release,
        systemd=_systemd_version(layout),
        version=installed_version(),
        running=Running.UNTOUCHED,
    )
    for state in desired.files:
        _place(layout, state)
    where = layout.real(layout.units)
    found = check_units(layout)
    if found is None:
        return Check("units", Outcome.SKIPPED, f"written to {where}; not checked: systemd-analyze isn't installed")
    if found:
        return Check("units", Outcome.FAILED, f"systemd-analyze verify: {found}", f"The units are in {where}.")
    return Check("units", Outcome.OK, f"written to {where}; systemd-analyze verify finds nothing wrong")


def _systemd_version(layout: Layout) -> int:
    try:
        return max(Systemctl(layout).version(), OLDEST_SYSTEMD)
    except MissingError:
        return OLDEST_SYSTEMD


def _place(layout: Layout, state: FileState) -> None:
    """Write a file with its mode, as the caller's own: without root it can't have another owner."""
    real = layout.real(state.path)
    real.parent.mkdir(parents=True, exist_ok=True)
    real.unlink(missing_ok=True)
    if state.kind is FileKind.LINK:
        real.symlink_to(state.content.decode())
        return
    # The mode first: the environment holds keys.
    real.touch(mode=0o600)
    real.chmod(state.mode)
    real.write_bytes(state.content)
