"""The verbs that change the installation, and those about configurations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from litellm_systemd.cli.program import cli, config_option, layout_of, reports, request_of, root_option, say

if TYPE_CHECKING:
    from litellm_systemd.report import Report


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

    request = request_of(layout_of(root, prefix), env_file, config)
    options = commands.InstallOptions(request, dry_run=dry_run, start=not no_start, verify=not no_verify)
    return commands.install(options, say)


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

    return commands.uninstall(layout_of(root), purge=purge, confirm=confirm, say=say)


@cli.group()
def config() -> None:
    """List, show and switch configurations."""


@config.command("list")
@reports
def config_list() -> Report:
    """List the configurations that -c takes by name."""
    from litellm_systemd import commands

    return commands.list_configs(layout_of())


@config.command("show")
@click.argument("name", required=False)
@reports
def config_show(name: str | None) -> Report:
    """Show what a configuration serves, and what is wrong with it. Default: the active one."""
    from litellm_systemd import commands

    return commands.show_config(request_of(layout_of(), None, name))


@config.command("use")
@click.argument("name")
@reports
def config_use(name: str) -> Report:
    """Make a configuration the active one; a running service takes it up by a reload."""
    from litellm_systemd import commands

    return commands.use_config(request_of(layout_of(), None, name, installed_only=True), say)
