"""A throwaway instance of the service, next to the one that serves: on a UNIX socket, with mock testing allowed.

On a host with the service it is a temporary unit, with the release, user and sandbox of the service. Elsewhere it is
a process. In both cases a companion process waits for our end and removes the instance, also after a SIGKILL.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from litellm_systemd import contract
from litellm_systemd.client.gateway import Gateway, NotReady, wait_ready
from litellm_systemd.command import Companion, module_argv
from litellm_systemd.errors import Unavailable
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.systemctl import Systemctl
from litellm_systemd.instances.temporary_unit import memory_shortage, write_temporary_unit
from litellm_systemd.instances.throwaway_guard import ENDED, LOG

#: Requests use the UNIX socket; the host of the address has no effect.
BASE_URL = "http://throwaway"
#: Seconds after which systemd stops the unit if its companion was killed as well.
_LONGEST = 1800

_DESCRIPTION = "LiteLLM Proxy throwaway, to try its fallbacks"
#: Its requests are ours alone, so that it is killed and does not drain.
_SETTINGS = """\
Environment={variable}={socket}
RuntimeMaxSec={longest}
KillMode=control-group
KillSignal=SIGKILL
SuccessExitStatus=SIGKILL
"""


@contextmanager
def throwaway_unit(layout: Layout, systemctl: Systemctl, key: str, timeout: float) -> Iterator[Gateway]:
    """An instance with the installed environment and the active configuration, for the time of the block.

    Raises:
        Unavailable: memory is short, or it does not become ready. The service itself was not changed.
    """
    if (short := memory_shortage(systemctl)) is not None:
        raise Unavailable(f"{short}: no throwaway instance was started", "Try it on a host with more memory.")
    name = f"litellm-fallbacks-{os.getpid()}"
    socket = f"/run/{name}/gateway.sock"
    settings = _SETTINGS.format(variable=contract.TRIAL_SOCKET, socket=socket, longest=_LONGEST)
    companion = _guard("unit", name)
    try:
        write_temporary_unit(layout, name, _DESCRIPTION, settings, on_socket=False)
        systemctl.daemon_reload()
        systemctl.start(f"{name}.service")
        yield Gateway(BASE_URL, key, timeout, socket)
    finally:
        companion.close()


@contextmanager
def throwaway_process(
    config: Path | Mapping[str, bytes],
    environment: Mapping[str, str],
    *,
    key: str,
    timeout: float,
    start_timeout: float,
) -> Iterator[Gateway]:
    """An instance with that environment and configuration, for the time of the block.

    The configuration is a file, or the texts of `write_configuration`.

    Raises:
        Unavailable: it does not become ready; the message is the last line that it printed.
    """
    folder = Path(tempfile.mkdtemp(prefix="litellm-fallbacks-"))
    path = config.absolute() if isinstance(config, Path) else write_configuration(folder, config)
    companion = _guard("process", str(folder), str(path), environment=environment)
    try:
        gateway = Gateway(BASE_URL, key, timeout, str(folder / "gateway.sock"))
        _await(gateway, folder, start_timeout)
        yield gateway
    finally:
        companion.close()
        # The companion has removed it, unless it was killed.
        shutil.rmtree(folder, ignore_errors=True)


def write_configuration(folder: Path, texts: Mapping[str, bytes]) -> Path:
    """Write the files of a configuration, by their paths in a folder; returns the path of the first one."""
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / name).write_bytes(text)
    return folder / next(iter(texts))


def _guard(*arguments: str, environment: Mapping[str, str] | None = None) -> Companion:
    return Companion(module_argv("litellm_systemd.instances.throwaway_guard", *arguments), environment)


def _await(gateway: Gateway, folder: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            wait_ready(gateway, 0.5)
            return
        except NotReady as error:
            if (folder / ENDED).exists():
                lines = (folder / LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
                last = lines[-1] if lines else "it exited without a message"
                raise Unavailable(f"the throwaway instance doesn't start: {last}") from None
            if time.monotonic() > deadline:
                raise Unavailable(f"the throwaway instance isn't ready after {seconds:g} s", error.hint) from None
