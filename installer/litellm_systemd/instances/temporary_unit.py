"""A temporary unit: a copy of litellm.service below /run, with the administrator's drop-ins and one of ours.

A temporary instance therefore has the release, user and sandbox of the service.

The standby of a restart is one: it serves on the same socket while the service restarts. `Sockets=` gives it the
descriptors of litellm.socket (systemd.service(5)): both accept from one queue, and no connection is refused at any
time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.env.variables import METRICS, find_deregistration_delay
from litellm_systemd.errors import InstallerError, InvalidAnswer, Unavailable
from litellm_systemd.host.effective import find_drop_ins, observe_environment
from litellm_systemd.host.files import remove_path, write_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.observe import ask_service, memory_field
from litellm_systemd.host.state import FileState, in_words
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.report.progress import Step

#: MiB of an instance, if they can't be measured.
_LEAST_MEMORY = 512

#: Read after the administrator's drop-ins. The instance has its own folder below /run, for its control socket; it is
#: not restarted if it fails, and when it stops, it leaves the port of the service open and removes its unit files.
_OVERRIDES = """\
[Unit]
Description={description}

[Service]
RuntimeDirectory=
RuntimeDirectory={name}
Restart=no
ExecStartPost=
ExecStop=
ExecStopPost=
ExecStopPost=-+/bin/rm -rf {unit} {folder}
{settings}"""

_STANDBY_NAME = contract.STANDBY.removesuffix(".service")
_STANDBY_DESCRIPTION = "LiteLLM Proxy standby, while litellm.service restarts"


def unit_paths(name: str) -> tuple[str, str]:
    """The unit file of a temporary instance, and the folder of its drop-ins. `name` has no suffix."""
    return f"/run/systemd/system/{name}.service", f"/run/systemd/system/{name}.service.d"


def write_temporary_unit(
    layout: Layout, name: str, description: str, settings: str, *, on_socket: bool = True
) -> None:
    """Write the unit file and the drop-ins of a temporary instance, in place of those of an earlier one.

    Args:
        layout: the paths of the host.
        name: the name of the unit, without suffix.
        description: Description= of the unit.
        settings: more lines for the section [Service].
        on_socket: whether it serves on litellm.socket. If not, it must not open the port of a stopped service, and
            so does not require the socket.
    """
    unit, folder = unit_paths(name)
    remove_temporary_unit(layout, name)
    lines = layout.real(layout.service).read_text(encoding="utf-8").splitlines(keepends=True)
    # Neither can be reset by a drop-in (systemd.unit(5), systemd.service(5)). `settings` name the sockets.
    dropped = ("Sockets=",) if on_socket else ("Sockets=", "Requires=")
    kept = "".join(line for line in lines if not line.startswith(dropped))
    write_file(layout, FileState(unit, kept.encode()))
    for number, drop_in in enumerate(_own_drop_ins(layout)):
        write_file(layout, FileState(f"{folder}/{number:02}-{drop_in.name}", drop_in.read_bytes()))
    text = _OVERRIDES.format(name=name, description=description, unit=unit, folder=folder, settings=settings)
    write_file(layout, FileState(f"{folder}/zz-{name}.conf", text.encode()))


def remove_temporary_unit(layout: Layout, name: str) -> None:
    """Remove the unit file and the drop-ins of a temporary instance, if there are any."""
    for path in unit_paths(name):
        remove_path(layout, path)


def _own_drop_ins(layout: Layout) -> list[Path]:
    """The drop-ins of the service alone, in the order of systemd: by name, the most important file of each name."""
    paths = find_drop_ins(layout, contract.SERVICE)
    found = {path.name: path for path in paths if path.parent.name == f"{contract.SERVICE}.d"}
    return [found[name] for name in sorted(found)]


def memory_shortage(systemctl: Systemctl) -> str | None:
    """A sentence if the host has too little memory for a second instance, None if it has enough."""
    available = memory_field(Path("/proc/meminfo"), "MemAvailable")
    needed = max(_LEAST_MEMORY, _used(systemctl))
    if available is None or available >= needed:
        return None
    return f"{available} MiB of memory are free and a second instance needs {needed}"


def _used(systemctl: Systemctl) -> int:
    """MiB of all processes of the service, shared pages counted once."""
    main = systemctl.show(contract.SERVICE, "MainPID").get("MainPID", "0")
    return sum(memory_field(Path(f"/proc/{pid}/smaps_rollup"), "Pss") or 0 for pid in _descendants(main))


def _descendants(pid: str) -> Iterator[str]:
    """A process, and all that it has started: workers, and the database engines of those."""
    yield pid
    children = Path(f"/proc/{pid}/task/{pid}/children")
    for child in children.read_text(encoding="ascii").split() if children.exists() else ():
        yield from _descendants(child)


def restart_without_pause(
    layout: Layout, systemctl: Systemctl, say: Callable[[str], None] = lambda _line: None
) -> None:
    """Restart the service while a standby serves; in the end the service serves again.

    Without enough memory, or if the service does not serve, it is a plain restart: the socket refuses no connection,
    but connections wait until the new process is ready, or the instance leaves its load balancer (`runtime.stop`).

    Raises:
        Unavailable: the new instance does not become ready. If it was the standby, the service continues to serve
            unchanged; if it was the service, the standby continues to serve.
    """
    standby = systemctl.unit_state(contract.STANDBY).active
    if standby == "active":
        # A restart that failed or was interrupted left it, and it serves.
        say(f"{contract.STANDBY} serves already")
    elif not (service := systemctl.unit_state(contract.SERVICE)).is_active or service.active == "activating":
        # One that starts does not serve yet. If it fails again and again, systemd's next start would end the standby.
        systemctl.restart(contract.SERVICE)
        return
    elif (short := memory_shortage(systemctl)) is not None:
        meanwhile = "the instance leaves its load balancer" if _leaves(layout) else "connections wait"
        say(f"{short}: a plain restart, during which {meanwhile}")
        systemctl.restart(contract.SERVICE)
        return
    else:
        _start_standby(layout, systemctl, say, is_there=standby not in ("inactive", "failed"))
        _require_no_stop(systemctl)
    text = f"restarting {contract.SERVICE} while {contract.STANDBY} serves"
    say(Step(text, partial(systemctl.status_text, contract.SERVICE)))
    try:
        systemctl.restart(contract.SERVICE)
    except InstallerError as error:
        raise _with_state(error, systemctl, contract.STANDBY, "continues to serve") from None
    # It drains in the background until its streams have ended. The unit of the service stops it too (ExecStartPost=),
    # for a restart that systemd completes after this process was killed.
    systemctl.stop_later(contract.STANDBY)


def _leaves(layout: Layout) -> bool:
    """Whether a plain restart leaves a load balancer. ExecStop= has the installed variables, the process its own."""
    if not find_deregistration_delay(observe_environment(layout).dotenv.values):
        return False
    with suppress(InvalidAnswer):
        return bool(ask_service().get("deregistration_delay"))
    return False


def _require_no_stop(systemctl: Systemctl) -> None:
    """Check that no other command has stopped the service, which was running: a start would undo that.

    Raises:
        Unavailable: one has, such as the lifecycle hook of an Auto Scaling group.
    """
    # A service that fails is inactive for a moment, with the job of the next start.
    if systemctl.job_state(contract.SERVICE) == ("inactive", False):
        raise Unavailable(
            f"another command has stopped {contract.SERVICE} meanwhile", "To start it, run: sudo litellmctl start"
        )


def is_left_over(systemctl: Systemctl) -> bool:
    """Whether a standby runs next to a service that serves and that systemd is not about to restart.

    While no process holds the install lock, no restart needs it: the litellmctl that started it was killed.
    """
    if systemctl.job_state(contract.STANDBY)[0] not in ("active", "activating"):
        return False
    return systemctl.job_state(contract.SERVICE) == ("active", False)


def stop_left_over(systemctl: Systemctl) -> None:
    """Stop a standby that a killed or interrupted restart left. Call it with the install lock held.

    One that serves in place of the service continues: when the service is ready again, its unit stops the standby.
    """
    if is_left_over(systemctl):
        systemctl.stop_later(contract.STANDBY)


def remove_standby(layout: Layout) -> None:
    """Remove the unit files of the standby, if there are any."""
    remove_temporary_unit(layout, _STANDBY_NAME)


def _start_standby(layout: Layout, systemctl: Systemctl, say: Callable[[str], None], *, is_there: bool) -> None:
    status = partial(systemctl.status_text, contract.STANDBY)
    if is_there:
        say(Step(f"waiting until {contract.STANDBY} of the previous restart has drained", status))
        systemctl.stop(contract.STANDBY)
    # To want a metrics socket that is not active would be to start it, which systemd refuses next to the service.
    has_metrics = systemctl.unit_state(contract.METRICS_SOCKET).active == "active"
    metrics = f"Sockets={contract.METRICS_SOCKET}" if has_metrics else f"UnsetEnvironment={METRICS.name}"
    settings = f"Sockets={contract.SOCKET}\n{metrics}\n"
    write_temporary_unit(layout, _STANDBY_NAME, _STANDBY_DESCRIPTION, settings)
    systemctl.daemon_reload()
    say(Step(f"starting {contract.STANDBY} next to the running service", status))
    try:
        _require_no_stop(systemctl)
        systemctl.start(contract.STANDBY)
    except InstallerError as error:
        if systemctl.unit_state(contract.STANDBY).active in ("inactive", "failed"):
            # A unit that systemd cannot load has run no ExecStopPost=, and systemd would complain at each reload.
            remove_standby(layout)
            systemctl.daemon_reload()
        raise _with_state(error, systemctl, contract.SERVICE, "was not changed and continues to serve") from None


def _with_state(error: InstallerError, systemctl: Systemctl, unit: str, outcome: str) -> Unavailable:
    """The error with what serves now, unless the administrator has stopped that too."""
    active = systemctl.unit_state(unit).active
    state = outcome if active == "active" else in_words(active)
    return Unavailable(f"{error.message.rstrip('.')}; {unit} {state}", error.hint)
