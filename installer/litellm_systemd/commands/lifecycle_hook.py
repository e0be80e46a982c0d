"""Drain the service when an Auto Scaling group terminates this instance.

The group first removes the instance from its target group and waits for the deregistration delay there; then the hook
waits for the instance. AWS does not say at which of the two the metadata change, so the drain starts with the change,
and the hook is completed when it waits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from litellm_systemd import contract
from litellm_systemd.aws.lifecycle import complete_hook, parse_hook, read_target
from litellm_systemd.host.effective import observe_environment
from litellm_systemd.host.encrypted_secrets import Undecryptable
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import require_root, require_systemd
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.install.apply import Say
from litellm_systemd.report.report import Report

#: Seconds between two queries.
_INTERVAL = 5


def drain_for_hook(layout: Layout, text: str, say: Say = lambda _line: None) -> Report:
    """Wait until the group terminates this instance, stop the service and a standby, and complete the hook.

    `text`: the hook, as GROUP:HOOK.

    Raises:
        InstallerError: the metadata or AWS can't be queried, or the service does not stop.
    """
    require_root("litellmctl lifecycle-hook")
    hook = parse_hook(text)
    systemctl = Systemctl(layout)
    require_systemd(systemctl)
    environ = observe_variables(layout)
    target = read_target(environ)
    say(f"{target.instance} waits for its termination by {hook.group}")
    while not target.is_end:
        time.sleep(_INTERVAL)
        target = read_target(environ)
    say(f"{hook.group} terminates {target.instance}: draining")
    _stop_all(systemctl)
    say(f"drained: completing the lifecycle hook {hook.name}")
    while not complete_hook(hook, target, environ):
        time.sleep(_INTERVAL)
        _stop_all(systemctl)  # a restart or an install that ran meanwhile may have started one of them
    return Report(f"{target.instance} is drained, and the lifecycle hook {hook.name} of {hook.group} is completed")


def _stop_all(systemctl: Systemctl) -> None:
    # The standby of a restart serves on the same socket, also after the service has failed.
    for unit in (contract.SOCKET, contract.SERVICE, contract.STANDBY):
        systemctl.stop(unit)


def observe_variables(layout: Layout) -> Mapping[str, str]:
    """The endpoints, proxy and CA of the service, as far as the sandbox of the unit lets it decrypt them."""
    try:
        return observe_environment(layout).dotenv.values
    except Undecryptable:
        return observe_environment(layout, with_secrets=False).dotenv.values
