"""The four services of the comparison: units in the box with the same configuration and LiteLLM release."""

from __future__ import annotations

from dataclasses import dataclass

import service
from box import Box

from litellm_systemd.contract import OFFLINE_VARIABLES

BIN = "/opt/litellm-systemd/current/bin"
_UNIT = """\
[Unit]
Description=LiteLLM as most run it: {title}
[Service]
User=litellm
WorkingDirectory=/var/lib/litellm
EnvironmentFile=/etc/litellm/litellm.env
Environment=HOME=/var/lib/litellm {environment}
ExecStart={command}
Restart=always
LimitNOFILE=65536
"""
CONFIG = """\
model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench, api_key: none, mock_response: "{marker}: the same dozen words for all."}}
router_settings: {{num_retries: 0}}
general_settings: {{master_key: os.environ/LITELLM_MASTER_KEY}}
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """One service. `options` are the options of `litellm` after --config. None: our own service."""

    name: str
    title: str
    unit: str
    workers: int
    options: str | None

    @property
    def ours(self) -> bool:
        return self.options is None

    @property
    def reloads(self) -> bool:
        """Whether the service can load a configuration without a restart."""
        return self.ours or "gunicorn" in (self.options or "")


PLAIN = Peer("plain1", "litellm, 1 worker", "bench-plain1.service", 1, "--num_workers 1")
#: uvicorn kills a worker that does not respond for five seconds. LiteLLM's import can take longer if two imports
#: share a busy processor, so no worker would ever start. With a minute it starts on any machine.
_PATIENT = "--timeout_worker_healthcheck 60"
TWO = Peer("plain2", "litellm --num_workers 2", "bench-plain2.service", 2, f"--num_workers 2 {_PATIENT}")
GUNICORN = Peer(
    "gunicorn", "litellm --run_gunicorn, 2 workers", "bench-gunicorn.service", 2, "--run_gunicorn --num_workers 2"
)
OURS = Peer("ours", "litellm-systemd, 2 workers", "litellm.service", 2, None)
PEERS = (PLAIN, TWO, GUNICORN, OURS)


def set_up(box: Box) -> None:
    """Install our service with the common configuration, add the units of the others, and stop all of them."""
    service.set_up(box, "NUM_WORKERS=2\n", CONFIG.format(marker="first"))
    for peer in PEERS:
        if not peer.ours:
            box.write(f"/etc/systemd/system/{peer.unit}", _render_unit(peer))
    box.systemctl("daemon-reload")
    stop(box, OURS)


def stop(box: Box, peer: Peer) -> None:
    """Kill a service without a graceful stop, and reset systemd's start counter."""
    units = (peer.unit, "litellm.socket") if peer.ours else (peer.unit,)
    box.systemctl("stop", "--no-block", *units)
    box.systemctl("kill", "--signal=KILL", peer.unit, check=False)
    box.systemctl("stop", *units)
    box.systemctl("reset-failed", check=False)


def write_config(box: Box, marker: str) -> None:
    """Write a configuration whose responses contain the marker."""
    service.write_config(box, CONFIG.format(marker=marker))


def main_pid(box: Box, peer: Peer) -> int:
    return int(box.show(peer.unit, "MainPID")["MainPID"])


def worker_pid(box: Box, peer: Peer) -> int:
    """A worker: the child of the main process with the most memory, since uvicorn has a small helper process too."""
    argv = ("ps", "--no-headers", "-o", "pid", "--sort=-rss", "--ppid", str(main_pid(box, peer)))
    return int(box.run(argv).stdout.split()[0])


def reload_command(box: Box, peer: Peer) -> list[str]:
    return ["systemctl", "reload", peer.unit] if peer.ours else ["kill", "-HUP", str(main_pid(box, peer))]


def _render_unit(peer: Peer) -> str:
    command = f"{BIN}/litellm --config /etc/litellm/config.yaml --host 127.0.0.1 --port 4000 {peer.options}"
    # The box has no network, so the retries would count against the plain services.
    environment = " ".join(f"{name}={value}" for name, value in OFFLINE_VARIABLES.items())
    return _UNIT.format(title=peer.title, environment=environment, command=command)
