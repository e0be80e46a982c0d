"""litellmctl. Each module adds its verbs to the group that `program` defines."""

from litellm_systemd.cli import configuration, installation, management, service, top
from litellm_systemd.cli.program import cli, main, run_command

__all__ = ["cli", "configuration", "installation", "main", "management", "run_command", "service", "top"]
