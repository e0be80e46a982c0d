"""A throwaway instance of the service, beside the one that serves: on a UNIX socket, with mock testing allowed.

Where there is a service it is a unit of its own: the installed unit and the administrator's drop-ins, copied under
another name to /run/systemd/system, as the standby's are; so it has the same release, user and sandbox. Elsewhere it
is a process. Either way a companion, which waits for our end, takes it away: after a SIGKILL as well.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.client.gateway import Gateway
from litellm_systemd.client.ready import NotReady, wait_ready
from litellm_systemd.command import Companion
from litellm_systemd.errors import Unavailable
from litellm_systemd.host.files import write_file
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.state import FileState
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.instances.standby import find_drop_ins, memory_shortage
from litellm_systemd.instances.throwaway_guard import ENDED, LOG, unit_paths

#: Any address will do for what is asked through a socket.
BASE_URL = "http://throwaway"
#: Seconds after which systemd ends it even if its companion was killed as well.
_LONGEST = 1800

#: Comes after the administrator's drop-ins. What it holds when it is ended is nobody's: it goes at once.
_OVERRIDES = """\
[Unit]
Description=LiteLLM Proxy throwaway, to try its fallbacks

[Service]
Environment={variable}=%t/{name}/gateway.sock
RuntimeDirectory=
RuntimeDirectory={name}
Restart=no
RuntimeMaxSec={longest}
KillMode=control-group
KillSignal=SIGKILL
SuccessExitStatus=SIGKILL
ExecStop=
ExecStopPost=
ExecStopPost=-+/bin/rm -rf {paths}
"""


@contextmanager
def throwaway_unit(layout: Layout, systemctl: Systemctl, key: str, timeout: float) -> Iterator[Gateway]:
    """An instance with the installed environment and the active configuration, for the time of the block.

    Raises:
        Unavailable: memory is short, or it doesn't come up. The service itself was not touched.
    """
    if (short := memory_shortage(systemctl)) is not None:
        raise Unavailable(f"{short}, so that none is started", "Try it where there is more memory.")
    name = f"litellm-fallbacks-{os.getpid()}"
    companion = _guard("unit", name)
    try:
        _write_units(layout, name)
        systemctl.daemon_reload()
        systemctl.start(f"{name}.service")
        yield Gateway(BASE_URL, key, timeout, f"/run/{name}/gateway.sock")
    finally:
        companion.close()


def _write_units(layout: Layout, name: str) -> None:
    unit, folder = unit_paths(name)
    text = layout.real(layout.service).read_text(encoding="utf-8")
    # It doesn't serve on the socket, and must not open the port of a service that is stopped.
    kept = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("Requires="))
    write_file(layout, FileState(unit, kept.encode()))
    for number, drop_in in enumerate(find_drop_ins(layout)):
        write_file(layout, FileState(f"{folder}/{number:02}-{drop_in.name}", drop_in.read_bytes()))
    values = {"variable": contract.TRIAL_SOCKET, "name": name, "longest": _LONGEST, "paths": f"{unit} {folder}"}
    write_file(layout, FileState(f"{folder}/zz-throwaway.conf", _OVERRIDES.format(**values).encode()))


@contextmanager
def throwaway_process(
    config: Path | bytes, environment: Mapping[str, str], *, key: str, timeout: float, start_timeout: float
) -> Iterator[Gateway]:
    """An instance with that configuration, a file or its text, and environment, for the time of the block.

    Raises:
        Unavailable: it doesn't come up; the message is its own last word.
    """
    folder = Path(tempfile.mkdtemp(prefix="litellm-fallbacks-"))
    path = folder / "config.yaml" if isinstance(config, bytes) else config.absolute()
    if isinstance(config, bytes):
        path.write_bytes(config)
    companion = _guard("process", str(folder), str(path), environment=environment)
    try:
        gateway = Gateway(BASE_URL, key, timeout, str(folder / "gateway.sock"))
        _await(gateway, folder, start_timeout)
        yield gateway
    finally:
        companion.close()
        # It is gone already, unless somebody killed the companion.
        shutil.rmtree(folder, ignore_errors=True)


def _guard(*arguments: str, environment: Mapping[str, str] | None = None) -> Companion:
    return Companion(
        (sys.executable, "-I", "-m", "litellm_systemd.instances.throwaway_guard", *arguments), environment
    )


def _await(gateway: Gateway, folder: Path, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
    deadline = clock() + seconds
    while True:
        try:
            wait_ready(gateway, 0.5)
            return
        except NotReady as error:
            if (folder / ENDED).exists():
                words = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
                said = words[-1] if words else "it ended without a word"
                raise Unavailable(f"the throwaway instance doesn't start: {said}") from None
            if clock() > deadline:
                raise Unavailable(f"the throwaway instance isn't ready after {seconds:g} s", error.hint) from None
