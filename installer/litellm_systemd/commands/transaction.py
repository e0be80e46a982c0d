"""The frame of every verb that changes the host: the lock, recovery of an interrupted run, and a proof."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from litellm_systemd.client.gateway import Gateway
from litellm_systemd.commands.service_config import ServiceConfig
from litellm_systemd.errors import Unavailable
from litellm_systemd.host.install_lock import hold_lock
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import require_root
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.install.apply import recover
from litellm_systemd.install.steps import Executor
from litellm_systemd.report.report import Outcome, Report
from litellm_systemd.verify.run import Scope, verify

Say = Callable[[str], None]


@contextmanager
def changing(layout: Layout, verb: str, say: Say, *, wait: bool = False) -> Iterator[Executor]:
    """Hold the lock while the block changes the host, after completing or undoing an interrupted run.

    Args:
        layout: the paths of the host.
        verb: the verb of the command line.
        say: called with a line about each step.
        wait: wait for another run to end.

    Raises:
        PermissionDenied: the user is not root.
        Busy: another run is changing the host, and `wait` is not set.
        InstallerError: the interrupted run can be neither completed nor undone.
    """
    require_root(f"litellmctl {verb}")
    with hold_lock(layout, verb, wait=wait, say=say):
        executor = Executor(layout, Systemctl(layout), say=say)
        recover(executor)
        yield executor


def prove_service(service: ServiceConfig) -> Report:
    """Verify quickly that the service serves after a change. No model is called: AWS is no reason to undo it.

    Raises:
        Unavailable: a check failed.
    """
    settings = service.settings
    gateway = Gateway(settings.base_url, api_key=settings.master_key)
    proof = verify(gateway, Scope(service.gateway.names, spend=False))
    failed = next((check for check in proof.checks if check.outcome is Outcome.FAILED), None)
    if failed is not None:
        raise Unavailable(
            f"the new service started, but fails the check “{failed.name}”: {failed.detail}", failed.hint
        )
    return proof
