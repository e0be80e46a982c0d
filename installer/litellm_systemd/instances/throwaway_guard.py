"""A separate program: it waits until its standard input is closed, and then removes a throwaway instance.

The litellmctl that uses the instance holds the other end of that pipe. However that process exits, the kernel closes
it.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.command import runtime_argv
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.instances.temporary_unit import remove_temporary_unit

#: In the folder of a process: its output, and a mark that it has exited.
LOG, ENDED = "log", "ended"
_TICK = 0.2


def main(arguments: list[str]) -> int:
    """`unit NAME`, or `process FOLDER CONFIG`, which it starts first."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if arguments[0] == "unit":
        _await_end(None, Path())
        _remove_unit(arguments[1])
    else:
        folder = Path(arguments[1])
        child = _start(folder, arguments[2])
        _await_end(child, folder)
        _kill(child)
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _remove_unit(name: str) -> None:
    layout = Layout()
    systemctl = Systemctl(layout)
    systemctl.stop(f"{name}.service")
    remove_temporary_unit(layout, name)
    systemctl.daemon_reload()
    # Again, for a start that was in progress when its litellmctl was killed.
    systemctl.stop(f"{name}.service")
    systemctl.reset_failed(f"{name}.service")


def _start(folder: Path, config: str) -> int:
    """Start the runtime in a process group of its own; its process id."""
    argv = runtime_argv("--config", config)
    environment = {**os.environ, contract.TRIAL_SOCKET: str(folder / "gateway.sock")}
    environment.pop("NOTIFY_SOCKET", None)
    write = os.O_WRONLY | os.O_CREAT
    actions = (
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(folder / LOG), write, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    )
    back = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    return os.posix_spawn(argv[0], argv, environment, file_actions=actions, setpgroup=0, setsigdef=back)


def _await_end(child: int | None, folder: Path) -> None:
    """Wait until standard input is closed; meanwhile mark it when the child exits."""
    ended = child is None
    while not select.select([0], [], [], None if ended else _TICK)[0]:
        if child is not None and not ended and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            (folder / ENDED).touch()
            ended = True


def _kill(child: int) -> None:
    # Not reaped yet, so that the id is still its own; its workers are in the same group.
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)


if __name__ == "__main__":  # pragma: no cover - always a process of its own
    sys.exit(main(sys.argv[1:]))
