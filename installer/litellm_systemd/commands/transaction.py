"""What every verb that changes something begins with: the lock, and the end of what was cut short."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from litellm_systemd.client.gateway import Gateway
from litellm_systemd.commands.service_config import ServiceConfig
from litellm_systemd.errors import PermissionDenied, Unavailable
from litellm_systemd.host.install_lock import hold_lock
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.install.apply import recover
from litellm_systemd.install.steps import Executor
from litellm_systemd.report.report import Outcome, Report
from litellm_systemd.verify.run import Scope, verify

Say = Callable[[str], None]


def require_root(what: str) -> None:
    """Refuse a user who can't write system files.

    Raises:
        PermissionDenied: the effective user isn't root.
    """
    if os.geteuid() != 0:
        raise PermissionDenied(f"{what} needs root", f"Run: sudo {' '.join([sys.argv[0], *sys.argv[1:]])}")


@contextmanager
def changing(layout: Layout, verb: str, say: Say, *, wait: bool = False) -> Iterator[Executor]:
    """Hold the lock while the block changes the host, after finishing or undoing what an earlier run left half done.

    Args:
        layout: where.
        verb: what is about to be done, in the words of the command line.
        say: told what is going on, a line each.
        wait: wait for as long as another run is at work.

    Raises:
        PermissionDenied: this isn't root.
        Busy: another run is at work, and `wait` isn't set.
        InstallerError: what was left half done can't be put right.
    """
    require_root(f"litellmctl {verb}")
    with hold_lock(layout, verb, wait=wait, say=say):
        executor = Executor(layout, Systemctl(layout), say=say)
        recover(executor)
        yield executor


def prove_service(service: ServiceConfig) -> Report:
    """A quick proof that what came of a change serves. Models are left alone: what AWS says isn't ours to roll back.

    Raises:
        Unavailable: it doesn't.
    """
    settings = service.settings
    gateway = Gateway(settings.base_url, api_key=settings.master_key)
    proof = verify(gateway, Scope(service.gateway.names, spend=False))
    failed = next((check for check in proof.checks if check.outcome is Outcome.FAILED), None)
    if failed is not None:
        raise Unavailable(
            f"the new service came up, but fails the check “{failed.name}”: {failed.detail}", failed.hint
        )
    return proof
