"""top: the figures of the service in a terminal, again and again, or once."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from litellm_systemd.cli.program import cli, layout_of, say
from litellm_systemd.cli.streams import write_bytes
from litellm_systemd.contract import ExitCode
from litellm_systemd.errors import InstallerError, Interrupted
from litellm_systemd.report.progress import Step

if TYPE_CHECKING:
    from litellm_systemd.commands.top import Monitor, Snapshot

#: Seconds between two looks at the size of the terminal.
_TICK = 0.25
#: Seconds until the second observation, which has the first rates.
_FIRST = 1.0
#: Ctrl-Z, and what stands for a terminal that is gone.
_SUSPEND, _END = "\x1a", "q"


@cli.command()
@click.option(
    "--interval",
    type=click.FloatRange(min=0.5, max=3600),
    default=2.0,
    metavar="SECONDS",
    help="Refresh after this many seconds. Default: 2.",
)
@click.option("--once", is_flag=True, help="Print the figures of one interval, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON after each interval.")
def top(interval: float, once: bool, as_json: bool) -> int:
    """Show live figures: workers, requests, models, errors.

    q or Ctrl-C ends it. Rates cover the last 10 seconds, latencies the last minute. Where the output is no terminal,
    the figures are printed once. Requests by status, tokens, models and cost need METRICS in .env.
    """
    from litellm_systemd.commands.top import Monitor

    monitor = Monitor(layout_of())
    if as_json and not once:
        return _until_interrupted(lambda: _print_lines(monitor, interval))
    if once or not _is_screen():
        return _print_once(monitor, interval, as_json=as_json)
    return _until_interrupted(lambda: _Screen(monitor, interval).run())


def _is_screen() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _until_interrupted(show: Callable[[], None]) -> int:
    """Run until Ctrl-C, which is the normal end."""
    try:
        show()
    except Interrupted as error:
        if error.code is not ExitCode.INTERRUPTED:
            raise
    return int(ExitCode.OK)


def _print_lines(monitor: Monitor, interval: float) -> None:
    snapshot = monitor.observe()
    while True:
        time.sleep(interval)
        snapshot = _observe_again(monitor, snapshot)
        if not write_bytes(f"{json.dumps(snapshot.as_dict())}\n".encode()):
            return


def _observe_again(monitor: Monitor, last: Snapshot) -> Snapshot:
    """The next snapshot. What cannot be observed at the moment, such as during an install, ends nothing."""
    try:
        return monitor.observe()
    except InstallerError as error:
        return replace(last, at=time.time(), title=error.render())


def _print_once(monitor: Monitor, interval: float, *, as_json: bool) -> int:
    say(Step("counting", is_brief=True))
    monitor.observe()
    time.sleep(interval)
    snapshot = monitor.observe()
    say.close()
    if as_json:
        click.echo(json.dumps(snapshot.as_dict()))
    else:
        from litellm_systemd.cli.top_display import render_once

        click.echo(render_once(snapshot))
    return int(ExitCode.OK if snapshot.is_served else ExitCode.UNAVAILABLE)


class _Screen:
    """The terminal, which shows the figures until the user ends it."""

    def __init__(self, monitor: Monitor, interval: float) -> None:
        # Here, and not above: rich takes longer than the rest of --help.
        from rich.console import Console
        from rich.live import Live

        from litellm_systemd.cli.top_display import build_screen

        self._build = build_screen
        self._monitor, self._interval = monitor, interval
        self._console = Console(highlight=False)
        self._live = Live(
            console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        )
        self._keyboard = _Keyboard()

    def run(self) -> None:
        snapshot = self._monitor.observe()
        pause = min(_FIRST, self._interval)
        with self._keyboard, self._live:
            while self._show(snapshot, time.monotonic() + pause):
                pause = self._interval
                snapshot = _observe_again(self._monitor, snapshot)

    def _show(self, snapshot: Snapshot, until: float) -> bool:
        """Show it until that moment, at the size that the terminal has. False if the user ends it."""
        size = None
        while (left := until - time.monotonic()) > 0:
            if size != self._console.size:
                size = self._console.size
                self._live.update(self._build(snapshot, size.width, size.height), refresh=True)
            for key in self._keyboard.wait(min(left, _TICK)):
                if key in "qQ":
                    return False
                if key == _SUSPEND:
                    self._suspend()
                    size = None
        return True

    def _suspend(self) -> None:
        """Leave the terminal to the shell until it continues this process."""
        self._live.stop()
        self._keyboard.stop()
        os.kill(os.getpid(), signal.SIGTSTP)
        self._keyboard.start()
        self._live.start()


class _Keyboard:
    """Reads keys without Enter and without an echo, if standard input is a terminal."""

    def __init__(self) -> None:
        self._before: list[Any] | None = None

    def __enter__(self) -> _Keyboard:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def start(self) -> None:
        if not sys.stdin.isatty():
            return
        self._before = termios.tcgetattr(0)
        changed = [*self._before[:6], list(self._before[6])]
        changed[3] &= ~(termios.ICANON | termios.ECHO)
        # Ctrl-Z as a key: the shell must get back its own screen first.
        changed[6][termios.VSUSP] = b"\0"
        termios.tcsetattr(0, termios.TCSADRAIN, changed)

    def stop(self) -> None:
        if self._before is not None:
            termios.tcsetattr(0, termios.TCSADRAIN, self._before)
            self._before = None

    def wait(self, seconds: float) -> str:
        """The keys that were pressed until then; `_END` if the terminal is gone."""
        if self._before is None:
            time.sleep(seconds)
            return ""
        if not select.select([0], [], [], seconds)[0]:
            return ""
        return os.read(0, 1024).decode(errors="replace") or _END
