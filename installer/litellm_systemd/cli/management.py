"""The verbs for LiteLLM's database: key, user, team and spend."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from litellm_systemd.cli.program import PATH, ask_consent, cli, json_option, layout_of, reports, show
from litellm_systemd.errors import UsageError

if TYPE_CHECKING:
    from litellm_systemd.client.management import Management
    from litellm_systemd.report.report import Report

_NO_VALUE = "none"

base_url_option = click.option(
    "--base-url", metavar="URL", help="Use this gateway, with the key in $LITELLM_MASTER_KEY."
)


class _Limit(click.ParamType[Any]):
    """A number that is not negative, or `none` for no limit."""

    name = "number"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == _NO_VALUE:
            return value
        kind = click.IntRange(min=0) if self._kind is int else click.FloatRange(min=0, max=1e12)
        return kind.convert(value, param, ctx)


class _Time(click.ParamType[str]):
    """A time in LiteLLM's form, which it does not explain when it refuses another one."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not re.fullmatch(r"[1-9]\d{0,5}(s|m|h|d|w|mo)|none", value):
            self.fail(f"{value} is not a time: write a number and a unit, such as 30m, 12h, 7d or 1mo", param, ctx)
        return str(value)


def _option(name: str, text: str, **more: Any) -> Callable[..., Any]:
    return click.option(f"--{name}", help=text, **more)


_LIMITS = (
    _option("models", "Allow this model. Can be repeated. Default: all.", multiple=True, metavar="MODEL"),
    _option("max-budget", "Refuse requests after this many US dollars.", type=_Limit(float), metavar="DOLLARS"),
    _option("budget-duration", "Start the budget again after this time: 30d, 24h.", type=_Time(), metavar="TIME"),
    _option("tpm-limit", "Allow this many tokens a minute.", type=_Limit(int), metavar="N"),
    _option("rpm-limit", "Allow this many requests a minute.", type=_Limit(int), metavar="N"),
)
_OWNERS = (
    _option("team-id", "The team of the key, by id or alias.", metavar="TEAM"),
    _option("user-id", "The user of the key, by id or e-mail address.", metavar="USER"),
)
_EXPIRY = _option("duration", "Let the key expire after this time: 30d, 12h.", type=_Time(), metavar="TIME")
_ROLES = ("proxy_admin", "proxy_admin_viewer", "internal_user", "internal_user_viewer")
#: The options of create and update: those of LiteLLM's routes, with its names.
_FIELDS = {
    "key": (*_LIMITS, _EXPIRY, *_OWNERS),
    "user": (
        *_LIMITS,
        _option("user-email", "The e-mail address.", metavar="ADDRESS"),
        _option("user-role", "What the user may do in the Admin UI.", type=click.Choice(_ROLES)),
    ),
    "team": _LIMITS,
}
#: For each resource: the field that the argument of create sets, and its plural.
_NAMES = {"key": ("key_alias", "keys"), "user": ("user_id", "users"), "team": ("team_alias", "teams")}


def _connect(base_url: str | None) -> Management:
    from litellm_systemd.commands import management

    return management.connect(layout_of(), base_url, os.environ)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    """The fields that the command line sets; `none` removes a limit."""
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    return {name: None if value == _NO_VALUE else value for name, value in found.items() if value not in (None, [])}


def _which(text: str) -> str:
    """An id or a name; `-` reads a key from standard input."""
    if text.startswith("sk-"):
        raise UsageError(
            "a key on the command line is visible to other users of this host",
            "Write its id or alias, or - and the key on standard input.",
        )
    return sys.stdin.readline().strip() if text == "-" else text


def _with(options: tuple[Callable[..., Any], ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(verb: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            verb = option(verb)
        return verb

    return add


def _add_resource(noun: str, delete: str) -> click.Group:
    field, plural = _NAMES[noun]
    article = "the keys" if noun == "key" else f"a {noun}"
    argument = field.upper()

    @reports
    @base_url_option
    def create(base_url: str | None, name: str, **options: Any) -> Report:
        from litellm_systemd.commands import management

        resource = management.RESOURCES[noun]
        return management.create(_connect(base_url), resource, {field: name, **_given(options)})

    @reports
    @base_url_option
    def list_(base_url: str | None, **filters: str | None) -> Report:
        from litellm_systemd.commands import management

        return management.list_rows(_connect(base_url), management.RESOURCES[noun], filters)

    @reports
    @base_url_option
    def update(base_url: str | None, which: str, **options: Any) -> Report:
        from litellm_systemd.commands import management

        return management.update(_connect(base_url), management.RESOURCES[noun], _which(which), _given(options))

    @reports
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @base_url_option
    def delete_(base_url: str | None, which: str, yes: bool) -> Report:
        from litellm_systemd.commands import management

        confirm = ask_consent(yes, f"To {delete} without a question, add --yes")
        return management.delete(_connect(base_url), management.RESOURCES[noun], _which(which), confirm)

    group = click.Group(noun, help=f"Create, list, change and {delete} {plural}.")
    which = click.argument("which", metavar=f"{noun.upper()}|ALIAS" if noun != "user" else "USER|EMAIL")
    for verb, name, text, more in (
        (create, "create", _CREATE[noun], (click.argument("name", metavar=argument), *_FIELDS[noun])),
        (list_, "list", f"List {plural}, with what they spent.", _OWNERS if noun == "key" else ()),
        (
            update,
            "update",
            f"Change the limits of {article}. 'none' removes one.".replace("the keys", "a key"),
            (which, *_FIELDS[noun]),
        ),
        (delete_, delete, _DELETE[noun], (which,)),
    ):
        verb.__doc__ = text
        group.command(name)(_with(more)(verb))
    cli.add_command(group)
    return group


_CREATE = {
    "key": "Create a key and print it, this once.",
    "user": "Create a user, who can own keys.",
    "team": "Create a team, whose keys share its limits.",
}
_DELETE = {"key": "Revoke a key.", "user": "Delete a user, and their keys.", "team": "Delete a team, and its keys."}

key = _add_resource("key", "revoke")
_add_resource("user", "delete")
_add_resource("team", "delete")


@key.command("rotate")
@click.argument("which", metavar="KEY|ALIAS")
@click.option("--overlap", default="0", metavar="TIME", help="Accept the old key for this long: 10m, 1h, 7d.")
@base_url_option
@reports
def rotate(which: str, overlap: str, base_url: str | None) -> Report:
    """Replace a key by a new one with the same limits.

    The new key takes over alias, models, budget, what was spent of it, expiry, team, user, metadata and permissions.
    The old key is revoked after that.
    """
    from litellm_systemd.commands import management
    from litellm_systemd.commands.rotate_key import parse_overlap

    seconds = parse_overlap(overlap)
    return management.rotate(_connect(base_url), _which(which), seconds, datetime.now(timezone.utc))


@cli.command()
@click.option(
    "--by",
    type=click.Choice(["key", "user", "team", "model", "day"]),
    default="key",
    help="Group by this. Default: key.",
)
@click.option("--since", default="7d", metavar="7d|DATE", help="Start there, in UTC. Default: 7d.")
@click.option("--csv", "as_csv", is_flag=True, help="Print a line for each day and group, as CSV.")
@click.option("--html", type=PATH, metavar="FILE", help="Write a page with a chart too.")
@base_url_option
@json_option
def spend(by: str, since: str, as_csv: bool, html: Path | None, base_url: str | None, as_json: bool) -> int:
    """Show what keys, users, teams or models have spent.

    Days are in UTC. LiteLLM writes what a request costs within 15 seconds after it.
    """
    from litellm_systemd.commands import spend

    if as_csv and as_json:
        raise click.UsageError("--csv and --json cannot be combined")
    today = datetime.now(timezone.utc).date()
    query = spend.SpendQuery(spend.parse_since(since, today), today, by)
    report, rows = spend.spend(_connect(base_url), query, html)
    return show(report, as_json=as_json, text=spend.render_csv(rows, by) if as_csv else None)
