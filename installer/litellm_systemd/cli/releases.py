"""The verbs for releases: upgrade, rollback, list, prune, bundle."""

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
    "--from",
    "file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Use this wheel of litellm-systemd, or this bundle.",
)
@click.option("--litellm", metavar="VERSION", help="Change the version of LiteLLM only.")
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
@reports
def rollback(release: str | None) -> Report:
    """Switch back to the previous release, or to a named one."""
    from litellm_systemd.commands import releases

    return releases.rollback(layout_of(), release, as_json=_as_json(), say=say)


@cli.group("releases")
def group() -> None:
    """List and remove releases."""


@group.command("list")
@reports
def list_() -> Report:
    """List releases, newest first."""
    from litellm_systemd.commands import releases

    return releases.list_all(layout_of())


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
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write this file. Default: a name with all versions.",
)
@click.option("--python", metavar="3.X", help="Build for this version of Python. Default: the running one.")
@click.option(
    "--platform",
    type=click.Choice(["x86_64", "aarch64"]),
    help="Build for this architecture. Default: this machine's.",
)
@click.option(
    "--wheels", type=click.Path(path_type=Path), metavar="FOLDER", help="Keep downloaded packages in this folder."
)
@reports
def bundle(output: Path | None, python: str | None, platform: str | None, wheels: Path | None) -> Report:
    """Write one file for an install without a network."""
    from litellm_systemd.commands import releases
    from litellm_systemd.releases.bundle import Target

    here = Target()
    target = Target(python or here.python, platform or here.machine)
    return releases.bundle(output, target, wheels=wheels, say=say)
