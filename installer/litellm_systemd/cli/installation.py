"""The verbs that change the installation or its configuration."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from litellm_systemd.cli.program import (
    ENV_FILE,
    cli,
    config_option,
    env_file_option,
    eol_option,
    layout_of,
    reports,
    request_of,
    root_option,
    say,
    show_diff,
    wait_option,
)

if TYPE_CHECKING:
    from litellm_systemd.report.report import Report

bundle_option = click.option(
    "--bundle", type=click.Path(path_type=Path), metavar="FILE", help="Install from this bundle, without a network."
)


@cli.command()
@click.option(
    *ENV_FILE,
    type=click.Path(path_type=Path),
    metavar="FILE",
    default=Path(".env"),
    help="Write this file. Default: .env.",
)
@click.option("--from-profile", "profile", metavar="NAME", help="Use the keys of this profile in ~/.aws.")
@click.option("--region", help="The AWS region, such as us-east-1.")
@click.option("--offline", is_flag=True, help="Do not check the keys with AWS.")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@reports
def init(env_file: Path, profile: str | None, region: str | None, offline: bool, force: bool) -> Report:
    """Write a .env file in which every variable is explained."""
    from litellm_systemd.commands import init

    return init.init(env_file, environ=os.environ, profile=profile, region=region, offline=offline, force=force)


@cli.command()
@env_file_option
@click.option("--installed", is_flag=True, help="Use the installed environment and ignore .env.")
@config_option
@click.option("--dry-run", is_flag=True, help="Show the steps and differences only. Exit code 2: there are some.")
@click.option(
    "--take-ours", "edits", flag_value="ours", help="Replace files that you edited; edits go to /etc/litellm/edited."
)
@click.option("--keep-mine", "edits", flag_value="mine", help="Keep files that you edited, without a question.")
@bundle_option
@click.option("--no-start", is_flag=True, help="Write and enable the units only.")
@click.option("--no-verify", is_flag=True, help="Do not verify the endpoints at the end.")
@click.option("--no-spend", is_flag=True, help="Verify without calling a model, so that nothing is billed.")
@click.option("--offline", is_flag=True, help="Do not check credentials with instance metadata or STS.")
@click.option("--verify-every", metavar="TIME", help="Verify by a timer at no cost: 15min, 1h, off.")
@click.option("--region", help="Use this AWS region if .env has none. Default: the instance's.")
@click.option("--prefix", help="Keep releases in this folder. Default: /opt/litellm-systemd.")
@eol_option
@wait_option
@root_option
@reports
def install(
    env_file: Path | None,
    installed: bool,
    config: str | None,
    dry_run: bool,
    edits: str | None,
    bundle: Path | None,
    no_start: bool,
    no_verify: bool,
    no_spend: bool,
    offline: bool,
    verify_every: str | None,
    region: str | None,
    prefix: str | None,
    allow_eol: bool,
    wait: bool,
    root: Path,
) -> Report:
    """Install or update the service, start it and verify it.

    The install is one transaction: if a step fails or the service does not become ready, every change is undone. A
    second run without changes writes nothing and restarts nothing.
    """
    from litellm_systemd.commands import install, install_plan
    from litellm_systemd.install.verify_timer import check_interval

    request = request_of(layout_of(root, prefix), env_file, config, installed_only=installed)
    options = install_plan.InstallOptions(
        replace(request, region=region, allow_ended=allow_eol),
        dry_run=dry_run,
        offline=offline,
        start=not no_start,
        verify=not no_verify,
        spend=not no_spend,
        wait=wait,
        take_ours=edits == "ours",
        bundle=bundle,
        verify_every=None if verify_every is None else check_interval(verify_every),
    )
    if edits is None and not dry_run and sys.stdin.isatty() and sys.stderr.isatty():
        options = replace(options, ask=_ask)
    return install.install(options, say)


def _ask(question: str, difference: str) -> bool:
    show_diff(difference, err=True)
    return click.confirm(question, err=True)


@cli.command()
@env_file_option
@click.option("--installed", is_flag=True, help="Use the installed environment and ignore .env.")
@config_option
@click.option(
    "--take-ours", "edits", flag_value="ours", help="Replace files that you edited; edits go to /etc/litellm/edited."
)
@click.option("--keep-mine", "edits", flag_value="mine", help="Keep files that you edited (default).")
@bundle_option
@click.option("--foreground", is_flag=True, help="Run the service here, without a clone, systemd or root.")
@click.option("--no-verify", is_flag=True, help="Do not verify the endpoints at the end.")
@click.option("--no-spend", is_flag=True, help="Verify without calling a model, so that nothing is billed.")
@click.option("--offline", is_flag=True, help="Do not check credentials with instance metadata or STS.")
@click.option("--prefix", help="Keep releases in this folder. Default: /opt/litellm-systemd.")
@eol_option
@wait_option
@reports
def rehearse(
    env_file: Path | None,
    installed: bool,
    config: str | None,
    edits: str | None,
    bundle: Path | None,
    no_verify: bool,
    no_spend: bool,
    offline: bool,
    foreground: bool,
    prefix: str | None,
    allow_eol: bool,
    wait: bool,
) -> Report:
    """Try an install in a temporary clone of this host.

    The clone is a systemd container on a copy-on-write view of the host, with its own network. Nothing on the host
    changes. The exit code is that of the install.

    With --foreground, for a container without namespaces or a user without root, the release and the units are
    written below the XDG folders. The service runs in the foreground, is verified and is stopped.
    """
    from litellm_systemd.commands import rehearse

    if foreground and (installed or edits or prefix):
        raise click.UsageError("--foreground takes no --installed, --take-ours, --keep-mine or --prefix")
    request = request_of(layout_of(prefix=prefix), env_file, config, installed_only=installed)
    options = rehearse.RehearseOptions(
        replace(request, allow_ended=allow_eol, ask_instance=not offline),
        verify=not no_verify,
        spend=not no_spend,
        wait=wait,
        take_ours=edits == "ours",
        bundle=bundle,
    )
    if foreground:
        from litellm_systemd.commands.foreground import rehearse_in_foreground

        request = replace(options.request, prove_access=not offline)
        return rehearse_in_foreground(replace(options, request=request), os.environ, say)
    return rehearse.rehearse(options, say)


@cli.command()
@root_option
@reports
def diff(root: Path) -> Report:
    """Show changes made to installed files.

    Exit code 2: there are some.
    """
    from litellm_systemd.commands import diff

    return diff.diff(layout_of(root))


@cli.command()
@click.option("--purge", is_flag=True, help="Remove configurations, keys, data and the user too.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@wait_option
@root_option
@reports
def uninstall(purge: bool, yes: bool, wait: bool, root: Path) -> Report:
    """Stop and remove the service.

    Configurations and keys are kept without --purge.
    """
    from litellm_systemd.commands import uninstall

    def confirm(question: str) -> bool:
        return yes or click.confirm(question, err=True)

    return uninstall.uninstall(layout_of(root), purge=purge, confirm=confirm, wait=wait, say=say)


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
@reports
def config_check(file: str | None, env_file: Path | None, config: str | None) -> Report:
    """Check a configuration and print each problem with its line.

    FILE is a path or a name from 'litellmctl config list', as with -c. Exit code 78: the configuration cannot work.
    docs/linter.md explains each code.
    """
    from litellm_systemd.commands import config_check

    return config_check.check_config(request_of(layout_of(), env_file, _one_of(file, config)))


@config.command("use")
@click.argument("name")
@eol_option
@wait_option
@reports
def config_use(name: str, allow_eol: bool, wait: bool) -> Report:
    """Activate a configuration and reload the running service."""
    from litellm_systemd.commands import configs

    request = replace(request_of(layout_of(), None, name, installed_only=True), allow_ended=allow_eol)
    return configs.use_config(request, say, wait=wait)
