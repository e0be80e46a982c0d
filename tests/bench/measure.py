"""Measure one peer in one round: start its service, measure, and stop it for the next peer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import service
from box import Box, BoxError

from . import peers
from .figures import CTL_RESTART, KILL_MAIN, KILL_WORKER, RELOAD, RESTART
from .table import say

_INSIDE = Path(__file__).with_name("inside")
_HOME = "/opt/bench"
#: A limit in seconds for a round that hangs, much longer than a round needs.
_TIMEOUT = 900
#: Clients in the failure tests, half of them on kept and half on fresh connections.
CLIENTS = 16


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of a measurement. Times are in seconds."""

    rounds: int
    levels: tuple[int, ...]
    seconds: float
    warm: float
    before: float
    after: float
    reloads: int
    restarts: int


FULL = Scale(rounds=3, levels=(1, 16, 64, 256), seconds=4, warm=0.5, before=0.5, after=3, reloads=20, restarts=10)
QUICK = Scale(rounds=1, levels=(1, 16), seconds=1, warm=0.3, before=0.3, after=1, reloads=2, restarts=1)


@dataclass
class Bench:
    """A box with all peers, and the measurements of them."""

    box: Box
    scale: Scale
    markers: int = 0

    def set_up(self) -> None:
        for path in _INSIDE.glob("*.py"):
            self.box.write(f"{_HOME}/inside/{path.name}", path.read_text(encoding="utf-8"))
        peers.set_up(self.box)
        self.bearer = service.key(self.box)

    def measure(self, name: str, **spec: Any) -> dict[str, Any]:
        """Run one measurement in the box (see `inside.run`)."""
        argv = (f"{peers.BIN}/python", "-m", "inside.run")
        text = json.dumps({"measure": name, "bearer": self.bearer, **spec})
        found: dict[str, Any] = json.loads(self.box.run(argv, input=text, cwd=_HOME, timeout=_TIMEOUT).stdout)
        return found

    def run_round(self, peer: peers.Peer) -> dict[str, Any]:
        say(f"  {peer.title}: start")
        result: dict[str, Any] = {"start": self._start(peer)}
        self.measure("settle", unit=peer.unit)
        self._load(CLIENTS, seconds=1)
        self._load(CLIENTS, seconds=1, stream=True)
        result["memory"] = self.measure("memory", unit=peer.unit)
        say(f"  {peer.title}: load")
        result["load"] = {
            kind: {str(level): self._load(level, stream=kind == "sse") for level in self.scale.levels}
            for kind in ("json", "sse")
        }
        say(f"  {peer.title}: failures")
        if peer.reloads:
            result["live"] = self._live(peer)
        result["events"] = self._events(peer)
        return result

    def _start(self, peer: peers.Peer) -> dict[str, Any]:
        found = self.measure("start", command=["systemctl", "start", peer.unit])
        if found["ready"] is None:
            raise BoxError(f"{peer.title} does not become ready\n{self.box.journal(peer.unit, '--lines=30')}")
        return found

    def endure(self) -> dict[str, Any]:
        """Run a series of reloads and a series of restarts of our service under load."""
        say(f"  {peers.OURS.title}: {self.scale.reloads} reloads, {self.scale.restarts} restarts")
        unit = peers.OURS.unit
        return {
            "twenty_reloads": self._siege(peers.OURS, [["systemctl", "reload", unit]] * self.scale.reloads, 0.2),
            "ten_restarts": self._siege(peers.OURS, [["systemctl", "restart", unit]] * self.scale.restarts, 0.5),
        }

    def _load(self, clients: int, seconds: float | None = None, stream: bool = False) -> dict[str, Any]:
        length = seconds or self.scale.seconds
        return self.measure("load", clients=clients, seconds=length, warm=self.scale.warm, stream=stream)

    def _siege(
        self, peer: peers.Peer, commands: list[list[str]], after: float | None = None, **more: Any
    ) -> dict[str, Any]:
        # A requested start counts against systemd's start limit, as one after a crash does.
        self.box.systemctl("reset-failed", check=False)
        pauses = {"before": self.scale.before, "after": after or self.scale.after}
        found = self.measure("siege", unit=peer.unit, clients=CLIENTS, commands=commands, **pauses, **more)
        self.measure("settle", unit=peer.unit)
        return found

    def _live(self, peer: peers.Peer) -> dict[str, Any]:
        self.markers += 1
        marker = f"configuration {self.markers}"
        peers.write_config(self.box, marker)
        return self.measure("live", command=peers.reload_command(self.box, peer), marker=marker)

    def _events(self, peer: peers.Peer) -> dict[str, Any]:
        """Run all events. The kill of a worker is last, since not all peers report its replacement."""
        found: dict[str, Any] = {}
        if peer.reloads:
            found[RELOAD] = self._siege(peer, [peers.reload_command(self.box, peer)])
        found[RESTART] = self._siege(peer, [["systemctl", "restart", peer.unit]])
        if peer.ours:
            found[CTL_RESTART] = self._siege(peer, [["/usr/local/bin/litellmctl", "restart"]])
        main = peers.main_pid(self.box, peer)
        found[KILL_MAIN] = self._siege(peer, [["kill", "-9", str(main)]], gone=main)
        if peer.workers > 1:
            victim = peers.worker_pid(self.box, peer)
            whole = {"workers": peer.workers, "gone": victim} if peer.ours else {}
            found[KILL_WORKER] = self._siege(peer, [["kill", "-9", str(victim)]], **whole)
        return found
