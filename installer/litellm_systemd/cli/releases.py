"""The verbs about releases: upgrade, rollback, list, prune, bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from litellm_systemd.cli.program import cli, layout_of, reports, say, wait_option

if TYPE_CHECKING:
    from litellm_systemd.report.report import Report


def _as_json() -> bool:
    return bool(click.get_current_context().params.get("as_json"))


@cli.command()
@click.argument("version", required=False)
@click.option(
    "--from", "file", type=click.Path(path_type=Path), metavar="FILE", help="A wheel of litellm-systemd, or a bundle."
)
@click.option("--litellm", metavar="VERSION", help="Another LiteLLM, and nothing else.")
@wait_option
@reports
def upgrade(version: str | None, file: Path | None, litellm: str | None, wait: bool) -> Report:
    """Switch to another version of litellm-systemd (default: the newest) or of LiteLLM.

    It is built beside the present one. If it doesn't come up, everything goes back.
    """
    from litellm_systemd.commands import releases

    return releases.upgrade(
        layout_of(), releases.UpgradeTarget(version, file, litellm), as_json=_as_json(), wait=wait, say=say
    )


@cli.command()
@click.argument("release", required=False)
@reports
def rollback(release: str | None) -> Report:
    """Go back to the release before the present one, or to the named one."""
    from litellm_systemd.commands import releases

    return releases.rollback(layout_of(), release, as_json=_as_json(), say=say)


@cli.group("releases")
def group() -> None:
    """List and remove releases."""


@group.command("list")
@reports
def list_() -> Report:
    """List the releases, the newest first."""
    from litellm_systemd.commands import releases

    return releases.list_all(layout_of())


@group.command("prune")
@click.option(
    "--keep", type=click.IntRange(min=0), default=1, show_default=True, help="How many besides those in use."
)
@wait_option
@reports
def prune(keep: int, wait: bool) -> Report:
    """Remove old releases: never the current one, nor one that a process runs from."""
    from litellm_systemd.commands import releases

    return releases.prune(layout_of(), keep, wait=wait, say=say)


@cli.command()
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Default: a name that tells all."
)
@click.option("--python", metavar="3.X", help="For that Python. Default: this one.")
@click.option("--platform", type=click.Choice(["x86_64", "aarch64"]), help="For that machine. Default: this one.")
@click.option("--wheels", type=click.Path(path_type=Path), metavar="FOLDER", help="Keep what is fetched there.")
@reports
def bundle(output: Path | None, python: str | None, platform: str | None, wheels: Path | None) -> Report:
    """Make one file to install from on a host without a network."""
    from litellm_systemd.commands import releases
    from litellm_systemd.releases.bundle import Target

    here = Target()
    target = Target(python or here.python, platform or here.machine)
    return releases.bundle(output, target, wheels=wheels, say=say)
