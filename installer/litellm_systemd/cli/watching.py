"""`verify --watch`: a proof again and again, and a line for each change. Part of the CLI."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import click

from litellm_systemd.cli.program import show
from litellm_systemd.contract import ExitCode

if TYPE_CHECKING:
    from litellm_systemd.commands.proof import Change
    from litellm_systemd.report import Outcome, Report

_COLOURS = {"ok": "green", "failed": "red", "warning": "yellow"}


def watch_changes(prove: Callable[[], Report], seconds: float, *, as_json: bool) -> int:
    """Prove, wait `seconds`, and again, until Ctrl-C; gives the exit code of the last whole round.

    People see the first report as ever, and then a line for each check that ends otherwise than before. With
    `as_json` each change is one line of JSON, those of the first round as well.
    """
    from litellm_systemd.commands.proof import find_changes

    seen: dict[str, Outcome] = {}
    last, is_first = ExitCode.INTERRUPTED, True
    try:
        while True:
            report = prove()
            changes = find_changes(seen, report)
            seen |= {change.check.name: change.check.outcome for change in changes}
            last = report.exit_code
            if is_first and not as_json:
                show(report, as_json=False)
            else:
                for change in changes:
                    _say(change, report, as_json=as_json)
            is_first = False
            time.sleep(seconds)
    except KeyboardInterrupt:
        # The ordinary end of it, and no failure: the code tells how things stood.
        return int(last)


def _say(change: Change, report: Report, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(change.as_dict(str(report.data.get("checked_at") or "")), ensure_ascii=False))
        return
    moment = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S")
    click.secho(f"{moment}  {change.as_line()}", fg=_COLOURS.get(change.check.outcome.value))
