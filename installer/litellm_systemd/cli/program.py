"""The frame of litellmctl: parse, dispatch, print, exit code. No other package prints.

Each verb imports what it needs when it runs, so that --help stays fast.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
from collections.abc import Callable
from contextlib import closing
from datetime import date
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from litellm_systemd.cli.streams import open_streams
from litellm_systemd.command import interruptible
from litellm_systemd.contract import ExitCode
from litellm_systemd.errors import (
    REINSTALL,
    InstallerError,
    Interrupted,
    MissingError,
    OutputError,
    PermissionDenied,
    Unavailable,
    UsageError,
    remedy_of,
)
from litellm_systemd.report.progress import Progress
from litellm_systemd.report.report import printable

if TYPE_CHECKING:
    from litellm_systemd.commands.resolve import Request
    from litellm_systemd.host.layout import Layout
    from litellm_systemd.report.report import Report

#: Errors of a file system that is full, read-only or damaged (errno(3)).
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)

Command = TypeVar("Command", bound=Callable[..., Any])

#: A path, whose permissions the verb checks: click's message and exit code would be those of a usage error.
PATH = click.Path(path_type=Path, readable=False)

json_option = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
root_option = click.option("--root", type=PATH, default=Path("/"), help="Use this folder as the root: for images.")
wait_option = click.option("--wait", is_flag=True, help="Wait for another running litellmctl to end.")
eol_option = click.option("--allow-eol", is_flag=True, help="Accept models after their end of life on Bedrock.")
config_option = click.option("-c", "--config", metavar="CONFIG", help="A name from 'config list', or a path.")
ENV_FILE = ("-e", "--env-file")
env_file_option = click.option(
    *ENV_FILE, type=PATH, metavar="FILE", help="The environment. Default: .env here, else as installed."
)


def main() -> None:
    """Run litellmctl as the console script does."""
    open_streams()
    sys.exit(run_command(sys.argv[1:]))


def run_command(arguments: list[str]) -> int:
    """Run litellmctl and return its exit code. Errors become a message on standard error."""
    try:
        return _run(arguments)
    except OutputError as error:
        # Not as JSON, which would be written to the output that failed.
        return _refuse(error.message, error.hint, error.code, as_json=False)


def _run(arguments: list[str]) -> int:
    # Read before parsing: a usage error depends on them too.
    as_json, debug = "--json" in arguments, "--debug" in arguments
    say.is_verbose = True
    try:
        with interruptible(), closing(say):
            return int(cli.main(arguments, prog_name="litellmctl", standalone_mode=False) or 0)
    except OutputError:
        raise
    except InstallerError as error:
        if debug:
            raise
        hint = f"{error.hint} {help_hint(arguments)}".lstrip() if error.code is ExitCode.USAGE else error.hint
        return _refuse(error.message, hint, error.code, as_json=as_json, others=error.others)
    except Interrupted as error:
        return _refuse(error.message, error.hint, error.code, as_json=as_json)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return int(ExitCode.USAGE)
    except click.ClickException as error:
        # click lists choices on lines of their own.
        message = " ".join(error.format_message().split())
        return _refuse(message, _usage_hint(error, arguments), ExitCode.USAGE, as_json=as_json)
    except click.Abort:  # the end of the input instead of an answer
        click.echo("litellmctl: interrupted", err=True)
        return int(ExitCode.INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        refusal = _refusal_of(error) or _damage_behind(error)
        if refusal is not None:
            return _refuse(refusal.message, refusal.hint, refusal.code, as_json=as_json)
        message = f"this is a defect of litellmctl: {type(error).__name__}: {error}"
        return _refuse(
            message, "'litellmctl --debug VERB' shows where; please report it.", ExitCode.SOFTWARE, as_json=as_json
        )


def _damage_behind(error: Exception) -> Unavailable | None:
    """The damage of the release that litellmctl runs from, which no verb expected. None for a defect."""
    text = f"{type(error).__name__}: {error}"
    if isinstance(error, ImportError) and (error.name or "").partition(".")[0] in sys.stdlib_module_names:
        python = os.path.realpath(sys.executable)
        return Unavailable(
            f"{python}, which the release uses, is incomplete: {text}",
            f"Reinstall its packages, or install again with another Python: {REINSTALL}",
        )
    damage = "a module cannot be imported"
    with contextlib.suppress(Exception):  # so damaged that it cannot be verified
        from litellm_systemd.releases.integrity import find_own_damage

        damage = damage if isinstance(error, (ImportError, SyntaxError, EOFError)) else ""
        damage = find_own_damage()
    if not damage:
        return None
    return Unavailable(
        f"the release that litellmctl runs from is damaged: {damage} ({text})", f"Install again: {REINSTALL}"
    )


def _refusal_of(error: Exception) -> InstallerError | None:
    """The refusal of the kernel that no verb expected: a permission, or a disk. None for a defect."""
    if not isinstance(error, OSError):
        return None
    message = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    if isinstance(error, PermissionError):
        return PermissionDenied(message, "Run the command with sudo." if os.geteuid() != 0 else remedy_of(error))
    return OutputError(message, remedy_of(error)) if error.errno in _STORAGE else None


def help_hint(arguments: list[str]) -> str:
    """The sentence that names the help of the verb in a command line."""
    return f"See: {_find_verb(arguments)[0]} --help"


def _find_verb(arguments: list[str]) -> tuple[str, click.Command]:
    """The verb in a command line, or the deepest group, with its full name."""
    path, command = ["litellmctl"], cast("click.Command", cli)
    for word in arguments[1:] if arguments[:1] == ["help"] else arguments:
        if isinstance(command, click.Group) and word in command.commands:
            path.append(word)
            command = command.commands[word]
    return " ".join(path), command


def _usage_hint(error: click.ClickException, arguments: list[str]) -> str:
    """What to do about an invalid command line: for an unknown option, which ones the verb has."""
    name, verb = _find_verb(arguments)
    if not isinstance(error, click.NoSuchOption):
        return help_hint(arguments)
    options = [each for each in verb.params if isinstance(each, click.Option)]
    known = {spelling for each in options for spelling in (*each.opts, *each.secondary_opts)}
    if error.option_name in known:
        return f"Write it after the verb: {name} {error.option_name}"
    note = ""
    if error.option_name in ENV_FILE:
        note = f"{name} uses the installed environment. To change that: sudo litellmctl install -e FILE. "
    if isinstance(verb, click.Group):
        return help_hint(arguments)
    shown = ", ".join(_render_option(each) for each in options)
    return f"{note}The options of {name}: {shown}. {help_hint(arguments)}"


def _render_option(option: click.Option) -> str:
    """An option as the help shows it: `-c CONFIG`, `--offline`."""
    value = "" if option.is_flag else f" {option.metavar or option.type.name.upper()}"
    return f"{option.opts[0]}{value}"


def _refuse(message: str, hint: str, code: ExitCode, *, as_json: bool, others: tuple[str, ...] = ()) -> int:
    if as_json:
        more = {"others": list(others)} if others else {}
        click.echo(
            json.dumps({"ok": False, "exit_code": int(code), "error": message, "hint": hint, **more}, indent=2)
        )
    else:
        click.echo(f"litellmctl: {printable(message)}", err=True)
        if hint:
            click.echo(f"  {printable(hint)}", err=True)
        for other in others:
            click.echo(f"  {printable(other)}", err=True)
    return int(code)


def reports(verb: Command) -> Command:
    """Turn a function that returns a `Report` into a command: add --json, print the report, return its exit code."""

    @json_option
    @wraps(verb)
    def command(*args: Any, as_json: bool, **kwargs: Any) -> int:
        return show(verb(*args, **kwargs), as_json=as_json)

    return command  # type: ignore[return-value]


def show(report: Report, *, as_json: bool, text: str | None = None) -> int:
    """Print a report, or `text` in place of it, and return its exit code."""
    say.close()
    if text is None:
        _print(report, as_json=as_json)
    else:
        click.echo(text)
    return int(report.exit_code)


def _print(report: Report, *, as_json: bool) -> None:
    if as_json:
        click.echo(report.as_json(escaped=not _is_unicode()))
        return
    if report.plain:
        _show_lines(report)
    elif report.checks or report.facts or report.table:
        from litellm_systemd.report.display import render_tables

        click.echo(render_tables(report))
    for difference in report.diffs:
        show_diff(difference)
    # Without rich: it imports parts of itself late, and after an uninstall they are gone.
    for note in report.notes:
        click.echo(f"  {printable(note)}")
    if report.title:
        click.secho(printable(report.title), bold=True)


def _is_unicode() -> bool:
    return (sys.stdout.encoding or "utf-8").lower().startswith("utf")


def _show_lines(report: Report) -> None:
    for check in report.checks:
        click.secho(printable(check.detail), fg={"failed": "red", "warning": "yellow"}.get(check.outcome.value))
        if check.hint:
            click.echo(f"    {printable(check.hint)}")


def show_diff(difference: str, *, err: bool = False) -> None:
    """Print a unified diff in colour."""
    colours = {"+": "green", "-": "red", "@": "cyan"}
    for line in difference.splitlines():
        click.secho(printable(line), fg=colours.get(line[:1]), err=err)


def _is_live() -> bool:
    """Whether standard error is a terminal that can clear a line (https://no-color.org, and TERM=dumb of Emacs)."""
    environ = os.environ
    plain = environ.get("NO_COLOR") or environ.get("CI") or environ.get("TERM", "dumb") == "dumb"
    return sys.stderr.isatty() and not plain


#: Prints progress on standard error. Standard output holds the report only.
say = Progress(partial(click.echo, nl=False, err=True), _is_live)


def ask_consent(yes: bool, again: str) -> Callable[[str], bool]:
    """A function that asks a question on the terminal, unless `yes`; `again` is the command that does not ask.

    Raises:
        UsageError: there is no terminal.
    """

    def confirm(question: str) -> bool:
        say.close()
        try:
            return yes or click.confirm(question, err=True)
        except click.Abort:  # Ctrl-C, or the end of the input
            if sys.stdin.isatty():
                raise
            click.echo(err=True)  # ends the line of the question
            raise UsageError("there is no terminal to ask for consent", f"{again}.") from None

    return confirm


def layout_of(root: Path = Path("/"), prefix: str | None = None) -> Layout:
    from litellm_systemd.host.observe import find_layout

    return find_layout(root.resolve(), prefix)


def request_of(layout: Layout, env_file: Path | None, config: str | None, *, installed_only: bool = False) -> Request:
    from litellm_systemd.commands.resolve import Request

    return Request(layout, env_file, config, Path.cwd(), installed_only, today=date.today())


def _require_folder() -> None:
    """Raise MissingError if the current folder was deleted, before a verb fails on it with another message."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise MissingError(
            "the current folder was deleted", "Change to an existing folder and run the command again."
        ) from None


class _Verbs(click.Group):
    """The verbs, listed by task in `--help`."""

    tasks = (
        ("Install", ("init", "install", "rehearse", "diff", "backup", "restore", "uninstall")),
        ("Upgrade", ("upgrade", "rollback", "releases", "bundle")),
        ("Run", ("start", "stop", "restart", "reload", "rotate-key", "enable", "disable", "run")),
        ("Behind a load balancer", ("drain", "lifecycle-hook")),
        ("Diagnose", ("status", "top", "verify", "doctor", "logs")),
        ("Configure", ("config", "client", "models", "iam-policy")),
        ("Keys and budgets", ("key", "user", "team", "spend")),
        ("Learn", ("help", "version", "completion")),
    )

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list for each task. Summaries are short enough not to be cut off."""
        for task, names in self.tasks:
            with formatter.section(task):
                formatter.write_dl([(name, self.commands[name].get_short_help_str(limit=80)) for name in names])


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="litellm-systemd", prog_name="litellmctl", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show a traceback for an error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:  # noqa: ARG001 - run_command reads it, before parsing
    """Run the LiteLLM Proxy as a systemd service.

    'litellmctl init' writes a .env file, 'sudo litellmctl install' turns it into a service, and 'litellmctl verify'
    proves that it works. For daily use, systemctl and journalctl -u litellm are enough.
    """
    # click does not know the two (https://no-color.org).
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        context.color = False
    # Before any verb: paths on the command line, uv and pip rely on the current folder.
    _require_folder()


@cli.command("help")
@click.argument("verb", nargs=-1)
@click.pass_context
def show_help(context: click.Context, verb: tuple[str, ...]) -> None:
    """Print the help of a verb, such as 'config show'."""
    found, command = context.find_root(), context.find_root().command
    for name in verb:
        below = command.get_command(found, name) if isinstance(command, click.Group) else None
        if below is None:
            # click's own message for `litellmctl NAME`, which names similar verbs.
            raise click.UsageError(f"No such command '{' '.join(verb)}'.")
        command, found = below, click.Context(below, info_name=name, parent=found)
    click.echo(command.get_help(found))


@cli.command("version")
@reports
def show_version() -> Report:
    """Print the versions of litellmctl, LiteLLM and the host."""
    from litellm_systemd.commands import version

    return version.version(layout_of())
