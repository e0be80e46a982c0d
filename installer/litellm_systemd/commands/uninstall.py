"""uninstall: take away what install wrote."""

from __future__ import annotations

from collections.abc import Callable

from litellm_systemd.apply import Executor, apply_uninstall
from litellm_systemd.commands.install import require_root
from litellm_systemd.host import observe_host
from litellm_systemd.layout import Layout
from litellm_systemd.plan import plan_uninstall
from litellm_systemd.report import Report
from litellm_systemd.systemctl import Systemctl


def uninstall(
    layout: Layout,
    *,
    purge: bool = False,
    confirm: Callable[[str], bool] = lambda _question: True,
    say: Callable[[str], None] = lambda _line: None,
) -> Report:
    """Stop and remove the service.

    Args:
        layout: where it is installed.
        purge: also remove configurations, keys, the service's data and its user.
        confirm: asked once, with what is about to go; a no ends it with nothing changed.
        say: told what is going on, a line each.

    Raises:
        InstallerError: a step failed; the next run goes on from there.
    """
    require_root("litellmctl uninstall")
    systemctl = Systemctl(layout)
    host = observe_host(layout, systemctl)
    plan = plan_uninstall(layout, host, purge=purge)
    if not plan:
        return Report("nothing to do: nothing is installed", data={"changed": False})
    if not confirm(_question(purge=purge)):
        return Report("nothing was changed", data={"changed": False})
    apply_uninstall(Executor(layout, systemctl, say=say), plan)
    notes = () if purge else (f"Kept: {layout.etc} with the keys and configurations, and {layout.state}.",)
    return Report(
        "uninstalled", notes=notes, data={"changed": True, "actions": [str(action) for action in plan.actions]}
    )


def _question(*, purge: bool) -> str:
    if purge:
        return "Remove the service, its configurations, its keys and its data?"
    return "Remove the service? Its configurations and keys stay."
