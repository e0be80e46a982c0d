"""The verbs that drive the service and look at it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from litellm_systemd.cli.program import cli, config_option, json_option, layout_of, reports, request_of, say, show
from litellm_systemd.contract import MASTER_KEY, ExitCode

if TYPE_CHECKING:
    from litellm_systemd.commands.verify_output import Change, Files, VerifyTarget
    from litellm_systemd.report.report import Outcome, Report

_COLOURS = {"ok": "green", "failed": "red", "warning": "yellow"}


def watch_changes(prove: Callable[[], Report], seconds: float, *, as_json: bool) -> int:
    """Prove, wait `seconds`, and again, until Ctrl-C; gives the exit code of the last whole round.

    People see the first report as ever, and then a line for each check that ends otherwise than before. With
    `as_json` each change is one line of JSON, those of the first round as well.
    """
    from litellm_systemd.commands.verify_output import find_changes

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
    except KeyboardInterrupt:
        # The ordinary end of it, and no failure: the code tells how things stood.
        return int(last)


def _say(change: Change, report: Report, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(change.as_dict(str(report.data.get("checked_at") or "")), ensure_ascii=False))
        return
    moment = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
    click.secho(f"{moment}  {change.as_line()}", fg=_COLOURS.get(change.check.outcome.value))


_FILE = click.Path(dir_okay=False, path_type=Path)


def _add_unit_verb(name: str, text: str) -> None:
    @config_option
    @reports
    def unit_verb(config: str | None) -> Report:
        from litellm_systemd.commands import service

        return service.act(name, request_of(layout_of(), None, config, installed_only=True), say)

    unit_verb.__doc__ = text
    cli.command(name)(unit_verb)


for _name, _text in {
    "start": "Start the service and wait until it is ready.",
    "stop": "Stop the service: it drains, and the port is closed.",
    "restart": "Restart the service; the port stays open meanwhile.",
    "reload": "Take up the configuration again, without losing a request.",
    "enable": "Have the service start at boot.",
    "disable": "Don't have the service start at boot.",
}.items():
    _add_unit_verb(_name, _text)


@cli.command()
@reports
def status() -> Report:
    """Show whether the service runs, since when, and with what."""
    from litellm_systemd.commands import status

    return status.status(layout_of())


@cli.command()
@click.option("--fix", is_flag=True, help="Mend what can be mended without risk, after showing it.")
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="Write an archive for a bug report there, without secrets."
)
@reports
def doctor(fix: bool, bundle: Path | None) -> Report:
    """Find what is wrong, why, and what mends it; exit code 1 if something is.

    Without root it says what it can't see. It changes nothing without --fix, and costs nothing.
    """
    from litellm_systemd.commands import doctor

    if bundle is None:
        return doctor.doctor(fix=fix, say=say)
    from litellm_systemd.commands import bug_report

    bug_report.require_place(bundle)
    return bug_report.write_bundle(doctor.doctor(fix=fix, say=say), bundle)


@cli.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines.")
@click.option("-n", "--lines", type=click.IntRange(min=0), help="How many lines. Default: 100, or all with --since.")
@click.option("-p", "--priority", help="Only this level and worse: err, warning, info.")
@click.option(
    "--since",
    help="Only from then on: '1 hour ago', 'today', '2026-01-31 08:00'. Without it --errors and --request look back"
    " one day.",
)
@click.option(
    "-b", "--boot", is_flag=False, flag_value="0", metavar="[BOOT]", help="Only this boot; -1: the last one."
)
@click.option("--errors", is_flag=True, help="Warnings and errors by kind: how often, what it means, what to do.")
@click.option(
    "--request", metavar="ID", help="One request through all workers, by the x-litellm-call-id of its answer."
)
@json_option
def logs(as_json: bool, errors: bool, request: str | None, **options: Any) -> int:
    """Show the service's journal, or with --errors what went wrong in the last day and what it means.

    --errors and --request look back one day; --since or --boot have them look elsewhere. A request that went well has
    a line only with ACCESS_LOG=true in .env.
    """
    from litellm_systemd.commands import logs

    if not errors and request is None:
        logs.show_logs(as_json=as_json, **options)
        return 0
    if errors and request is not None:
        raise click.UsageError("--errors and --request don't go together")
    follow, lines, priority = (options.pop(name) for name in ("follow", "lines", "priority"))
    if follow or lines is not None or (request is not None and priority):
        raise click.UsageError("-f and -n don't go with --errors and --request, nor -p with --request")
    if request is not None:
        return show(logs.request(layout_of(), request, **options), as_json=as_json)
    return show(logs.errors(layout_of(), priority=priority, **options), as_json=as_json)


@cli.command()
@click.option("--base-url", help="Another gateway than the installed one, such as http://127.0.0.1:4000.")
@click.option("--api-key", help="Its key. With --base-url it may stand in the variable LITELLM_MASTER_KEY instead.")
@click.option("--model", "models", multiple=True, help="Chat with this model; may be repeated.")
@click.option("--all-models", is_flag=True, help="Chat with every model; each is billed for a few tokens.")
@click.option(
    "--caching",
    is_flag=True,
    help="Try prompt caching: two or three prompts of 6,000 tokens a model, billed.",
)
@click.option("--full", is_flag=True, help="Also a long prompt, and requests at once: billed, some cents a model.")
@click.option("--concurrency", type=click.IntRange(1, 256), metavar="N", help="Send N small chats at once; billed.")
@click.option("--no-spend", is_flag=True, help="Ask nothing that reaches a model, and so is billed.")
@click.option("--fallbacks", is_flag=True, help="Try each fallback, and that alone, on a throwaway instance; billed.")
@click.option("--env-file", type=click.Path(path_type=Path), help="With --fallbacks: not what is installed.")
@config_option
@click.option("--timeout", type=click.FloatRange(min=0.1), default=60.0, help="Seconds for one answer.")
@click.option("--wait", type=click.FloatRange(min=0), default=0.0, help="Seconds to wait for readiness first.")
@click.option("--quiet", is_flag=True, help="Say nothing, or what failed first, in one line: for timers.")
@click.option("--junit", type=_FILE, metavar="FILE", help="Write JUnit's XML too, for a CI server.")
@click.option("--html", type=_FILE, metavar="FILE", help="Write a page too: one file, without a script or a secret.")
@click.option(
    "--watch",
    type=click.FloatRange(min=1),
    metavar="SECONDS",
    help="Again and again, with a line for each change, until Ctrl-C.",
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
    """Prove that the endpoints answer as clients need it.

    Some ten requests for a few words are billed, about a cent in all; models by mock_response cost nothing.
    Exit code: 0, all is well; 1, a check failed; 64 to 78, nothing could be asked. docs/verify.md has more.
    """
    if watch and (fallbacks or quiet):
        raise click.UsageError("--watch goes neither with --fallbacks nor with --quiet")
    if (env_file or config) and not fallbacks:
        raise click.UsageError("-c and --env-file are for --fallbacks: else it is the running gateway that is asked")
    from litellm_systemd.commands import service, verify_output

    files = verify_output.Files(junit, html)
    files.require_places()
    if fallbacks:
        if base_url or no_spend or models or all_models or full or concurrency or caching:
            raise click.UsageError("--fallbacks goes with -c, --env-file and --timeout alone")
        prove = partial(_prove_fallbacks, env_file, config, timeout)
    else:
        from litellm_systemd.verify.run import Scope

        prove = partial(
            service.verify_service,
            layout_of(),
            base_url=base_url,
            # The installed gateway has its own key; the variable may be that of another one.
            api_key=api_key or (os.environ.get(MASTER_KEY) if base_url else None),
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
    origin = verify_output.VerifyTarget(is_own=not (base_url or env_file or config), is_throwaway=fallbacks)
    prove_and_keep = partial(_prove_and_keep, prove, files, origin)
    if watch:
        if not no_spend:
            say("each round asks models, which may be billed: --no-spend asks none")
        return watch_changes(prove_and_keep, watch, as_json=as_json)
    report = prove_and_keep()
    return show(service.in_one_line(report) if quiet else report, as_json=as_json)


def _prove_fallbacks(env_file: Path | None, config: str | None, timeout: float) -> Report:
    from litellm_systemd.commands.fallbacks import prove_fallbacks

    return prove_fallbacks(request_of(layout_of(), env_file, config), os.environ, timeout=timeout, say=say)


def _prove_and_keep(prove: Callable[[], Report], files: Files, origin: VerifyTarget) -> Report:
    from litellm_systemd.commands.verify_output import describe_target

    report = describe_target(prove(), layout_of(), datetime.now(timezone.utc), origin)
    files.write(report)
    return report


@cli.command()
@click.option("--env-file", type=click.Path(path_type=Path), help="Default: .env here.")
@config_option
def run(env_file: Path | None, config: str | None) -> None:
    """Serve in the foreground, without systemd and without root."""
    from litellm_systemd.commands import service

    service.run_foreground(request_of(layout_of(), env_file, config), os.environ, say)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    For bash: litellmctl completion bash | sudo tee /usr/share/bash-completion/completions/litellmctl
    """
    from click.shell_completion import get_completion_class

    maker = get_completion_class(shell)
    if maker is None:  # pragma: no cover - click knows the three
        raise click.UsageError(f"no completion for {shell}")
    click.echo(maker(cli, {}, "litellmctl", "_LITELLMCTL_COMPLETE").source())
