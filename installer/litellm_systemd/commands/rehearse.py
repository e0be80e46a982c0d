"""rehearse: an install in a temporary clone of this host (docs/adr/0007).

With --foreground: the part of an install that works without systemd, namespaces and root.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from litellm_systemd.box import Bind, Box, Image, Namespaces, is_hidden, outermost, require_boxes
from litellm_systemd.client.gateway import own_gateway
from litellm_systemd.command import module_argv
from litellm_systemd.commands.additions import ReleaseChoice, choose_release
from litellm_systemd.commands.install import build_desired
from litellm_systemd.commands.resolve import Request, is_given
from litellm_systemd.commands.service_config import ServiceConfig, resolve_service
from litellm_systemd.contract import SECRETS_CREDENTIAL, SERVICE, ExitCode
from litellm_systemd.env.secret_references import find_references
from litellm_systemd.env.service_credential import render_secrets
from litellm_systemd.env.variables import MASTER_KEY
from litellm_systemd.errors import CannotCreate, InstallerError, Interrupted, MissingError, Unavailable
from litellm_systemd.gateway.config import real_path
from litellm_systemd.host.encrypted_secrets import read_secrets
from litellm_systemd.host.files import plain_umask, remove_path
from litellm_systemd.host.install_lock import hold_lock
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import OLDEST_SYSTEMD, is_booted, observe_releases, port_trouble, require_root
from litellm_systemd.host.state import FileKind, FileState, HostState, Running
from litellm_systemd.host.stored_secrets import find_key
from litellm_systemd.host.systemctl import Systemctl, journal_argv
from litellm_systemd.install.apply import Say
from litellm_systemd.instances.foreground import Folders, check_units, find_folders, foreground_service
from litellm_systemd.releases.build import build_release
from litellm_systemd.releases.inventory import read_release
from litellm_systemd.releases.source import Checkout, find_source, installed_version
from litellm_systemd.report.report import Check, Outcome, Report, render_count
from litellm_systemd.user_files import find_home
from litellm_systemd.verify.run import Scope, verify

#: A clone has its own: none of these is copied as a whole.
_OWN = frozenset({Path("/"), Path("/tmp"), Path("/run"), Path("/var/tmp")})  # noqa: S108 - named, not used
#: Variables by which uv and pip find packages; the clone gets no others.
_TOOL_VARIABLES = ("UV_", "PIP_", "XDG_CACHE_HOME", "HOME", "SUDO_USER")

UNTOUCHED = "nothing on this host was changed"
_JOURNAL_LINES = 30

_NOT_REHEARSED = Check(
    "not rehearsed: systemd",
    Outcome.SKIPPED,
    "the service's user and sandbox, start at boot, restarts, and the socket unit that keeps the port open",
)
_DATABASE = Check(
    "not rehearsed: database",
    Outcome.SKIPPED,
    "a rehearsal neither migrates nor uses it: 'litellmctl install' checks it before it changes anything",
)
_UNIT_ERRORS = "; systemd-analyze finds errors in the units"


def make_clone(namespaces: Namespaces, inputs: Iterable[Path], cwd: Path) -> Box:
    """A clone of this host, not booted yet. `inputs` are files that the command line names.

    Raises:
        Unavailable: one of them is in a folder that a clone can't show.
    """
    folders, files = _sort(inputs, cwd)
    binds = tuple(Bind(path) for path in files if not any(path.is_relative_to(folder) for folder in folders))
    return Box(
        namespaces, Image(copies=folders, keeps_service=True), binds=binds, environment=build_environment(os.environ)
    )


def build_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables for commands in the clone. It has no network, so that uv and pip must not try for minutes."""
    kept = {name: value for name, value in environ.items() if name.startswith(_TOOL_VARIABLES)}
    offline = {"UV_OFFLINE": "1", "PIP_RETRIES": "0", "AWS_EC2_METADATA_DISABLED": "true"}
    path = f"{Path(sys.executable).parent}:{environ.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}"
    return {**kept, "PATH": path, **offline}


def _sort(inputs: Iterable[Path], cwd: Path) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """What a clone can't see otherwise: folders to copy, and files to bind."""
    hidden = {path for path in (*inputs, cwd, *_needed(os.environ)) if path.exists() and is_hidden(path)}
    for path in hidden - _OWN:
        if path.is_relative_to("/run"):
            raise Unavailable(
                f"{path} can't be shown to a clone, which has its own /run", "Copy it to another folder."
            )
    folders = outermost(path for path in hidden - _OWN if path.is_dir())
    return folders, tuple(sorted(path for path in hidden if not path.is_dir()))


def _needed(environ: Mapping[str, str]) -> Iterator[Path]:
    """Folders that litellmctl itself needs: its venv and Python, the checkout, uv's and pip's caches."""
    yield from (Path(sys.prefix), Path(sys.base_prefix))
    cache = Path(environ.get("XDG_CACHE_HOME") or find_home(environ) / ".cache")
    yield from (Path(environ.get(f"{tool.upper()}_CACHE_DIR") or cache / tool) for tool in ("uv", "pip"))
    try:
        origin = find_source().origin
    except InstallerError:
        return  # the install in the clone reports it
    if isinstance(origin, Checkout):
        yield origin.folder


def boot_clone(clone: Box, layout: Layout) -> Check:
    """Boot the clone, and start the service if it runs on the host. Returns the line of the report.

    Raises:
        BoxError: it doesn't boot.
    """
    # Other units of the host may fail in a clone, which does not matter here.
    clone.boot(degraded=True, deadline=600)
    if secrets := read_secrets(layout):
        # A clone has another machine id than the host, and systemd binds the key of a host to its machine id.
        encrypt = ("systemd-creds", "encrypt", f"--name={SECRETS_CREDENTIAL}", "-", layout.secrets)
        clone.run(encrypt, input=render_secrets(secrets))
        clone.run(("chmod", "0600", layout.secrets))
        clone.run(("systemctl", "reset-failed", SERVICE), check=False)
    runs_here = is_booted() and Systemctl(layout).unit_state(SERVICE).is_active
    if runs_here and not _is_active(clone):
        clone.run(("systemctl", "start", SERVICE), check=False, timeout=600)
    if (runs_here or _is_enabled(clone)) and not _is_active(clone):
        hint = "The rehearsal continues without it. On the host the service may start."
        return Check("boot a clone", Outcome.WARNING, f"the installed {SERVICE} doesn't start in it", hint)
    state = "its service runs as on the host" if _is_active(clone) else "no service runs in it yet"
    return Check("boot a clone", Outcome.OK, state)


def _is_active(clone: Box) -> bool:
    return clone.run(("systemctl", "is-active", "--quiet", SERVICE), check=False).returncode == 0


def _is_enabled(clone: Box) -> bool:
    return clone.run(("systemctl", "is-enabled", "--quiet", SERVICE), check=False).returncode == 0


@dataclass(frozen=True, slots=True)
class RehearseOptions:
    """The options of `rehearse`: those of `install` that have a meaning in a clone."""

    request: Request
    verify: bool = True
    spend: bool = True
    wait: bool = False
    take_ours: bool = False
    bundle: Path | None = None
    wanted: tuple[str, ...] = ()
    prisma_engine: Path | None = None


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The results in the clone. `plan` and `result` are the JSON of `install --dry-run` and of `install`.

    `bundled`: the packages came from a bundle, as they will on the host. `has_database`: on the host, but not in
    the clone.
    """

    boot: Check
    plan: Mapping[str, Any]
    result: Mapping[str, Any]
    journal: tuple[str, ...]
    calls_models: bool
    seconds: float
    bundled: bool = False
    has_database: bool = False


def rehearse(options: RehearseOptions, say: Say = lambda _line: None) -> Report:
    """Install in a clone of this host, report the result, and remove the clone.

    Raises:
        PermissionDenied: the user is not root.
        MissingError: a program that a clone needs is not installed.
        Unavailable: this machine can't run a clone.
        Busy: another run is changing the host, and `options.wait` is not set.
        InstallerError: the request can't be used, as `install` would report.
        Interrupted: a signal ended it. The clone is removed.
    """
    require_root("litellmctl rehearse")
    require_boxes()
    layout = options.request.layout
    # The host's files must not change below the clone's view of them (undefined, says overlayfs).
    with hold_lock(layout, "rehearse", wait=options.wait, say=say), _after_signal("The clone was removed, and"):
        options, service = _resolve(options)
        _require_values(service)
        _require_own(options.bundle)
        say("booting a clone of this host")
        inputs = _inputs(options, service)
        with Namespaces() as namespaces, closing(make_clone(namespaces, inputs, options.request.cwd)) as clone:
            seen = _perform(options, service, clone, say)
            say("removing the clone")
    return build_report(seen)


@contextmanager
def _after_signal(outcome: str) -> Iterator[None]:
    """Add to an interruption of the block what it left."""
    try:
        yield
    except Interrupted as error:
        error.hint = f"{outcome} {UNTOUCHED}."
        raise


def _resolve(options: RehearseOptions) -> tuple[RehearseOptions, ServiceConfig]:
    """The options and the service, without its database: a rehearsal must neither migrate it nor write to it."""
    service = resolve_service(options.request)
    if not service.has_database:
        return options, service
    options = replace(options, request=replace(options.request, without_database=True))
    return options, resolve_service(options.request)


def _require_values(service: ServiceConfig) -> None:
    """Check that no secret is in AWS, which a service in a clone cannot reach."""
    for each in find_references(service.settings.environment):
        raise Unavailable(
            f"{each.variable} is kept in {each.place}, and a clone has no network",
            "Rehearse on this host's network: litellmctl rehearse --foreground",
        )


def _require_own(bundle: Path | None) -> None:
    """Check the bundle as `install` does, before a clone is booted."""
    if bundle is not None:
        # A late import: it loads what the other verbs do not need.
        from litellm_systemd.releases.bundle import open_own_bundle

        open_own_bundle(bundle)


def _inputs(options: RehearseOptions, service: ServiceConfig) -> tuple[Path, ...]:
    request = options.request
    wheels = (Path(name) for name in options.wanted if name.endswith(".whl"))
    named = [
        request.env_file,
        request.cwd / ".env",
        service.choice.path,
        options.bundle,
        options.prisma_engine,
        *wheels,
    ]
    if is_given(service.choice) and service.choice.path is not None:
        folder = real_path(request.cwd / service.choice.path).parent
        named += [folder / name for name in service.loads if (folder / name).is_file()]
    return tuple((request.cwd / path).absolute() for path in named if path is not None)


def _perform(options: RehearseOptions, service: ServiceConfig, clone: Box, say: Say) -> Rehearsal:
    # Only mocked models answer in a clone: the others need a network.
    calls_models = options.spend and all(model.mocked for model in service.gateway.models)
    argv = build_install(options, region=service.settings.region, calls_models=calls_models)
    folder = str(options.request.cwd.absolute())
    boot = boot_clone(clone, options.request.layout)
    plan = read_report(clone.run((*argv, "--dry-run"), check=False, timeout=600, cwd=folder))
    began = time.monotonic()
    result = read_report(clone.follow(argv, lambda line: say(line.strip()), cwd=folder))
    seconds = time.monotonic() - began
    clone.run(("journalctl", "--sync"), check=False)
    lines = clone.run(journal_argv(lines=_JOURNAL_LINES, output="short", quiet=True), check=False).stdout
    bundled = options.bundle is not None
    without = options.request.without_database
    return Rehearsal(boot, plan, result, tuple(lines.splitlines()), calls_models, seconds, bundled, without)


def build_install(options: RehearseOptions, *, region: str | None, calls_models: bool) -> tuple[str, ...]:
    """The command line of the install in the clone: this litellmctl, with the same request."""
    request = options.request
    argv = [*module_argv("litellm_systemd", "install", "--json", "--verbose", "--prefix", request.layout.prefix)]
    argv += ["--env-file", str(request.env_file)] if request.env_file is not None else []
    argv += ["--config", request.config] if request.config is not None else []
    argv += ["--installed"] if request.installed_only else []
    argv += ["--allow-eol"] if request.allow_ended else []
    argv += ["--bundle", str(options.bundle)] if options.bundle is not None else []
    argv += ["--prisma-engine", str(options.prisma_engine)] if options.prisma_engine is not None else []
    argv += [word for name in options.wanted for word in ("--with", name)]
    argv += ["--take-ours" if options.take_ours else "--keep-mine"]
    argv += [] if options.verify else ["--no-verify"]
    argv += [] if calls_models else ["--no-spend"]
    # AWS can't be reached there: its checks are among those that are not rehearsed.
    argv += ["--offline"]
    argv += ["--without-database"] if request.without_database else []
    argv += ["--region", region] if region is not None else []
    return tuple(argv)


def read_report(done: Any) -> Mapping[str, Any]:
    """What litellmctl printed with --json, and its exit code; also if it printed no JSON."""
    try:
        found: Mapping[str, Any] = json.loads(done.stdout)
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["without a message"])[-1]
        found = {"error": f"litellmctl in the clone failed: {last}"}
    return {**found, "exit_code": done.returncode}


def build_report(seen: Rehearsal) -> Report:
    code = _exit_code(seen.result["exit_code"])
    done = "error" not in seen.result
    steps = tuple(
        Check(check["name"], Outcome.CHANGED if done else Outcome.SKIPPED, check["detail"])
        for check in seen.plan.get("checks", ())
    )
    return Report(
        title=_title(seen, code),
        checks=(seen.boot, *steps, *_outcome(seen), *_not_rehearsed(seen)),
        notes=(*_notes(seen), *(_journal(seen) if code is not ExitCode.OK else ())),
        diffs=tuple(seen.plan.get("diffs", ())),
        data={"plan": seen.plan, "result": _without_key(seen.result), "journal": list(seen.journal)},
        code=code,
    )


def _exit_code(number: int) -> ExitCode:
    return ExitCode(number) if number in {code.value for code in ExitCode} else ExitCode.FAILED


def _title(seen: Rehearsal, code: ExitCode) -> str:
    if code is not ExitCode.OK:
        return f"rehearsed: the install fails here with exit code {int(code)}; {UNTOUCHED}"
    steps = render_count(len(seen.plan.get("checks", ())), "step")
    if not seen.plan.get("checks"):
        return f"rehearsed: there would be nothing to do; {UNTOUCHED}"
    return f"rehearsed: the install works here ({steps}, {seen.plan['data']['effect']}); {UNTOUCHED}"


def _outcome(seen: Rehearsal) -> tuple[Check, ...]:
    """The error of a failed install, or the checks of its verify."""
    if "error" in seen.result:
        error, hint = str(seen.result["error"]), str(seen.result.get("hint", ""))
        return (Check("install", Outcome.FAILED, error, hint, seen.seconds),)
    found = (
        Check(check["name"], Outcome(check["outcome"]), check["detail"], check["hint"], check["seconds"])
        for check in seen.result["checks"]
    )
    return (Check("install", Outcome.OK, str(seen.result["title"]), seconds=seen.seconds), *found)


def _not_rehearsed(seen: Rehearsal) -> tuple[Check, ...]:
    away = "a clone has no network beyond its loopback"
    skipped = {
        "instance metadata and STS": f"{away}: the IAM role or the access key is checked on the host",
        "port and limits": "the port of the host, and the effect of MemoryMax= and CPUQuota= there",
    }
    if not seen.bundled:
        skipped = {"package index": f"{away}: the packages are those on this host", **skipped}
    if not seen.calls_models:
        skipped = {
            "calls to models (Amazon Bedrock)": f"{away}: 'litellmctl verify' makes them on the host",
            **skipped,
        }
    checks = (Check(f"not rehearsed: {name}", Outcome.SKIPPED, why) for name, why in skipped.items())
    return (*([_DATABASE] if seen.has_database else ()), *checks)


def _notes(seen: Rehearsal) -> tuple[str, ...]:
    notes = dict.fromkeys((*seen.plan.get("notes", ()), *seen.result.get("notes", ())))
    return tuple(note for note in notes if not note.startswith(MASTER_KEY.name))


def _without_key(result: Mapping[str, Any]) -> dict[str, Any]:
    return {**result, "notes": [note for note in result.get("notes", ()) if not note.startswith(MASTER_KEY.name)]}


def _journal(seen: Rehearsal) -> tuple[str, ...]:
    if not seen.journal:
        return ("The service's journal in the clone is empty.",)
    lines = render_count(len(seen.journal), "line")
    return (f"The last {lines} of the service's journal in the clone:", *seen.journal)


def rehearse_in_foreground(
    options: RehearseOptions, environ: Mapping[str, str], say: Say = lambda _line: None
) -> Report:
    """Build the release and render the units below the user's XDG folders, run the service, verify it, stop it.

    `environ`: where the folders are looked up.

    Raises:
        InstallerError: the request can't be used, the release can't be built, or the service doesn't start.
        Interrupted: a signal ended it. The service is stopped.
    """
    folders = find_folders(environ, find_home(environ))
    layout = Layout(root=folders.data / "litellm-systemd" / "root")
    with plain_umask(), _after_signal("The service in the foreground was stopped, and"):
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
    options, service = _resolve(replace(options, request=replace(options.request, layout=layout)))
    if trouble := port_trouble(service.settings.listen):
        raise Unavailable(trouble, "PORT is set in .env.")
    # Nor its additions for those of an installation.
    remove_path(layout, layout.current)
    choice = choose_release(
        layout,
        service.gateway,
        bundle=options.bundle,
        wanted=options.wanted,
        database=service.has_database,
        engine=options.prisma_engine,
        say=say,
    )
    release = _build(choice, layout, say)
    checks = [_describe(layout, release), _render(service, layout, release, say)]
    say(f"starting the service in the foreground (its log: {folders.log})")
    gateway = own_gateway(service.settings, find_key(service.settings))
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
        checks=(*checks, *([_DATABASE] if options.request.without_database else ()), _NOT_REHEARSED),
        notes=(*service.notes, *choice.notes, *proof.notes),
        data={**proof.data, "root": str(layout.root), "log": str(folders.log)},
    )


def _build(choice: ReleaseChoice, layout: Layout, say: Say) -> str:
    """The identifier of the release, built unless it exists. Those of earlier rehearsals are removed."""
    if choice.source is not None:
        build_release(layout, choice.source, say, starts=True)
    for other in set(observe_releases(layout)) - {choice.identifier}:
        remove_path(layout, layout.release(other))
    return choice.identifier


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
