"""The verbs that control the service, verify and run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from litellm_systemd import contract
from litellm_systemd.client.gateway import DEFAULT_TIMEOUT, Gateway, is_local_target, metrics_gateway, own_gateway
from litellm_systemd.command import replace_process, runtime_argv, uninterruptible
from litellm_systemd.commands.config_check import active_ends
from litellm_systemd.commands.config_files import standalone
from litellm_systemd.commands.configs import switch_config
from litellm_systemd.commands.init import find_invoker
from litellm_systemd.commands.resolve import Request
from litellm_systemd.commands.service_config import ServiceConfig, resolve_service
from litellm_systemd.commands.status import require_running
from litellm_systemd.database.steps import require_migrated
from litellm_systemd.env.settings import Dotenv, Settings, build_settings
from litellm_systemd.env.variables import (
    BEHIND_LOAD_BALANCER,
    MASTER_KEY,
    MOCK_TESTING_WARNING,
    find_deregistration_delay,
)
from litellm_systemd.errors import InputError, Interrupted, MissingError, NotInstalled, PermissionDenied, UsageError
from litellm_systemd.gateway.config import read_config
from litellm_systemd.host.effective import at_socket, observe_environment
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import active_config, require_installed, require_root, require_systemd
from litellm_systemd.host.state import in_words
from litellm_systemd.host.stored_secrets import find_key
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.install.apply import Say, changing
from litellm_systemd.install.undo_log import read_undo_log
from litellm_systemd.instances.temporary_unit import is_left_over, restart_without_pause
from litellm_systemd.instances.throwaway import write_configuration
from litellm_systemd.releases.needs import active_needs, require_active_packages
from litellm_systemd.report.progress import Step
from litellm_systemd.report.report import Outcome, Report
from litellm_systemd.verify.costly_checks import PROMPT_TOKENS
from litellm_systemd.verify.run import Scope, verify


def act(verb: str, request: Request, say: Say = lambda _line: None) -> Report:
    """Do what `systemctl VERB litellm` does, after a switch to `request.config` if there is one.

    A restart has no pause: see `instances.temporary_unit`. `drain` is a stop of an instance behind a load balancer.

    Raises:
        InstallerError: the switch or systemctl failed; the message has the cause from the journal.
    """
    require_root(f"litellmctl {verb}")
    layout, systemctl = request.layout, Systemctl(request.layout)
    require_systemd(systemctl)
    require_installed(systemctl)
    if verb == "drain":
        _require_load_balancer(layout)
    if verb == "reload":
        require_running(layout)
    was_stopped = verb == "drain" and systemctl.unit_state(contract.SERVICE).active == "inactive"
    if request.config or verb == "restart" or read_undo_log(layout) is not None or is_left_over(systemctl):
        with changing(layout, verb, say, wait=True) as executor:
            if request.config:
                switch_config(request, executor, take_up=False)
            _act(verb, layout, systemctl, say)
    else:
        if verb == "reload":
            require_active_packages(layout)
        # No lock, since no file changes: systemd serializes its jobs itself.
        _act(verb, layout, systemctl, say)
    return _acted(verb, request, systemctl, was_stopped=was_stopped)


def _describe_after_signal(systemctl: Systemctl, verb: str) -> str:
    """The state after a signal: systemd continues a job whose systemctl was killed (systemctl(1), --no-block)."""
    with uninterruptible():
        active, has_job = systemctl.job_state(contract.SERVICE)
    more = f", and systemd completes the {verb}. To follow it: journalctl -fu litellm" if has_job else "."
    return f"{contract.SERVICE} {in_words(active)}{more}"


def _require_load_balancer(layout: Layout) -> None:
    if not find_deregistration_delay(observe_environment(layout).dotenv.values):
        raise InputError(
            f"{contract.SERVICE} has no load balancer to leave",
            f"Set {BEHIND_LOAD_BALANCER.name}=true in .env, then run: sudo litellmctl install. To stop the service"
            " without a load balancer, run: sudo litellmctl stop",
        )


def _act(verb: str, layout: Layout, systemctl: Systemctl, say: Say) -> None:
    try:
        if verb == "restart":
            restart_without_pause(layout, systemctl, say)
            return
        action = "stop" if verb == "drain" else verb
        say(Step(f"systemctl {action} {contract.SERVICE}", partial(systemctl.status_text, contract.SERVICE)))
        has_socket = action in ("stop", "enable", "disable")
        for unit in (contract.SOCKET, contract.SERVICE) if has_socket else (contract.SERVICE,):
            getattr(systemctl, action)(unit)
    except Interrupted as error:
        error.hint = _describe_after_signal(systemctl, verb)
        raise


def _acted(verb: str, request: Request, systemctl: Systemctl, *, was_stopped: bool) -> Report:
    state = systemctl.unit_state(contract.SERVICE)
    outcome = ""
    if verb == "drain" and state.active == "inactive":
        outcome = "was stopped already and " if was_stopped else "has drained and "
    return Report(
        f"{contract.SERVICE} {outcome}{in_words(state.active)}, {state.enabled}",
        notes=(*active_needs(request.layout), *_ends(request)) if verb in ("start", "restart", "reload") else (),
        data={"active": state.active, "enabled": state.enabled, "config": active_config(request.layout)},
    )


def _ends(request: Request) -> tuple[str, ...]:
    layout, today = request.layout, request.today
    return () if today is None else active_ends(layout, observe_environment(layout).dotenv.values, today)


def verify_service(
    layout: Layout,
    *,
    base_url: str | None = None,
    api_key: str | None = None,
    scope: Scope | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    wait: float = 0.0,
    say: Say = lambda _line: None,
) -> Report:
    """Verify the endpoints. Address, key and model names default to the installed ones.

    `scope`: the checks to make; the models that it expects are filled in here.

    Raises:
        InstallerError: nothing is installed, or this user can't read it.
    """
    if base_url and not api_key and not is_local_target(urlsplit(base_url).hostname or ""):
        raise UsageError(
            "there is no key for that host", "The installed key is sent to this host only: use --api-key."
        )
    settings = None if base_url and api_key else installed_settings(layout)
    scope = scope or Scope()
    # Another gateway serves other models.
    if not base_url and settings is not None:
        gateway_config = read_config(layout.real(layout.config_link))
        scope = replace(scope, expected=gateway_config.names, mocked=gateway_config.mocked_names)
    if base_url:
        gateway = Gateway(base_url, api_key or find_key(_given(settings)), timeout)
    else:
        key = api_key or find_key(_given(settings))
        gateway = own_gateway(_given(settings), key, timeout=timeout)
        scope = replace(scope, metrics=metrics_gateway(_given(settings), key))
    if scope.caching:
        say(f"--caching sends each model six to nine prompts of about {PROMPT_TOKENS:,} tokens, which are billed")
    report = verify(gateway, scope, wait=wait)
    allows = settings is not None and not base_url and settings.allows_mock_testing
    return replace(report, notes=(MOCK_TESTING_WARNING, *report.notes)) if allows else report


def in_one_line(report: Report) -> Report:
    """The report for a timer: empty if all checks passed, else the first failure with its remedy as the title."""
    failed = next((check for check in report.checks if check.outcome is Outcome.FAILED), None)
    line = "" if failed is None else f"{report.title}: {failed.name}: {failed.detail.rstrip('.')}. {failed.hint}"
    return Report(line, data=report.data, code=report.exit_code)


def _given(settings: Settings | None) -> Settings:
    if settings is None:
        raise UsageError("no gateway is named", "Use --base-url and --api-key.")
    return settings


def installed_settings(layout: Layout) -> Settings:
    """The settings that the service runs with: its environment with drop-ins, and the address of its socket.

    Raises:
        NotInstalled: nothing is installed.
        PermissionDenied: this user can't read them.
    """
    try:
        dotenv = observe_environment(layout).dotenv
    except MissingError:
        dotenv = Dotenv(layout.environment_file, {})
    if not dotenv.values:
        raise NotInstalled(
            "Use --base-url and --api-key to verify another gateway. To install the service, run:"
            " sudo litellmctl install"
        )
    return at_socket(layout, build_settings(dotenv, installed={}, new_key=str))


#: A file system on which nothing is installed.
_EMPTY = Layout(root=Path("/nonexistent"))


def _resolve_foreground(request: Request) -> ServiceConfig:
    """As `resolve_service`; what is installed counts as absent for a user who cannot read it."""
    try:
        return resolve_service(request)
    except PermissionDenied as refusal:
        try:
            return resolve_service(replace(request, layout=_EMPTY))
        except MissingError:  # only what is installed could be run
            refusal.hint = "Name an environment of your own: litellmctl run -e FILE ('litellmctl init' writes one)."
            raise refusal from None


def run_foreground(
    request: Request, environ: Mapping[str, str], say: Say = lambda _line: None, *, migrates: bool = False
) -> None:
    """Serve in the foreground, without systemd and without root: become the runtime.

    `migrates`: apply the pending migrations of the database first.

    Raises:
        InstallerError: `.env` or the configuration can't be used, the variables of the process have no master key, or
            the database lacks migrations.
    """
    # In the foreground, a model after its end of life is a warning and no error.
    service = _resolve_foreground(replace(request, allow_ended=True))
    for note in service.notes:
        say(note)
    if service.settings.generated_key:
        key = service.settings.generated_key
        if request.variables is not None:
            # The next container would generate another one, and clients could not know it.
            raise InputError(f"{MASTER_KEY.name} is not set", "Set it, the same for all containers of one gateway.")
        say(f"{MASTER_KEY.name}={key} was generated for this run. To keep it, set it in .env.")
    general = service.gateway.section("general_settings")
    require_migrated(service.settings.environment, general, environ, migrates=migrates, say=say)
    alone = standalone(service.choice.name, service.own, service.gateway)
    if not isinstance(alone, Path):
        # Permanent files: they are read again at each reload.
        alone = write_configuration(find_invoker(environ).home / ".cache" / "litellm-systemd", alone)
    replace_process(runtime_argv("--config", str(alone.absolute())), {**environ, **service.settings.environment})
