"""The verbs that control and inspect the service."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from litellm_systemd.cli.program import (
    PATH,
    cli,
    config_option,
    env_file_option,
    json_option,
    layout_of,
    reports,
    request_of,
    say,
    show,
    wait_option,
)
from litellm_systemd.cli.streams import write_bytes
from litellm_systemd.contract import ExitCode
from litellm_systemd.env.dotenv import RESERVED
from litellm_systemd.env.variables import MASTER_KEY
from litellm_systemd.errors import Interrupted
from litellm_systemd.report.progress import Step

if TYPE_CHECKING:
    from litellm_systemd.commands.verify import Change, Files, VerifyTarget
    from litellm_systemd.report.report import Outcome, Report

_COLOURS = {"ok": "green", "failed": "red", "warning": "yellow"}


def watch_changes(prove: Callable[[], Report], seconds: float, *, as_json: bool) -> int:
    """Verify every `seconds` until Ctrl-C, and return the exit code of the last complete round.

    The first report is printed whole, then one line for each check whose outcome changed. With `as_json` each change
    is one line of JSON, those of the first round included.
    """
    from litellm_systemd.commands.verify import find_changes

    seen: dict[str, Outcome] = {}
    last, is_first = ExitCode.INTERRUPTED, True
    try:
        while True:
            report = prove()
            changes = find_changes(seen, report)
            seen |= {change.check.name: change.check.outcome for change in changes}
            last = report.exit_code
            if is_first and not as_json:
                show(report, as_json=False)
            else:
                for change in changes:
                    _say(change, report, as_json=as_json)
            is_first = False
            time.sleep(seconds)
    except Interrupted as error:
        if error.code is not ExitCode.INTERRUPTED:
            raise
        # Ctrl-C is the normal end: the exit code is that of the last round.
        return int(last)


def _say(change: Change, report: Report, *, as_json: bool) -> None:
    say.close()
    if as_json:
        click.echo(json.dumps(change.as_dict(str(report.data.get("checked_at") or "")), ensure_ascii=False))
        return
    moment = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
    click.secho(f"{moment}  {change.as_line()}", fg=_COLOURS.get(change.check.outcome.value))


_FILE = click.Path(dir_okay=False, readable=False, path_type=Path)


def _add_unit_verb(name: str, text: str, *, takes_config: bool) -> None:
    @reports
    def unit_verb(config: str | None = None) -> Report:
        from litellm_systemd.commands import service

        return service.act(name, request_of(layout_of(), None, config, installed_only=True), say)

    unit_verb.__doc__ = text
    cli.command(name)(config_option(unit_verb) if takes_config else unit_verb)


_DRAIN = """Leave the load balancer, drain and stop.

For DEREGISTRATION_DELAY seconds /health/readiness answers 503 and requests are served. Then the port closes, and
requests in flight get up to DRAIN_TIMEOUT seconds. Returns when the service has stopped; Ctrl-C ends the command, not
the stop. To serve again: sudo litellmctl start.
"""

_add_unit_verb("start", "Start the service and wait until it is ready.", takes_config=True)
_add_unit_verb("stop", "Drain and stop the service, and close its port.", takes_config=False)
_add_unit_verb("drain", _DRAIN, takes_config=False)
_add_unit_verb("restart", "Restart the service without a lost request.", takes_config=True)
_add_unit_verb("reload", "Reload the configuration without a lost request.", takes_config=True)
_add_unit_verb("enable", "Start the service at boot.", takes_config=False)
_add_unit_verb("disable", "Do not start the service at boot.", takes_config=False)


@cli.command("lifecycle-hook")
@click.argument("hook", metavar="GROUP:HOOK")
@reports
def lifecycle_hook(hook: str) -> Report:
    """Drain when an Auto Scaling group ends this instance.

    Waits until the group terminates the instance, stops the service as systemctl does, and completes the lifecycle
    hook. The unit litellm-lifecycle@.service runs it: docs/fleet.md.
    """
    from litellm_systemd.commands.lifecycle_hook import drain_for_hook

    return drain_for_hook(layout_of(), hook, say)


@cli.command("rotate-key")
@click.option("--overlap", default="1h", metavar="TIME", help="Accept the old key for this long: 10m, 1h, 7d; or 0.")
@click.option("--key-file", metavar="FILE", help="Take the new key from a file, or - for standard input.")
@env_file_option
@wait_option
@reports
def rotate_key(overlap: str, key_file: str | None, env_file: Path | None, wait: bool) -> Report:
    """Replace the master key without a lost request.

    A new key is generated and not printed. Until the end of the overlap, the service accepts the old key too, also
    after a restart or an install. A .env that has the old key gets the new one: -e FILE, else ./.env.
    """
    from litellm_systemd.commands import rotate_key

    seconds = rotate_key.parse_overlap(overlap)
    request = request_of(layout_of(), env_file, None)
    return rotate_key.rotate_key(request, overlap=seconds, key_file=key_file, wait=wait, say=say)


@cli.command()
@reports
def status() -> Report:
    """Show the state of the service and its workers."""
    from litellm_systemd.commands import status
    from litellm_systemd.host.observe import find_any_layout

    return status.status(find_any_layout())


@cli.command()
@click.option("--fix", is_flag=True, help="Show and apply the repairs that carry no risk.")
@click.option("--bundle", type=PATH, help="Write an archive for a bug report, without secrets.")
@reports
def doctor(fix: bool, bundle: Path | None) -> Report:
    """Find the causes of problems and their remedies.

    Exit code 1: there is a problem. Without root, the checks that need it are listed as skipped. Nothing changes
    without --fix, and nothing is billed.
    """
    from litellm_systemd.commands import doctor

    say(Step("looking for problems", is_brief=True))
    if bundle is None:
        return doctor.doctor(fix=fix, say=say)
    doctor.require_place(bundle)
    return doctor.write_bundle(doctor.doctor(fix=fix, say=say), bundle)


@cli.command()
@click.option("-f", "--follow", is_flag=True, help="Print new lines as they arrive.")
@click.option(
    "-n", "--lines", type=click.IntRange(min=0), help="Print this many lines. Default: 100, or all with --since."
)
@click.option("-p", "--priority", help="Print this level and worse: err, warning, info.")
@click.option(
    "--since",
    help="Start there: '1 hour ago', 'today', '2026-01-31 08:00'. Default of --errors and --request: one day ago.",
)
@click.option(
    "-b",
    "--boot",
    is_flag=False,
    flag_value="0",
    metavar="[BOOT]",
    help="Print one boot: this one, or -1 for the last one.",
)
@click.option("--errors", is_flag=True, help="Group warnings and errors by kind, with meaning and remedy.")
@click.option("--request", metavar="ID", help="Follow one request, by the x-litellm-call-id of its response.")
@json_option
def logs(as_json: bool, errors: bool, request: str | None, **options: Any) -> int:
    """Show the journal of the service.

    --errors and --request search the last day, or what --since or --boot select. A successful request has a line only
    with ACCESS_LOG=true in .env.
    """
    from litellm_systemd.commands import logs
    from litellm_systemd.host.observe import find_any_layout

    if not errors and request is None:
        # journalctl itself notices when the reader of what it follows is gone.
        becomes = options["follow"] or sys.stdout.isatty()
        return logs.show_logs(as_json=as_json, write=None if becomes else write_bytes, **options)
    if errors and request is not None:
        raise click.UsageError("--errors and --request cannot be combined")
    follow, lines, priority = (options.pop(name) for name in ("follow", "lines", "priority"))
    if follow or lines is not None or (request is not None and priority):
        raise click.UsageError("-f and -n cannot be combined with --errors or --request, nor -p with --request")
    if request is not None:
        return show(logs.request(find_any_layout(), request, **options), as_json=as_json)
    return show(logs.errors(find_any_layout(), priority=priority, **options), as_json=as_json)


@cli.command()
@click.option("--base-url", help="Verify this gateway, such as http://127.0.0.1:4000.")
@click.option("--api-key", help="Use this key. With --base-url, default: $LITELLM_MASTER_KEY.")
@click.option("--model", "models", multiple=True, help="Chat with this model. Can be repeated.")
@click.option("--all-models", is_flag=True, help="Chat with every model. Billed: a few tokens each.")
@click.option(
    "--caching",
    is_flag=True,
    help="Verify prompt caching. Billed: 6 to 9 prompts of 6,000 tokens a model.",
)
@click.option("--full", is_flag=True, help="Add a long prompt and concurrent requests. Billed: some cents a model.")
@click.option("--concurrency", type=click.IntRange(1, 256), metavar="N", help="Send N small chats at once. Billed.")
@click.option("--no-spend", is_flag=True, help="Call no model, so that nothing is billed.")
@click.option("--fallbacks", is_flag=True, help="Verify the fallbacks only, on a temporary instance. Billed.")
@env_file_option
@config_option
@click.option(
    "--timeout", type=click.FloatRange(min=0.1), default=60.0, help="Wait this many seconds for a response."
)
@click.option("--wait", type=click.FloatRange(min=0), default=0.0, help="Wait this many seconds for readiness first.")
@click.option("--quiet", is_flag=True, help="Print one line if a check fails, else nothing: for timers.")
@click.option("--junit", type=_FILE, metavar="FILE", help="Write JUnit XML too.")
@click.option("--html", type=_FILE, metavar="FILE", help="Write an HTML page too, without scripts and secrets.")
@click.option(
    "--watch",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="Repeat until Ctrl-C and print changes.",
)
@json_option
def verify(
    base_url: str | None,
    api_key: str | None,
    models: tuple[str, ...],
    all_models: bool,
    caching: bool,
    full: bool,
    concurrency: int | None,
    no_spend: bool,
    fallbacks: bool,
    env_file: Path | None,
    config: str | None,
    timeout: float,
    wait: float,
    quiet: bool,
    junit: Path | None,
    html: Path | None,
    watch: float | None,
    as_json: bool,
) -> int:
    """Prove that the endpoints serve what clients need.

    About ten short requests are billed, a cent in all; the models of demo.yml cost nothing. Exit codes: 0, all
    checks passed; 1, a check failed; 64 to 78, no check could be made. docs/verify.md has more.
    """
    if watch and (fallbacks or quiet):
        raise click.UsageError("--watch cannot be combined with --fallbacks or --quiet")
    if (env_file or config) and not fallbacks:
        raise click.UsageError("-c and -e need --fallbacks: without it, the running gateway is verified")
    from litellm_systemd.commands import service, verify
    from litellm_systemd.commands.status import require_running

    files = verify.Files(junit, html)
    files.require_places()
    if fallbacks:
        if base_url or no_spend or models or all_models or full or concurrency or caching:
            raise click.UsageError("--fallbacks can be combined with -c, -e and --timeout only")
        prove = partial(_prove_fallbacks, env_file, config, timeout)
    else:
        from litellm_systemd.verify.run import Scope

        prove = partial(
            service.verify_service,
            layout_of(),
            base_url=base_url,
            # The installed gateway has its own key; the variable may be that of another one.
            api_key=api_key or (os.environ.get(MASTER_KEY.name) if base_url else None),
            scope=Scope(
                models=models,
                all_models=all_models,
                spend=not no_spend,
                full=full,
                concurrency=concurrency or 0,
                caching=caching,
            ),
            timeout=timeout,
            wait=wait,
            say=say,
        )
        if not base_url and not watch:
            require_running(layout_of())
    origin = verify.VerifyTarget(is_own=not (base_url or env_file or config), is_throwaway=fallbacks)
    prove_and_keep = partial(_prove_and_keep, prove, files, origin)
    if watch:
        if not no_spend:
            say("each round calls models and may be billed; --no-spend calls none")
        return watch_changes(prove_and_keep, watch, as_json=as_json)
    say(Step("verifying the endpoints", is_brief=True))
    report = prove_and_keep()
    return show(service.in_one_line(report) if quiet else report, as_json=as_json)


def _prove_fallbacks(env_file: Path | None, config: str | None, timeout: float) -> Report:
    from litellm_systemd.commands.verify import prove_fallbacks

    return prove_fallbacks(request_of(layout_of(), env_file, config), os.environ, timeout=timeout, say=say)


def _prove_and_keep(prove: Callable[[], Report], files: Files, origin: VerifyTarget) -> Report:
    from litellm_systemd.commands.verify import describe_target, record_outcome

    now = datetime.now(timezone.utc)
    report = describe_target(prove(), layout_of(), now, origin)
    record_outcome(layout_of(), report, now, origin)
    files.write(report)
    return report


@cli.command()
@env_file_option
@click.option("--no-env-file", is_flag=True, help="Use the variables of the process: for containers.")
@click.option("--migrate", is_flag=True, help="Apply pending migrations of the database first.")
@config_option
def run(env_file: Path | None, no_env_file: bool, migrate: bool, config: str | None) -> None:
    """Serve in the foreground, without systemd or root.

    With --no-env-file, no file is read and no key is generated: LITELLM_MASTER_KEY must be set. --migrate makes no
    dump of the database.
    """
    from litellm_systemd.commands import service

    if no_env_file and env_file is not None:
        raise click.UsageError("-e and --no-env-file cannot be combined")
    request = request_of(layout_of(), env_file, config)
    if no_env_file:
        # Those of the process itself stay in its environment. A .env may not have them.
        variables = {name: value for name, value in os.environ.items() if name not in RESERVED}
        request = replace(request, variables=variables)
    service.run_foreground(request, os.environ, say, migrates=migrate)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell.

    For bash:

    \b
    litellmctl completion bash |
      sudo tee /usr/share/bash-completion/completions/litellmctl
    """  # noqa: D301 - click's mark for lines that it does not wrap
    from click.shell_completion import get_completion_class

    maker = get_completion_class(shell)
    if maker is None:  # pragma: no cover - click knows the three
        raise click.UsageError(f"no completion for {shell}")
    click.echo(maker(cli, {}, "litellmctl", "_LITELLMCTL_COMPLETE").source())
