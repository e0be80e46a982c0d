"""One function for each verb of litellmctl. Each returns a `Report`; none prints."""

from litellm_systemd.commands.configs import list_configs, show_config, use_config
from litellm_systemd.commands.diff import diff
from litellm_systemd.commands.draft import InstallOptions
from litellm_systemd.commands.init import init
from litellm_systemd.commands.install import install
from litellm_systemd.commands.rehearse import RehearseOptions, rehearse
from litellm_systemd.commands.service import act, logs, run_foreground, verify_service
from litellm_systemd.commands.status import status
from litellm_systemd.commands.uninstall import uninstall

__all__ = [
    "InstallOptions",
    "RehearseOptions",
    "act",
    "diff",
    "init",
    "install",
    "list_configs",
    "logs",
    "rehearse",
    "run_foreground",
    "show_config",
    "status",
    "uninstall",
    "use_config",
    "verify_service",
]
