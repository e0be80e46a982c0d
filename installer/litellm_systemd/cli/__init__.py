"""litellmctl. Each module adds its verbs to the group that `program` defines."""

from litellm_systemd.cli import bedrock, installation, releases, service
from litellm_systemd.cli.program import cli, main, run_command

__all__ = ["bedrock", "cli", "installation", "main", "releases", "run_command", "service"]
