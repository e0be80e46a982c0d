"""Restart without downtime: a standby serves on the same socket while the service restarts.

`Sockets=` gives the standby the descriptors of litellm.socket (systemd.service(5)): both accept from one queue, and
no connection is refused at any time.
"""

from __future__ import annotations

from collections.abc import Callable

from litellm_systemd import contract
from litellm_systemd.errors import InstallerError, Unavailable
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.instances.temporary_unit import memory_shortage, remove_temporary_unit, write_temporary_unit

_NAME = contract.STANDBY.removesuffix(".service")
_DESCRIPTION = "LiteLLM Proxy standby, while litellm.service restarts"
_SETTINGS = f"Sockets={contract.SOCKET}\n"


def restart_without_pause(
    layout: Layout, systemctl: Systemctl, say: Callable[[str], None] = lambda _line: None
) -> None:
    """Restart the service while a standby serves; in the end the service serves again.

    Without enough memory, or if the service is not running, it is a plain restart: the socket refuses no connection,
    but connections wait until the new process is ready.

    Raises:
        Unavailable: the new instance does not become ready. If it was the standby, the service continues to serve
            unchanged; if it was the service, the standby continues to serve.
    """
    standby = systemctl.unit_state(contract.STANDBY).active
    if standby == "active":
        # A restart that failed or was interrupted left it, and it serves.
        say(f"{contract.STANDBY} serves already")
    elif not systemctl.unit_state(contract.SERVICE).is_active:
        systemctl.restart(contract.SERVICE)
        return
    elif (short := memory_shortage(systemctl)) is not None:
        say(f"{short}: a plain restart, during which connections wait")
        systemctl.restart(contract.SERVICE)
        return
    else:
        _start_standby(layout, systemctl, say, is_there=standby not in ("inactive", "failed"))
    say(f"restarting {contract.SERVICE} while {contract.STANDBY} serves")
    try:
        systemctl.restart(contract.SERVICE)
    except InstallerError as error:
        raise Unavailable(f"{error.message}; {contract.STANDBY} continues to serve", error.hint) from None
    # It drains in the background until its streams have ended.
    systemctl.stop_later(contract.STANDBY)


def remove_standby(layout: Layout) -> None:
    """Remove the unit files of the standby, if there are any."""
    remove_temporary_unit(layout, _NAME)


def _start_standby(layout: Layout, systemctl: Systemctl, say: Callable[[str], None], *, is_there: bool) -> None:
    if is_there:
        say(f"waiting until {contract.STANDBY} of the previous restart has drained")
        systemctl.stop(contract.STANDBY)
    write_temporary_unit(layout, _NAME, _DESCRIPTION, _SETTINGS)
    systemctl.daemon_reload()
    say(f"starting {contract.STANDBY} next to the running service")
    try:
        systemctl.start(contract.STANDBY)
    except InstallerError as error:
        raise Unavailable(
            f"{error.message}; {contract.SERVICE} was not changed and continues to serve", error.hint
        ) from None
