"""`python -m tests.bench.attacks`: attacks without a key against the service and others (docs/security.md).

litellm-systemd, plain `litellm`, and nginx and Caddy in front of that, with the settings of Debian's packages. The
attacks are those of tests/attacks. No box and no root. It needs nginx and Caddy in the PATH:

    sudo apt-get install --no-install-recommends nginx caddy
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from tests.attacks.attacks import ATTACKS
from tests.attacks.client import Measured, Noticed, Service, attack, watch
from tests.integration import litellm_process, runtime_service
from tests.ports import free_port

from .table import as_markdown, here_and_now, say, write_between_markers

_PAGE = Path(__file__).resolve().parents[2] / "docs/security.md"
_CONFIG = runtime_service.CONFIG % "hello"
#: Requests a second of the client with a key: a fifth of what one processor answers.
_RATE = 40.0
#: The targets: p99 under attack to the quiet p99, and the growth of memory.
_SLOWER, _LARGER = 3.0, 1.5
#: 32 MiB as the largest body, which a coding agent with images needs. All else is the default of the program or of
#: its package in Debian.
_NGINX = """\
daemon off;
user root;
pid {folder}/pid;
error_log {folder}/error.log;
worker_processes auto;
events {{ worker_connections 768; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 32m;
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1; proxy_buffering off; }}
  }}
}}
"""
_CADDY = """\
{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port}, http://localhost:{port} {{
  bind 127.0.0.1
  request_body {{
    max_size 32MiB
  }}
  reverse_proxy 127.0.0.1:{upstream}
}}
"""


#: By attack: the client before it, and during it.
Results = Mapping[str, tuple[Noticed, Measured]]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table. The exit code reports whether it could measure, not whether a target was reached."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.attacks", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, metavar="S", help="of each attack (default: 5)")
    parser.add_argument("--attack", choices=ATTACKS, nargs="+", default=list(ATTACKS), help="default: all")
    parser.add_argument("--peer", choices=PEERS, nargs="+", default=list(PEERS), help="default: all")
    parser.add_argument("--record", action="store_true", help="write the table in docs/security.md")
    options = parser.parse_args(argv)
    if missing := [each for each in options.peer if each in _PROGRAMS and shutil.which(each) is None]:
        parser.exit(69, f"no benchmark: not in PATH: {', '.join(missing)}. To install them: {_INSTALL}\n")
    busy, results = os.getloadavg()[0], {}
    for name in options.peer:
        say(f"* {name}")
        with PEERS[name]() as service:
            results[name] = _measure(service, options.attack, options.seconds)
    load = f"Load of the machine before: {busy:.1f}, after: {os.getloadavg()[0]:.1f}."
    text = f"{here_and_now()}; each attack {options.seconds:g} s. {load}\n\n{render(results)}"
    sys.stdout.write(f"{text}\n")
    if options.record:
        write_between_markers(_PAGE, text, "attacks")
    return 0


def render(results: Mapping[str, Results]) -> str:
    """A table with a row for each attack and a column for each peer. What misses a target is bold."""
    rows = [["", *results]]
    for name in next(iter(results.values())):
        rows.append([ATTACKS[name].about, *(_cell(*found[name]) for found in results.values())])
    return as_markdown(rows)


def _cell(quiet: Noticed, found: Measured) -> str:
    failed = found.noticed.failures.total()
    before, during = quiet.p99, found.noticed.p99
    parts = [
        (f"{failed} of {failed + len(found.noticed.latencies)} failed", failed > 0),
        (f"p99 {before * 1000:.0f} → {during * 1000:.0f} ms", during >= _SLOWER * before),
        (f"memory {found.growth:.2f} x", found.growth >= _LARGER),
    ]
    return ", ".join(f"**{text}**" if is_missed else text for text, is_missed in parts)


def _measure(service: Service, attacks: Sequence[str], seconds: float) -> Results:
    _wait(service, 2.0)  # the first requests of a process are slow
    results = {}
    for name in attacks:
        quiet = _wait(service, seconds)
        found = attack(service, [name], "--seconds", str(seconds), rate=_RATE)
        results[name] = quiet, found
        say(f"  {name}: {_cell(quiet, found)}, {found.outcomes[name]}, {dict(found.noticed.failures)}")
        _recover(service)
    return results


def _recover(service: Service) -> None:
    """Wait until the service answers as before, for a minute at most."""
    deadline = time.monotonic() + 60
    while _wait(service, 1.0).failures and time.monotonic() < deadline:
        pass


def _wait(service: Service, seconds: float) -> Noticed:
    end = time.monotonic() + seconds
    return watch(service, lambda: time.monotonic() > end, _RATE)


# --- peers ---


@contextlib.contextmanager
def _run_ours() -> Iterator[Service]:
    with tempfile.TemporaryDirectory() as name, runtime_service.Service(Path(name), _CONFIG) as running:
        running.await_ready()
        yield Service(running.port, (running.process.pid,), runtime_service.KEY, "demo")


@contextlib.contextmanager
def _run_plain() -> Iterator[Service]:
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "config.yaml"
        config.write_text(_CONFIG)
        with litellm_process.run_litellm(config, {}) as gateway:
            yield Service(gateway.port, (gateway.pid,), litellm_process.KEY, "demo")


def _proxy(command: tuple[str, ...], template: str) -> Callable[[], contextlib.AbstractContextManager[Service]]:
    """A proxy in front of plain `litellm`. `{}` in the command is its configuration."""

    @contextlib.contextmanager
    def run() -> Iterator[Service]:
        with _run_plain() as upstream, tempfile.TemporaryDirectory() as name:
            port = free_port()
            config = Path(name) / "config"
            config.write_text(template.format(folder=name, port=port, upstream=upstream.port))
            argv = tuple(each.format(config) for each in command)
            with subprocess.Popen(
                argv, env={"PATH": os.environ["PATH"], "HOME": name}, stderr=subprocess.DEVNULL
            ) as process:
                try:
                    _await_port(port)
                    yield Service(port, (process.pid, *upstream.pids), upstream.key, upstream.model)
                finally:
                    process.terminate()

    return run


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


_INSTALL = "sudo apt-get install --no-install-recommends nginx caddy"
_PROGRAMS = ("nginx", "caddy")
PEERS: dict[str, Callable[[], contextlib.AbstractContextManager[Service]]] = {
    "litellm-systemd": _run_ours,
    "litellm": _run_plain,
    "nginx": _proxy(("nginx", "-c", "{}"), _NGINX),
    "caddy": _proxy(("caddy", "run", "--config", "{}", "--adapter", "caddyfile"), _CADDY),
}


if __name__ == "__main__":
    sys.exit(main())
