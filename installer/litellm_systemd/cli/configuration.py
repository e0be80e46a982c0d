"""The verbs for configurations: check, switch, list models, print the IAM policy that they need, set clients up."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import date, datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import click

from litellm_systemd.cli.program import (
    ENV_FILE,
    PATH,
    cli,
    config_option,
    env_file_option,
    eol_option,
    json_option,
    layout_of,
    reports,
    request_of,
    say,
    show,
    wait_option,
)
from litellm_systemd.errors import UsageError

if TYPE_CHECKING:
    from litellm_systemd.report.report import Report


@cli.group()
def config() -> None:
    """List, show, check and switch configurations."""


@config.command("list")
@reports
def config_list() -> Report:
    """List the configurations that -c takes by name."""
    from litellm_systemd.commands import configs

    return configs.list_configs(layout_of())


@config.command("show")
@click.argument("file", required=False)
@env_file_option
@config_option
@reports
def config_show(file: str | None, env_file: Path | None, config: str | None) -> Report:
    """Show the models of a configuration and its problems.

    FILE is a path or a name from 'litellmctl config list', as with -c.
    """
    from litellm_systemd.commands import configs

    return configs.show_config(request_of(layout_of(), env_file, _one_of(file, config)))


def _one_of(file: str | None, config: str | None) -> str | None:
    if file is not None and config is not None:
        raise click.UsageError("FILE and -c cannot be combined")
    return file if config is None else config


@config.command("check")
@click.argument("file", required=False)
@env_file_option
@config_option
@click.option("--strict", is_flag=True, help="Exit with 1 if there is a warning and no error.")
@click.option(
    "--format", "form", type=click.Choice(["github", "sarif"]), help="Annotate in GitHub Actions, or print SARIF."
)
@json_option
def config_check(
    file: str | None, env_file: Path | None, config: str | None, strict: bool, form: str | None, as_json: bool
) -> int:
    """Check a configuration and print each problem with its line.

    FILE is a path or a name from 'litellmctl config list', as with -c. Exit code 78: the configuration cannot work.
    docs/linter.md explains each code.
    """
    from litellm_systemd.commands import config_check

    if form is not None and as_json:
        raise click.UsageError("--format and --json cannot be combined")
    request = request_of(layout_of(), env_file, _one_of(file, config))
    report = config_check.check_config(request, strict=strict)
    # GitHub knows a file by its path in the repository.
    root = Path(os.environ.get("GITHUB_WORKSPACE") or Path.cwd())
    return show(report, as_json=as_json, text=None if form is None else config_check.render(report, form, root))


@config.command("use")
@click.argument("file", required=False)
@config_option
@eol_option
@wait_option
@reports
def config_use(file: str | None, config: str | None, allow_eol: bool, wait: bool) -> Report:
    """Activate a configuration and reload the running service.

    FILE is a path or a name from 'litellmctl config list', as with -c.
    """
    from litellm_systemd.commands import configs

    name = _one_of(file, config)
    if name is None:
        raise click.MissingParameter(param_hint="'FILE'", param_type="argument")

    request = replace(request_of(layout_of(), None, name, installed_only=True), allow_ended=allow_eol)
    return configs.use_config(request, say, wait=wait)


_offline_option = click.option("--offline", is_flag=True, help="Use what this release knows, without the network.")


@cli.command()
@env_file_option
@config_option
@_offline_option
@reports
def models(env_file: Path | None, config: str | None, offline: bool) -> Report:
    """List models with ids, limits and end of life."""
    from litellm_systemd.commands import bedrock

    return bedrock.models(request_of(layout_of(), env_file, config), date.today(), offline=offline)


@cli.command("iam-policy")
@env_file_option
@config_option
@_offline_option
@click.option("--region", help="Use this AWS region if nothing else names one.")
@click.option("--account", metavar="NUMBER", help="Write ARNs for this AWS account only.")
@click.option(
    "--with",
    "more",
    type=click.Choice(["cloudwatch", "rds", "elasticache"]),
    multiple=True,
    help="Add what its agent, or a login by IAM, needs.",
)
@click.option("--json", "form", flag_value="json", default=True, help="Print the policy document (default).")
@click.option("--terraform", "form", flag_value="terraform", help="Print a Terraform resource.")
@click.option("--cloudformation", "form", flag_value="cloudformation", help="Print a CloudFormation template.")
def iam_policy(
    env_file: Path | None,
    config: str | None,
    offline: bool,
    region: str | None,
    account: str | None,
    more: tuple[str, ...],
    form: str,
) -> None:
    """Print the IAM policy that a configuration needs.

    \b
    aws iam put-role-policy --role-name ROLE --policy-name litellm \\
      --policy-document "$(litellmctl iam-policy)"
    """  # noqa: D301 - click's mark for lines that it does not wrap
    from litellm_systemd.commands import bedrock

    request = replace(request_of(layout_of(), env_file, config), region=region)
    added = {each: each in more for each in ("cloudwatch", "rds", "elasticache")}
    report = bedrock.iam_policy(request, form, offline=offline, account=account, **added)
    for note in report.notes:
        say(note)
    if report.data["text"]:
        click.echo(report.data["text"])


@cli.command()
@click.argument("name", required=False)
@click.option(*ENV_FILE, type=PATH, metavar="FILE", help="The environment. Default: as installed, else .env here.")
@config_option
@click.option("--show-key", is_flag=True, help="Print the key of the gateway in place of sk-….")
@click.option("--write", is_flag=True, help="Write the settings, with the key, to your files.")
@reports
def client(name: str | None, env_file: Path | None, config: str | None, show_key: bool, write: bool) -> Report:
    """Print the settings of a client, or list the clients."""
    from litellm_systemd.commands import client

    if name is None:
        if show_key or write:
            raise UsageError("no client is named", "The clients: litellmctl client")
        return client.list_clients()
    return client.client(
        request_of(layout_of(), env_file, config),
        name,
        environ=os.environ,
        now=datetime.now(timezone.utc),
        show_key=show_key,
        write=write,
    )
