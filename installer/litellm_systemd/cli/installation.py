"""The verbs that change the installation: install, rehearse, uninstall, and the verbs for releases."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from litellm_systemd.cli.program import (
    ENV_FILE,
    PATH,
    ask_consent,
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
from litellm_systemd.report.report import without_passed

if TYPE_CHECKING:
    from litellm_systemd.report.report import Report

with_option = click.option(
    "--with", "wanted", multiple=True, metavar="NAME", help="Add a group, NAME==VERSION or the path of a wheel."
)
engine_option = click.option(
    "--prisma-engine", type=PATH, envvar="PRISMA_ENGINE_FILE", metavar="FILE", help="Use this query engine of Prisma."
)
bundle_option = click.option(
    "--bundle", type=PATH, metavar="FILE", help="Install from this bundle, without a network."
)


@cli.command()
@click.option(*ENV_FILE, type=PATH, metavar="FILE", default=Path(".env"), help="Write this file. Default: .env.")
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
@with_option
@click.option("--without", "dropped", multiple=True, metavar="NAME", help="Remove an addition of the release.")
@engine_option
@click.option("--no-start", is_flag=True, help="Write and enable the units only.")
@click.option("--no-verify", is_flag=True, help="Do not verify the endpoints at the end.")
@click.option("--no-spend", is_flag=True, help="Verify without calling a model, so that nothing is billed.")
@click.option("--offline", is_flag=True, help="Do not check credentials with instance metadata or STS.")
@click.option("--verify-every", metavar="TIME", help="Verify by a timer at no cost: 15min, 1h, off.")
@click.option(
    "--encrypt-secrets/--no-encrypt-secrets",
    "encrypt",
    default=None,
    help="Encrypt keys for this host (systemd 250). Default: as installed.",
)
@click.option(
    "--with-postgres/--without-postgres",
    "postgres",
    default=None,
    help="Set up a PostgreSQL of this host. Default: as installed.",
)
@click.option("--without-database", is_flag=True, hidden=True, help="Ignore the database: for rehearse.")
@click.option("--region", help="Use this AWS region if .env has none. Default: the instance's.")
@click.option("--prefix", help="Keep releases in this folder. Default: /opt/litellm-systemd.")
@click.option("-v", "--verbose", is_flag=True, help="Show each step and each check.")
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
    wanted: tuple[str, ...],
    dropped: tuple[str, ...],
    prisma_engine: Path | None,
    no_start: bool,
    no_verify: bool,
    no_spend: bool,
    offline: bool,
    verify_every: str | None,
    encrypt: bool | None,
    postgres: bool | None,
    without_database: bool,
    region: str | None,
    prefix: str | None,
    verbose: bool,
    allow_eol: bool,
    wait: bool,
    root: Path,
) -> Report:
    """Install or update the service, start it and verify it.

    The install is one transaction: if a step fails or the service does not become ready, every change is undone. A
    second run without changes writes nothing and restarts nothing.
    """
    from litellm_systemd.commands import install
    from litellm_systemd.install.render import check_interval

    say.is_verbose = verbose
    request = request_of(layout_of(root, prefix), env_file, config, installed_only=installed)
    options = install.InstallOptions(
        replace(request, region=region, allow_ended=allow_eol, without_database=without_database),
        dry_run=dry_run,
        offline=offline,
        start=not no_start,
        verify=not no_verify,
        spend=not no_spend,
        wait=wait,
        take_ours=edits == "ours",
        bundle=bundle,
        wanted=wanted,
        dropped=dropped,
        prisma_engine=prisma_engine,
        verify_every=None if verify_every is None else check_interval(verify_every),
        encrypt=encrypt,
        postgres=postgres,
    )
    if edits is None and not dry_run and sys.stdin.isatty() and sys.stderr.isatty():
        options = replace(options, ask=_ask)
    report = install.install(options, say)
    return report if verbose or dry_run or _as_json() else without_passed(report)


def _ask(question: str, difference: str) -> bool:
    say.close()
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
@with_option
@engine_option
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
    wanted: tuple[str, ...],
    prisma_engine: Path | None,
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
        wanted=wanted,
        prisma_engine=prisma_engine,
    )
    if foreground:
        request = replace(options.request, prove_access=not offline)
        return rehearse.rehearse_in_foreground(replace(options, request=request), os.environ, say)
    return rehearse.rehearse(options, say)


@cli.command()
@root_option
@reports
def diff(root: Path) -> Report:
    """Show changes made to installed files.

    Exit code 2: there are some.
    """
    from litellm_systemd.commands import status

    return status.diff(layout_of(root))


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
    from litellm_systemd.commands import install

    again = f"To uninstall without a question: sudo litellmctl uninstall{' --purge' if purge else ''} --yes"
    confirm = ask_consent(yes, again)
    return install.uninstall(layout_of(root), purge=purge, confirm=confirm, wait=wait, say=say)


def _as_json() -> bool:
    return bool(click.get_current_context().params.get("as_json"))


@cli.command()
@click.argument("file", type=PATH)
@click.option("--no-database", is_flag=True, help="Leave out the content of the database.")
@wait_option
@reports
def backup(file: Path, no_database: bool, wait: bool) -> Report:
    """Save configuration, keys and database in one file.

    The file holds all keys in the clear and is readable by root alone. The service runs on meanwhile.
    """
    from litellm_systemd.commands import backup

    return backup.backup(layout_of(), file, with_database=not no_database, wait=wait, say=say)


@cli.command()
@click.argument("file", type=PATH)
@click.option("--keep-database", is_flag=True, help="Use the database as it is, without that of the backup.")
@bundle_option
@click.option(
    "--encrypt-secrets/--no-encrypt-secrets",
    "encrypt",
    default=None,
    help="Encrypt keys for this host. Default: as in the backup.",
)
@click.option("--no-start", is_flag=True, help="Write and enable the units only.")
@click.option("--no-verify", is_flag=True, help="Do not verify the endpoints at the end.")
@click.option("--no-spend", is_flag=True, help="Verify without calling a model, so that nothing is billed.")
@click.option("--offline", is_flag=True, help="Do not check credentials with instance metadata or STS.")
@wait_option
@reports
def restore(
    file: Path,
    keep_database: bool,
    bundle: Path | None,
    encrypt: bool | None,
    no_start: bool,
    no_verify: bool,
    no_spend: bool,
    offline: bool,
    wait: bool,
) -> Report:
    """Install from a backup, on a host without an installation.

    The backup is checked before anything changes. If the install fails, every change is undone.
    """
    from litellm_systemd.commands import restore

    options = restore.RestoreOptions(
        database=not keep_database,
        bundle=bundle,
        encrypt=encrypt,
        start=not no_start,
        verify=not no_verify,
        spend=not no_spend,
        offline=offline,
        wait=wait,
    )
    return restore.restore(layout_of(), file, options, say)


@cli.command()
@click.argument("version", required=False)
@click.option("--from", "file", type=PATH, metavar="FILE", help="Use this wheel of litellm-systemd, or this bundle.")
@click.option(
    "--litellm",
    metavar="[VERSION]",
    is_flag=False,
    flag_value="newest",
    help="Change LiteLLM only. Default: the newest that can be installed.",
)
@wait_option
@reports
def upgrade(version: str | None, file: Path | None, litellm: str | None, wait: bool) -> Report:
    """Switch to another version of litellm-systemd or LiteLLM.

    Default: the newest version. The new release is built next to the current one. If it does not become ready, the
    current one stays in use.
    """
    from litellm_systemd.commands import releases

    return releases.upgrade(
        layout_of(), releases.UpgradeTarget(version, file, litellm), as_json=_as_json(), wait=wait, say=say
    )


@cli.command()
@click.argument("release", required=False)
@click.option("--restore-database", is_flag=True, help="Also restore the dump that fits it. Later data is lost.")
@reports
def rollback(release: str | None, restore_database: bool) -> Report:
    """Switch back to the previous release, or to a named one."""
    from litellm_systemd.commands import releases

    return releases.rollback(layout_of(), release, restores=restore_database, as_json=_as_json(), say=say)


@cli.group("releases")
def group() -> None:
    """Build, list, describe, verify and remove releases."""


@group.command("build")
@bundle_option
@with_option
@engine_option
@config_option
@click.option("--prefix", help="Keep releases in this folder. Default: /opt/litellm-systemd.")
@wait_option
@reports
def build(
    bundle: Path | None,
    wanted: tuple[str, ...],
    prisma_engine: Path | None,
    config: str | None,
    prefix: str | None,
    wait: bool,
) -> Report:
    """Build a release without a service: for images.

    It writes no unit, no configuration and no key. With -c the release has the groups of packages that the
    configuration needs.
    """
    from litellm_systemd.commands import releases

    layout = layout_of(prefix=prefix)
    request = request_of(layout, None, config)
    return releases.build(layout, request, bundle=bundle, wanted=wanted, engine=prisma_engine, wait=wait, say=say)


@group.command("list")
@reports
def list_() -> Report:
    """List releases, newest first."""
    from litellm_systemd.commands import releases

    return releases.list_all(layout_of())


@group.command("sbom")
@click.argument("name", required=False)
def sbom(name: str | None) -> None:
    """Print the packages of a release or a bundle (CycloneDX).

    NAME is a release or the file of a bundle. Default: the current release.
    """
    from litellm_systemd.commands import releases

    click.echo(releases.read_sbom(layout_of(), name))


@group.command("verify")
@click.argument("name", required=False)
@reports
def verify_release(name: str | None) -> Report:
    """Find missing, changed and added files of a release.

    Default: the current release. Exit code 65: it is damaged.
    """
    from litellm_systemd.commands import releases

    return releases.verify(layout_of(), name)


@group.command("prune")
@click.option(
    "--keep", type=click.IntRange(min=0), default=1, show_default=True, help="Keep this many unused releases."
)
@wait_option
@reports
def prune(keep: int, wait: bool) -> Report:
    """Remove old releases that are not in use."""
    from litellm_systemd.commands import releases

    return releases.prune(layout_of(), keep, wait=wait, say=say)


@cli.command()
@click.option("-o", "--output", type=PATH, metavar="FILE", help="Write this file. Default: a name with all versions.")
@click.option("--python", metavar="3.X", help="Build for this version of Python. Default: the running one.")
@click.option(
    "--platform",
    type=click.Choice(["x86_64", "aarch64"]),
    help="Build for this architecture. Default: this machine's.",
)
@click.option("--wheels", type=PATH, metavar="FOLDER", help="Keep downloaded packages in this folder.")
@with_option
@engine_option
@config_option
@reports
def bundle(
    output: Path | None,
    python: str | None,
    platform: str | None,
    wheels: Path | None,
    wanted: tuple[str, ...],
    prisma_engine: Path | None,
    config: str | None,
) -> Report:
    """Write one file for an install without a network.

    With -c it has the groups of packages that the configuration needs.
    """
    from litellm_systemd.commands import releases
    from litellm_systemd.releases.bundle import Target

    here = Target()
    target = Target(python or here.python, platform or here.machine)
    request = request_of(layout_of(), None, config)
    return releases.bundle(output, target, request, wanted=wanted, wheels=wheels, engine=prisma_engine, say=say)
