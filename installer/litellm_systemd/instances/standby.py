"""Restart without a pause: a second instance serves on the same socket while the service restarts.

The standby is stock systemd: the installed unit and the administrator's drop-ins, copied under another name to
/run/systemd/system, and one more drop-in. `Sockets=` gives it the descriptors of litellm.socket
(systemd.service(5)), so that both accept from one queue and no connection is refused at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.errors import InstallerError, Unavailable
from litellm_systemd.host.files import remove_path, write_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import memory_field
from litellm_systemd.host.state import FileState
from litellm_systemd.host.systemctl import Systemctl

UNIT = f"/run/systemd/system/{contract.STANDBY}"

#: Comes after the administrator's drop-ins. The standby has its own folder below /run, for its control socket, is
#: not started again if it fails, and when it goes leaves the port alone and takes its unit files along.
_OVERRIDES = f"""\
[Unit]
Description=LiteLLM Proxy standby, while litellm.service restarts

[Service]
Sockets=litellm.socket
RuntimeDirectory=
RuntimeDirectory=litellm-standby
Restart=no
ExecStop=
ExecStopPost=
ExecStopPost=-+/bin/rm -rf {UNIT} {UNIT}.d
"""

#: MiB that an instance takes if it can't be measured.
_LEAST_MEMORY = 512


def restart_without_pause(
    layout: Layout, systemctl: Systemctl, say: Callable[[str], None] = lambda _line: None
) -> None:
    """Restart the service so that somebody serves all the while; in the end it runs under its own name again.

    Where memory is short, or the service doesn't run, it is a plain restart: the socket still refuses nobody, but
    connections wait until the new process is ready.

    Raises:
        Unavailable: the new instance doesn't come up. If that was the standby, the service ran on untouched; if it
            was the service, the standby goes on serving.
    """
    standby = systemctl.unit_state(contract.STANDBY).active
    if standby == "active":
        # A restart that failed or was cut short has left it, and it serves.
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
        raise Unavailable(f"{error.message}; {contract.STANDBY} goes on serving", error.hint) from None
    # It drains by itself, for as long as its streams take.
    systemctl.stop_later(contract.STANDBY)


def remove_standby(layout: Layout) -> None:
    """Take away the standby's unit files; nothing there is fine."""
    remove_path(layout, UNIT)
    remove_path(layout, f"{UNIT}.d")


def _start_standby(layout: Layout, systemctl: Systemctl, say: Callable[[str], None], *, is_there: bool) -> None:
    if is_there:
        say(f"waiting until {contract.STANDBY} of the restart before has drained")
        systemctl.stop(contract.STANDBY)
    _write_units(layout)
    systemctl.daemon_reload()
    say(f"starting {contract.STANDBY} beside the running service")
    try:
        systemctl.start(contract.STANDBY)
    except InstallerError as error:
        raise Unavailable(f"{error.message}; {contract.SERVICE} was not touched and serves on", error.hint) from None


def _write_units(layout: Layout) -> None:
    remove_standby(layout)
    write_file(layout, FileState(UNIT, layout.real(layout.service).read_bytes()))
    for number, drop_in in enumerate(find_drop_ins(layout)):
        write_file(layout, FileState(f"{UNIT}.d/{number:02}-{drop_in.name}", drop_in.read_bytes()))
    write_file(layout, FileState(f"{UNIT}.d/zz-standby.conf", _OVERRIDES.encode()))


def find_drop_ins(layout: Layout) -> list[Path]:
    """The administrator's drop-ins, in the order of systemd: by name, and /etc before /run for the same name."""
    found: dict[str, Path] = {}
    for folder in ("/run/systemd/system", "/etc/systemd/system"):
        for path in layout.real(f"{folder}/{contract.SERVICE}.d").glob("*.conf"):
            found[path.name] = path
    return [found[name] for name in sorted(found)]


def memory_shortage(systemctl: Systemctl) -> str | None:
    """What to say if the host has no room for a second instance, None if it has."""
    available = memory_field(Path("/proc/meminfo"), "MemAvailable")
    needed = max(_LEAST_MEMORY, _used(systemctl))
    if available is None or available >= needed:
        return None
    return f"{available} MiB of memory are free and a second instance takes {needed}"


def _used(systemctl: Systemctl) -> int:
    """MiB that the processes of the service take together, shared pages counted once."""
    main = systemctl.show(contract.SERVICE, "MainPID").get("MainPID", "0")
    children = Path(f"/proc/{main}/task/{main}/children")
    pids = [main, *(children.read_text(encoding="ascii").split() if children.exists() else ())]
    return sum(memory_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss") or 0 for pid in pids)
