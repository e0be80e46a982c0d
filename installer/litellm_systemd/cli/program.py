"""The frame of litellmctl: parse, dispatch, render, exit code. The only place that prints.

What a verb needs is imported once it is known which verb it is, so that --help stays fast.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from datetime import date
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from litellm_systemd.contract import ExitCode
from litellm_systemd.errors import InstallerError, Interrupted, MissingError

if TYPE_CHECKING:
    from litellm_systemd.commands.desired import Request
    from litellm_systemd.host.layout import Layout
    from litellm_systemd.report.report import Report

Command = TypeVar("Command", bound=Callable[..., Any])

json_option = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, for programs.")
root_option = click.option(
    "--root", type=click.Path(path_type=Path), default=Path("/"), help="The file system to write to, for images."
)
wait_option = click.option("--wait", is_flag=True, help="If another litellmctl is at work, wait for its end.")
eol_option = click.option("--allow-eol", is_flag=True, help="Take models too that Bedrock has ended.")
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
    except Interrupted as error:
        return _refuse(error.message, error.hint, error.code, as_json=as_json)
    except click.ClickException as error:
        return _refuse(
            error.format_message(), "'litellmctl --help' lists the verbs.", ExitCode.USAGE, as_json=as_json
        )
    except (click.Abort, KeyboardInterrupt):
        click.echo("litellmctl: interrupted", err=True)
        return 128 + 2
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
        return show(verb(*args, **kwargs), as_json=as_json)

    return command  # type: ignore[return-value]


def show(report: Report, *, as_json: bool) -> int:
    """Print a report; gives its exit code."""
    try:
        _print(report, as_json=as_json)
    except BrokenPipeError:
        # Whoever read our output has gone; that is no failure of ours, and closing must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(report.exit_code)


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        click.echo(report.as_json())
        return
    if report.plain:
        _show_lines(report)
    elif report.checks or report.facts or report.table:
        from litellm_systemd.report.display import render_tables

        click.echo(render_tables(report))
    for difference in report.diffs:
        show_diff(difference)
    # Without rich, which loads parts of itself late: after an uninstall there is nothing left to load.
    for note in report.notes:
        click.echo(f"  {note}")
    if report.title:
        click.secho(report.title, bold=True)


def _show_lines(report: Report) -> None:
    for check in report.checks:
        click.secho(check.detail, fg={"failed": "red", "warning": "yellow"}.get(check.outcome.value))
        if check.hint:
            click.echo(f"    {check.hint}")


def show_diff(difference: str, *, err: bool = False) -> None:
    """A unified diff, in the colours that people know."""
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in difference.splitlines():
        click.secho(line, fg=colours.get(line[:1]), err=err)


def say(line: str) -> None:
    """Progress, on standard error: standard output belongs to the report."""
    click.echo(f"  {line}", err=True)


def layout_of(root: Path = Path("/"), prefix: str | None = None) -> Layout:
    from litellm_systemd.host.observe import find_layout

    return find_layout(root.resolve(), prefix)


def request_of(layout: Layout, env_file: Path | None, config: str | None, *, installed_only: bool = False) -> Request:
    from litellm_systemd.commands.desired import Request

    return Request(layout, env_file, config, Path.cwd(), installed_only, today=date.today())


def _require_folder() -> None:
    """Raise MissingError in a folder that was deleted, of which each verb would else complain in words of its own."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise MissingError("the current folder was deleted", "cd to one that is there, and run it again.") from None


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="litellm-systemd", prog_name="litellmctl", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="On an error, show where in the program it arose.")
def cli(debug: bool) -> None:  # noqa: ARG001 - run_command reads it, before parsing
    """Run the LiteLLM Proxy as a systemd service.

    'litellmctl init' writes a .env, 'sudo litellmctl install' makes the service of it, 'litellmctl verify' proves
    it. Day to day, systemctl and journalctl -u litellm are enough.
    """
    # Before any verb: paths on the command line, uv and pip take the current folder for granted.
    _require_folder()
