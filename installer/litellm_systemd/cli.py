"""litellmctl: parse, dispatch, render, exit code. The only place that prints.

What a verb needs is imported once it is known which verb it is, so that --help stays fast.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from litellm_systemd.contract import MASTER_KEY, ExitCode
from litellm_systemd.errors import InstallerError

if TYPE_CHECKING:
    from litellm_systemd.commands.desired import Request
    from litellm_systemd.layout import Layout
    from litellm_systemd.report import Report

Command = TypeVar("Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, for programs.")
root_option = click.option(
    "--root", type=click.Path(path_type=Path), default=Path("/"), help="The file system to write to, for images."
)
config_option = click.option("-c", "--config", metavar="CONFIG", help="A configuration by name, or a path.")


def main() -> None:
    """Entry point of the console script: turns errors into a message and an exit code."""
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run litellmctl with these arguments; gives its exit code."""
    # Read before parsing, since an error in parsing has to know it too.
    as_json, debug = "--json" in arguments, "--debug" in arguments
    try:
        return int(cli.main(arguments, prog_name="litellmctl", standalone_mode=False) or 0)
    except InstallerError as error:
        if debug:
            raise
        return _refuse(error.message, error.hint, error.code, as_json=as_json)
    except click.ClickException as error:
        return _refuse(
            error.format_message(), "'litellmctl --help' lists the verbs.", ExitCode.USAGE, as_json=as_json
        )
    except (click.Abort, KeyboardInterrupt):
        click.echo("litellmctl: interrupted", err=True)
        return 128 + 2
    except BrokenPipeError:
        # Whoever read our output has gone; that is no failure of ours, and closing must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:
        if debug:
            raise
        message = f"this is a defect of litellmctl: {type(error).__name__}: {error}"
        return _refuse(
            message, "'litellmctl --debug VERB' shows where; please report it.", ExitCode.SOFTWARE, as_json=as_json
        )


def _refuse(message: str, hint: str, code: ExitCode, *, as_json: bool) -> int:
    if as_json:
        click.echo(json.dumps({"ok": False, "exit_code": int(code), "error": message, "hint": hint}, indent=2))
    else:
        click.echo(f"litellmctl: {message}", err=True)
        if hint:
            click.echo(f"  {hint}", err=True)
    return int(code)


def reports(verb: Command) -> Command:
    """Make a command of a function that returns a `Report`: with --json, printed, its code the exit code."""

    @json_option
    @wraps(verb)
    def command(*args: Any, as_json: bool, **kwargs: Any) -> int:
        return _show(verb(*args, **kwargs), as_json=as_json)

    return command  # type: ignore[return-value]


def _show(report: Report, *, as_json: bool) -> int:
    if as_json:
        click.echo(report.as_json())
        return int(report.exit_code)
    if report.checks or report.facts:
        from litellm_systemd.display import render_tables

        click.echo(render_tables(report))
    # Without rich, which loads parts of itself late: after an uninstall there is nothing left to load.
    for note in report.notes:
        click.echo(f"  {note}")
    click.secho(report.title, bold=True)
    return int(report.exit_code)


def _say(line: str) -> None:
    """Progress, on standard error: standard output belongs to the report."""
    click.echo(f"  {line}", err=True)


def _layout(root: Path = Path("/"), prefix: str | None = None) -> Layout:
    from litellm_systemd.host import find_layout

    return find_layout(root.resolve(), prefix)


def _request(layout: Layout, env_file: Path | None, config: str | None, *, installed_only: bool = False) -> Request:
    from litellm_systemd.commands.desired import Request

    return Request(layout, env_file, config, Path.cwd(), installed_only)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="litellm-systemd", prog_name="litellmctl", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="On an error, show where in the program it arose.")
def cli(debug: bool) -> None:
    """Run the LiteLLM Proxy as a systemd service.

    'litellmctl init' writes a .env, 'sudo litellmctl install' makes the service of it, 'litellmctl verify' proves
    it. Day to day, systemctl and journalctl -u litellm are enough.
    """


@cli.command()
@click.option("--env-file", type=click.Path(path_type=Path), default=Path(".env"), help="The file to write.")
@click.option("--from-profile", "profile", metavar="NAME", help="Take the keys of this profile in your ~/.aws.")
@click.option("--region", help="The AWS region, such as us-east-1.")
@click.option("--force", is_flag=True, help="Overwrite the file if it is there.")
@reports
def init(env_file: Path, profile: str | None, region: str | None, force: bool) -> Report:
    """Write a .env with every key explained."""
    from litellm_systemd import commands

    return commands.init(env_file, environ=os.environ, profile=profile, region=region, force=force)


@cli.command()
@click.option("--env-file", type=click.Path(path_type=Path), help="Default: .env here, else what is installed.")
@config_option
@click.option("--dry-run", is_flag=True, help="Show the steps and take none; exit code 2 if there are any.")
@click.option("--no-start", is_flag=True, help="Write and enable, but neither start nor restart.")
@click.option("--no-verify", is_flag=True, help="Don't try the endpoints at the end.")
@click.option("--prefix", help="The folder of the releases. Default: /opt/litellm-systemd, or as installed.")
@root_option
@reports
def install(
    env_file: Path | None,
    config: str | None,
    dry_run: bool,
    no_start: bool,
    no_verify: bool,
    prefix: str | None,
    root: Path,
) -> Report:
    """Write units and environment, enable and start the service, verify it.

    A second run with nothing new changes and restarts nothing.
    """
    from litellm_systemd import commands

    request = _request(_layout(root, prefix), env_file, config)
    options = commands.InstallOptions(request, dry_run=dry_run, start=not no_start, verify=not no_verify)
    return commands.install(options, _say)


@cli.command()
@click.option("--purge", is_flag=True, help="Remove configurations, keys, data and the user as well.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@root_option
@reports
def uninstall(purge: bool, yes: bool, root: Path) -> Report:
    """Stop and remove the service. Configurations and keys stay, unless --purge."""
    from litellm_systemd import commands

    def confirm(question: str) -> bool:
        return yes or click.confirm(question, err=True)

    return commands.uninstall(_layout(root), purge=purge, confirm=confirm, say=_say)


def _add_unit_verb(name: str, text: str) -> None:
    @config_option
    @reports
    def unit_verb(config: str | None) -> Report:
        from litellm_systemd import commands

        return commands.act(name, _request(_layout(), None, config, installed_only=True), _say)

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
    from litellm_systemd import commands

    return commands.status(_layout())


@cli.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines.")
@click.option("-n", "--lines", type=click.IntRange(min=0), help="How many lines. Default: 100, or all with --since.")
@click.option("-p", "--priority", help="Only this level and worse: err, warning, info.")
@click.option("--since", help="Only from then on: '1 hour ago', 'today', '2026-01-31 08:00'.")
@json_option
def logs(follow: bool, lines: int | None, priority: str | None, since: str | None, as_json: bool) -> None:
    """Show the service's journal."""
    from litellm_systemd import commands

    commands.logs(follow=follow, lines=lines, priority=priority, since=since, as_json=as_json)


@cli.command()
@click.option("--base-url", help="Another gateway than the installed one, such as http://127.0.0.1:4000.")
@click.option("--api-key", help="Its key. With --base-url it may stand in the variable LITELLM_MASTER_KEY instead.")
@click.option("--model", "models", multiple=True, help="Chat with this model; may be repeated.")
@click.option("--all-models", is_flag=True, help="Chat with every model; each is billed for a few tokens.")
@click.option("--timeout", type=click.FloatRange(min=0.1), default=60.0, help="Seconds for one answer.")
@click.option("--wait", type=click.FloatRange(min=0), default=0.0, help="Seconds to wait for readiness first.")
@reports
def verify(
    base_url: str | None, api_key: str | None, models: tuple[str, ...], all_models: bool, timeout: float, wait: float
) -> Report:
    """Prove that the endpoints answer as clients need it."""
    from litellm_systemd import commands

    return commands.verify_service(
        _layout(),
        base_url=base_url,
        # The installed gateway has its own key; the variable may be that of another one.
        api_key=api_key or (os.environ.get(MASTER_KEY) if base_url else None),
        models=models,
        all_models=all_models,
        timeout=timeout,
        wait=wait,
    )


@cli.command()
@click.option("--env-file", type=click.Path(path_type=Path), help="Default: .env here.")
@config_option
def run(env_file: Path | None, config: str | None) -> None:
    """Serve in the foreground, without systemd and without root."""
    from litellm_systemd import commands

    commands.run_foreground(_request(_layout(), env_file, config), os.environ, _say)


@cli.group()
def config() -> None:
    """List, show and switch configurations."""


@config.command("list")
@reports
def config_list() -> Report:
    """List the configurations that -c takes by name."""
    from litellm_systemd import commands

    return commands.list_configs(_layout())


@config.command("show")
@click.argument("name", required=False)
@reports
def config_show(name: str | None) -> Report:
    """Show what a configuration serves, and what is wrong with it. Default: the active one."""
    from litellm_systemd import commands

    return commands.show_config(_request(_layout(), None, name))


@config.command("use")
@click.argument("name")
@reports
def config_use(name: str) -> Report:
    """Make a configuration the active one; a running service takes it up by a reload."""
    from litellm_systemd import commands

    return commands.use_config(_request(_layout(), None, name, installed_only=True), _say)


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
