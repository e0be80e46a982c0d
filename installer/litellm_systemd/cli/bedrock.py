"""The verbs for models on Bedrock and their permissions."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import click

from litellm_systemd.cli.program import cli, config_option, env_file_option, layout_of, reports, request_of, say

if TYPE_CHECKING:
    from litellm_systemd.report.report import Report

_offline_option = click.option("--offline", is_flag=True, help="Use what this release knows, without the network.")


@cli.command()
@env_file_option
@config_option
@_offline_option
@reports
def models(env_file: Path | None, config: str | None, offline: bool) -> Report:
    """List models with ids, limits and end of life."""
    from litellm_systemd.commands import models

    return models.models(request_of(layout_of(), env_file, config), date.today(), offline=offline)


@cli.command("iam-policy")
@env_file_option
@config_option
@_offline_option
@click.option("--region", help="Use this AWS region if nothing else names one.")
@click.option("--account", metavar="NUMBER", help="Write ARNs for this AWS account only.")
@click.option("--json", "form", flag_value="json", default=True, help="Print the policy document (default).")
@click.option("--terraform", "form", flag_value="terraform", help="Print a Terraform resource.")
@click.option("--cloudformation", "form", flag_value="cloudformation", help="Print a CloudFormation template.")
def iam_policy(
    env_file: Path | None, config: str | None, offline: bool, region: str | None, account: str | None, form: str
) -> None:
    """Print the IAM policy that a configuration needs.

    \b
    aws iam put-role-policy --role-name ROLE --policy-name litellm \\
      --policy-document "$(litellmctl iam-policy)"
    """  # noqa: D301 - click's mark for lines that it does not wrap
    from litellm_systemd.commands import iam_policy

    request = replace(request_of(layout_of(), env_file, config), region=region)
    report = iam_policy.iam_policy(request, form, offline=offline, account=account)
    for note in report.notes:
        say(note)
    click.echo(report.data["text"])
