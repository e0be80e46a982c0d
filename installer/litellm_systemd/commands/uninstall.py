"""uninstall: remove what install wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from litellm_systemd.host.layout import UNITS, Layout
from litellm_systemd.host.observe import observe_host, require_booted
from litellm_systemd.host.state import Plan, Verb
from litellm_systemd.install.apply import apply_uninstall, changing
from litellm_systemd.install.plan import plan_uninstall
from litellm_systemd.report.report import Report


def uninstall(
    layout: Layout,
    *,
    purge: bool = False,
    confirm: Callable[[str], bool] = lambda _question: True,
    wait: bool = False,
    say: Callable[[str], None] = lambda _line: None,
) -> Report:
    """Stop and remove the service.

    Args:
        layout: the paths of the host.
        purge: also remove configurations, keys, the data of the service and its user.
        confirm: called once with a question; without consent nothing is changed.
        wait: wait for another run to end.
        say: called with a line about each step.

    Raises:
        InstallerError: a step failed; the next run continues from there.
    """
    with changing(layout, "uninstall", say, wait=wait) as executor:
        require_booted(layout)
        host = observe_host(layout, executor.systemctl)
        plan = plan_uninstall(layout, host, purge=purge)
        if not plan:
            return Report("nothing to do: nothing is installed", data={"changed": False})
        if not confirm(_question(purge=purge)):
            return Report("nothing was changed", data={"changed": False})
        apply_uninstall(executor, plan, host, purge=purge)
    actions = [str(action) for action in plan.actions]
    return Report(
        "uninstalled", notes=tuple(_notes(layout, plan, purge=purge)), data={"changed": True, "actions": actions}
    )


def _notes(layout: Layout, plan: Plan, *, purge: bool) -> Iterator[str]:
    if not purge:
        yield f"Kept: {layout.etc} with the keys and configurations, and {layout.state}."
    for action in plan.actions:
        if action.verb is Verb.SAVE_EDITED:
            yield f"{action.target} was edited here: a copy is in {layout.edited}."
    for name in UNITS:
        drop_ins = f"{layout.units}/{name}.d"
        if layout.real(drop_ins).is_dir():
            yield f"Kept: {drop_ins} with your drop-ins."


def _question(*, purge: bool) -> str:
    if purge:
        return "Remove the service, its configurations, its keys and its data?"
    return "Remove the service? Its configurations and keys are kept."
